"""The contract of batch normalisation, row by row: each test is named after a row of docs/batch-norm.md and fails
without what that row says. Its identities are in test_batch_norm_identities.py, misuse in test_contract_misuse.py,
accuracy at large means and threads in test_contract_numbers.py."""

from __future__ import annotations

import copy
import doctest
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import nn
from tinygrad_bn.errors import ArgumentError, StateDictError
from tinygrad_bn.nn.norms import lazy
from tinygrad_bn.ops.batch_norm import batch_norm_train
from tinygrad_bn.testing import check_vjp

pytestmark = pytest.mark.jit_off
Array = np.ndarray[Any, Any]
Test = Callable[..., None]
PAGE = Path(__file__).parents[1] / "docs" / "batch-norm.md"
COVERED: dict[str, list[str]] = {}


def row(name: str) -> Callable[[Test], Test]:
    """Say which row of the contract a test holds to."""

    def note(test: Test) -> Test:
        COVERED.setdefault(name, []).append(test.__name__)
        return test

    return note


def data(*shape: int, seed: int = 0) -> Array:
    return np.asarray(np.random.default_rng(seed).normal(size=shape) * 2 + 1)


def held(layer: Any) -> tuple[list[float], list[float], int]:
    """The buffers, to be compared exactly."""
    return layer.running_mean.tolist(), layer.running_var.tolist(), layer.num_batches_tracked.item()


START = ([0.0] * 3, [1.0] * 3, 0)


def layer_of(**options: Any) -> Any:
    return nn.BatchNorm1d(3, dtype=tb.float64, **options)


ELSEWHERE = {
    "axes": "test_contract_axes.py",
    "masks": "test_contract_axes.py",
    "misuse": "test_contract_misuse.py",
    "accuracy at large means": "test_contract_numbers.py",
    "threads": "test_contract_numbers.py",
}


def test_every_row_of_the_page_has_a_test() -> None:
    """And every test its row: a reader finds each."""
    table = re.search(r"\| question \| answer \|\n\|---\|---\|\n((?:\|.*\|\n)+)", PAGE.read_text())
    assert table is not None
    rows = [line.split("|")[1].strip().replace("`", "") for line in table[1].splitlines()]
    assert len(set(rows)) == len(rows) > 20
    assert sorted([*COVERED, *ELSEWHERE]) == sorted(rows)
    assert doctest.testfile(str(PAGE), module_relative=False).failed == 0
    assert doctest.testmod(lazy).failed == 0
    for name, file in ELSEWHERE.items():
        assert f'"""{name.capitalize()}: ' in (Path(__file__).parent / file).read_text(), name


# ------------------------------------------------------------------------------------------- running statistics


@row("momentum")
def test_momentum_is_the_weight_of_the_new_batch(device: str) -> None:
    layer, a = layer_of(device=device), data(6, 3)
    layer(tb.tensor(a, device=device))
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.1 * a.mean(0), rtol=1e-12)
    twin = layer_of(momentum=nn.utils.momentum_from_keras(0.75), device=device)
    twin(tb.tensor(a, device=device))
    np.testing.assert_allclose(twin.running_mean.numpy(), 0.25 * a.mean(0), rtol=1e-12)
    assert nn.utils.momentum_from_keras(0.99) == pytest.approx(0.01)


@row("momentum")
def test_no_momentum_averages_all_batches_alike(device: str) -> None:
    """Each counts once, whatever its size, and those that are skipped or empty do not count."""
    layer = layer_of(momentum=None, device=device)
    batches = [data(n, 3, seed=n) for n in (4, 11, 2, 7)]
    for a in [batches[0], np.full((5, 3), np.nan), *batches[1:3], np.zeros((0, 3)), batches[3]]:
        layer(tb.tensor(a, device=device))
    np.testing.assert_allclose(layer.running_mean.numpy(), np.mean([a.mean(0) for a in batches], 0), rtol=1e-12)
    np.testing.assert_allclose(layer.running_var.numpy(), np.mean([a.var(0, ddof=1) for a in batches], 0), rtol=1e-12)
    assert layer.num_batches_tracked.item() == 4


