"""Slots of objects and counts of references that compiled code compares."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.kernels.cpu._jit import ENABLED
from tinygrad_bn.replay.words import Words

pytestmark = pytest.mark.skipif(not ENABLED, reason="kernels are plain Python")


def test_slots_and_counts_are_seen_to_change_and_to_be_as_before():
    tensors, value = [tb.ones(2, requires_grad=True) for _ in range(3)], tb.ones(2)
    leaf = tensors[1]
    slots = [(t, name, getattr(t, name)) for t in tensors for name in ("array", "node", "_grad")]
    count = sys.getrefcount(value) - 1
    words = Words([*slots, (leaf.node, "hooks", None)], [(value, count)])
    assert words.same()
    for owner, name in ((leaf, "array"), (leaf, "node"), (leaf, "_grad"), (leaf.node, "hooks")):
        before = getattr(owner, name)
        setattr(owner, name, [])
        assert not words.same()
        setattr(owner, name, before)
        assert words.same()
    held = value
    assert not words.same()
    del held
    assert words.same()


def _trainer() -> tuple[Any, Any]:
    model = nn.Sequential(nn.Linear(20, 8, bias=False), nn.BatchNorm1d(8), nn.Sigmoid(), nn.Linear(8, 4))
    optimizer = tb.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    @tb.capture
    def step(x: Any, classes: Any) -> Any:
        optimizer.zero_grad()
        loss = tb.functional.cross_entropy(model(x), classes)
        loss.backward()
        optimizer.step()
        return loss

    return step, model


def _batches(count: int) -> list[tuple[Any, Any]]:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((count, 6, 20)).astype(np.float32)
    return [(tb.tensor(a), tb.tensor(rng.integers(0, 4, 6))) for a in x]


def test_a_replayed_steps_tensors_are_looked_at_by_compiled_code():
    step, model = _trainer()
    batches = _batches(8)
    for batch in batches[:5]:
        step(*batch)
    (recording,) = next(iter(step._ready.values()))
    assert recording.watch._words.same()
    assert recording.gradients._words.same()
    weight = next(iter(model.parameters()))
    kept = weight.grad
    values = kept.numpy().copy()
    step(*batches[5])
    np.testing.assert_array_equal(kept.numpy(), values)
    assert weight.grad is not kept
    assert recording.gradients._words.same()
    replays = step.replays
    weight.register_hook(lambda g: g * 0)
    step(*batches[6])
    assert step.replays == replays
