"""Problems of the kernels that check indices and put elements along an axis."""

from __future__ import annotations

import numpy as np
import strategies
from hypothesis import strategies as st
from problems import MAKERS, Arguments


@st.composite
def checks(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    """Some indices out of range, of which the first is reported."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    limit, m = draw(st.integers(1, 6)), draw(st.integers(0, 8))
    beyond = draw(st.integers(0, 1))
    return {
        "index": rng.integers(-limit - beyond, limit + beyond, m),
        "limit": limit,
        "wrap": draw(st.booleans()),
        "out": np.full(m, 77),
        "status": np.zeros(4, np.int64),
    }


@st.composite
def puts(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    r, m, b = draw(st.integers(1, 6)), draw(st.integers(0, 8)), draw(st.integers(0, 4))
    return {
        "x": draw(strategies.values((2, m, b), dtype)),
        "positions": rng.integers(0, r, (2, m, b)),
        "out": draw(strategies.values((2, r, b), dtype)),
    }


MAKERS["check_index"] = (checks, 0.0)
MAKERS["put_along"] = (puts, 0.0)
