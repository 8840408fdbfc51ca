"""A Sequential runs a batch normalisation and the activation behind it as one pass, and nobody can tell but by the
launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.core import launch
from tinygrad_bn.kernels.spec import Kernel
from tinygrad_bn.testing import assert_close, check_vjp

pytestmark = [pytest.mark.jit_off]
ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}


class Loud(nn.ReLU):
    """A subclass that does something else."""

    def forward(self, input: tb.Tensor) -> tb.Tensor:
        return super().forward(input) + 1.0


class Shifted(nn.BatchNorm1d):
    """The same for the normalisation."""

    def forward(self, input: tb.Tensor) -> tb.Tensor:
        return super().forward(input) + 1.0


def launched(run: Callable[[], Any]) -> list[str]:
    names: list[str] = []

    def watch(kernel: Kernel, arguments: tuple[Any, ...], go: Callable[[], None]) -> None:
        names.append(kernel.name)
        go()

    launch.observers.append(watch)
    try:
        run()
    finally:
        launch.observers.pop()
    return names


def data(*shape: int, dtype: str = "float32", seed: int = 0) -> tb.Tensor:
    return tb.tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("training", [True, False])
def test_fused_as_one_after_the_other(kind: str, training: bool, dtype: str, device: str) -> None:
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3), ACTIVATIONS[kind](), nn.Linear(3, 2))
    net = net.to(getattr(tb, dtype)).to(device).train(training)
    found = []
    for fused in (True, False):
        net[1].reset_running_stats()
        net.zero_grad()
        x = data(6, 4, dtype=dtype).to(device=device).requires_grad_()
        y = x
        if fused:
            names = launched(lambda x=x: net(x))
            assert kind not in names
            net[1].reset_running_stats()
            y = net(x)
        else:
            for module in net:
                y = module(y)
        y.backward(data(6, 2, dtype=dtype, seed=1).to(device=device))
        gradients = [p.grad for p in net.parameters()]
        found.append([np.array(t.detach()) for t in (y, x.grad, *gradients, *net.buffers())])
    for a, b in zip(*found, strict=True):
        assert_close(a, b, 1e-5 if dtype == "float32" else 1e-13)


@pytest.mark.parametrize("kind", [*ACTIVATIONS, "none"])
@pytest.mark.parametrize("first", [True, False])
def test_a_linear_layer_ahead_of_it(kind: str, first: bool, dtype: str, device: str) -> None:
    """One launch forward beside the running statistics', whether or not the input wants a gradient."""
    tail = [ACTIVATIONS[kind]()] if kind in ACTIVATIONS else []
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3), *tail).to(getattr(tb, dtype)).to(device)
    found = []
    for fused in (True, False):
        net[1].reset_running_stats()
        net.zero_grad()
        x = data(6, 4, dtype=dtype).to(device=device).requires_grad_(not first)
        if fused:
            assert launched(lambda x=x: net(x)) == ["linear_batch_norm", "batch_norm_update"]
            net[1].reset_running_stats()
        y = net(x) if fused else x
        for module in () if fused else net:
            y = module(y)
        y.backward(data(6, 3, dtype=dtype, seed=1).to(device=device))
        gradients = [p.grad for p in net.parameters()] + ([] if first else [x.grad])
        found.append([np.array(t.detach()) for t in (y, *gradients, *net.buffers())])
    for a, b in zip(*found, strict=True):
        assert_close(a, b, 1e-5 if dtype == "float32" else 1e-13)


UNFUSED: dict[str, Callable[[nn.Sequential], Any]] = {
    "evaluation": lambda net: net.eval(),
    "a bias": lambda net: setattr(net, "0", nn.Linear(4, 3)),
    "frozen statistics": lambda net: setattr(net[1], "update_stats", False),
    "running statistics chosen": lambda net: setattr(net[1], "use_batch_stats", False),
    "none kept": lambda net: setattr(net, "1", nn.BatchNorm1d(3, track_running_stats=False)),
    "no affine": lambda net: setattr(net, "1", nn.BatchNorm1d(3, affine=False)),
    "a hook": lambda net: net[0].register_forward_hook(lambda m, a, y: None),
    "a weight that is a view": lambda net: setattr(net[0], "weight", nn.Parameter(data(4, 3).T)),
}


