"""Problems of the kernels that take pictures apart and put them together: any strides and steps; whole covers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import strategies
from hypothesis import strategies as st
from problems import HOT, MAKERS, Arguments, blank


@st.composite
def gathered(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    """Pieces on and off the input, of every stride that has a path of its own, and others; rows about a register."""
    n, c = draw(st.integers(1, 2)), draw(st.integers(1, 20))
    height, width = draw(st.integers(1, 8)), draw(st.integers(1, 75))
    count, rows, columns = [draw(st.integers(1, 3)) for _ in "hw"], draw(st.integers(1, 6)), draw(st.integers(1, 40))
    return {
        "x": draw(strategies.values((n, c, height, width), dtype, specials=True)),
        **{f"stride_{k}": draw(st.integers(1, 5)) for k in "hw"},
        **{f"step_{k}": draw(st.integers(-3, 3)) for k in "hw"},
        **{k: draw(st.integers(-4, 9)) for k in ("top", "left")},
        "out": blank((n, *count, c, rows, columns), dtype),
    }


@st.composite
def scattered(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    """Phases of a stride, or blocks, in which the output lies."""
    n, c = draw(st.integers(1, 2)), draw(st.integers(1, 5))
    ways = {k: draw(st.sampled_from(["phases", "blocks"])) for k in "hw"}
    count = {k: draw(st.integers(1, 4)) for k in "hw"}
    extent = {"h": draw(st.integers(1, 5)), "w": draw(st.integers(1, 37))}
    before = {k: draw(st.integers(0, count[k] * extent[k] - 1)) for k in "hw"}
    size = [draw(st.integers(1, count[k] * extent[k] - before[k])) for k in "hw"]
    pieces = (n, count["h"], count["w"], c, extent["h"], extent["w"])
    return {
        "pieces": draw(strategies.values(pieces, dtype, specials=True)),
        **{f"stride_{k}": count[k] if ways[k] == "phases" else 1 for k in "hw"},
        **{f"step_{k}": 1 if ways[k] == "phases" else extent[k] for k in "hw"},
        "top": before["h"],
        "left": before["w"],
        "out": blank((n, c, *size), dtype),
    }


MAKERS |= {"gather_pieces": (gathered, 0.0), "scatter_pieces": (scattered, 0.0)}


def _hot() -> dict[str, Callable[[], Arguments]]:
    rng = np.random.default_rng(0)

    def f(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    def steps(stride: int, step: int, before: int) -> Arguments:
        pairs = {"stride": stride, "step": step}
        return {**{f"{k}_{a}": v for k, v in pairs.items() for a in "hw"}, "top": before, "left": before}

    return {
        "gather_pieces": lambda: {"x": f(3, 19, 37, 41), **steps(2, 1, 1), "out": blank((3, 2, 2, 19, 19, 21), "f4")},
        "gather_pieces in blocks": lambda: {
            "x": f(3, 19, 37, 41), **steps(1, 3, 2), "out": blank((3, 2, 2, 19, 39, 43), "f4"),
        },
        "scatter_pieces": lambda: {
            "pieces": f(3, 2, 2, 19, 19, 21), **steps(2, 1, 0), "out": blank((3, 19, 37, 41), "f4"),
        },
        "scatter_pieces of three": lambda: {
            "pieces": f(3, 3, 3, 19, 19, 21), **steps(3, 1, 1), "out": blank((3, 19, 55, 61), "f4"),
        },
    }  # fmt: skip


HOT.update(_hot())
