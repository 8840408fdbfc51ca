"""Activations of what is normalised, and their slopes: the passes over what lies in the cache, and what they compute.

    y = act(z)                       in place, where normalising has just put z
    g = gy act'(z)                   z = ((x - hi) - lo) gain + beta (+ r), found once more from x
    g = gy act', by y = act(z)       where y is kept: y > 0 of the rectifiers, y (1 - y), 1 - y²

    leaky ReLU  max(z, 0) + slope min(z, 0)     SiLU  z σ(z)     GELU  z Φ(z), or z σ(√(8/π) (z + 0.044715 z³))

The codes of the activations are those of ``kernels/ref/batch_norm.py``. None and ReLU are not computed here, but by the
passes that go over memory anyhow, in ``bn_apply`` and ``bn_gradient``; ``slope`` is the leaky ReLU's, and says by its
type what a kernel is compiled for: an int, 0, none and ReLU alone, a float all of them.

Hendrycks & Gimpel 2016 (arXiv:1606.08415); Elfwing et al. 2018 (arXiv:1702.03118).
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import overload

from tinygrad_bn.kernels.cpu._jit import ENABLED, jit
from tinygrad_bn.kernels.cpu.choices import constant, where_equal, where_larger
from tinygrad_bn.kernels.cpu.curves import sigmoid, tail, tanh
from tinygrad_bn.kernels.cpu.simd import (
    exp,
    fma,
    lanes,
    largest,
    load_first,
    smallest,
    store_first,
    where_positive,
)

RELU, SIGMOID, LEAKY, TANH, SILU, GELU, GELU_TANH = 1, 2, 3, 4, 5, 6, 7
FAR = 40.0  # from where on SiLU's and GELU's slopes are 0 or 1, in float64 too


@jit(inline=True)
def within(z: Any) -> Any:
    """z, at most FAR away from 0."""
    return smallest(largest(z, constant(z, -FAR)), constant(z, FAR))


@jit(inline=True)
def curve(z: Any, act: Any, slope: Any) -> Any:
    """act(z) of a register."""
    zero = constant(z, 0.0)
    if act == SIGMOID:
        return sigmoid(z)
    if act == LEAKY:
        return fma(smallest(z, zero), constant(z, slope), largest(z, zero))
    if act == TANH:
        return tanh(z)
    if act == SILU:
        return z * sigmoid(z)
    if act == GELU:
        a = within(largest(z, zero - z))
        return largest(z, zero) - a * tail(a, exp(a * a * constant(z, -0.5)))
    return z * sigmoid(steeper(z))


@jit(inline=True)
def steeper(z: Any) -> Any:
    """√(8/π) (z + 0.044715 z³)."""
    z = within(z)
    return z * fma(z * z, constant(z, 1.5957691216057308 * 0.044715), constant(z, 1.5957691216057308))


@jit(inline=True)
def by_input(z: Any, g: Any, act: Any, slope: Any) -> Any:
    """g act'(z) of registers."""
    zero, one = constant(z, 0.0), constant(z, 1.0)
    if act == LEAKY:
        return where_equal(z, z, g * where_larger(z, zero, one, constant(z, slope)), z)
    if act == TANH:
        y = tanh(z)
        return g * (one - y * y)
    if act == GELU:
        c = within(z)
        a = largest(c, zero - c)
        density = exp(a * a * constant(z, -0.5))
        above = tail(a, density)
        below = where_positive(c, one - above - above) + above
        return g * fma(c * constant(z, 0.3989422804014327), density, below)
    c = within(z)
    if act == SIGMOID:
        s = sigmoid(z)
        return g * (s * (one - s))
    if act == SILU:
        s = sigmoid(c)
        return g * (s * fma(c, one - s, one))
    s = sigmoid(steeper(c))
    inner = fma(c * c, constant(z, 1.5957691216057308 * 0.134145), constant(z, 1.5957691216057308))
    return g * fma(c * (s * (one - s)), inner, s)


