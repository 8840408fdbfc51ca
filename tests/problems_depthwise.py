"""Problems of the kernels of convolutions in groups of few channels: any stride, dilation, padding; bands, tails."""

from __future__ import annotations

from math import lcm
from typing import Any

import numpy as np
import strategies
from hypothesis import strategies as st
from problems import HOT, MAKERS, SUMS, Arguments, Array, blank

from tinygrad_bn.kernels import depthwise as sizes
from tinygrad_bn.kernels.depthwise import LANES

KERNELS = ("depthwise", "depthwise_input", "depthwise_weight")
Pair = tuple[int, int]


def room(
    name: str, size: Pair, out: Pair, w: tuple[int, ...], each: int, steps: Arguments, band: int, dtype: str
) -> Arguments:
    """What the kernels need besides their operands: exactly as much as they may use."""
    (depth, kh, kw), (sh, sw) = w[1:], (steps["stride_h"], steps["stride_w"])
    high, across = (kh, steps["dilation_h"], sh), (kw, steps["dilation_w"], sw)
    taps = depth * kh * kw
    held, wide = sizes.span(band, *high), max(steps["left"] + size[1], sizes.span(out[1], *across))
    pixels, numbers = depth * held * wide + band * out[1], held * size[1] + 4 * taps
    if name == "depthwise":
        pixels += each * (taps + 1)
    elif name == "depthwise_weight":
        numbers += band * out[1]
    else:
        held = band + sizes.before(*high, steps["top"]) + sizes.after(sh, steps["top"])
        ahead = sizes.before(*across, steps["left"])
        wide = ahead + max(out[1], -(-size[1] // sw) + sizes.after(sw, steps["left"]))
        pixels = each * held * wide + each * taps + 1 + band * sh * size[1]
        numbers = held * out[1] + 4 * each * kh * kw + sh * sw + 1
    return {"table": blank((numbers,), np.int64), "work": blank((2, (pixels + LANES) * LANES), dtype)}


def arguments(
    name: str, values: Any, n: int, groups: int, each: int, size: Pair, w: tuple[int, ...], out: Pair, steps: Arguments,
    band: int, parts: int, biased: bool, dtype: str,
) -> Arguments:  # fmt: skip
    more = {"band": band, **room(name, size, out, w, each, steps, band, dtype)}
    x, y = (n, groups * w[1], *size), (n, groups * each, *out)
    match name:
        case "depthwise":
            bias = values((w[0] if biased else 0,), dtype)
            return {"x": values(x, dtype), "w": values(w, dtype), "bias": bias, **steps, **more, "y": blank(y, dtype)}
        case "depthwise_input":
            return {"gy": values(y, dtype), "w": values(w, dtype), **steps, **more, "gx": blank(x, dtype)}
        case _:
            partial = blank((parts * lcm(groups, LANES) * (int(np.prod(w)) // groups),), dtype)
            return {
                "gy": values(y, dtype), "x": values(x, dtype), **steps, "band": band, "parts": parts,
                "table": more["table"], "partial": partial, "work": more["work"], "gw": blank(w, dtype),
            }  # fmt: skip


@st.composite
def grouped(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    """Windows on and off the input; groups that fill registers, or share one with those of the next sample."""
    n, depth, each = (draw(st.integers(1, most)) for most in (5, 3, 3))
    groups = draw(st.one_of(st.integers(1, 5), st.sampled_from([8, 16, 17, 24, 33])))
    size: Pair = draw(st.tuples(st.integers(1, 12), st.integers(1, 20)))
    out: Pair = draw(st.tuples(st.integers(1, 12), st.integers(1, 20)))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (5, 5), (3, 1), (1, 4), (2, 3), (7, 6)]))
    steps = {
        **{f"stride_{k}": draw(st.integers(1, 4)) for k in "hw"},
        **{k: draw(st.integers(0, 6)) for k in ("top", "left")},
        **{f"dilation_{k}": draw(st.integers(1, 3)) for k in "hw"},
    }
    band, parts = draw(st.integers(1, 13)), draw(st.integers(1, n))

    def values(shape: tuple[int, ...], dtype: str) -> Array:
        found: Array = draw(strategies.values(shape, dtype))
        return found

    w = (groups * each, depth, *kernel)
    return arguments(name, values, n, groups, each, size, w, out, steps, band, parts, draw(st.booleans()), dtype)


MAKERS.update(dict.fromkeys(KERNELS, (grouped, 1e-6)))
SUMS.update(KERNELS)


def _large(name: str, stride: int) -> Arguments:
    rng = np.random.default_rng(0)

    def values(shape: tuple[int, ...], dtype: str) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    steps = {"stride_h": stride, "stride_w": stride, "top": 1, "left": 1, "dilation_h": 1, "dilation_w": 1}
    out = (-(-31 // stride), -(-43 // stride))
    return arguments(name, values, 5, 21, 2, (31, 43), (42, 2, 3, 3), out, steps, 7, 2, True, "float32")


HOT.update({name: (lambda name=name: _large(name, 1)) for name in KERNELS})
HOT.update({f"{name} strided": (lambda name=name: _large(name, 2)) for name in KERNELS})