@row("eps")
def test_eps_is_inside_the_root(device: str) -> None:
    a = data(6, 3)
    for eps in (1e-5, 0.5):
        layer = layer_of(device=device) if eps == 1e-5 else layer_of(eps=eps, device=device)
        for training in (True, False):
            mean, var = (a.mean(0), a.var(0)) if training else (0.0, 1.0)
            layer.reset_running_stats()
            y = layer.train(training)(tb.tensor(a, device=device)).detach().numpy()
            np.testing.assert_allclose(y, (a - mean) / np.sqrt(var + eps), rtol=1e-12)


@row("variance that normalises")
def test_the_variance_that_normalises_is_biased(device: str) -> None:
    """Two values a channel: the factor that is not there would be 2."""
    a = data(2, 3)
    for unbiased in ("unbiased", "biased"):
        y = layer_of(eps=0.0, running_var=unbiased, device=device)(tb.tensor(a, device=device)).detach().numpy()
        np.testing.assert_allclose(y, np.sign(a - a.mean(0)), rtol=1e-12)


@row("running_var")
def test_the_running_variance_takes_the_factor_of_bessel(device: str) -> None:
    a = data(2, 3, 3)
    for kind, ddof in (("unbiased", 1), ("biased", 0)):
        layer = layer_of(momentum=1.0, running_var=kind, device=device)
        layer(tb.tensor(a, device=device))
        np.testing.assert_allclose(layer.running_var.numpy(), a.var((0, 2), ddof=ddof), rtol=1e-12)
    a2, mean, var = tb.tensor(a, device=device), *(tb.zeros(3, dtype=tb.float64, device=device) for _ in range(2))
    F.batch_norm(a2, mean, var, training=True, momentum=1.0)
    np.testing.assert_allclose(var.numpy(), a.var((0, 2), ddof=1), rtol=1e-12)


@row("buffers at the start")
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LazyBatchNorm1d])
def test_buffers_at_the_start(kind: Any) -> None:
    layer = kind() if kind is nn.LazyBatchNorm1d else kind(3)
    if kind is nn.LazyBatchNorm1d:
        layer.initialize_parameters(tb.ones(1, 3))
    assert held(layer) == START
    assert layer.num_batches_tracked.dtype is tb.int64
    assert (layer.weight.tolist(), layer.bias.tolist()) == ([1.0] * 3, [0.0] * 3)
    assert (layer.eps, layer.momentum) == (1e-5, 0.1)


# ------------------------------------------------------------------------------ one value, no value, bad values


@row("one value a channel, in training")
@pytest.mark.parametrize(
    ("kind", "shape"),
    [(nn.BatchNorm1d, (1, 3)), (nn.BatchNorm1d, (1, 3, 1)), (nn.BatchNorm2d, (1, 3, 1, 1)),
     (nn.BatchNorm3d, (1, 3, 1, 1, 1))],
)  # fmt: skip
def test_one_value_a_channel(kind: Any, shape: tuple[int, ...], device: str) -> None:
    x = tb.full(shape, 7.0, device=device)
    layer = kind(3, device=device)
    with pytest.raises(
        ValueError, match=rf"more than one value .* Got shape {re.escape(str(shape))}.*\nHint: use larger"
    ):
        layer(x)
    assert held(layer) == START
    assert layer.eval()(x).shape == shape
    layer = kind(3, on_single="warn", device=device)
    with tb.no_grad():
        layer.bias.copy_(tb.tensor([1.0, 2.0, -3.0]))
    with pytest.warns(RuntimeWarning, match="the output is the bias"):
        assert layer(x).flatten().tolist() == [1.0, 2.0, -3.0]
    assert held(layer) == START


@row("one value a channel, in training")
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "silu", "gelu", "gelu_tanh", "sigmoid"])
def test_one_value_a_channel_is_activated_as_any_other(activation: str) -> None:
    layer = nn.BatchNormAct2d(3, activation, negative_slope=0.25, on_single="warn")
    plain = nn.BatchNormAct2d(3, activation, negative_slope=0.25)
    with tb.no_grad():
        for norm in (layer, plain):
            norm.bias.copy_(tb.tensor([1.0, 2.0, -3.0]))
    with pytest.warns(RuntimeWarning, match="the output is the bias"):
        y = layer(tb.full((1, 3, 1, 1), 7.0))
    np.testing.assert_allclose(y.detach().numpy(), plain(tb.full((2, 3, 1, 1), 7.0)).detach().numpy()[:1], rtol=1e-6)


