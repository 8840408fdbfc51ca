"""Problems of the direct sum of filters' gradients: any stride, dilation and padding, blocks and ranges that are cut
off, parts of one block and of several, outputs that fill no register."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import strategies
from hypothesis import strategies as st
from problems import HOT, MAKERS, SUMS, Arguments, Array, blank

from tinygrad_bn.kernels import direct_weight as sizes


def problem(
    x: Array, gy: Array, kernel: tuple[int, int], steps: Arguments, groups: int, block: tuple[int, int, int],
    channels: int, parts: int, shares: int, pixels: bool = False,
) -> Arguments:  # fmt: skip
    """All arguments; the workspace as small as it may be."""
    dtype = x.dtype
    samples, rows, columns = block
    depth, each = x.shape[1] // groups, gy.shape[1] // groups
    units = -(-x.shape[0] // samples) * -(-gy.shape[2] // rows) * -(-gy.shape[3] // columns)
    lines = sizes.strip_rows(rows, kernel[0], steps["stride_h"], steps["dilation_h"])
    line = sizes.reach(columns, kernel[1], steps["stride_w"], steps["dilation_w"])
    taps = channels * kernel[0] * kernel[1]
    work = channels * sizes.channel_step(samples, lines, line) + sizes.block_work(samples * rows * columns)
    if pixels:
        phases = steps["stride_h"] // sizes.row_step(kernel[0], steps["stride_h"], steps["dilation_h"])
        step = sizes.channel_step(samples, -(-lines // phases) * phases, columns)
        work = channels * kernel[1] * step + sizes.TOTALS
    held = -(-taps // sizes.LEAST) * sizes.LEAST
    pitch = -(-each // sizes.LANES) * sizes.LANES
    return {
        "x": x,
        "gy": gy,
        **steps,
        **dict(zip(("samples", "rows", "columns"), block, strict=True)),
        "channels": channels,
        "places": np.full((shares, sizes.places(taps)), -1),
        "work": blank((shares, work), dtype),
        "parts": blank((min(parts, units), groups, -(-depth // channels), held, pitch), dtype),
        "gw": blank((groups * each, depth, *kernel), dtype),
    }


def steps_of(stride: tuple[int, int], before: tuple[int, int], dilation: tuple[int, int]) -> Arguments:
    (sh, sw), (top, left), (dh, dw) = stride, before, dilation
    return {"stride_h": sh, "stride_w": sw, "top": top, "left": left, "dilation_h": dh, "dilation_w": dw}


@st.composite
def direct(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    n, groups = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    depth, each = draw(st.integers(1, 7)), draw(st.one_of(st.integers(1, 20), st.sampled_from([16, 33, 48, 70])))
    pixels = name == "direct_weight_pixels"
    size, kernel, out = (draw(st.integers(1, 9)), draw(st.integers(1, 40))), pair(1, 4), pair(1, 9)
    out = out[0], draw(st.one_of(st.just(out[1]), st.integers(1, 40)))
    steps = steps_of(pair(1, 4), pair(0, 6), pair(1, 4))
    match draw(st.integers(0, 3)):
        case 0:  # 1×1, which may be read in place
            kernel, out, steps = (1, 1), size, steps_of((1, 1), (0, 0), pair(1, 2))
        case 1:  # results as wide as the input
            out, steps = (out[0], size[1]), {**steps, "stride_h": 1, "stride_w": 1}
        case 2:
            steps = {**steps, "stride_h": 2, "stride_w": 2}
    whole = draw(st.booleans())
    rows = out[0] if whole else draw(st.integers(1, out[0]))
    columns = out[1] if whole or draw(st.booleans()) else draw(st.integers(1, out[1]))
    if pixels and columns < out[1]:
        rows = 1
    samples = draw(st.integers(1, n)) if whole else 1
    return problem(
        draw(strategies.values((n, groups * depth, *size), dtype)),
        draw(strategies.values((n, groups * each, *out), dtype)),
        kernel, steps, groups, (samples, rows, columns), draw(st.integers(1, depth)),
        draw(st.integers(1, 4)), draw(st.integers(1, 3)), pixels,
    )  # fmt: skip


KERNELS = ("direct_weight", "direct_weight_pixels")
MAKERS.update(dict.fromkeys(KERNELS, (direct, 1e-6)))
SUMS.update(KERNELS)


def _hot() -> dict[str, Callable[[], Arguments]]:
    rng = np.random.default_rng(0)

    def f(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    ones = (1, 1)
    return {
        "direct_weight": lambda: problem(
            f(5, 14, 21, 23), f(5, 38, 11, 12), (3, 5), steps_of((2, 2), (1, 2), ones), 2, (2, 11, 12), 3, 2, 3
        ),
        "direct_weight cut": lambda: problem(
            f(2, 5, 40, 50), f(2, 33, 40, 50), (3, 3), steps_of(ones, (2, 2), (2, 2)), 1, (1, 7, 50), 5, 5, 2
        ),
        "direct_weight_pixels": lambda: problem(
            f(5, 14, 41, 23), f(5, 38, 21, 12), (3, 5), steps_of((2, 2), (1, 2), ones), 2, (2, 21, 12), 3, 2, 3, True
        ),
        "direct_weight_pixels in place": lambda: problem(
            f(5, 45, 31, 23), f(5, 9, 31, 23), ones, steps_of(ones, (0, 0), ones), 1, (1, 7, 23), 40, 5, 2, True
        ),
        "direct_weight_pixels as wide": lambda: problem(
            f(5, 7, 31, 23), f(5, 9, 31, 23), (3, 3), steps_of(ones, (1, 1), ones), 1, (1, 7, 23), 7, 5, 2, True
        ),
    }


HOT.update(_hot())