@pytest.mark.parametrize("change", UNFUSED)
def test_what_is_run_one_by_one(change: str) -> None:
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3), nn.ReLU())
    UNFUSED[change](net)
    assert "linear_batch_norm" not in launched(lambda: net(data(6, 4)))


@pytest.mark.parametrize("shape", [(300, 4), (2, 3, 4), (0, 4)])
def test_inputs_that_are_run_one_by_one(shape: tuple[int, ...]) -> None:
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3), nn.ReLU())
    assert "linear_batch_norm" not in launched(lambda: net(data(*shape)))


def test_second_derivatives_through_the_chain() -> None:
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3), nn.Sigmoid()).double()
    tensors = [data(6, 4, dtype="float64"), *[p.detach() for p in net.parameters()]]

    def call(x: tb.Tensor, *parameters: tb.Tensor) -> tb.Tensor:
        for (name, _), value in zip(list(net.named_parameters()), parameters, strict=True):
            owner = net.get_submodule(name.split(".")[0])
            owner.__dict__[name.split(".")[1]] = value
        return net(x)  # type: ignore[no-any-return]

    check_vjp(call, tensors, order=2)


def test_what_stands_elsewhere_is_run_as_it_is() -> None:
    """At the end, twice in a row, ahead of something else, with an activation of its own."""
    x = data(6, 3)
    for modules in (
        [nn.BatchNorm1d(3)],
        [nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.ReLU()],
        [nn.BatchNorm1d(3), nn.Tanh(), nn.ReLU()],
        [nn.BatchNorm1d(3, activation="relu"), nn.Sigmoid()],
        [nn.ReLU(), nn.BatchNorm1d(3), nn.ReLU(), nn.ReLU()],
    ):
        y = x
        for module in modules:
            y = module(y)
        assert_close(np.array(nn.Sequential(*modules)(x).detach()), np.array(y.detach()), 1e-5)


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_hooks_of_either_see_what_they_would(at: int, hook: str) -> None:
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Sigmoid())
    seen: list[Any] = []
    getattr(net[at], hook)(lambda *args: seen.append(args[1]))
    x = data(6, 3).requires_grad_()
    y = net(x)
    y.backward(data(6, 3, seed=1))
    assert len(seen) == 1
    if hook == "register_forward_pre_hook" and at == 1:
        assert_close(np.array(seen[0][0].sigmoid().detach()), np.array(y.detach()), 1e-6)


def test_subclasses_are_what_they_say() -> None:
    x = data(6, 3)
    assert float(nn.Sequential(nn.BatchNorm1d(3), Loud())(x).min().item()) == 1.0
    plain = np.array(nn.BatchNorm1d(3)(x).detach())
    shifted = np.array(nn.Sequential(Shifted(3), nn.ReLU())(x).detach())
    assert_close(shifted, np.maximum(plain + 1, 0), 1e-5)


def test_a_forward_of_the_instance_is_run() -> None:
    net = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())
    net[1].forward = lambda input: input * 0.0 + 5.0
    assert net(data(6, 3)).tolist() == [[5.0] * 3] * 6
    net[0].forward = lambda input: input
    assert net(data(6, 3)).tolist() == [[5.0] * 3] * 6


def test_one_value_a_channel_with_the_activation() -> None:
    net = nn.Sequential(nn.BatchNorm1d(3, on_single="warn"), nn.Sigmoid())
    with pytest.warns(RuntimeWarning, match="one value a channel"):
        assert net(tb.ones(1, 3)).tolist() == [[0.5] * 3]


def test_errors_are_the_layers_own() -> None:
    net = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())
    with pytest.raises(ValueError, match="BatchNorm1d: 'input' must have shape"):
        net(tb.ones(4, 5))
    with pytest.raises(ValueError, match="more than one value a channel"):
        net(tb.ones(1, 3))
