"""The strategies draw what they promise: a property that is never put to the test proves nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import strategies
from hypothesis import find, given, settings
from hypothesis import strategies as st

FEW = settings(max_examples=500, derandomize=True, database=None, deadline=None)


def drawn(strategy: st.SearchStrategy[Any], condition: Callable[[Any], bool]) -> Any:
    """An example for which the condition holds; raises if none is found."""
    return find(strategy, condition, settings=FEW)


def test_shapes_have_sizes_0_and_1_and_no_axes() -> None:
    shapes = strategies.shapes()
    assert drawn(shapes, lambda s: 0 in s and len(s) > 1)
    assert drawn(shapes, lambda s: 1 in s and max(s) > 3)
    assert drawn(shapes, lambda s: s == ()) == ()
    assert drawn(shapes, lambda s: len(s) == 4 and min(s) > 1)


@given(strategies.shapes(1, 3, 2, 5))
def test_shapes_keep_their_limits(shape: tuple[int, ...]) -> None:
    assert 1 <= len(shape) <= 3
    assert all(2 <= n <= 5 for n in shape)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_hold_specials_where_asked_for(dtype: str) -> None:
    for condition in (np.isnan, np.isposinf, np.isneginf, lambda a: (a == 0) & np.signbit(a)):
        assert (
            drawn(strategies.values((5,), dtype, specials=True), lambda a, c=condition: bool(c(a).any())).dtype == dtype
        )


@given(strategies.values((3, 4), "float32"), strategies.values((7,), "float64", positive=True))
def test_values(a: Any, b: Any) -> None:
    assert a.shape == (3, 4)
    assert a.dtype == np.float32
    assert np.isfinite(a).all()
    assert (b > 0).all()


@given(strategies.broadcastable(3))
def test_broadcastable_shapes_broadcast(shapes: list[tuple[int, ...]]) -> None:
    np.broadcast_shapes(*shapes)


def test_broadcastable_shapes_differ() -> None:
    pair = strategies.broadcastable(2)
    assert drawn(pair, lambda p: len(p[0]) != len(p[1]) and max(map(len, p)) > 1)
    assert drawn(pair, lambda p: p[0] != p[1] and len(p[0]) == len(p[1]))
    assert drawn(pair, lambda p: any(0 in s for s in p))


def test_batches_cover_what_is_hard() -> None:
    batches = strategies.batches()
    for condition in (
        lambda b: b.x.shape[2] == 1 and b.x.shape[1] > 16,
        lambda b: b.x.shape[1] == 1,
        lambda b: b.x.shape[2] > 16,
        lambda b: b.weight.size == 0 and b.bias.size > 0,
        lambda b: b.weight.size > 0 and b.bias.size == 0,
        lambda b: b.act == 1,
        lambda b: b.x.dtype == np.float32 and abs(b.x.mean()) > 1e3 * b.x.std(axis=(0, 2)).min(),
        lambda b: b.count == 2,
    ):
        assert drawn(batches, condition)


@given(strategies.batches(min_count=3, affine=True))
def test_batches_keep_their_limits(batch: strategies.Batch) -> None:
    assert batch.count >= 3
    assert batch.weight.shape == batch.bias.shape == (batch.x.shape[1],)
    assert batch.gy.shape == batch.x.shape