@jit(inline=True)
def by_output(y: Any, g: Any, act: Any, slope: Any) -> Any:
    """g act', y = act(z), of registers; not of SiLU and GELU."""
    zero, one = constant(y, 0.0), constant(y, 1.0)
    if act == RELU:
        return where_positive(y, g)
    if act == LEAKY:
        return where_equal(y, y, g * where_larger(y, zero, one, constant(y, slope)), y)
    return g * y * (one - y) if act == SIGMOID else g * (one - y * y)


@jit(inline=True)
def tells(act: Any, slope: Any) -> Any:
    """Whether the output tells the slope."""
    return act <= TANH and slope >= 0


@jit(inline=True)
def through(
    x: Any, kept: Any, g: Any, i: Any, n: Any, h: Any, e: Any, s: Any, b: Any, act: Any, slope: Any
) -> Any:  # fmt: skip
    """g act' of the first n lanes from i on; kept is a pointer to the output if that tells the slope, else to the
    residual, or None."""
    z = fma((load_first(x, i, n) - h) - e, s, b)
    if kept is None:
        return by_input(z, g, act, slope)
    k = load_first(kept, i, n)
    if tells(act, slope):
        return by_output(k, g, act, slope)
    return by_input(z + k, g, act, slope)


@jit(inline=True)
def bend(y: Any, start: Any, end: Any, act: Any, slope: Any) -> None:
    """y = act(y), elements start … end."""
    for i in range(start, end, lanes(y)):
        store_first(y, i, curve(load_first(y, i, end - i), act, slope), end - i)


@jit(inline=True)
def _activate(y: Any, start: Any, end: Any, act: Any, slope: Any) -> None:
    """A loop for each activation: the compiler takes the others out of it."""
    if act == SIGMOID:
        bend(y, start, end, SIGMOID, slope)
    elif act == LEAKY:
        bend(y, start, end, LEAKY, slope)
    elif act == TANH:
        bend(y, start, end, TANH, slope)
    elif act == SILU:
        bend(y, start, end, SILU, slope)
    elif act == GELU:
        bend(y, start, end, GELU, slope)
    else:
        bend(y, start, end, GELU_TANH, slope)


@jit()
def _rectified(gy: Any, y: Any, g: Any, at: Any, step: Any, rows: Any, length: Any) -> None:
    """g = gy where y > 0."""
    for _ in range(rows):
        for i in range(at, at + length, lanes(gy)):
            n = at + length - i
            store_first(g, i, where_positive(load_first(y, i, n), load_first(gy, i, n)), n)
        at += step


@jit(inline=True)
def climb(
    gy: Any, x: Any, kept: Any, g: Any, at: Any, step: Any, rows: Any, length: Any,
    h: Any, e: Any, s: Any, b: Any, act: Any, slope: Any,
) -> None:  # fmt: skip
    """g = gy act' of rows ``step`` apart, the first at ``at``."""
    for _ in range(rows):
        for i in range(at, at + length, lanes(x)):
            n = at + length - i
            store_first(g, i, through(x, kept, load_first(gy, i, n), i, n, h, e, s, b, act, slope), n)
        at += step


@jit()
def _slopes(
    gy: Any, x: Any, kept: Any, g: Any, at: Any, step: Any, rows: Any, length: Any,
    h: Any, e: Any, s: Any, b: Any, act: Any, slope: Any,
) -> None:  # fmt: skip
    if kept is not None and act == RELU:
        _rectified(gy, kept, g, at, step, rows, length)
    elif act == SIGMOID:
        climb(gy, x, kept, g, at, step, rows, length, h, e, s, b, SIGMOID, slope)
    elif act == LEAKY:
        climb(gy, x, kept, g, at, step, rows, length, h, e, s, b, LEAKY, slope)
    elif act == TANH:
        climb(gy, x, kept, g, at, step, rows, length, h, e, s, b, TANH, slope)
    elif act == SILU:
        climb(gy, x, kept, g, at, step, rows, length, h, e, s, b, SILU, slope)
    elif act == GELU:
        climb(gy, x, kept, g, at, step, rows, length, h, e, s, b, GELU, slope)
    else:
        climb(gy, x, kept, g, at, step, rows, length, h, e, s, b, GELU_TANH, slope)


