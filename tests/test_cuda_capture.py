"""Captured steps on the GPU: a graph does what the step does, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import nn, optim
from tinygrad_bn.errors import CaptureError, IndexRangeError

pytestmark = pytest.mark.skipif(not tb.cuda.is_available(), reason="no GPU, and NUMBA_ENABLE_CUDASIM is not 1")


def network() -> nn.Module:
    tb.manual_seed(3)
    layers = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 4)
    return nn.Sequential(*layers).to("cuda")


def batches(count: int) -> list[tuple[tb.Tensor, tb.Tensor]]:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        x, y = rng.standard_normal((5, 6)).astype(np.float32), rng.integers(0, 4, 5)
        made.append((tb.tensor(x, device="cuda"), tb.tensor(y, device="cuda")))
    return made


def trained(kind: Any, captured: bool) -> tuple[list[float], list[Any], Any]:
    model = network()
    optimizer = kind(model.parameters())
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
    tb.manual_seed(7)

    def step(x: tb.Tensor, y: tb.Tensor) -> tb.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        return loss

    run = tb.capture(step) if captured else step
    losses = []
    for x, y in batches(6):
        losses.append(float(run(x, y)))
        schedule.step()
    grads = [p.grad.tolist() for p in model.parameters() if p.grad is not None]
    return losses, [t.tolist() for t in model.state_dict().values()] + grads, run


@pytest.mark.parametrize(
    "kind",
    [lambda p: optim.SGD(p, 0.1, momentum=0.9), lambda p: optim.Adam(p, 0.01)],
    ids=["SGD", "Adam"],
)
def test_captured_and_eager_training_are_bit_equal(kind: Any) -> None:
    """With dropout, running statistics, a schedule, clipping and Adam's count of steps."""
    losses, state, run = trained(kind, True)
    assert (losses, state) == trained(kind, False)[:2]
    assert run.replays >= 3
    assert run.recordings == 1


def test_a_step_is_one_graph() -> None:
    """After the recordings a call launches a graph: no kernel comes from Python but the copies of its arguments."""
    run = tb.capture(lambda x: (x * 2 + 1).relu().sum())
    found = [float(run(tb.full((4,), i, device="cuda"))) for i in range(5)]
    assert found == [4.0, 12.0, 20.0, 28.0, 36.0]
    assert run.replays == 3


def test_results_of_earlier_calls_stay_as_they_were() -> None:
    run = tb.capture(lambda x: x * 3)
    kept = [run(tb.full((4,), i, device="cuda")) for i in range(5)]
    assert [k.tolist() for k in kept] == [[3.0 * i] * 4 for i in range(5)]


def test_views_and_strides_of_arguments() -> None:
    run = tb.capture(lambda x: x.t() @ x)
    whole = [tb.randn(4, 6, device="cuda") for _ in range(5)]
    for x in whole:
        part = x[1:3, ::2]
        np.testing.assert_allclose(run(part).tolist(), (part.t() @ part).tolist(), rtol=1e-6)


def test_what_a_kernel_reports_in_a_replay_is_raised_when_it_is_looked_at() -> None:
    run = tb.capture(lambda x, y: F.cross_entropy(x, y))
    x = tb.randn(3, 4, device="cuda")
    good, bad = (tb.tensor(labels, device="cuda") for labels in ([0, 1, 2], [0, 9, 2]))
    for _ in range(3):
        run(x, good).item()
    loss = run(x, bad)
    with pytest.raises(IndexRangeError, match="cross_entropy: .*9"):
        loss.item()
    assert float(run(x, good)) == float(F.cross_entropy(x, good))


def test_gradients_of_an_earlier_call_keep_their_values() -> None:
    weight = nn.Parameter(tb.ones(3, device="cuda"))

    def step(x: tb.Tensor) -> None:
        weight.grad = None
        (weight * x).sum().backward()

    run = tb.capture(step)
    held = []
    for i in range(5):
        run(tb.full((3,), i, device="cuda"))
        held.append(weight.grad)
    assert [g.tolist() for g in held if g is not None] == [[float(i)] * 3 for i in range(5)]


def test_copies_between_the_memories_are_refused_with_the_line() -> None:
    run = tb.capture(lambda x: x.to("cuda") * 2)
    with pytest.raises(CaptureError, match="test_cuda_capture.py"):
        run(tb.ones(3))
    run = tb.capture(lambda x: (x * 2).cpu())
    with pytest.raises(CaptureError, match="test_cuda_capture.py"):
        run(tb.ones(3, device="cuda"))


def test_reset_gives_the_memory_back() -> None:
    before = tb.memory_allocated("cuda")
    run = tb.capture(lambda x: (x @ x).relu())
    x = tb.randn(64, 64, device="cuda")
    for _ in range(4):
        y = run(x)
    del y, x
    run.reset()
    assert tb.memory_allocated("cuda") <= before + 4096
