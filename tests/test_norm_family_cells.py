"""Recurrent and domain-specific batch normalisation, and what the family's members refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_bn as tb
from tinygrad_bn import functional as F
from tinygrad_bn import nn
from tinygrad_bn.errors import ArgumentError, DTypeError, IndexRangeError, ShapeError
from tinygrad_bn.nn.parametrizations import weight_standardization
from tinygrad_bn.testing import check_vjp

Array = np.ndarray[Any, Any]
EPS = 1e-5
GAIN = 0.1


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def normalised(x: Array, mean: Array | None = None, var: Array | None = None) -> Array:
    mean, var = (x.mean(0), x.var(0)) if mean is None or var is None else (mean, var)
    return np.asarray((x - mean) / np.sqrt(var + EPS))


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def lstm(cell: dict[str, Array], xs: Array, norm: Callable[[str, int, Array], Array]) -> tuple[Array, Array, Array]:
    """1603.09025, equations 6 to 8, with gates in the order i, f, g, o."""
    h = c = np.zeros((xs.shape[1], cell["weight_hh"].shape[1]))
    outs = []
    for t, x in enumerate(xs):
        z = GAIN * norm("bn_hh", t, h @ cell["weight_hh"].T) + GAIN * norm("bn_ih", t, x @ cell["weight_ih"].T)
        i, f, g, o = np.split(z + cell["bias"], 4, 1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(GAIN * norm("bn_c", t, c))
        outs.append(h)
    return np.stack(outs), h, c


def rnn(cell: dict[str, Array], xs: Array, norm: Callable[[str, int, Array], Array]) -> Array:
    h, outs = np.zeros((xs.shape[1], cell["weight_hh"].shape[1])), []
    for t, x in enumerate(xs):
        z = GAIN * norm("bn_hh", t, h @ cell["weight_hh"].T) + GAIN * norm("bn_ih", t, x @ cell["weight_ih"].T)
        h = np.tanh(z + cell["bias"])
        outs.append(h)
    return np.stack(outs)


def cell_of(kind: type[Any], device: str, **options: Any) -> tuple[Any, dict[str, Array]]:
    cell = kind(3, 2, max_length=3, dtype=tb.float64, device=device, **options)
    with tb.no_grad():
        cell.bias.copy_(tb.tensor(draw(*cell.bias.shape, seed=8), device=device))
    return cell, {k: v.numpy().copy() for k, v in cell.state_dict().items()}


@pytest.mark.parametrize("kind", [nn.BNLSTMCell, nn.BNRNNCell])
def test_cells_in_training_and_evaluation(kind: type[Any], device: str) -> None:
    """Values of each step; running statistics of each, the last ones for all that follow; evaluation by them."""
    cell, arrays = cell_of(kind, device)
    xs = draw(5, 6, 3, seed=1)
    run = (lambda *a: lstm(*a)[0]) if kind is nn.BNLSTMCell else rnn
    seen: dict[str, Array] = {}

    def by_batch(name: str, t: int, z: Array) -> Array:
        at = min(t, 2)
        for key, start, new in (("mean", 0.0, z.mean(0)), ("var", 1.0, z.var(0) * 6 / 5)):
            kept = seen.setdefault(f"{name}.running_{key}", np.full((3, z.shape[1]), start))
            kept[at] += 0.1 * (new - kept[at])
        tracked = seen.setdefault(f"{name}.num_batches_tracked", np.zeros(3, np.int64))
        tracked[at] += 1
        return normalised(z)

    got, state = cell.unroll(tb.tensor(xs, device=device))
    np.testing.assert_allclose(got.detach().numpy(), run(arrays, xs, by_batch), rtol=1e-10, atol=1e-12)
    last = state[0] if isinstance(state, tuple) else state
    np.testing.assert_array_equal(last.detach().numpy(), got.detach().numpy()[-1])
    after = cell.state_dict()
    for key, value in seen.items():
        np.testing.assert_allclose(after[key].numpy(), value, rtol=1e-10, atol=1e-13)

    def by_running(name: str, t: int, z: Array) -> Array:
        at = min(t, 2)
        return normalised(z, seen[f"{name}.running_mean"][at], seen[f"{name}.running_var"][at])

    got, _ = cell.eval().unroll(tb.tensor(xs, device=device))
    np.testing.assert_allclose(got.detach().numpy(), run(arrays, xs, by_running), rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(cell.bn_ih.num_batches_tracked.numpy(), [1, 1, 3])


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("kind", [nn.BNLSTMCell, nn.BNRNNCell])
def test_derivatives_of_cells(kind: type[Any], mode: bool, device: str) -> None:
    """First and second ones, of inputs, matrices and gains; gains of 0 among them."""
    cell, arrays = cell_of(kind, device)
    cell.train(mode)
    names = ["weight_ih", "weight_hh", "bias", "bn_ih.weight", "bn_hh.weight"]
    names += ["bn_c.weight", "bn_c.bias"] if kind is nn.BNLSTMCell else []

    def of(x: tb.Tensor, h: tb.Tensor, *parameters: tb.Tensor) -> tb.Tensor:
        state: Any = (h, h * 2.0) if kind is nn.BNLSTMCell else h
        for t in range(2):
            state = nn.utils.functional_call(cell, dict(zip(names, parameters, strict=True)), (x * (t + 1.0), state, t))
        found: tb.Tensor = state[0] if isinstance(state, tuple) else state
        return found

    given_ = [draw(5, 3), draw(5, 2, seed=1), *(arrays[k] for k in names)]
    given_[5] = given_[5] * 0
    check_vjp(of, [tb.tensor(a, device=device) for a in given_], order=2, step=3e-4)


def test_the_first_step_and_the_gains() -> None:
    """Without a state, all samples have the same, and BN(h W_hhᵀ) is exactly 0; gains start at 0.1."""
    cell = nn.BNRNNCell(3, 4, 2, dtype=tb.float64)
    assert list(cell.state_dict())[:3] == ["weight_ih", "weight_hh", "bias"]
    np.testing.assert_array_equal(cell.state_dict()["bn_hh.weight"].numpy(), np.full(4, 0.1))
    assert cell.bn_hh.bias is None
    x = tb.tensor(draw(6, 3))
    want = np.tanh(GAIN * normalised(x.numpy() @ cell.weight_ih.detach().numpy().T))
    np.testing.assert_allclose(cell(x).detach().numpy(), want, rtol=1e-12)
    lstm_cell = nn.BNLSTMCell(3, 4, 2)
    assert lstm_cell.weight_hh.shape == (16, 4)
    assert lstm_cell.bn_c.bias is not None
    lstm_cell.reset_parameters()
    np.testing.assert_array_equal(lstm_cell.state_dict()["bn_c.weight"].numpy(), np.full(4, 0.1, np.float32))


def test_a_step_that_is_not_finite_moves_nothing() -> None:
    norm = nn.SeparatedBatchNorm1d(2, 3)
    bad = draw(4, 2).astype(np.float32)
    bad[0, 0] = np.nan
    norm(tb.tensor(bad), 1)
    np.testing.assert_array_equal(norm.num_batches_tracked.numpy(), [0, 0, 0])
    np.testing.assert_array_equal(norm.running_var.numpy(), np.ones((3, 2)))
    assert norm.skipped_batches == 1
    assert norm(tb.zeros(0, 2), 0).shape == (0, 2)
    norm(tb.tensor(draw(4, 2).astype(np.float32)), 7)
    np.testing.assert_array_equal(norm.num_batches_tracked.numpy(), [0, 0, 1])
    twin = nn.BatchNorm1d(2)
    twin(tb.tensor(draw(4, 2).astype(np.float32)))
    np.testing.assert_array_equal(norm.running_var.numpy()[2], twin.running_var.numpy())  # type: ignore[union-attr]


def test_cells_do_not_depend_on_threads() -> None:
    found = []
    for threads in (1, 2):
        tb.set_num_threads(threads)
        tb.manual_seed(0)
        cell = nn.BNLSTMCell(16, 64, 4)
        out, _ = cell.unroll(tb.tensor(draw(4, 300, 16).astype(np.float32)))
        out.backward(tb.tensor(draw(4, 300, 64, seed=1).astype(np.float32)))
        found.append([out.detach().numpy(), *(p.grad.numpy() for p in cell.parameters() if p.grad is not None)])
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


# ----------------------------------------------------------------------------------------------------------- domains


@settings(max_examples=10)
@given(st.integers(1, 3), st.integers(0, 99), st.sampled_from(["cpu", "ref"]))
def test_samples_of_several_domains(domains: int, seed: int, device: str) -> None:
    """A mixed batch gives each sample what a batch of its domain alone would, in values, gradients and statistics."""
    rng = np.random.default_rng(seed)
    names = np.concatenate([np.repeat(np.arange(domains), 3), rng.integers(0, domains, 2)])
    rng.shuffle(names)
    x, gy = draw(len(names), 2, 2, seed=seed), draw(len(names), 2, 2, seed=seed + 1)
    layer = nn.DomainSpecificBatchNorm1d(2, domains, dtype=tb.float64, device=device)
    t = tb.tensor(x, device=device, requires_grad=True)
    y = layer(t, tb.tensor(names, device=device))
    y.backward(tb.tensor(gy, device=device))
    assert t.grad is not None
    for d in range(domains):
        own = nn.BatchNorm1d(2, dtype=tb.float64, device=device)
        part = tb.tensor(x[names == d], device=device, requires_grad=True)
        out = own(part)
        out.backward(tb.tensor(gy[names == d], device=device))
        assert part.grad is not None
        np.testing.assert_array_equal(y.detach().numpy()[names == d], out.detach().numpy())
        np.testing.assert_array_equal(t.grad.numpy()[names == d], part.grad.numpy())
        for key, value in own.state_dict().items():
            np.testing.assert_array_equal(layer.bns[d].state_dict()[key].numpy(), value.numpy())


def test_domains_keep_apart() -> None:
    layer = nn.DomainSpecificBatchNorm2d(3, 2, momentum=None)
    assert list(layer.state_dict())[:2] == ["bns.0.weight", "bns.0.bias"]
    x = tb.tensor(draw(4, 3, 2, 2).astype(np.float32))
    layer(x, 1)
    assert [int(b.num_batches_tracked.item()) for b in layer.bns] == [0, 1]
    layer.eval()
    assert np.abs(layer(x, 0).detach().numpy() - layer(x, 1).detach().numpy()).max() > 1e-3
    np.testing.assert_array_equal(layer(x, np.int64(1)).detach().numpy(), layer.bns[1](x).detach().numpy())
    assert layer(x[:0], tb.zeros(0, dtype="int64")).shape == (0, 3, 2, 2)
    layer.reset_parameters()
    assert int(layer.bns[1].num_batches_tracked.item()) == 0
    check_vjp(
        lambda t: nn.DomainSpecificBatchNorm1d(3, 2, dtype=t.dtype)(t, tb.tensor([0, 1, 0, 1, 1])),
        [tb.tensor(draw(5, 3))],
        order=2,
    )


def test_ada_bn() -> None:
    """1603.04779: statistics of all the target's values together, layer by layer; the rest of the model as it was."""
    first, second = nn.BatchNorm1d(3, dtype=tb.float64), nn.BatchNorm1d(2, dtype=tb.float64, running_var="biased")
    linear = nn.Linear(3, 2, dtype=tb.float64)
    model = nn.Sequential(first, nn.Dropout(0.5), linear, second)
    linear.eval()
    batches = [draw(5, 3) * 2 + 3, draw(0, 3), draw(11, 3, seed=1) - 1]
    assert nn.ada_bn(model, [tb.tensor(batches[0]), (tb.tensor(batches[1]), 0), [tb.tensor(batches[2])]]) is model
    whole = np.concatenate(batches)
    assert first.running_mean is not None
    assert second.running_mean is not None
    np.testing.assert_allclose(first.running_mean.numpy(), whole.mean(0), rtol=1e-12)
    np.testing.assert_allclose(first.running_var.numpy(), whole.var(0, ddof=1), rtol=1e-12)  # type: ignore[union-attr]
    w, b = (p.detach().numpy() for p in linear.parameters())
    deeper = np.concatenate([normalised(x) @ w.T + b for x in (batches[0], batches[2])])
    np.testing.assert_allclose(second.running_mean.numpy(), deeper.mean(0), rtol=1e-10)
    np.testing.assert_allclose(second.running_var.numpy(), deeper.var(0), rtol=1e-10)  # type: ignore[union-attr]
    assert [m.training for m in model] == [True, True, False, True]
    assert (first.use_batch_stats, first.update_stats, first.num_batches_tracked.item()) == (None, True, 2)  # type: ignore[union-attr]
    model.eval()
    before = model(tb.tensor(batches[0])).detach().numpy()
    nn.ada_bn(model, iter([tb.tensor(whole)]))
    assert np.abs(model(tb.tensor(batches[0])).detach().numpy() - before).max() > 1e-3