@row("an empty batch")
@pytest.mark.parametrize("shape", [(0, 3), (4, 3, 0), (0, 3, 5)])
@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch(shape: tuple[int, ...], training: bool, device: str) -> None:
    layer = layer_of(device=device).train(training)
    x = tb.zeros(shape, dtype=tb.float64, device=device, requires_grad=True)
    y = layer(x)
    assert y.shape == shape
    y.backward(tb.zeros(shape, dtype=tb.float64, device=device))
    assert x.grad is not None
    assert x.grad.shape == shape
    assert (layer.weight.grad.tolist(), layer.bias.grad.tolist()) == ([0.0] * 3, [0.0] * 3)
    assert held(layer) == START
    assert layer.skipped_batches == 0


@row("a batch with NaN or infinity")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_batch_that_is_not_finite(bad: float, device: str) -> None:
    """The output shows it, buffers and count stand still, the layer counts it, and no state dict carries that."""
    layer, a = layer_of(device=device), data(6, 3)
    layer(tb.tensor(a, device=device))
    before, broken = held(layer), a.copy()
    broken[2, 1] = bad
    assert np.isnan(layer(tb.tensor(broken, device=device)).detach().numpy()[:, 1]).any()
    assert held(layer) == before
    assert (layer.skipped_batches, layer.num_batches_tracked.item()) == (1, 1)
    assert "skipped_batches=1" in repr(layer)
    assert list(layer.state_dict()) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    twin = layer_of(device=device)
    twin.load_state_dict(layer.state_dict())
    assert twin.skipped_batches == 0


@row("a constant channel")
def test_a_constant_channel_gives_exactly_beta(device: str, dtype: str) -> None:
    layer = nn.BatchNorm2d(3, dtype=dtype, device=device)
    with tb.no_grad():
        layer.bias.copy_(tb.tensor([0.1, -3.0, 7.7]))
    a = np.broadcast_to(np.array([1e6 + 0.1, -0.3, 3e30], dtype).reshape(1, 3, 1, 1), (5, 3, 7, 3))
    x = tb.tensor(np.ascontiguousarray(a), device=device, requires_grad=True)
    y = layer(x)
    assert (y.detach().numpy() == layer.bias.detach().numpy().reshape(1, 3, 1, 1)).all()
    y.backward(tb.tensor(data(*a.shape, seed=3).astype(dtype), device=device))
    assert x.grad is not None
    assert np.isfinite(x.grad.numpy()).all()


@row("weight 0")
@pytest.mark.parametrize("training", [True, False])
def test_a_weight_of_zero_has_finite_derivatives_twice(training: bool, device: str) -> None:
    weight, bias = np.array([0.0, 1.5, 0.0]), np.array([0.4, 0.2, -0.3])
    given = [tb.tensor(a, device=device) for a in (data(6, 3), weight, bias)]
    mean, var = (tb.tensor(a, device=device) for a in (data(3, seed=5), np.array([0.5, 1.0, 2.0])))

    def call(x: Any, w: Any, b: Any) -> Any:
        return F.batch_norm(x, None, None, w, b, True) if training else F.batch_norm(x, mean, var, w, b)

    check_vjp(call, given, order=2)


# ------------------------------------------------------------------------------------------- modes and switches


@row("evaluation")
def test_evaluation_uses_the_buffers_and_has_a_backward_of_its_own(device: str) -> None:
    layer = layer_of(device=device)
    layer(tb.tensor(data(8, 3), device=device))
    before = held(layer)
    layer.eval()
    mean, inverse = layer.running_mean.numpy(), 1 / np.sqrt(layer.running_var.numpy() + 1e-5)
    a, gy = data(4, 3, seed=1), data(4, 3, seed=2)
    x = tb.tensor(a, device=device, requires_grad=True)
    y = layer(x)
    np.testing.assert_allclose(y.detach().numpy(), (a - mean) * inverse, rtol=1e-12)
    y.backward(tb.tensor(gy, device=device))
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), gy * inverse, rtol=1e-12)  # the statistics are constants
    np.testing.assert_allclose(layer.weight.grad.numpy(), (gy * (a - mean) * inverse).sum(0), rtol=1e-11)
    assert held(layer) == before


