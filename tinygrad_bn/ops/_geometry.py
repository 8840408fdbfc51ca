"""The arguments of convolutions: numbers an axis, and the extents that follow from them.

    out = ⌊(in + before + after - dilation (kernel - 1) - 1) / stride⌋ + 1

One axis counts as two, of which the first has extent 1.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from tinygrad_bn.errors import ArgumentError, ShapeError, expected, wrong

Pair = tuple[int, int]
Numbers = tuple[int, ...]


class Geometry(NamedTuple):
    """How the windows of a convolution lie on its input.

    Attributes
    ----------
    input, output, kernel : (int, int)
        Extents (H, W), (OH, OW), (KH, KW). A transposed convolution leads from ``output`` to ``input``.
    stride, dilation : (int, int)
    before : (int, int)
        Padding at the top and on the left; what is needed beyond the other ends follows from the extents.
    groups : int
    """

    input: Pair
    output: Pair
    kernel: Pair
    stride: Pair
    before: Pair
    dilation: Pair
    groups: int

    @property
    def length(self) -> int:
        """The number of windows."""
        return self.output[0] * self.output[1]

    @property
    def taps(self) -> int:
        """The number of elements of a window in one channel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def steps(self) -> tuple[int, int, int, int, int, int]:
        """What ``im2col`` and ``col2im`` take, between their arrays."""
        return (*self.stride, *self.before, *self.dilation)

    @property
    def pointwise(self) -> bool:
        """Whether the windows are the input's elements, one by one."""
        return self.kernel == self.stride == (1, 1) and self.before == (0, 0) and self.input == self.output


def numbers(op: str, name: str, value: Any, axes: int, least: int) -> Numbers:
    """Return one int an axis; one alone, in a sequence or not, stands for all.

    Raises
    ------
    ArgumentError
    """
    given = tuple(value) if isinstance(value, tuple | list) else (value,)
    if len(given) == 1:
        given *= axes
    if len(given) == axes and all((type(v) is int or isinstance(v, np.integer)) and v >= least for v in given):
        return tuple([int(v) for v in given])
    want = f"an int of at least {least}" + (f", or {axes} of them" if axes > 1 else "")
    raise ArgumentError(wrong(op, name, want, repr(value)))


def paddings(op: str, value: Any, axes: int, kernel: Numbers, stride: Numbers, dilation: Numbers) -> tuple[Pair, ...]:
    """Return what is padded before and after each axis, of numbers, "valid" or "same".

    Raises
    ------
    ArgumentError
    """
    if not isinstance(value, str):
        return tuple((p, p) for p in numbers(op, "padding", value, axes, 0))
    if value == "valid":
        return ((0, 0),) * axes
    check_same(op, value, stride)
    total = [d * (k - 1) for k, d in zip(kernel, dilation)]
    return tuple((t // 2, t - t // 2) for t in total)


def check_same(op: str, padding: str, stride: Numbers) -> None:
    """Raise for a padding that has no such name, or is "same" where the stride is not 1."""
    if padding not in ("same", "valid"):
        raise ArgumentError(wrong(op, "padding", "ints, 'same' or 'valid'", repr(padding)))
    if padding == "same" and any(s != 1 for s in stride):
        hint = "pass the padding as numbers"
        raise ArgumentError(wrong(op, "stride", "1 where 'padding' is 'same'", stride, hint))


@lru_cache(maxsize=4096)
def windows(
    op: str,
    size: Numbers,
    kernel: Numbers,
    stride: Numbers,
    padding: tuple[Pair, ...],
    dilation: Numbers,
    groups: int = 1,
) -> Geometry:
    """Return the geometry of windows on an input of ``size``.

    Raises
    ------
    ShapeError
        If not one fits.
    """
    padded = tuple(n + sum(p) for n, p in zip(size, padding))
    span = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation))
    if any(s > n for s, n in zip(span, padded)):
        want = f"at most the padded input's extents {padded}"
        raise ShapeError(wrong(op, "kernel_size", want, f"{span}, dilation included"))
    out = tuple((n - s) // d + 1 for n, s, d in zip(padded, span, stride))
    return _of_two_axes(size, out, kernel, stride, padding, dilation, groups)


@lru_cache(maxsize=4096)
def spread_windows(
    op: str,
    size: Numbers,
    kernel: Numbers,
    stride: Numbers,
    padding: Numbers,
    output_padding: Numbers,
    dilation: Numbers,
    groups: int,
) -> Geometry:
    """Return the geometry whose windows number ``size``: that of a transposed convolution of an input of this size.

    Raises
    ------
    ArgumentError
        If ``output_padding`` is as large as stride and dilation.
    ShapeError
        If nothing is left.
    """
    if any(o >= max(s, d) for o, s, d in zip(output_padding, stride, dilation)):
        want = f"smaller than the stride {stride} or the dilation {dilation}"
        raise ArgumentError(wrong(op, "output_padding", want, output_padding))
    out = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + 1 + o
        for n, k, s, p, o, d in zip(size, kernel, stride, padding, output_padding, dilation)
    )
    if any(n < 1 for n in out):
        want = f"small enough that something is left of an input of extents {size}"
        raise ShapeError(wrong(op, "padding", want, f"{padding}, which gives {out}"))
    return _of_two_axes(out, size, kernel, stride, tuple((p, p) for p in padding), dilation, groups)


def _of_two_axes(
    size: Numbers,
    out: Numbers,
    kernel: Numbers,
    stride: Numbers,
    padding: tuple[Pair, ...],
    dilation: Numbers,
    groups: int,
) -> Geometry:
    def pair(given: Numbers, one: int = 1) -> Pair:
        return (given[0], given[1]) if len(given) > 1 else (one, given[0])

    before = pair(tuple(p[0] for p in padding), 0)
    return Geometry(pair(size), pair(out), pair(kernel), pair(stride), before, pair(dilation), groups)


def check_axes(op: str, shape: Numbers, axes: int, channels: str = "C") -> None:
    """Raise unless an input has ``axes`` axes, channels and perhaps a batch ahead.

    Raises
    ------
    ShapeError
    """
    if len(shape) not in (axes + 1, axes + 2):
        rest = ("L",) if axes == 1 else ("H", "W")
        want = f"shape {_named('N', channels, *rest)} or {_named(channels, *rest)}"
        raise ShapeError(expected(op, "input", want, shape))


def _named(*names: str) -> str:
    return f"({', '.join(names)})"
