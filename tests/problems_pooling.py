"""Problems of the pooling kernels whose windows are tables, and of those that read at other rows and columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import strategies
from hypothesis import strategies as st
from problems import HOT, MAKERS, SUMS, Arguments, blank

from tinygrad_bn.kernels.cpu.pooling import GRAIN

Array = np.ndarray[Any, Any]
SIDE = st.one_of(st.integers(1, 4), st.integers(1, 24))


@st.composite
def places(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    planes, height, width = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    count = draw(st.integers(0, 9))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    index = rng.integers(-1, height * width, (planes, count))
    whole = (planes, height, width)
    if name == "pool_gather":
        return {"x": draw(strategies.values(whole, dtype)), "index": index, "out": blank(index.shape, dtype)}
    return {"gy": draw(strategies.values(index.shape, dtype)), "index": index, "out": blank(whole, dtype)}


def _table(rng: np.random.Generator, n: int, count: int) -> Array:
    """Windows of an axis of n, none empty, and what they count."""
    first = rng.integers(0, n, count)
    end = np.minimum(first + rng.integers(1, n + 1, count), n)
    return np.stack([first, end, rng.integers(1, 9, count)], 1)


@st.composite
def tables(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    planes, height, width = draw(st.integers(1, 9)), draw(SIDE), draw(SIDE)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    rows, columns = (_table(rng, n, draw(st.integers(1, 5))) for n in (height, width))
    size, whole = (planes, len(rows), len(columns)), (planes, height, width)
    work = blank((draw(st.integers(1, planes)), width), dtype)
    if name == "avg_pool_backward":
        gy = draw(strategies.values(size, dtype))
        return {"gy": gy, "rows": rows, "columns": columns, "work": work, "out": blank(whole, dtype)}
    x = draw(strategies.values(whole, dtype, specials=name == "adaptive_max_pool"))
    if name == "avg_pool":
        return {"x": x, "rows": rows, "columns": columns, "work": work, "out": blank(size, dtype)}
    return {"x": x, "rows": rows, "columns": columns, "out": blank(size, dtype), "index": blank(size, np.int64)}


@st.composite
def grids(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    planes, height, width = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    rows, columns = (rng.integers(0, n, draw(st.integers(0, 7))) for n in (height, width))
    size, whole = (planes, rows.size, columns.size), (planes, height, width)
    given, out = (whole, size) if name == "take_grid" else (size, whole)
    values = draw(strategies.values(given, dtype))
    return {"x" if name == "take_grid" else "gy": values, "rows": rows, "columns": columns, "out": blank(out, dtype)}


MAKERS.update(
    {
        "adaptive_max_pool": (tables, 0.0),
        "pool_scatter": (places, 1e-6),
        "pool_gather": (places, 0.0),
        "avg_pool": (tables, 1e-6),
        "avg_pool_backward": (tables, 1e-6),
        "take_grid": (grids, 0.0),
        "add_grid": (grids, 1e-6),
    }
)
SUMS.update({"pool_scatter", "avg_pool", "avg_pool_backward", "add_grid"})


def _large(name: str) -> Arguments:
    rng = np.random.default_rng(0)
    planes, side = 37, 41
    x = rng.standard_normal((planes, side, side)).astype(np.float32)
    half = x[:, :20, :20].copy()
    rows, columns = _table(rng, side, 20), _table(rng, side, 20)
    index = rng.integers(-1, side * side, (planes, GRAIN // 32))
    work = blank((16, side), np.float32)
    out, places = blank(half.shape, np.float32), blank(half.shape, np.int64)
    match name:
        case "adaptive_max_pool":
            return {"x": x, "rows": rows, "columns": columns, "out": out, "index": places}
        case "pool_scatter":
            gy = rng.standard_normal(index.shape).astype(np.float32)
            return {"gy": gy, "index": index, "out": blank(x.shape, np.float32)}
        case "pool_gather":
            return {"x": x, "index": index, "out": blank(index.shape, np.float32)}
        case "avg_pool":
            return {"x": x, "rows": rows, "columns": columns, "work": work, "out": out}
        case "avg_pool_backward":
            return {"gy": half, "rows": rows, "columns": columns, "work": work, "out": blank(x.shape, np.float32)}
        case "take_grid":
            rows, columns = rng.integers(0, side, 40), rng.integers(0, side, 50)
            return {"x": x, "rows": rows, "columns": columns, "out": blank((planes, 40, 50), np.float32)}
        case _:
            rows, columns = rng.integers(0, 50, side), rng.integers(0, 60, side)
            return {"gy": x, "rows": rows, "columns": columns, "out": blank((planes, 50, 60), np.float32)}


for _name in (
    "adaptive_max_pool",
    "pool_scatter",
    "pool_gather",
    "avg_pool",
    "avg_pool_backward",
    "take_grid",
    "add_grid",
):
    HOT[_name] = lambda name=_name: _large(name)  # type: ignore[misc]
