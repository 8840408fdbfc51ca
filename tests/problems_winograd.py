"""Problems of the Winograd kernels: tiles that are cut off, paddings, channels that fill no register."""

from __future__ import annotations

from typing import Any

import numpy as np
import strategies
from hypothesis import strategies as st
from problems import HOT, MAKERS, SCALES, SINGLE, Arguments, Array, blank

from tinygrad_bn.kernels import winograd


@st.composite
def transformed(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    n, c, k = draw(st.integers(1, 3)), draw(st.integers(1, 20)), draw(st.integers(1, 40))
    h, w = draw(st.integers(1, 14)), draw(st.integers(1, 30))
    top, left = draw(st.integers(-7, 9)), draw(st.integers(-7, 9))  # negative: backward to the input
    rows, columns = max(1, h + 2 * top - 2), max(1, w + 2 * left - 2)
    return problem(draw, name, n, c, k, (h, w), (rows, columns), (top, left))


def problem(
    draw: Any, name: str, n: int, c: int, k: int, size: tuple[int, int], out: tuple[int, int], before: tuple[int, int]
) -> Arguments:
    def values(*shape: int) -> Array:
        found: Array = draw(strategies.values(shape, "float32"))
        return found

    f4 = np.float32
    down, across = -(-out[0] // 4), -(-out[1] // 4)
    tiles = winograd.BLOCK * draw(st.integers(1, 2))
    first = winograd.BLOCK * draw(st.integers(0, max(0, (n * down * across - 1) // winograd.BLOCK)))
    match name:
        case "winograd_filters":
            return {"w": values(k, c, 3, 3), "turned": draw(st.booleans()), "u": blank((36, k, c), f4)}
        case "winograd_convolution":
            turned = draw(st.booleans())
            return {
                "x": values(n, c, *size),
                "u": values(36, c, k) if turned else values(36, k, c),
                "turned": turned,
                "bias": values(k if draw(st.booleans()) else 0),
                "top": before[0],
                "left": before[1],
                "work": blank((draw(st.integers(1, 3)), winograd.block_work(c, k)), f4),
                "y": blank((n, k, *out), f4),
            }
        case "winograd_patches":
            return {
                "x": values(n, c, *size),
                "first": first,
                "top": before[0],
                "left": before[1],
                "down": down,
                "across": across,
                "work": blank((c, winograd.line_work()), f4),
                "v": blank((36, c | 1, tiles), f4),
            }
        case "winograd_results":
            work = blank((k, winograd.line_work()), f4)
            return {"gy": values(n, k, *out), "first": first, "work": work, "m": blank((36, k | 1, tiles), f4)}
        case "winograd_accumulate":
            return {
                "m": values(36, k | 1, tiles),
                "v": values(36, c | 1, tiles),
                "added": draw(st.booleans()),
                "term": blank((36, k, c), f4),
                "u": values(36, k, c),
            }
        case _:
            return {"u": values(36, k, c), "gw": blank((k, c, 3, 3), f4)}


KERNELS = (
    "winograd_filters",
    "winograd_convolution",
    "winograd_patches",
    "winograd_results",
    "winograd_accumulate",
    "winograd_filter_gradient",
)
MAKERS.update(dict.fromkeys(KERNELS, (transformed, 1e-6)))
SINGLE.update(KERNELS)


def _largest(before: Arguments) -> dict[str, Array]:
    """Rounding is relative to the largest of the terms, each of which goes into all results of its tile."""

    def top(name: str) -> float:
        return float(np.abs(before[name]).max())

    if "turned" in before and "x" in before:
        size = top("x") * top("u") * before["x"].shape[1] + float(np.abs(before["bias"]).max(initial=0))
    elif "added" in before:
        size = top("m") * top("v") * before["m"].shape[2] + top("u")
    else:
        size = top(next(k for k in ("w", "x", "gy", "u") if k in before))
    return {k: np.full(np.shape(v), 40 * size) for k, v in before.items() if k in ("u", "y", "v", "m", "gw")}


SCALES.update(dict.fromkeys(KERNELS, _largest))


class _Fixed:
    """Draws for large problems: the first of what may be drawn, values from a generator."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def normal(self, *shape: int) -> Array:
        return self.rng.standard_normal(shape).astype(np.float32)


def _large() -> dict[str, Any]:
    f, f4 = _Fixed().normal, np.float32
    return {
        "winograd_filters": lambda: {"w": f(40, 33, 3, 3), "turned": True, "u": blank((36, 40, 33), f4)},
        "winograd_convolution": lambda: {
            "x": f(5, 9, 33, 41),
            "u": f(36, 13, 9),
            "turned": False,
            "bias": f(13),
            "top": 1,
            "left": 1,
            "work": blank((4, winograd.block_work(9, 13)), f4),
            "y": blank((5, 13, 33, 41), f4),
        },
        "winograd_patches": lambda: {
            "x": f(5, 33, 33, 41),
            "first": 48,
            "top": 1,
            "left": 1,
            "down": 9,
            "across": 11,
            "work": blank((33, winograd.line_work()), f4),
            "v": blank((36, 33, 96), f4),
        },
        "winograd_results": lambda: {
            "gy": f(5, 33, 33, 41),
            "first": 48,
            "work": blank((33, winograd.line_work()), f4),
            "m": blank((36, 33, 96), f4),
        },
        "winograd_accumulate": lambda: {
            "m": f(36, 33, 96),
            "v": f(36, 48, 96),
            "added": True,
            "term": blank((36, 33, 48), f4),
            "u": f(36, 33, 48),
        },
        "winograd_filter_gradient": lambda: {"u": f(36, 40, 33), "gw": blank((40, 33, 3, 3), f4)},
    }


HOT.update(_large())
