"""Problems of the windows that move: they overlap, leave gaps, reach over edges and miss the plane."""

from __future__ import annotations

from typing import Any

import numpy as np
import strategies
from hypothesis import strategies as st
from problems import HOT, MAKERS, SUMS, Arguments, blank

from tinygrad_bn.core.device import ref
from tinygrad_bn.kernels.windows import BAND, Geometry, backward_work, forward_work

Array = np.ndarray[Any, Any]
SIDE = st.one_of(st.integers(1, 4), st.integers(1, 24), st.integers(30, 70))
NAMES = ("kh", "kw", "sh", "sw", "ph", "pw", "dh", "dw")


def _reach(n: int, k: int, s: int, p: int, d: int) -> int:
    """How many windows begin before the end: more than PyTorch takes, some may miss the plane."""
    return max(1, -(-(n + p) // s) if (k - 1) * d < n + p else 1)


@st.composite
def geometries(draw: st.DrawFn, dilated: bool) -> Geometry:
    """Usual windows, which have loops of their own, and any others."""
    height, width = draw(SIDE), draw(SIDE)
    if draw(st.booleans()):
        k, s = draw(st.sampled_from([(2, 2), (3, 2), (3, 1)]))
        window = [k, k, s, s, *[draw(st.integers(0, k // 2))] * 2, 1, 1]
    else:
        kernel = [draw(st.integers(1, 4)) for _ in range(2)]
        steps = [draw(st.integers(1, 4)) for _ in range(2)]
        gaps = [draw(st.integers(1, 3)) if dilated else 1 for _ in range(2)]
        window = [*kernel, *steps, *[draw(st.integers(0, k // 2)) for k in kernel], *gaps]
    kh, kw, sh, sw, ph, pw, dh, dw = window
    return Geometry(height, width, _reach(height, kh, sh, ph, dh), _reach(width, kw, sw, pw, dw), *window)


def arguments(g: Geometry, name: str, dtype: str, given: Array, counts: np.random.Generator, parts: int) -> Arguments:
    """What a kernel gets, given x forward, gy backward; codes from another x."""
    planes = len(given)
    whole, pooled = (planes, g.height, g.width), (planes, g.rows, g.columns)
    window = dict(zip(NAMES, g[4:], strict=True))
    back = name.endswith("backward")
    work = blank((min(parts, planes), (backward_work if back else forward_work)(g)), dtype)
    out = {"work": work, "out": blank(whole if back else pooled, dtype)}
    if name.startswith("mean"):
        tables = {"rows": counts.integers(1, 9, g.rows), "columns": counts.integers(1, 9, g.columns)}
        names = NAMES[:6]
        return {"gy" if back else "x": given, **{n: window[n] for n in names}, **tables, **out}
    code = blank(pooled, np.int32 if g.kh == 1 else np.int8)
    if name == "max_pool":
        return {"x": given, **window, **out, "code": code}
    x = np.round(counts.standard_normal(whole) * 2).astype(dtype)
    scratch = np.empty((1, forward_work(g)), dtype)
    ref.kernels.max_pool.serial(x, *g[4:], scratch, np.empty(pooled, dtype), code)
    if name == "max_pool_places":
        return {"code": code, **window, "width": g.width, "index": blank(pooled, np.int64)}
    return {"gy": given, "code": code, **window, **out}


@st.composite
def moving(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    """With equal maxima, NaN and infinities."""
    g = draw(geometries(name.startswith("max")))
    planes = draw(st.integers(1, 4))
    plane = (g.rows, g.columns) if name.endswith("backward") else (g.height, g.width)
    given = draw(strategies.values((planes, *plane), dtype, specials=name == "max_pool"))
    if draw(st.booleans()):
        given = np.round(given)
    return arguments(g, name, dtype, given, np.random.default_rng(draw(st.integers(0, 99))), draw(st.integers(1, 3)))


MAKERS.update(
    {
        "max_pool": (moving, 0.0),
        "max_pool_backward": (moving, 1e-6),
        "max_pool_places": (moving, 0.0),
        "mean_pool": (moving, 1e-6),
        "mean_pool_backward": (moving, 1e-6),
    }
)
SUMS.update({"max_pool_backward", "mean_pool", "mean_pool_backward"})


def _large(name: str) -> Arguments:
    """Several bands, more planes than parts."""
    rng = np.random.default_rng(0)
    height, width = 3 * BAND + 5, 41
    window = (3, 3, 1, 1, 1, 1, 1, 1) if name.startswith("mean") else (3, 3, 2, 2, 1, 1, 1, 1)
    rows, columns = ((n + 2 - 3) // window[2] + 1 for n in (height, width))
    g = Geometry(height, width, rows, columns, *window)
    plane = (rows, columns) if name.endswith("backward") else (height, width)
    given = rng.standard_normal((97, *plane)).astype(np.float32)
    return arguments(g, name, "float32", given, rng, 16)


for _name in ("max_pool", "max_pool_backward", "max_pool_places", "mean_pool", "mean_pool_backward"):
    HOT[_name] = lambda name=_name: _large(name)  # type: ignore[misc]
