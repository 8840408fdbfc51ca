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
    tiles, held = winograd.LANES * draw(st.integers(1, 4)), winograd.HEIGHT * draw(st.integers(1, 5))
    shares, parts = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    normal = st.sampled_from((0, c))
    prologue = {
        "statistics": values(4, draw(normal)),
        "weight": values(draw(normal)),
        "shift": values(draw(normal)),
        "act": draw(st.sampled_from((0, 1))),
    }
    match name:
        case "winograd_filters":
            turned = draw(st.booleans())
            plane = winograd.filter_plane(c, k) if turned else winograd.filter_plane(k, c)
            return {"w": values(k, c, 3, 3), "turned": turned, "u": blank((36, plane), f4)}
        case "winograd_convolution":
            blocks = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 2), (3, 1)]))
            return {
                "x": values(n, c, *size),
                **prologue,
                "u": values(36, winograd.filter_plane(k, c * blocks[0] * blocks[1])),
                "bias": values(k if draw(st.booleans()) else 0),
                "top": before[0],
                "left": before[1],
                "blocks_h": blocks[0],
                "blocks_w": blocks[1],
                "tiles": tiles,
                "held": held,
                "work": blank((shares, winograd.block_work(c * blocks[0] * blocks[1], held, tiles)), f4),
                "y": blank((n, k, *out), f4),
                "parts": blank(
                    (k, -(-n * down * across // tiles), 3) if draw(st.booleans()) else (0, 0, 3), np.float64
                ),
            }
        case "winograd_gradient" | "winograd_points":
            high, wide = draw(st.integers(1, 3)), draw(st.integers(1, 4))
            arguments = {
                "x": values(n, c, *size),
                **prologue,
                "gy": values(n, k, *out),
                "top": before[0],
                "left": before[1],
                "high": high,
                "wide": wide,
            }
            if name == "winograd_gradient":
                tiles = draw(st.integers(high * wide, 3 * high * wide))
                return arguments | {
                    "tiles": tiles,
                    "work": blank((shares, winograd.gradient_work(k, c, high, wide, tiles)), f4),
                    "u": blank((parts, 36, winograd.gradient_plane(k, c)), f4),
                }
            first = draw(st.integers(0, n * -(-down // high) * -(-across // wide) - 1))
            last = draw(st.integers(first + 1, n * -(-down // high) * -(-across // wide)))
            grid = (down, across, high, wide)
            tiles = winograd.tiles_before(last, grid) - winograd.tiles_before(first, grid)
            return arguments | {
                "first": first,
                "last": last,
                "work": blank((shares, winograd.unit_work(high, wide)), f4),
                "v": blank((36, winograd.points_plane(c, tiles)), f4),
                "m": blank((36, winograd.points_plane(k, tiles)), f4),
            }
        case "winograd_products":
            few = draw(st.integers(1, 5))
            return {
                "m": values(36, winograd.points_plane(k, few)),
                "v": values(36, winograd.points_plane(c, few)),
                "tiles": few,
                "more": draw(st.booleans()),
                "u": values(1, 36, winograd.gradient_plane(k, c)),
            }
        case _:
            return {"u": values(parts, 36, winograd.gradient_plane(k, c)), "gw": blank((k, c, 3, 3), f4)}


KERNELS = (
    "winograd_filters",
    "winograd_convolution",
    "winograd_gradient",
    "winograd_points",
    "winograd_products",
    "winograd_filter_gradient",
)
MAKERS.update(dict.fromkeys(KERNELS, (transformed, 1e-6)))
SINGLE.update(KERNELS)


def _largest(before: Arguments) -> dict[str, Array]:
    """Rounding is relative to the largest of the terms, each of which goes into all results of its tile."""

    def top(name: str) -> float:
        return float(np.abs(before[name]).max())

    x = _largest_input(before) if "x" in before else 0.0
    if "held" in before:
        inputs = before["x"].shape[1] * before["blocks_h"] * before["blocks_w"]
        size = x * top("u") * inputs + float(np.abs(before["bias"]).max(initial=0))
    elif "u" in before and "gy" in before:
        size = x * top("gy") * before["gy"].size / before["gy"].shape[1]
    elif "v" in before:
        size = x + top("gy") if "gy" in before else top("m") * top("v") * before["tiles"] + top("u")
    else:
        size = top("w" if "w" in before else "u")
    scales = {k: np.full(np.shape(v), 40 * size) for k, v in before.items() if k in ("u", "y", "v", "m", "gw", "parts")}
    if "parts" in scales:
        scales["parts"] *= (0, 1, 40 * size * 16 * before["tiles"])  # the count is exact; M2 goes with the square
    return scales


def _largest_input(before: Arguments) -> float:
    x = float(np.abs(before["x"]).max())
    if before["statistics"].size:
        mean, low, _, invstd = np.abs(before["statistics"]).max(1)
        x = (
            (x + mean + low)
            * invstd
            * float(np.abs(before["weight"]).max(initial=1 if not before["weight"].size else 0))
        )
        x += float(np.abs(before["shift"]).max(initial=0))
    return x


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
        "winograd_filters": lambda: {
            "w": f(40, 33, 3, 3),
            "turned": True,
            "u": blank((36, winograd.filter_plane(33, 40)), f4),
        },
        "winograd_convolution": lambda: {
            "x": f(5, 9, 33, 41),
            **dict(zip(("statistics", "weight", "shift", "act"), (f(4, 9), f(9), f(9), 1), strict=True)),
            "u": f(36, winograd.filter_plane(13, 18)),
            "bias": f(13),
            "top": 1,
            "left": 1,
            "blocks_h": 1,
            "blocks_w": 2,
            "tiles": 48,
            "held": 8,
            "work": blank((4, winograd.block_work(18, 8, 48)), f4),
            "y": blank((5, 13, 33, 41), f4),
            "parts": blank((13, 11, 3), np.float64),
        },
        "winograd_gradient": lambda: {
            "x": f(5, 33, 33, 41),
            **dict(zip(("statistics", "weight", "shift", "act"), (f(4, 33), f(33), f(0), 0), strict=True)),
            "gy": f(5, 9, 33, 41),
            "top": 1,
            "left": 1,
            "high": 4,
            "wide": 6,
            "tiles": 32,
            "work": blank((2, winograd.gradient_work(9, 33, 4, 6, 32)), f4),
            "u": blank((4, 36, winograd.gradient_plane(9, 33)), f4),
        },
        "winograd_points": lambda: {
            "x": f(5, 33, 33, 41),
            **dict(zip(("statistics", "weight", "shift", "act"), (f(4, 33), f(33), f(0), 0), strict=True)),
            "gy": f(5, 9, 33, 41),
            "top": 1,
            "left": 1,
            "high": 4,
            "wide": 6,
            "first": 1,
            "last": 12,
            "work": blank((3, winograd.unit_work(4, 6)), f4),
            "v": blank((36, winograd.points_plane(33, 174)), f4),
            "m": blank((36, winograd.points_plane(9, 174)), f4),
        },
        "winograd_products": lambda: {
            "m": f(36, winograd.points_plane(40, 150)),
            "v": f(36, winograd.points_plane(33, 150)),
            "tiles": 150,
            "more": True,
            "u": f(1, 36, winograd.gradient_plane(40, 33)),
        },
        "winograd_filter_gradient": lambda: {
            "u": f(2, 36, winograd.gradient_plane(40, 33)),
            "gw": blank((40, 33, 3, 3), f4),
        },
    }


HOT.update(_large())
