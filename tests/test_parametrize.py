"""Parametrised tensors: PyTorch's names, semantics and state dicts."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError
from tinygrad_bn.nn.utils import parametrizations, parametrize
from tinygrad_bn.testing import assert_close


class Symmetric(tb.nn.Module):
    calls = 0

    def forward(self, x: tb.Tensor) -> tb.Tensor:
        Symmetric.calls += 1
        return (x + x.T) * 0.5


class Scaled(tb.nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: tb.Tensor) -> tb.Tensor:
        return x * self.factor

    def right_inverse(self, y: tb.Tensor) -> tb.Tensor:
        return y / self.factor


def test_a_parametrised_weight_is_computed_and_its_original_trained() -> None:
    layer = tb.nn.Linear(3, 3)
    weight = layer.weight
    parametrize.register_parametrization(layer, "weight", Symmetric())
    assert np.array_equal(layer.weight.detach().numpy(), layer.weight.T.detach().numpy())
    assert layer.parametrizations.weight.original is weight
    assert list(layer.state_dict()) == ["bias", "parametrizations.weight.original"]
    assert [n for n, _ in layer.named_parameters()] == ["bias", "parametrizations.weight.original"]
    assert isinstance(layer, tb.nn.Linear)
    assert type(layer).__name__ == "ParametrizedLinear"
    assert parametrize.type_before_parametrizations(layer) is tb.nn.Linear
    layer(tb.ones(2, 3)).sum().backward()
    assert weight.grad is not None
    assert np.array_equal(weight.grad.numpy(), weight.grad.numpy().T)


def test_whether_something_is_parametrised() -> None:
    layer = tb.nn.Linear(2, 2)
    assert not parametrize.is_parametrized(layer)
    parametrize.register_parametrization(layer, "bias", Scaled(2.0))
    assert parametrize.is_parametrized(layer)
    assert parametrize.is_parametrized(layer, "bias")
    assert not parametrize.is_parametrized(layer, "weight")


def test_the_value_is_kept_where_there_is_an_inverse_and_can_be_set(device: str) -> None:
    layer = tb.nn.Linear(2, 2, device=device)
    before = layer.weight.detach().numpy().copy()
    parametrize.register_parametrization(layer, "weight", Scaled(4.0))
    assert_close(layer.weight.detach().numpy(), before, 1e-6)
    assert_close(layer.parametrizations.weight.original.detach().numpy(), before / 4, 1e-6)
    for value in (tb.full((2, 2), 8.0, device=device), tb.nn.Parameter(tb.full((2, 2), 8.0, device=device))):
        layer.weight = value
        assert layer.parametrizations.weight.original.tolist() == [[2.0, 2.0], [2.0, 2.0]]
    parametrize.register_parametrization(layer, "weight", Scaled(0.5))
    assert layer.weight.tolist() == [[4.0, 4.0], [4.0, 4.0]]
    layer.weight = tb.full((2, 2), 1.0, device=device)
    assert layer.weight.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert len(layer.parametrizations.weight) == 2


@pytest.mark.parametrize("leave", [True, False])
def test_parametrisations_are_removed(leave: bool) -> None:
    layer = tb.nn.Linear(2, 2)
    original = layer.weight
    raw = original.detach().numpy().copy()
    parametrize.register_parametrization(layer, "weight", Symmetric())
    parametrize.register_parametrization(layer, "bias", Scaled(2.0))
    value = layer.weight.detach().numpy().copy()
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=leave)
    assert layer.weight is original
    assert np.array_equal(layer.weight.detach().numpy(), value if leave else raw)
    assert parametrize.is_parametrized(layer, "bias")
    parametrize.remove_parametrizations(layer, "bias")
    assert type(layer) is tb.nn.Linear
    assert not hasattr(layer, "parametrizations")
    assert sorted(layer.state_dict()) == ["bias", "weight"]


def test_a_buffer_and_a_copy() -> None:
    """A copy is independent: removing there leaves the first as it is."""
    norm = tb.nn.BatchNorm1d(2)
    parametrize.register_parametrization(norm, "running_var", Scaled(2.0))
    other = copy.deepcopy(norm)
    other.parametrizations.running_var.original.fill_(5.0)
    assert other.running_var.tolist() == [10.0, 10.0]
    parametrize.remove_parametrizations(other, "running_var")
    assert list(dict(other.named_buffers())) == ["running_mean", "num_batches_tracked", "running_var"]
    assert norm.running_var.tolist() == [1.0, 1.0]
    assert type(norm).__name__ == "ParametrizedBatchNorm1d"


def test_values_are_computed_once_within_cached() -> None:
    layer = tb.nn.Linear(2, 2)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    start = Symmetric.calls
    with parametrize.cached():
        assert layer.weight is layer.weight
        layer(tb.ones(1, 2))
    assert Symmetric.calls == start + 1
    assert layer.weight is not layer.weight


class Wider(tb.nn.Module):
    def forward(self, x: tb.Tensor) -> tb.Tensor:
        return tb.cat([x, x])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda m: parametrize.register_parametrization(m, "wieght", Symmetric()),
            ArgumentError,
            r"^register_parametrization: 'tensor_name' must be a parameter or buffer: weight, bias\. Got 'wieght'\.$",
        ),
        (lambda m: parametrize.register_parametrization(m, "weight", Wider()), ShapeError, "must have an output of"),
        (
            lambda m: parametrize.register_parametrization(m, "weight", lambda x: x),
            DTypeError,
            "'parametrization' must be a Module",
        ),
        (
            lambda m: parametrize.remove_parametrizations(m, "weight"),
            ArgumentError,
            r"^remove_parametrizations: 'tensor_name' must be the name of a parametrised tensor\. Got 'weight'\.$",
        ),
        (
            lambda m: parametrize.remove_parametrizations(parametrizations.weight_norm(m), "weight", False),
            ArgumentError,
            r"'leave_parametrized' must be True where there are several originals",
        ),
        (
            lambda m: setattr(parametrize.register_parametrization(m, "weight", Symmetric()), "weight", tb.ones(2, 2)),
            ArgumentError,
            r"Symmetric has no right_inverse\(\)",
        ),
        (lambda m: parametrizations.spectral_norm(m, "wieght"), ArgumentError, "'name' must be the name of a param"),
        (
            lambda m: parametrizations.spectral_norm(m, n_power_iterations=0),
            ArgumentError,
            "'n_power_iterations' must be at least 1",
        ),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    layer = tb.nn.Linear(2, 2)
    with pytest.raises(error, match=message):
        call(layer)


def test_what_does_not_fit_leaves_the_module_as_it_is() -> None:
    layer = tb.nn.Linear(2, 2)
    with pytest.raises(ShapeError):
        parametrize.register_parametrization(layer, "weight", Wider())
    assert type(layer) is tb.nn.Linear
    assert list(layer.state_dict()) == ["weight", "bias"]
    parametrize.register_parametrization(layer, "weight", Wider(), unsafe=True)
    assert layer.weight.shape == (4, 2)


@pytest.mark.peers
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_is_that_of_pytorch(dim: int | None) -> None:
    torch = pytest.importorskip("torch")
    theirs, ours = torch.nn.Linear(3, 4).double(), tb.nn.Linear(3, 4, dtype=tb.float64)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    torch.nn.utils.parametrizations.weight_norm(theirs, dim=dim)
    parametrizations.weight_norm(ours, dim=dim)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = np.random.default_rng(0).standard_normal((5, 3))
    (theirs(torch.tensor(x)) ** 2).sum().backward()
    (ours(tb.tensor(x)) ** 2).sum().backward()
    for t, o in zip(theirs.parameters(), ours.parameters(), strict=True):
        assert_close(o.detach().numpy(), t.detach().numpy(), 1e-12)
        assert_close(o.grad.numpy(), t.grad.numpy(), 1e-11)


@pytest.mark.peers
def test_spectral_norm_is_that_of_pytorch() -> None:
    """From the same vectors: values, gradients, and the vectors after a step; in evaluation they stay."""
    torch = pytest.importorskip("torch")
    theirs, ours = torch.nn.Linear(3, 4).double(), tb.nn.Linear(3, 4, dtype=tb.float64)
    torch.nn.utils.parametrizations.spectral_norm(theirs)
    parametrizations.spectral_norm(ours)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({k: v.detach().numpy() for k, v in theirs.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((5, 3))
    (theirs(torch.tensor(x)) ** 2).sum().backward()
    (ours(tb.tensor(x)) ** 2).sum().backward()
    for t, o in zip(theirs.parameters(), ours.parameters(), strict=True):
        assert_close(o.grad.numpy(), t.grad.numpy(), 1e-11)
    for t, o in zip(theirs.state_dict().values(), ours.state_dict().values(), strict=True):
        assert_close(o.detach().numpy(), t.detach().numpy(), 1e-12)
    ours.eval()
    kept = ours.state_dict()["parametrizations.weight.0._u"].numpy().copy()
    assert abs(np.linalg.norm(ours.weight.detach().numpy(), 2) - 1) < 0.05
    assert np.array_equal(ours.state_dict()["parametrizations.weight.0._u"].numpy(), kept)
