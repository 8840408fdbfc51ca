"""A Sequential remembers how it was run last, and notices whatever is changed about its modules since."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.core import launch

pytestmark = [pytest.mark.jit_off]


def _net() -> nn.Sequential:
    tb.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))


def _launched(net: nn.Sequential, x: tb.Tensor) -> list[str]:
    names: list[str] = []

    def watch(kernel: Any, arguments: tuple[Any, ...], go: Callable[[], None]) -> None:
        names.append(kernel.name)
        go()

    launch.observers.append(watch)
    try:
        net(x)
    finally:
        launch.observers.pop()
    return names


def _x() -> tb.Tensor:
    return tb.tensor(np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32))


class Doubled(nn.ReLU):
    """A ReLU of another class."""

    def forward(self, input: tb.Tensor) -> tb.Tensor:
        return super().forward(input) * 2.0


CHANGES: dict[str, Callable[[nn.Sequential], Any]] = {
    "a hook": lambda net: net[2].register_forward_hook(lambda m, a, y: y + 1.0),
    "a hook on the layer": lambda net: net[0].register_forward_hook(lambda m, a, y: y * 3.0),
    "a forward of its own": lambda net: setattr(net[2], "forward", lambda x: x * 5.0),
    "another module": lambda net: net.__setitem__(2, nn.Sigmoid()),
    "one taken out": lambda net: net.__delitem__(2),
    "one more": lambda net: net.append(nn.Sigmoid()),
    "an activation of the normalisation's": lambda net: setattr(net[1], "activation", "sigmoid"),
    "another class": lambda net: setattr(net[2], "__class__", Doubled),
    "a bias": lambda net: setattr(net[0], "bias", nn.Parameter(tb.ones(3))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_after_the_first_run_is_noticed(change: str) -> None:
    net, x = _net(), _x()
    net(x)
    CHANGES[change](net)
    found = net(x)
    expected = x
    for module in net:
        expected = module(expected)
    np.testing.assert_allclose(found.detach().numpy(), expected.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_what_is_undone_runs_as_before() -> None:
    net, x = _net(), _x()
    before = _launched(net, x)
    assert "linear_batch_norm" in before
    net[2].forward = lambda input: input.sigmoid()
    assert "sigmoid" in _launched(net, x)
    del net[2].forward
    assert _launched(net, x) == before


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_runs_its_own_modules(copied: Callable[[nn.Sequential], nn.Sequential]) -> None:
    net, x = _net(), _x()
    net(x)
    other = copied(net)
    with tb.no_grad():
        other[3].weight.copy_(other[3].weight * 2.0)
        other[3].bias.copy_(other[3].bias * 2.0)
    np.testing.assert_allclose(other(x).detach().numpy(), 2.0 * net(x).detach().numpy(), rtol=1e-5)


def test_a_shallow_copy_has_modules_of_its_own() -> None:
    net, x = _net(), _x()
    net(x)
    other = copy.copy(net)
    assert list(other) == list(net)
    np.testing.assert_array_equal(other.eval()(x).detach().numpy(), net.eval()(x).detach().numpy())


def test_a_hook_that_is_gone_leaves_nothing_behind() -> None:
    net, x = _net(), tb.ones(3, 4)
    fused = _launched(net, x)
    for _ in range(2):  # the second time its table is there already
        with net[1].register_forward_hook(lambda module, args, out: None):
            assert _launched(net, x) != fused
        assert _launched(net, x) == fused