@jit(inline=True)
def column(
    x: Any, r: Any, y: Any, start: Any, end: Any, step: Any, n: Any,
    h: Any, e: Any, gain: Any, beta: Any, act: Any, slope: Any,
) -> None:  # fmt: skip
    """y = act(z) of the first n lanes at start, start + step …; r is a pointer, or None."""
    for i in range(start, end, step):
        z = fma((load_first(x, i, n) - h) - e, gain, beta)
        z = z if r is None else z + load_first(r, i, n)
        store_first(y, i, curve(z, act, slope), n)


@jit()
def _columns(
    x: Any, r: Any, y: Any, start: Any, end: Any, step: Any, n: Any,
    h: Any, e: Any, gain: Any, beta: Any, act: Any, slope: Any,
) -> None:  # fmt: skip
    if act == SIGMOID:
        column(x, r, y, start, end, step, n, h, e, gain, beta, SIGMOID, slope)
    elif act == LEAKY:
        column(x, r, y, start, end, step, n, h, e, gain, beta, LEAKY, slope)
    elif act == TANH:
        column(x, r, y, start, end, step, n, h, e, gain, beta, TANH, slope)
    elif act == SILU:
        column(x, r, y, start, end, step, n, h, e, gain, beta, SILU, slope)
    elif act == GELU:
        column(x, r, y, start, end, step, n, h, e, gain, beta, GELU, slope)
    else:
        column(x, r, y, start, end, step, n, h, e, gain, beta, GELU_TANH, slope)


if ENABLED:

    def activate(y: Any, start: Any, end: Any, act: Any, slope: Any) -> None:
        """y = act(y), elements start … end; not of none and ReLU."""

    @overload(activate, strict=False)
    def _typed_activate(y: Any, start: Any, end: Any, act: Any, slope: Any) -> Any:
        if isinstance(slope, types.Integer):
            return lambda y, start, end, act, slope: None
        return lambda y, start, end, act, slope: _activate(y, start, end, act, slope)

    def slopes(
        gy: Any, x: Any, kept: Any, g: Any, at: Any, step: Any, rows: Any, length: Any,
        h: Any, e: Any, s: Any, b: Any, act: Any, slope: Any,
    ) -> None:  # fmt: skip
        """g = gy act' of rows ``step`` apart, the first at ``at``; of ReLU only where the output is kept."""

    @overload(slopes, strict=False)
    def _typed_slopes(
        gy: Any, x: Any, kept: Any, g: Any, at: Any, step: Any, rows: Any, length: Any,
        h: Any, e: Any, s: Any, b: Any, act: Any, slope: Any,
    ) -> Any:  # fmt: skip
        if isinstance(slope, types.Integer) and kept is types.none:
            return lambda gy, x, kept, g, at, step, rows, length, h, e, s, b, act, slope: None
        if isinstance(slope, types.Integer):
            return lambda gy, x, kept, g, at, step, rows, length, h, e, s, b, act, slope: _rectified(
                gy, kept, g, at, step, rows, length
            )
        return lambda gy, x, kept, g, at, step, rows, length, h, e, s, b, act, slope: _slopes(
            gy, x, kept, g, at, step, rows, length, h, e, s, b, act, slope
        )

    def columns(
        x: Any, r: Any, y: Any, start: Any, end: Any, step: Any, n: Any,
        h: Any, e: Any, gain: Any, beta: Any, act: Any, slope: Any,
    ) -> None:  # fmt: skip
        """y = act(z) of the first n lanes at start, start + step …; not of none and ReLU."""

    @overload(columns, strict=False)
    def _typed_columns(
        x: Any, r: Any, y: Any, start: Any, end: Any, step: Any, n: Any,
        h: Any, e: Any, gain: Any, beta: Any, act: Any, slope: Any,
    ) -> Any:  # fmt: skip
        if isinstance(slope, types.Integer):
            return lambda x, r, y, start, end, step, n, h, e, gain, beta, act, slope: None
        return lambda x, r, y, start, end, step, n, h, e, gain, beta, act, slope: _columns(
            x, r, y, start, end, step, n, h, e, gain, beta, act, slope
        )

else:
    activate, slopes, columns = _activate, _slopes, _columns
