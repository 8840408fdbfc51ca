"""The memory of a leaf's gradient serves again, but only where nobody can tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.core.tape import Leaf

pytestmark = [pytest.mark.jit_off]


def _layer(device: str = "cpu") -> tuple[tb.nn.Linear, tb.Tensor]:
    tb.manual_seed(0)
    return tb.nn.Linear(3, 2, device=device), tb.ones(4, 3, device=device)


def _step(layer: Any, x: tb.Tensor, scale: float) -> None:
    layer.zero_grad()
    (layer(x) * scale).sum().backward()


def test_memory_serves_again(device: str) -> None:
    layer, x = _layer(device)
    _step(layer, x, 1.0)
    first = id(layer.weight.grad.array)
    _step(layer, x, 2.0)
    assert id(layer.weight.grad.array) == first
    np.testing.assert_array_equal(layer.weight.grad.numpy(), np.full((2, 3), 8.0, np.float32))


HOLDERS: dict[str, Callable[[tb.Tensor], Any]] = {
    "the tensor": lambda g: g,
    "an array": lambda g: g.numpy(),
    "a view": lambda g: g[0],
    "a detached tensor": lambda g: g.detach(),
    "a slice of the array": lambda g: g.numpy()[1:, 1:],
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_what_somebody_holds_is_left_alone(holder: str, device: str) -> None:
    layer, x = _layer(device)
    _step(layer, x, 1.0)
    held = HOLDERS[holder](layer.weight.grad)
    before = np.array(held)
    _step(layer, x, 2.0)
    np.testing.assert_array_equal(np.array(held), before)
    np.testing.assert_array_equal(layer.weight.grad.numpy(), np.full((2, 3), 8.0, np.float32))


def test_what_a_hook_keeps_is_left_alone(device: str) -> None:
    layer, x = _layer(device)
    kept: list[tb.Tensor] = []
    layer.weight.register_hook(kept.append)
    for scale in (1.0, 2.0, 3.0):
        _step(layer, x, scale)
    assert [float(g[0, 0].item()) for g in kept] == [4.0, 8.0, 12.0]


def test_what_grad_returns_is_the_callers(device: str) -> None:
    layer, x = _layer(device)
    _step(layer, x, 1.0)
    layer.zero_grad()
    (first,) = tb.grad((layer(x) * 5.0).sum(), [layer.weight])
    _step(layer, x, 2.0)
    assert first is not None
    assert float(first[0, 0].item()) == 20.0
    assert float(layer.weight.grad[0, 0].item()) == 8.0


def test_a_weight_that_is_used_twice(device: str) -> None:
    tb.manual_seed(0)
    layer = tb.nn.Linear(3, 3, bias=False, device=device)
    x = tb.ones(2, 3, device=device)
    found = []
    for _ in range(3):
        layer.zero_grad()
        layer(layer(x)).sum().backward()
        found.append(np.array(layer.weight.grad))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_gradients_that_accumulate(device: str) -> None:
    layer, x = _layer(device)
    _step(layer, x, 1.0)
    (layer(x) * 2.0).sum().backward()
    assert float(layer.weight.grad[0, 0].item()) == 12.0
    _step(layer, x, 1.0)
    assert float(layer.weight.grad[0, 0].item()) == 4.0


def test_a_parameter_that_changes_its_dtype(device: str) -> None:
    layer, x = _layer(device)
    _step(layer, x, 1.0)
    layer.double()
    _step(layer, x.double(), 2.0)
    assert layer.weight.grad.dtype is tb.float64
    assert float(layer.weight.grad[0, 0].item()) == 8.0


def test_an_optimiser_follows_gradients_that_move(device: str) -> None:
    """Addresses are remembered: a gradient put elsewhere, by whoever, must be the one that is used."""
    layer, x = _layer(device)
    optimiser = tb.optim.SGD(layer.parameters(), lr=1.0)
    for replaced in (False, True, False, True):
        before = np.array(layer.weight.detach())
        _step(layer, x, 1.0)
        if replaced:
            layer.weight.grad = tb.full((2, 3), 7.0, device=device)
        optimiser.step()
        np.testing.assert_allclose(before - np.array(layer.weight.detach()), 7.0 if replaced else 4.0, rtol=1e-5)


def test_a_recorded_backward_reuses_nothing(device: str) -> None:
    layer, x = _layer(device)
    _step(layer, x, 1.0)
    spare = layer.weight.node
    assert isinstance(spare, Leaf)
    layer.zero_grad()
    (layer(x) ** 2).sum().backward(create_graph=True)
    recorded = layer.weight.grad
    assert recorded.requires_grad
    _step(layer, x, 2.0)
    assert not layer.weight.grad.requires_grad
    assert recorded is not layer.weight.grad


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_training_is_the_same_as_with_memory_of_its_own(momentum: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def train() -> list[Any]:
        tb.manual_seed(1)
        net = tb.nn.Sequential(tb.nn.Linear(5, 4), tb.nn.BatchNorm1d(4), tb.nn.Sigmoid(), tb.nn.Linear(4, 3))
        optimiser = tb.optim.SGD(net.parameters(), lr=0.1, momentum=momentum)
        x, y = tb.randn(8, 5), tb.randint(0, 3, (8,))
        for _ in range(5):
            optimiser.zero_grad()
            tb.nn.functional.cross_entropy(net(x), y).backward()
            optimiser.step()
        return [np.array(p.detach()) for p in net.parameters()]

    reused = train()
    monkeypatch.setattr(Leaf, "spare", property(lambda self: None, lambda self, value: None))
    for a, b in zip(reused, train(), strict=True):
        np.testing.assert_array_equal(a, b)
