"""What Hypothesis draws: shapes with sizes 0 and 1, values, memory layouts, whole problems of batch normalisation.

Elements come from a generator whose seed is drawn: large arrays cost nothing to draw, and what shrinks is the shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

Array = np.ndarray[Any, Any]

DTYPES = st.sampled_from(["float32", "float64"])
LAYOUTS = st.sampled_from(["plain", "permuted", "sliced"])
SPECIALS = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 1.0, -1.0, 3e38, -3e38)


def shapes(
    min_dims: int = 0, max_dims: int = 4, min_side: int = 0, max_side: int = 6
) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes; sizes of 0, where allowed, and 1 are as likely as all others together."""
    edge = st.integers(min_side, min(1, max_side)) if min_side < 2 else st.just(min_side)
    side = st.one_of(edge, st.integers(min_side, max_side))
    return st.lists(side, min_size=min_dims, max_size=max_dims).map(tuple)


@st.composite
def values(
    draw: st.DrawFn, shape: tuple[int, ...], dtype: str, *, specials: bool = False, positive: bool = False
) -> Array:
    """Numbers about 0 of a drawn scale; with ``specials``, NaN, infinities, zeros and subnormal ones among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    out = rng.standard_normal(shape) * draw(st.sampled_from([1.0, 1.0, 0.01, 30.0]))
    if positive:
        out = np.abs(out) + 1e-3
    if specials and draw(st.booleans()):
        chosen = rng.random(shape) < 0.3
        out = np.where(chosen, rng.choice(SPECIALS, shape), out)
    with np.errstate(all="ignore"):
        return np.asarray(out, dtype)


@st.composite
def broadcastable(draw: st.DrawFn, count: int, max_dims: int = 5) -> list[tuple[int, ...]]:
    """Shapes that broadcast to one: axes of extent 1, leading axes left out."""
    whole = draw(shapes(0, max_dims, 0, 4))
    out = []
    for _ in range(count):
        own = tuple(1 if draw(st.integers(0, 2)) == 0 else n for n in whole)
        out.append(own[draw(st.integers(0, len(own))) if draw(st.booleans()) else 0 :])
    return out


@dataclass(frozen=True)
class Batch:
    """A problem of batch normalisation on (N, C, L)."""

    x: Array
    gy: Array
    weight: Array
    bias: Array
    eps: float
    act: int
    slope: float = 0.25

    @property
    def count(self) -> int:
        """m, the number of values of one channel."""
        return self.x.shape[0] * self.x.shape[2]


@st.composite
def batches(
    draw: st.DrawFn,
    dtype: str | None = None,
    *,
    min_count: int = 2,
    max_mean: float = 1e4,
    act: int | None = None,
    affine: bool | None = None,
) -> Batch:
    """Batches of few and of many values a channel, one channel and more than a register of them, of large mean and
    small variance; weight and bias may be absent (of size 0), as they may for the kernels.

    ``max_mean`` bounds the mean in standard deviations.
    """
    kind = dtype or draw(DTYPES)
    c = draw(st.one_of(st.integers(1, 5), st.integers(1, 40)))
    length = draw(st.one_of(st.just(1), st.integers(1, 6), st.integers(1, 70)))
    least = -(-min_count // length)
    n = draw(st.integers(max(1, least), max(9, least)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    deviation = draw(st.sampled_from([1.0, 1e-3, 50.0]))
    ratio = draw(st.sampled_from([0.0, 1.0, -min(100.0, max_mean), max_mean]))
    x = deviation * (rng.standard_normal((n, c, length)) + ratio * rng.uniform(0.5, 1.0, (1, c, 1)))
    has_weight, has_bias = (draw(st.booleans()), draw(st.booleans())) if affine is None else (affine, affine)
    return Batch(
        x.astype(kind),
        rng.standard_normal(x.shape).astype(kind),
        rng.uniform(-2, 2, c if has_weight else 0).astype(kind),
        rng.standard_normal(c if has_bias else 0).astype(kind),
        draw(st.sampled_from([1e-5, 1e-3, 0.1])),
        draw(st.integers(0, 7)) if act is None else act,
        draw(st.sampled_from([0.25, 0.0, 1.5, -0.5])),
    )