@row("evaluation")
def test_without_running_statistics_evaluation_takes_the_batch(device: str) -> None:
    layer = layer_of(track_running_stats=False, device=device)
    a = tb.tensor(data(6, 3), device=device)
    assert tb.equal(layer(a), layer.eval()(a))
    assert list(layer.state_dict()) == ["weight", "bias"]


@row("freezing")
def test_freezing_has_three_switches() -> None:
    """Each does its part and nothing of the others'."""
    a, b = tb.tensor(data(6, 3)), tb.tensor(data(6, 3, seed=1))
    plain = layer_of()
    by_batch = plain(a)
    moved = held(plain)

    layer = layer_of()
    layer.requires_grad_(False)
    assert not layer(a).requires_grad
    assert held(layer) == moved

    layer = layer_of()
    layer.update_stats = False
    y = layer(a)
    assert tb.equal(y, by_batch)
    assert y.requires_grad
    assert held(layer) == START

    layer = layer_of()
    layer(a)
    layer.use_batch_stats = False
    y = layer(b)
    assert layer.training
    assert y.requires_grad
    assert held(layer) == moved
    assert tb.equal(y, layer.eval()(b))
    layer.use_batch_stats = True
    assert tb.equal(layer(a), by_batch)
    assert held(layer) == moved


# ---------------------------------------------------------------------------------------- memory, layout, devices


def kept_by(y: tb.Tensor) -> list[Array]:
    """All arrays that the node behind a result holds."""
    node: Any = y.node
    found = [t.array for t in node.saved] + ([] if node.output is None else [node.output.array])
    for constant in node.constants:
        if hasattr(constant, "rows"):
            found.append(constant.rows)
        if isinstance(constant, np.ndarray | tb.Tensor):
            found.append(getattr(constant, "array", constant))
    return found


@row("kept for backward")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_backward_keeps_the_input_and_two_numbers_a_channel(training: bool, activation: str | None) -> None:
    layer = nn.BatchNorm2d(3, activation=activation).train(training)
    x = tb.randn(4, 3, 5, 5, requires_grad=True)
    arrays = kept_by(layer(x))
    large = [a for a in arrays if a.size >= x.numel()]
    assert [a is x.array for a in large] == [True]
    assert sum(a.size for a in arrays) - x.numel() <= 2 * 3 + (4 if training else 2) * 3


