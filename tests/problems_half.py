"""Problems of the conversions between float32 and low precision, and of a loss scaler's kernels."""

from __future__ import annotations

import numpy as np
import strategies
from hypothesis import strategies as st
from problems import HOT, MAKERS, SINGLE, WITH_TABLES, Arguments

SUBNORMAL = (1e-40, 2.0**-24, 2.0**-25, 3 * 2.0**-26, 2.0**-14, 65504.0, 65519.0, 65520.0, 3.39e38, np.inf, np.nan)


@st.composite
def conversions(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    """Any words; numbers of any size, those at which a format ends among them."""
    n = draw(st.integers(0, 200))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    words = rng.integers(0, 1 << 16, n).astype(np.uint16)
    with np.errstate(over="ignore"):
        x = draw(strategies.values((n,), "float32", specials=True)) * 2.0 ** rng.integers(-30, 18, n)
        x = np.where(rng.random(n) < 0.2, rng.choice(SUBNORMAL, n), x).astype(np.float32)
    kind = draw(st.integers(0, 1))
    if name == "widen":
        return {"x": words, "kind": kind, "out": np.full(n, 7, np.float32)}
    if name == "narrow":
        return {"x": x, "kind": kind, "out": np.full(n, 77, np.uint16)}
    return {"x": words, "kind": kind, "out": x}


@st.composite
def scales(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    """Scales that grow, shrink, stay, and would overflow."""
    return {
        "found": np.array([draw(st.sampled_from([0.0, 1.0]))], np.float32),
        "growth": 2.0,
        "backoff": 0.5,
        "interval": draw(st.integers(1, 3)),
        "scale": np.array([draw(st.sampled_from([1.0, 65536.0, 2.0**127]))], np.float32),
        "tracker": np.array([draw(st.integers(0, 2))], np.int32),
    }


MAKERS.update(dict.fromkeys(("widen", "narrow", "follow"), (conversions, 0.0)))
MAKERS["update_scale"] = (scales, 0.0)
SINGLE.update(("widen", "narrow", "follow", "update_scale"))
WITH_TABLES.add("unscale")

_LARGE = (1 << 17) + 5
HOT["widen"] = lambda: {"x": np.arange(_LARGE).astype(np.uint16), "kind": 1, "out": np.empty(_LARGE, np.float32)}
HOT["narrow"] = lambda: {
    "x": np.random.default_rng(0).standard_normal(_LARGE).astype(np.float32),
    "kind": 0,
    "out": np.empty(_LARGE, np.uint16),
}