def test_ada_bn_of_large_means() -> None:
    """Merged in float64, so that float32 data at a mean of 1e6 keep their variance."""
    layer = nn.BatchNorm1d(2)
    data = (draw(5, 40, 2) + 1e6).astype(np.float32)
    nn.ada_bn(layer, [tb.tensor(x) for x in data])
    want = data.reshape(-1, 2).astype(np.float64).var(0, ddof=1)
    np.testing.assert_allclose(layer.running_var.numpy(), want, rtol=1e-5)  # type: ignore[union-attr]


def test_ada_bn_puts_everything_back_after_an_error() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3))
    with pytest.raises(ShapeError):
        nn.ada_bn(model, [tb.zeros(4, 5)])
    assert model.training
    assert model[0].training
    assert (model[0].use_batch_stats, model[0].update_stats) == (None, True)


# ------------------------------------------------------------------------------------------------------------ errors

X = tb.tensor(draw(6, 4, 3))
ONE = tb.ones(4, dtype="float64")
CELL = nn.BNRNNCell(3, 2, 1)
LSTM = nn.BNLSTMCell(3, 2, 1)
DOMAINS = nn.DomainSpecificBatchNorm1d(4, 2)
FAULTS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "ghosts do not divide": (
        lambda: nn.GhostBatchNorm(4, 4, dtype="float64")(X),
        ArgumentError,
        r"ghost_batch_norm: 'input' must have a batch that is a multiple of ghost_batch_size = 4. Got shape \(6, 4",
    ),
    "ghosts of one value": (
        lambda: F.ghost_batch_norm(X[:, :, 0], 1),
        ArgumentError,
        r"'input' must have at least 2 values a channel of a ghost batch in training.*\nHint: use larger ghost batches",
    ),
    "no ghosts": (lambda: nn.GhostBatchNorm(4, 0), ArgumentError, "'ghost_batch_size' must be an int of at least 1"),
    "ghosts by halves": (lambda: F.ghost_batch_norm(X, 1.5), ArgumentError, "'ghost_batch_size' must be an int"),  # type: ignore[arg-type]
    "channels": (
        lambda: nn.GhostBatchNorm(5, 2)(X),
        ShapeError,
        r"GhostBatchNorm: 'input' must have shape \(N, C, …\) with C = 5. Got \(6, 4, 3\)",
    ),
    "one axis": (lambda: F.lp_batch_norm(ONE), ShapeError, r"'input' must have at least 2 axes, \(N, C, …\)"),
    "dtype": (
        lambda: nn.LpBatchNorm(4)(X),
        DTypeError,
        "LpBatchNorm: 'weight' must have dtype float64, as input has. Got float32",
    ),
    "integers": (lambda: F.iter_norm(tb.zeros(3, 2, dtype="int64"), 2), DTypeError, "must be a floating-point tensor"),
    "no tensor": (lambda: nn.IterNorm(4)([1.0]), DTypeError, "IterNorm: 'input' must be a Tensor. Got list"),
    "weight": (
        lambda: F.lp_batch_norm(X, 1, ONE[:3]),
        ShapeError,
        r"'weight' must have shape \(C,\) = \(4,\). Got \(3,\)",
    ),
    "another norm": (lambda: nn.LpBatchNorm(4, 3), ArgumentError, "'p' must be 1, 2 or math.inf. Got 3"),
    "one value": (
        lambda: F.lp_batch_norm(X[:1, :, 0], math.inf),
        ArgumentError,
        r"lp_batch_norm: 'input' must have at least 2 values a channel in training",
    ),
    "rmax": (lambda: F.batch_renorm(X, ONE, ONE, rmax=0.5), ArgumentError, "'rmax' must be at least 1. Got 0.5"),
    "dmax": (lambda: F.batch_renorm(X, ONE, ONE, dmax=-1.0), ArgumentError, "'dmax' must be at least 0. Got -1.0"),
    "schedule": (
        lambda: nn.BatchRenorm(4, schedule=3),  # type: ignore[arg-type]
        ArgumentError,
        "'schedule' must be a function of the step or a pair. Got 3",
    ),
    "schedule's rmax": (lambda: nn.RenormSchedule(0.5), ArgumentError, "'rmax' must be at least 1"),
    "schedule's dmax": (lambda: nn.RenormSchedule(dmax=-1), ArgumentError, "'dmax' must be at least 0"),
    "schedule's steps": (
        lambda: nn.RenormSchedule(plain_steps=30_000),
        ArgumentError,
        "RenormSchedule: 'dmax_steps' must be at least plain_steps = 30000",
    ),
    "noise's mean": (lambda: nn.NoisyBatchNorm(4, -1.0), ArgumentError, "'noise_mean' must be at least 0"),
    "noise's scale": (lambda: nn.NoisyBatchNorm(4, 0.5, 0.5), ArgumentError, "'noise_std' must be at least 1. Got 0.5"),
    "groups do not divide": (
        lambda: nn.DecorrelatedBatchNorm(4, 3),
        ArgumentError,
        "'num_features' must have a number of channels that is a multiple of group_size = 3. Got 4",
    ),
    "groups of an input": (lambda: F.iter_norm(X, 3), ArgumentError, "'input' must have a number of channels that"),
    "no groups": (lambda: nn.IterNorm(4, 0), ArgumentError, "'group_size' must be an int of at least 1. Got 0"),
    "too few to whiten": (
        lambda: nn.DecorrelatedBatchNorm(4, dtype="float64")(X[:4, :, 0]),
        ArgumentError,
        r"'input' must have at least 5 values a channel in training. Got shape \(4, 4\).\nHint: use larger batches",
    ),
    "no iterations": (lambda: nn.IterNorm(4, T=0), ArgumentError, "'T' must be an int of at least 1"),
    "iterations": (lambda: F.iter_norm(X, 2, 0), ArgumentError, "'iterations' must be an int of at least 1"),
    "eps": (lambda: nn.IterNorm(4, eps=-1.0), ArgumentError, "'eps' must be at least 0"),
    "momentum": (lambda: nn.BatchRenorm(4, momentum=2.0), ArgumentError, "'momentum' must be from 0 to 1"),
    "features": (lambda: nn.NoisyBatchNorm(-1), ArgumentError, "'num_features' must be an int of at least 0"),
    "no responses": (
        lambda: nn.FilterResponseNorm(4)(tb.zeros(3, 4)),
        ShapeError,
        r"FilterResponseNorm: 'input' must have shape \(N, C, L, …\) with C = 4. Got \(3, 4\)",
    ),
    "responses": (lambda: F.filter_response_norm(tb.zeros(3, 4)), ShapeError, "'input' must have at least 3 axes"),
    "thresholds": (lambda: nn.TLU(3)(X), ShapeError, r"TLU: 'input' must have shape \(N, C, …\) with C = 3"),
    "filters of one value": (
        lambda: weight_standardization(nn.Conv2d(1, 3, 1)),
        ArgumentError,
        r"'weight' must have more than one value a filter. Got shape \(3, 1, 1, 1\)",
    ),
    "no weight": (
        lambda: weight_standardization(nn.ReLU()),
        ArgumentError,
        "weight_standardization: 'name' must be the name of a parameter. Got 'weight'",
    ),
    "unknown domain": (
        lambda: DOMAINS(X.float(), 2),
        IndexRangeError,
        "DomainSpecificBatchNorm1d: 'domain' must be from 0 to 1. Got 2",
    ),
    "domain below 0": (lambda: DOMAINS(X.float(), -1), IndexRangeError, "'domain' must be from 0 to 1. Got -1"),
    "unknown domains": (
        lambda: DOMAINS(X.float(), tb.tensor([0, 1, 5, 0, 1, 1])),
        IndexRangeError,
        "'domain' must be from 0 to 1. Got 5",
    ),
    "domain's kind": (lambda: DOMAINS(X.float(), "mnist"), DTypeError, "'domain' must be an int or a Tensor. Got str"),
    "domain's dtype": (lambda: DOMAINS(X.float(), tb.zeros(6)), DTypeError, "'domain' must have an integer dtype"),
    "domains' shape": (
        lambda: DOMAINS(X.float(), tb.tensor([0, 1])),
        ShapeError,
        r"'domain' must have shape \(N,\) = \(6,\). Got \(2,\)",
    ),
    "no domains": (lambda: nn.DomainSpecificBatchNorm3d(4, 0), ArgumentError, "'num_domains' must be an int of at lea"),
    "nothing to adapt": (
        lambda: nn.ada_bn(nn.Linear(2, 2), []),
        ArgumentError,
        "ada_bn: 'model' must have a batch normalisation with running statistics",
    ),
    "no target": (lambda: nn.ada_bn(nn.BatchNorm1d(2), []), ArgumentError, "must yield at least one batch. Got none"),
    "time": (lambda: CELL(tb.zeros(4, 3), None, -1), ArgumentError, "'time' must be an int of at least 0. Got -1"),
    "cell's input": (lambda: CELL(tb.zeros(4, 2)), ShapeError, r"'input' must have shape \(N, I\) with I = 3. Got"),
    "cell's state": (lambda: CELL(tb.zeros(4, 3), tb.zeros(3, 2)), ShapeError, r"'hx' must have shape \(4, 2\)"),
    "cell's dtype": (
        lambda: CELL(tb.zeros(4, 3), tb.zeros(4, 2, dtype="float64")),
        DTypeError,
        "'hx' must have dtype float32, as input has. Got float64",
    ),
    "cell's sample": (lambda: CELL(tb.zeros(1, 3)), ArgumentError, "more than one value a channel in training"),
    "no pair": (lambda: LSTM(tb.zeros(4, 3), tb.zeros(4, 2)), DTypeError, r"'hx' must be a pair \(h, c\). Got Tensor"),
    "no steps": (lambda: CELL.unroll(tb.zeros(0, 4, 3)), ShapeError, "with T of at least 1"),
    "length": (lambda: nn.BNLSTMCell(3, 2, 0), ArgumentError, "'max_length' must be an int of at least 1"),
    "nonlinearity": (lambda: nn.BNRNNCell(3, 2, 1, nonlinearity="elu"), ArgumentError, "'tanh' or 'relu'. Got 'elu'"),
    "step's channels": (
        lambda: nn.SeparatedBatchNorm1d(3, 2)(tb.zeros(4, 2), 0),
        ShapeError,
        r"SeparatedBatchNorm1d: 'input' must have shape \(N, C\) with C = 3. Got \(4, 2\)",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_errors(name: str) -> None:
    call, kind, message = FAULTS[name]
    with pytest.raises(kind, match=message):
        call()