@row("memory layout")
@pytest.mark.parametrize("training", [True, False])
def test_memory_layout_changes_nothing(training: bool, device: str) -> None:
    a, gy = data(4, 3, 6, 5), data(4, 3, 6, 5, seed=1)
    layer = nn.BatchNorm2d(3, dtype=tb.float64, device=device).train(training)
    layer.update_stats = False
    found = []
    for order in ((0, 1, 2, 3), (0, 2, 3, 1), (1, 0, 2, 3), (3, 2, 1, 0), (2, 3, 1, 0)):
        strided = np.ascontiguousarray(a.transpose(order)).transpose(np.argsort(order))
        x = tb.from_numpy(strided).to(device=device).requires_grad_()
        y = layer(x)
        y.backward(tb.tensor(gy, device=device))
        assert x.grad is not None
        found.append((y.detach().numpy(), x.grad.numpy()))
    flipped = tb.from_numpy(a[::-1].copy()[::-1]).to(device=device)
    found.append((layer(flipped).detach().numpy(), found[0][1]))
    for y_, gx in found[1:]:
        np.testing.assert_allclose(y_, found[0][0], rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(gx, found[0][1], rtol=1e-11, atol=1e-13)


@row("devices")
@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("running_var", ["unbiased", "biased"])
def test_devices_agree_about_mean_variance_and_bessel(momentum: float | None, running_var: str) -> None:
    layers = [
        nn.BatchNorm2d(3, momentum=momentum, running_var=running_var, dtype=tb.float64, device=d)
        for d in ("cpu", "ref")
    ]
    for n in (2, 1, 5):
        a = data(n, 3, 2, 2, seed=n) + 100
        y, z = (layer(tb.tensor(a, device=layer.weight.device)).detach().numpy() for layer in layers)
        np.testing.assert_allclose(y, z, rtol=1e-10)
    for name, t in layers[0].state_dict().items():
        np.testing.assert_allclose(t.numpy(), layers[1].state_dict()[name].numpy(), rtol=1e-13)


# ---------------------------------------------------------------------------------------------- channels, state


@row("lazy channels")
@pytest.mark.parametrize(
    ("late", "plain", "shape"),
    [(nn.LazyBatchNorm1d, nn.BatchNorm1d, (4, 3)), (nn.LazyBatchNorm1d, nn.BatchNorm1d, (4, 3, 5)),
     (nn.LazyBatchNorm2d, nn.BatchNorm2d, (4, 3, 2, 2)), (nn.LazyBatchNorm3d, nn.BatchNorm3d, (4, 3, 2, 2, 1))],
)  # fmt: skip
@pytest.mark.parametrize("training", [True, False])
def test_lazy_layers_take_the_channels_of_the_first_input(
    late: Any, plain: Any, shape: tuple[int, ...], training: bool, dtype: str, device: str
) -> None:
    one, two = late(momentum=0.5, dtype=dtype, device=device), plain(3, momentum=0.5, dtype=dtype, device=device)
    parameters = list(one.parameters())
    assert [p.shape for p in parameters] == [(0,), (0,)]
    assert "channels unknown" in repr(one)
    x = tb.tensor(data(*shape).astype(dtype), device=device)
    assert tb.equal(one.train(training)(x), two.train(training)(x))
    assert type(one) is plain
    assert repr(one) == repr(two)
    assert [p is q for p, q in zip(one.parameters(), parameters, strict=True)] == [True, True]
    for name, t in two.state_dict().items():
        assert tb.equal(one.state_dict()[name], t)


@row("lazy channels")
def test_a_lazy_network_is_trained_by_an_optimiser_that_was_made_before() -> None:
    def build(norm: Any) -> tuple[Any, Any]:
        tb.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 6, bias=False), norm, nn.ReLU(), nn.Linear(6, 2))
        return net, tb.optim.Adam(net.parameters(), lr=0.1)

    found = []
    for norm in (nn.LazyBatchNorm1d(), nn.BatchNorm1d(6)):
        net, optimiser = build(norm)
        for i in range(3):
            optimiser.zero_grad()
            net(tb.tensor(data(8, 4, seed=i).astype(np.float32))).pow(2).sum().backward()
            optimiser.step()
        found.append(net.state_dict())
    for name, t in found[1].items():
        np.testing.assert_allclose(found[0][name].numpy(), t.numpy(), rtol=1e-4, atol=1e-5)
    assert not np.allclose(found[0]["1.weight"].numpy(), 1)


@row("lazy channels")
def test_lazy_layers_with_copies_axes_masks_state_and_update_bn() -> None:
    layer = nn.LazyBatchNorm1d(axis=(1, 2), bias=False)
    twin = copy.deepcopy(layer)
    layer(tb.randn(4, 3, 5))
    assert (type(twin), layer.num_features) == (nn.LazyBatchNorm1d, (3, 5))
    twin.load_state_dict(layer.state_dict())
    assert (type(twin), twin.num_features, twin.bias) == (nn.BatchNorm1d, (3, 5), None)
    assert tb.equal(twin.running_var, layer.running_var)
    masked = nn.LazyBatchNorm1d()
    masked(tb.randn(4, 3, 5), mask=tb.ones(4, 5) > 0)
    assert (type(masked), masked.num_features) == (nn.BatchNorm1d, 3)
    x, updated = data(9, 3).astype(np.float32), nn.Sequential(nn.LazyBatchNorm1d())
    nn.utils.update_bn(updated, [tb.tensor(x[:4]), tb.tensor(x[4:])])
    np.testing.assert_allclose(updated[0].running_mean.numpy(), x.mean(0), rtol=1e-5)


@row("lazy channels")
def test_a_lazy_layer_takes_no_extent_from_a_state_that_does_not_fit() -> None:
    net = nn.Sequential(nn.LazyBatchNorm1d(), nn.Linear(3, 2))
    state = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4)).state_dict()
    with pytest.raises(StateDictError, match=r"1.weight: must have shape \(2, 3\), not \(4, 3\)"):
        net.load_state_dict(state)
    assert type(net[0]) is nn.LazyBatchNorm1d
    state = dict(nn.BatchNorm1d(3).state_dict(), bias=tb.zeros(4))
    with pytest.raises(StateDictError, match=r"bias: must have shape \(3,\), not \(4,\)"):
        net[0].load_state_dict(state)


