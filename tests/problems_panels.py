"""Problems of convolution by panels: those of strips (``problems_direct``), and with more channels, outputs and points
than a tile has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import strategies
from hypothesis import strategies as st
from problems import HOT, MAKERS, SUMS, Arguments, blank

from tinygrad_bn.kernels.direct import taps_of_gradient, taps_of_windows
from tinygrad_bn.kernels.panels import plan

Pair = tuple[int, int]


def arguments(
    values: Any, n: int, groups: int, each: Pair, size: Pair, kernel: Pair, stride: Pair, before: Pair, dilation: Pair,
    out: Pair, turned: bool, biased: bool, shares: int, threads: int, dtype: str,
) -> Arguments:  # fmt: skip
    """``each``: channels of a group, in and out; ``turned``: the gradient, from ``out`` to ``size``."""
    channels, rows = each[::-1] if turned else each
    here, there = (out, size) if turned else (size, out)
    one = (1, 1)
    step, spread = (one, stride) if turned else (stride, one)
    taps = taps_of_gradient(kernel, stride, before, dilation) if turned else taps_of_windows(kernel, before, dilation)
    found = plan(taps, spread[0] * spread[1], channels, rows, groups)
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
        "offsets": found.offsets,
        "shares": shares,
        "filters": blank((found.filters,), dtype),
        "places": np.full((threads, found.places), -1),
        "work": blank((threads, found.work), dtype),
        "out": blank((n, groups * rows, *there), dtype),
    }


@st.composite
def panels(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    """Rows of a point and rows longer than a panel, samples smaller than one; taps that see nothing."""
    side = st.one_of(st.integers(1, 9), st.integers(10, 30))
    kernel, stride, dilation = ((draw(st.integers(1, most)), draw(st.integers(1, most))) for most in (4, 3, 3))
    before, size = (draw(st.integers(0, 9)), draw(st.integers(0, 9))), (draw(side), draw(side))
    if draw(st.booleans()):
        kernel, stride, before = (1, 1), (1, 1), (0, 0)
    span = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    out = tuple(max(1, (s + 2 * b - r) // t + 1) for s, b, r, t in zip(size, before, span, stride, strict=True))
    channels = st.one_of(st.integers(1, 5), st.integers(6, 20))
    return arguments(
        lambda s, d: draw(strategies.values(s, d)), draw(st.integers(1, 5)), draw(st.integers(1, 2)),
        (draw(channels), draw(channels)), size, kernel, stride, before, dilation, out, draw(st.booleans()),
        draw(st.booleans()), draw(st.integers(1, 4)), draw(st.integers(1, 3)), dtype,
    )  # fmt: skip


MAKERS["panel_convolution"] = (panels, 1e-6)
SUMS.add("panel_convolution")


def _hot() -> dict[str, Callable[[], Arguments]]:
    rng = np.random.default_rng(0)

    def values(shape: tuple[int, ...], dtype: str) -> Any:
        return rng.standard_normal(shape).astype(dtype)

    def case(turned: bool, n: int, groups: int, each: Pair, side: int, kernel: int, stride: int, pad: int) -> Any:
        out = (side + 2 * pad - kernel) // stride + 1
        return lambda: arguments(
            values, n, groups, each, (side, side), (kernel, kernel), (stride, stride), (pad, pad), (1, 1), (out, out),
            turned, True, 3, 2, "float32",
        )  # fmt: skip

    return {
        "panel_convolution": case(False, 3, 1, (33, 43), 14, 1, 1, 0),
        "panel_convolution strided": case(False, 3, 2, (17, 35), 31, 3, 2, 1),
        "panel_convolution of small pictures": case(False, 33, 1, (33, 41), 5, 3, 1, 1),
        "panel_convolution backwards": case(True, 3, 1, (17, 35), 41, 3, 2, 1),
        "panel_convolution to every third": case(True, 3, 1, (33, 43), 40, 1, 3, 0),
    }


HOT.update(_hot())
