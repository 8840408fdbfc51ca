"""Problems of the kernels of depthwise convolutions along rows: any padding; planes wide, or narrow and in pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import strategies
from hypothesis import strategies as st
from problems import HOT, MAKERS, SUMS, Arguments, Array, blank

from tinygrad_bn.kernels.depthwise import LANES

KERNELS = ("depthwise_rows", "depthwise_rows_back")


def arguments(
    name: str, values: Any, n: int, channels: int, each: int, size: tuple[int, int], out: tuple[int, int],
    steps: Arguments, together: int, parts: int, biased: bool, staged: bool, dtype: str,
) -> Arguments:  # fmt: skip
    x, steps = values((n, channels, *size), dtype), {**steps, "together": together}
    work = blank((2, (out if name == "depthwise_rows" else size)[0] * 64 if staged else 0), dtype)
    if name == "depthwise_rows":
        w, bias = values((channels * each, 1, 3, 3), dtype), values((channels * each if biased else 0,), dtype)
        return {"x": x, "w": w, "bias": bias, **steps, "work": work, "y": blank((n, channels * each, *out), dtype)}
    w, partial = values((channels, 1, 3, 3), dtype), blank((parts * channels * 9 * LANES,), dtype)
    return {
        "gy": values((n, channels, *out), dtype), "x": x, "w": w, **steps, "parts": parts, "partial": partial,
        "work": work,
        "gx": blank(x.shape, dtype), "gw": blank(w.shape, dtype),
    }  # fmt: skip


@st.composite
def planes(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    """Windows on and off the input; samples that make pairs, or leave one over."""
    n, channels, each = draw(st.integers(1, 5)), draw(st.integers(1, 6)), draw(st.integers(1, 3))
    size, out = ((draw(st.integers(1, 12)), draw(st.one_of(st.integers(1, 9), st.integers(1, 40)))) for _ in "xy")
    steps = {"stride": draw(st.integers(1, 2)), **{k: draw(st.integers(0, 6)) for k in ("top", "left")}}

    def values(shape: tuple[int, ...], dtype: str) -> Array:
        found: Array = draw(strategies.values(shape, dtype))
        return found

    together, parts = draw(st.integers(1, 7)), draw(st.integers(1, n))
    flags = draw(st.booleans()), draw(st.booleans())
    return arguments(name, values, n, channels, each, size, out, steps, together, parts, *flags, dtype)


MAKERS.update(dict.fromkeys(KERNELS, (planes, 1e-6)))
SUMS.update(KERNELS)


def _large(name: str, stride: int, side: int) -> Arguments:
    rng = np.random.default_rng(0)

    def values(shape: tuple[int, ...], dtype: str) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    steps = {"stride": stride, "top": 1, "left": 1}
    samples, out = 9000 // side**2 + 3, -(-side // stride)
    return arguments(name, values, samples, 21, 1, (side, side), (out, out), steps, 4, 3, True, True, "float32")


for _name in KERNELS:
    for _stride in (1, 2):
        for _side in (7, 35):
            _key = f"{_name} of stride {_stride} on {_side}"
            HOT[_key] = lambda name=_name, stride=_stride, side=_side: _large(name, stride, side)