VERSIONED = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GhostBatchNorm]


@row("state")
@pytest.mark.parametrize("kind", VERSIONED)
def test_version_1_lacks_the_counter(kind: Any) -> None:
    """Version 1, and what tells no version, load without; version 2 does not."""
    make = (lambda: kind(3, 2)) if kind is nn.GhostBatchNorm else (lambda: kind(3))
    old, new = make(), make()
    with tb.no_grad():
        old.running_mean.copy_(tb.tensor([1.0, 2.0, 3.0]))
        new.num_batches_tracked.fill_(5)
    state = old.state_dict()
    assert state._metadata[""]["version"] == 2
    del state["num_batches_tracked"]
    with pytest.raises(StateDictError, match="missing: num_batches_tracked"):
        new.load_state_dict(state)
    assert held(new) == ([0.0] * 3, [1.0] * 3, 5)
    state._metadata[""]["version"] = 1
    for given in (state, dict(state)):
        result = new.load_state_dict(given)
        assert (result.missing_keys, result.unexpected_keys) == ([], [])
        assert held(new) == ([1.0, 2.0, 3.0], [1.0] * 3, 5)
    del state["running_mean"]
    with pytest.raises(StateDictError, match="missing: running_mean"):
        new.load_state_dict(state)


@row("state")
@pytest.mark.peers
@pytest.mark.parametrize("version", [1, 2])
def test_states_of_pytorch_are_loaded(version: int) -> None:
    """As they are: torch's tensors, nested modules, either version; and back."""
    torch = pytest.importorskip("torch")

    def build(lib: Any) -> Any:
        inner = lib.nn.Sequential(lib.nn.Conv2d(3, 4, 1), lib.nn.BatchNorm2d(4))
        return lib.nn.Sequential(inner, lib.nn.Flatten(), lib.nn.Linear(16, 5), lib.nn.BatchNorm1d(5))

    ours, theirs = build(tb), build(torch)
    for i in range(3):
        theirs(torch.tensor(data(4, 3, 2, 2, seed=i).astype(np.float32)))
    state = theirs.state_dict()
    if version == 1:
        for name in ("0.1", "3"):
            del state[f"{name}.num_batches_tracked"]
            state._metadata[name]["version"] = 1
    ours.load_state_dict(state)
    a = data(4, 3, 2, 2, seed=9).astype(np.float32)
    want = theirs.eval()(torch.tensor(a)).detach().numpy()
    np.testing.assert_allclose(ours.eval()(tb.tensor(a)).detach().numpy(), want, rtol=1e-5, atol=1e-5)
    assert ours[3].num_batches_tracked.item() == (0 if version == 1 else 3)
    ours_state = ours.state_dict()
    versions = {k: v["version"] for k, v in theirs.state_dict()._metadata.items()}
    assert {k: v["version"] for k, v in ours_state._metadata.items()} == versions
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in ours_state.items()})


@row("gradients")
def test_the_three_gradients_are_those_of_the_paper(device: str) -> None:
    a, gy, w = data(6, 3, 4), data(6, 3, 4, seed=1), data(3, seed=2)
    t = [tb.tensor(v, device=device, requires_grad=True) for v in (a, w, np.zeros(3))]
    batch_norm_train(*t)[0].backward(tb.tensor(gy, device=device))
    invstd = (1 / np.sqrt(a.var((0, 2)) + 1e-5))[:, None]
    hat = (a - a.mean((0, 2))[:, None]) * invstd
    mean = [(v.mean((0, 2)))[:, None] for v in (gy, gy * hat)]
    want = [w[:, None] * invstd * (gy - mean[0] - hat * mean[1]), (gy * hat).sum((0, 2)), gy.sum((0, 2))]
    for found, g in zip(t, want, strict=True):
        assert found.grad is not None
        np.testing.assert_allclose(found.grad.numpy(), g, rtol=1e-11, atol=1e-12)


@row("momentum")
def test_a_momentum_that_was_changed_to_nonsense_moves_nothing() -> None:
    layer = layer_of()
    layer.momentum = 2.0
    with pytest.raises(ArgumentError, match="'momentum' must be from 0 to 1"):
        layer(tb.tensor(data(5, 3)))
    assert held(layer) == START
