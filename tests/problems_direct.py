"""Problems of direct convolution: any stride, dilation, padding, groups; strips of rows, a row, samples; tails."""

from __future__ import annotations

from typing import Any

import numpy as np
import strategies
from hypothesis import strategies as st
from problems import HOT, MAKERS, SUMS, Arguments, blank

from tinygrad_bn.kernels.direct import plan, taps_of_gradient, taps_of_windows

Pair = tuple[int, int]


def arguments(
    values: Any, n: int, groups: int, each: Pair, size: Pair, kernel: Pair, stride: Pair, before: Pair, dilation: Pair,
    out: Pair, turned: bool, biased: bool, shares: int, dtype: str,
) -> Arguments:  # fmt: skip
    """``each``: channels of a group, in and out; ``turned``: the gradient, from ``out`` to ``size``."""
    channels, rows = each[::-1] if turned else each
    here, there = (out, size) if turned else (size, out)
    one = (1, 1)
    step, spread = (one, stride) if turned else (stride, one)
    taps = taps_of_gradient(kernel, stride, before, dilation) if turned else taps_of_windows(kernel, before, dilation)
    flat = kernel == stride == one and before == (0, 0) and size == out
    if flat:
        here = there = (1, size[0] * size[1])
    grid = (-(-there[0] // spread[0]), -(-there[1] // spread[1]))
    found = plan(taps, step, spread, (n, channels), rows, groups, grid, np.dtype(dtype).itemsize, flat)
    return {
        "x": values((n, groups * channels, *here), dtype),
        "w": values((groups * each[1], each[0], *kernel), dtype),
        "bias": values((groups * rows if biased else 0,), dtype),
        "turned": turned,
        "stride_h": step[0],
        "stride_w": step[1],
        "spread_h": spread[0],
        "spread_w": spread[1],
        "taps": found.taps,
        "lines": found.lines,
        "cut": found.cut,
        "work": blank((shares, found.work), dtype),
        "out": blank((n, groups * rows, *there), dtype),
    }


@st.composite
def direct(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    """Extents small and large, so that the points of a strip are fewer than lanes, or several tiles."""
    side = st.one_of(st.integers(1, 9), st.integers(10, 40))
    kernel, stride, dilation = ((draw(st.integers(1, most)), draw(st.integers(1, most))) for most in (4, 3, 3))
    before = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    size = draw(side), draw(st.one_of(side, st.just(1500)))
    span = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    out = tuple(max(1, (s + 2 * b - r) // t + 1) for s, b, r, t in zip(size, before, span, stride, strict=True))
    if size[1] > 100:
        size, out = (min(size[0], 3), size[1]), (min(out[0], 3), out[1])
    channels = st.one_of(st.integers(1, 5), st.integers(6, 20))
    return arguments(
        lambda s, d: draw(strategies.values(s, d)), draw(st.integers(1, 5)), draw(st.integers(1, 2)),
        (draw(channels), draw(channels)), size, kernel, stride, before, dilation, out, draw(st.booleans()),
        draw(st.booleans()), draw(st.integers(1, 3)), dtype,
    )  # fmt: skip


MAKERS["direct_convolution"] = (direct, 1e-6)
SUMS.add("direct_convolution")


def _hot() -> dict[str, Any]:
    rng = np.random.default_rng(0)

    def values(shape: tuple[int, ...], dtype: str) -> Any:
        return rng.standard_normal(shape).astype(dtype)

    def case(turned: bool, n: int, groups: int, each: Pair, side: int, kernel: int, stride: int, pad: int) -> Any:
        out = (side + 2 * pad - kernel) // stride + 1
        return lambda: arguments(
            values, n, groups, each, (side, side), (kernel, kernel), (stride, stride), (pad, pad), (1, 1), (out, out),
            turned, True, 2, "float32",
        )  # fmt: skip

    return {
        "direct_convolution": case(False, 3, 1, (17, 35), 29, 3, 1, 1),
        "direct_convolution strided": case(False, 3, 1, (17, 35), 41, 3, 2, 1),
        "direct_convolution in groups": case(False, 3, 3, (9, 11), 30, 5, 1, 2),
        "direct_convolution in place": case(False, 3, 1, (33, 41), 29, 1, 1, 0),
        "direct_convolution of small pictures": case(False, 33, 1, (33, 41), 5, 3, 1, 1),
        "direct_convolution of deep pictures": case(False, 2, 1, (700, 19), 12, 3, 1, 1),
        "direct_convolution backwards": case(True, 3, 1, (17, 35), 41, 3, 2, 1),
        "direct_convolution to three": case(True, 3, 1, (3, 35), 64, 7, 2, 3),
    }


HOT.update(_hot())
