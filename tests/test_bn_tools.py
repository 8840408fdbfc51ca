"""The tools around batch norm: exact statistics, folding, freezing, conversion, and three backward passes."""

from __future__ import annotations

import copy
import doctest
import pickle
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError
from tinygrad_bn.functional import cs231n
from tinygrad_bn.nn import bn_tools
from tinygrad_bn.nn.bn_tools import Folded, Moments, fusion, merge
from tinygrad_bn.nn.utils import convert, fold_bn, freeze_bn, momentum_from_keras, unfreeze_bn, update_bn

Array = np.ndarray[Any, Any]


def data(*shape: int, seed: int = 0, dtype: str = "float32") -> Array:
    return np.asarray(np.random.default_rng(seed).normal(size=shape) * 2 + 1, dtype)


def randomised(model: Any, seed: int = 0) -> Any:
    """Give all parameters, running means and variances values of their own."""
    rng = np.random.default_rng(seed)
    with tb.no_grad():
        for module in model.modules():
            if getattr(module, "running_mean", None) is None:
                continue
            for t in (module.weight, module.bias):
                if t is not None:
                    t.copy_(tb.tensor(rng.uniform(0.5, 1.5, t.shape)))
            module.running_mean.copy_(tb.tensor(rng.normal(size=module.running_mean.shape)))
            module.running_var.copy_(tb.tensor(rng.uniform(0.5, 2.0, module.running_var.shape)))
    return model


def wide(t: Any) -> Array:
    return np.asarray(t.detach().numpy(), np.float64)


def relative(a: Any, b: Any) -> float:
    """The largest difference, in units of the largest number."""
    return float(np.abs(wide(a) - wide(b)).max() / np.abs(wide(b)).max())


@pytest.mark.parametrize(
    "module", [bn_tools.update, bn_tools.freeze, bn_tools.fold, bn_tools.convert, bn_tools.communicator]
)
def test_examples(module: Any) -> None:
    name = f"tinygrad_bn.nn.bn_tools.{module.__name__.rpartition('.')[2]}"
    found = doctest.testmod(sys.modules[name])
    assert found.attempted
    assert not found.failed


# ---------------------------------------------------------------------------------------------------- moments


@given(strategies.batches(max_mean=1e4), st.lists(st.floats(0, 1), max_size=4), st.sampled_from(["cpu", "ref"]))
@pytest.mark.jit_off
def test_moments_of_parts_are_those_of_the_whole(p: strategies.Batch, cuts: list[float], device: str) -> None:
    at = [0, *sorted(round(c * len(p.x)) for c in cuts), len(p.x)]
    parts = [Moments.of(tb.tensor(p.x[a:b], device=device)) for a, b in pairwise(at)]
    found = merge(parts)
    x = p.x.astype(np.float64)
    assert found.count == p.count
    scale = np.abs(x).max((0, 2))
    tolerance = 1e-13 if p.x.dtype == np.float64 else 1e-7
    assert (np.abs(found.mean.numpy() - x.mean((0, 2))) <= tolerance * scale + 1e-300).all()
    rounding = 1e-6 if p.x.dtype == np.float32 else 1e-10
    m2 = found.m2.numpy() / found.count
    assert (np.abs(m2 - x.var((0, 2))) <= rounding * x.var((0, 2)) + (1e-14 * scale) ** 2).all()


def test_moments_are_packed_for_other_ranks() -> None:
    before = Moments.of(tb.tensor(data(5, 3)))
    after = Moments.unpacked(before.packed())
    assert (after.count, after.mean.tolist(), after.m2.tolist()) == (5, before.mean.tolist(), before.m2.tolist())


# -------------------------------------------------------------------------------------------------- update_bn


@pytest.mark.parametrize("cuts", [(40,), (7, 8, 25), (2, 3, 5, 13, 26, 39)])
@pytest.mark.parametrize("mean", [0.0, 1e3])
@pytest.mark.jit_off
def test_a_stream_gives_the_statistics_of_the_whole_set(cuts: tuple[int, ...], mean: float, dtype: str) -> None:
    x = (data(40, 3, 4, 5) + mean).astype(dtype)
    layer = nn.BatchNorm2d(3, dtype=dtype)
    update_bn(layer, [tb.tensor(part) for part in np.split(x, cuts) if len(part)])
    values = x.astype(np.float64)
    np.testing.assert_allclose(layer.running_mean.numpy(), values.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(layer.running_var.numpy(), values.var((0, 2, 3), ddof=0) * 800 / 799, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.5, 50.0, 500.0])
@pytest.mark.parametrize("momentum", [None, 0.1])
def test_a_large_mean_costs_an_update_nothing(scale: float, momentum: float | None) -> None:
    """What is left is the rounding of the buffers: half a unit in the last place of float32."""
    x = (np.random.default_rng(0).normal(size=(1000, 2, 4)) * scale + 1e6).astype(np.float32)
    layer = nn.BatchNorm1d(2, momentum=momentum)
    update_bn(layer, (tb.tensor(part) for part in np.split(x, (1, 4, 300, 999))))
    values = x.astype(np.float64)
    np.testing.assert_allclose(layer.running_mean.numpy(), values.mean((0, 2)), rtol=6e-8)
    np.testing.assert_allclose(layer.running_var.numpy(), values.var((0, 2), ddof=1), rtol=6.1e-8)


def test_exact_moments_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, sizes = data(50, 3, 4), []
    of = Moments.of

    def noted(t: tb.Tensor) -> Moments:
        sizes.append(t.array.size)
        return of(t)

    monkeypatch.setattr(bn_tools.moments, "PART", 100)
    monkeypatch.setattr(Moments, "of", noted)
    found = Moments.exactly(tb.tensor(x))
    assert max(sizes) <= 100
    values = x.astype(np.float64)
    np.testing.assert_allclose(found.mean.numpy(), values.mean((0, 2)), rtol=1e-13)
    np.testing.assert_allclose(found.m2.numpy() / 200, values.var((0, 2)), rtol=1e-13)
    assert (found.count, Moments.exactly(tb.zeros(0, 3, 4)).count) == (200, 0)


def recurrent(mean: float = 3.0) -> tuple[Any, Array, Array]:
    """A cell that keeps statistics of three steps; sequences of four; the inputs of the first normalisation by step."""
    cell: Any = nn.BNRNNCell(2, 5, 3)
    x = data(4, 30, 2) + np.float32(mean) * np.arange(4, dtype=np.float32)[:, None, None]
    return cell, x, wide(tb.tensor(x) @ cell.weight_ih.T)


class Unrolled(nn.Module):
    """A cell over a whole sequence."""

    def __init__(self, cell: Any) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: tb.Tensor) -> Any:
        return self.cell.unroll(x)[0]


def test_recurrent_statistics_are_exact_by_time_step() -> None:
    cell, x, values = recurrent()
    net = Unrolled(cell)
    update_bn(net, [tb.tensor(x[:, :7]), tb.tensor(x[:, 7:])])
    norm = cell.bn_ih
    for step, own in enumerate([values[0], values[1], values[2:].reshape(60, 5)]):
        np.testing.assert_allclose(norm.running_mean.numpy()[step], own.mean(0), rtol=1e-5)
        np.testing.assert_allclose(norm.running_var.numpy()[step], own.var(0, ddof=1), rtol=1e-5)
    assert norm.num_batches_tracked.tolist() == [2, 2, 4]
    kept = {k: v.tolist() for k, v in net.state_dict().items()}
    with pytest.raises(ShapeError):
        update_bn(net, [tb.tensor(x), tb.tensor(x[:, :, :1])])
    assert {k: v.tolist() for k, v in net.state_dict().items()} == kept
    assert norm.use_batch_stats is None


def test_recurrent_statistics_freeze() -> None:
    cell, x, _ = recurrent()
    net = Unrolled(cell)
    freeze_bn(net)
    kept = {k: v.tolist() for k, v in net.state_dict().items()}
    y = net.train()(tb.tensor(x))
    assert y.tolist() == net.eval()(tb.tensor(x)).tolist()
    assert {k: v.tolist() for k, v in net.state_dict().items()} == kept
    assert not cell.bn_hh.weight.requires_grad
    unfreeze_bn(net).train()(tb.tensor(x))
    assert cell.bn_ih.running_mean.tolist() != kept["cell.bn_ih.running_mean"]
    cell.bn_ih.update_stats, before = False, cell.bn_ih.running_mean.tolist()
    net(tb.tensor(x))
    assert cell.bn_ih.running_mean.tolist() == before


def test_a_loader_that_raises_changes_nothing() -> None:
    def loader() -> Any:
        yield tb.tensor(data(4, 2))
        raise OSError("the disk is gone")

    layer = randomised(nn.BatchNorm1d(2))
    kept = {k: v.tolist() for k, v in layer.state_dict().items()}
    with pytest.raises(OSError, match="disk"):
        update_bn(layer, loader())
    assert {k: v.tolist() for k, v in layer.state_dict().items()} == kept
    assert (layer.training, layer.use_batch_stats, layer._hooks, layer.skipped_batches) == (True, None, None, 0)


def test_biased_variance_where_the_layer_asks_for_it() -> None:
    x = data(10, 2)
    layer = nn.BatchNorm1d(2, running_var="biased")
    update_bn(layer, [(tb.tensor(x[:3]), "label"), [tb.tensor(x[3:]), "label"]])
    np.testing.assert_allclose(layer.running_var.numpy(), x.astype(np.float64).var(0), rtol=1e-6)
    assert layer.num_batches_tracked.item() == 2


def test_what_an_update_leaves_as_it_was() -> None:
    """Modes, switches, parameters, hooks; dropout is off while the statistics are taken."""
    net = nn.Sequential(nn.Dropout(0.9), nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2), nn.BatchNorm1d(2))
    net[2].eval()
    freeze_bn(net[4])
    before = copy.deepcopy(net)
    x = data(16, 3)
    update_bn(net, [tb.tensor(x)])
    assert [m.training for m in net.modules()] == [m.training for m in before.modules()]
    assert [m._hooks for m in net.modules()] == [None] * 6
    assert (net[2].use_batch_stats, net[2].update_stats) == (None, True)
    assert net[4].running_var.tolist() == [1.0, 1.0]  # frozen
    want = (x.astype(np.float64) @ wide(net[1].weight).T + wide(net[1].bias)).mean(0)
    np.testing.assert_allclose(net[2].running_mean.numpy(), want, rtol=1e-5, atol=1e-6)
    for p, q in zip(net.parameters(), before.parameters(), strict=True):
        assert p.tolist() == q.tolist()


def test_an_error_on_the_way_changes_nothing() -> None:
    layer = nn.BatchNorm1d(2)
    with pytest.raises(ShapeError):
        update_bn(layer, [tb.tensor(data(4, 2)), tb.tensor(data(4, 3))])
    assert (layer.running_mean.tolist(), layer.running_var.tolist()) == ([0.0, 0.0], [1.0, 1.0])
    assert (layer.training, layer.use_batch_stats, layer._hooks) == (True, None, None)


def test_a_layer_used_twice_gets_what_both_calls_saw() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x: tb.Tensor) -> Any:
            return self.norm(x) + self.norm(input=x + 10.0)

    net, x = Twice(), data(6, 2)
    update_bn(net, [tb.tensor(x)])
    both = np.concatenate([x, x + 10]).astype(np.float64)
    np.testing.assert_allclose(net.norm.running_mean.numpy(), both.mean(0), rtol=1e-6)
    np.testing.assert_allclose(net.norm.running_var.numpy(), both.var(0, ddof=1), rtol=1e-6)
    assert net.norm.num_batches_tracked.item() == 2


def test_batches_that_are_not_finite_are_counted_apart() -> None:
    x, layer = data(6, 2), nn.BatchNorm1d(2)
    bad = x.copy()
    bad[2, 1] = np.nan
    update_bn(layer, [tb.tensor(bad), tb.tensor(x)])
    np.testing.assert_allclose(layer.running_mean.numpy(), x.astype(np.float64).mean(0), rtol=1e-6)
    assert (layer.skipped_batches, layer.num_batches_tracked.item()) == (1, 1)


def test_members_of_the_family_get_exact_statistics_too() -> None:
    x = data(24, 3, 4)
    values = x.astype(np.float64)
    var = values.var((0, 2), ddof=1)
    for layer in (nn.GhostBatchNorm(3, 4), nn.NoisyBatchNorm(3), nn.BatchRenorm(3), nn.SyncBatchNorm(3)):
        update_bn(layer, [tb.tensor(x[:8]), tb.tensor(x[8:])])
        np.testing.assert_allclose(layer.running_mean.numpy(), values.mean((0, 2)), rtol=1e-6)
        if isinstance(layer, nn.BatchRenorm):
            found = layer.running_std.numpy() ** 2 - layer.eps
            np.testing.assert_allclose(found, values.var((0, 2)), rtol=1e-6)
            assert layer.num_batches_tracked.item() == 0
        else:
            np.testing.assert_allclose(layer.running_var.numpy(), var, rtol=1e-6)
            assert layer.num_batches_tracked.item() == 2


def test_statistics_of_another_kind_are_named() -> None:
    net = nn.Sequential(nn.BatchNorm1d(3), nn.LpBatchNorm(3))
    with pytest.warns(RuntimeWarning, match="no mean and variance are left as they are: 1"):
        update_bn(net, [tb.tensor(data(6, 3))])
    assert net[1].running_mean.tolist() == [0.0] * 3
    assert net[0].running_mean.tolist() != [0.0] * 3


def test_no_more_batches_than_asked_for() -> None:
    layer = nn.BatchNorm1d(2)
    batches = iter([tb.tensor(data(4, 2, seed=i)) for i in range(5)])
    update_bn(layer, batches, max_batches=2)
    assert layer.num_batches_tracked.item() == 2
    assert len(list(batches)) == 3


def test_a_model_without_batch_norm_needs_no_batches() -> None:
    assert update_bn(nn.Linear(2, 2), []) is None
    assert update_bn(nn.BatchNorm1d(2, track_running_stats=False), []) is None


def test_errors_of_an_update() -> None:
    with pytest.raises(ArgumentError, match="at least one batch. Got none"):
        update_bn(nn.BatchNorm1d(2), [])
    with pytest.raises(ArgumentError, match="Hint: a generator can be gone through only once"):
        update_bn(nn.BatchNorm1d(2), iter([]))
    with pytest.raises(ArgumentError, match="'max_batches' must be an int of at least 1"):
        update_bn(nn.BatchNorm1d(2), [], max_batches=0)
    with pytest.raises(DTypeError, match="'model' must be a Module. Got list"):
        update_bn([], nn.BatchNorm1d(2))  # type: ignore[arg-type]  # PyTorch's order
    with pytest.raises(ArgumentError, match="more than one value a channel"):
        update_bn(nn.BatchNorm1d(2), [tb.tensor(data(1, 2))])


def test_a_layer_that_is_never_called_is_named() -> None:
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.BatchNorm1d(2), nn.BatchNorm1d(2)

        def forward(self, x: tb.Tensor) -> Any:
            return self.used(x)

    net = randomised(Part())
    kept = net.idle.running_mean.tolist()
    with pytest.warns(RuntimeWarning, match="never called, and left as they are: idle"):
        update_bn(net, [tb.tensor(data(4, 2))])
    assert net.idle.running_mean.tolist() == kept


# ------------------------------------------------------------------------------------------------------- fold


@pytest.mark.parametrize("shortcut", ["pad", "conv"])
def test_folding_resnet20_changes_its_outputs_by_rounding(shortcut: str) -> None:
    net = randomised(tb.models.resnet20(shortcut=shortcut)).eval()
    folded = fold_bn(net)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    kept = [k for k in net.state_dict() if k in folded.state_dict()]
    assert kept == [k for k in net.state_dict() if "bn" not in k and "downsample.1" not in k]
    assert all(k in kept or k.endswith("bias") for k in folded.state_dict())
    x = tb.tensor(data(4, 3, 32, 32))
    assert relative(folded(x), net(x)) < 1e-5
    assert folded is not net
    assert isinstance(net.bn1, nn.BatchNorm2d)


@pytest.mark.parametrize("make", [tb.models.vgg11_bn, tb.models.cifar_cnn, tb.models.inception_small])
def test_folding_other_models(make: Callable[..., Any]) -> None:
    net = randomised(make()).eval()
    assert any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    folded = fold_bn(net)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    x = tb.tensor(data(2, 3, 32, 32))
    assert relative(folded(x), net(x)) < 1e-5


SEQUENCES: list[tuple[list[Any], tuple[int, ...]]] = [
    ([lambda: nn.Linear(3, 4), lambda: nn.BatchNorm1d(4)], (5, 3)),
    ([lambda: nn.Linear(3, 4, bias=False), lambda: nn.BatchNorm1d(4, affine=False), nn.Tanh], (5, 3)),
    ([lambda: nn.Conv1d(4, 6, 3, groups=2), lambda: nn.BatchNorm1d(6, bias=False)], (2, 4, 9)),
    ([lambda: nn.Conv2d(4, 6, 3, padding=1), lambda: nn.BatchNorm2d(6, activation="relu")], (2, 4, 7, 5)),
    ([lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), lambda: nn.BatchNorm2d(3)], (2, 2, 7, 5)),
    ([lambda: nn.ConvTranspose1d(4, 6, 3, groups=2, bias=False), lambda: nn.BatchNorm1d(6)], (2, 4, 9)),
    ([lambda: nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2), lambda: nn.BatchNorm2d(4)], (2, 6, 5, 5)),
    ([lambda: nn.ConvTranspose2d(3, 4, 2), lambda: nn.SyncBatchNorm(4), nn.ReLU], (2, 3, 5, 5)),
]


@pytest.mark.parametrize(("parts", "shape"), SEQUENCES)
@pytest.mark.parametrize("given_example", [False, True])
def test_folding_into_each_layer(parts: list[Any], shape: tuple[int, ...], given_example: bool, dtype: str) -> None:
    net = randomised(nn.Sequential(*[part() for part in parts]).to(dtype)).eval()
    x = tb.tensor(data(*shape, dtype=dtype))
    folded: Any = fold_bn(net, x if given_example else None)
    assert isinstance(folded[1], Folded)
    assert relative(folded(x), net(x)) < (1e-5 if dtype == "float32" else 1e-13)
    assert folded(x).dtype is x.dtype
    assert isinstance(net[1], nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm)
    assert pickle.loads(pickle.dumps(folded)).state_dict().keys() == folded.state_dict().keys()


def test_folding_in_place_keeps_the_parameters() -> None:
    net = randomised(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))).eval()
    x = tb.tensor(data(5, 3))
    want, weight, bias = net(x), net[0].weight, net[0].bias
    bias.requires_grad = False
    assert fold_bn(net, inplace=True) is net
    assert net[0].weight is weight
    assert net[0].bias is bias
    assert (weight.requires_grad, bias.requires_grad) == (True, False)
    assert relative(net(x), want) < 1e-6


class Wired(nn.Module):
    """A convolution and a batch norm, wired by a function."""

    def __init__(self, wiring: Callable[[Any, tb.Tensor], tb.Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.other = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.wiring = wiring

    def forward(self, x: tb.Tensor) -> tb.Tensor:
        return self.wiring(self, x)


def used_twice(self: Any, x: tb.Tensor) -> tb.Tensor:
    z = self.conv(x)
    return self.norm(z) + z


def both_ways(self: Any, x: tb.Tensor) -> tb.Tensor:
    z = self.conv(x)
    return self.norm(z, z)


def changed_ahead(self: Any, x: tb.Tensor) -> tb.Tensor:
    z = self.conv(x)
    z.relu_()
    return self.norm(z)


def changed_behind(self: Any, x: tb.Tensor) -> tb.Tensor:
    z = self.conv(x)
    y = self.norm(z)
    z.relu_()
    return y + z


def changed_off_the_tape(self: Any, x: tb.Tensor) -> tb.Tensor:
    z = self.conv(x)
    with tb.no_grad():
        z.mul_(2.0)
    return self.norm(z)


LEFT_ALONE: dict[str, Callable[[Any, tb.Tensor], Any]] = {
    "the result is used twice": used_twice,
    "the result is the residual too": both_ways,
    "the result is returned too": lambda self, x: (lambda z: (self.norm(z), z))(self.conv(x)),
    "the norm comes first": lambda self, x: self.conv(self.norm(x)),
    "something in between": lambda self, x: self.norm(self.conv(x).relu()),
    "a change in place ahead": changed_ahead,
    "a change in place behind": changed_behind,
    "a change off the tape": changed_off_the_tape,
    "a view in between": lambda self, x: self.norm(self.conv(x).flip(3)),
    "the convolution is called twice": lambda self, x: self.norm(self.conv(self.conv(x))),
    "the norm is called twice": lambda self, x: self.norm(self.conv(x)) + self.norm(self.other(x)),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_cannot_be_folded_is_left_alone(name: str) -> None:
    net = randomised(Wired(LEFT_ALONE[name])).eval()
    x = tb.tensor(data(2, 3, 6, 6))
    folded: Any = fold_bn(net)
    assert isinstance(folded.norm, nn.BatchNorm2d)
    first = net(x)[0] if isinstance(net(x), tuple) else net(x)
    again = folded(x)[0] if isinstance(folded(x), tuple) else folded(x)
    assert first.tolist() == again.tolist()


WEIGHTS_USED: dict[str, Callable[[Any, tb.Tensor], Any]] = {
    "the weight by a function": lambda self, x: (
        self.norm(self.conv(x)) + tb.functional.conv2d(x, self.conv.weight[:, :, 1:2, 1:2])
    ),
    "the bias by a function": lambda self, x: self.norm(self.conv(x)) * self.conv.bias.sum(),
    "a penalty": lambda self, x: (self.norm(self.conv(x)), (self.conv.weight**2).sum()),
}


@pytest.mark.parametrize("name", WEIGHTS_USED)
def test_layers_whose_parameters_something_else_uses_are_left_alone(name: str) -> None:
    net = randomised(Wired(WEIGHTS_USED[name])).eval()
    folded: Any = fold_bn(net)
    assert isinstance(folded.norm, nn.BatchNorm2d)


def test_a_residual_and_an_activation_stay() -> None:
    net = randomised(Wired(lambda self, x: self.norm(self.conv(x), x))).eval()
    net.norm.activation = "relu"
    folded: Any = fold_bn(net)
    assert isinstance(folded.norm, Folded)
    x = tb.tensor(data(2, 3, 6, 6))
    assert relative(folded(x), net(x)) < 1e-5
    assert wide(folded(x)).min() == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda net: setattr(net.norm, "use_batch_stats", True),
        lambda net: net.norm.register_forward_hook(lambda *a: None),
        lambda net: net.conv.register_forward_hook(lambda *a: None),
        lambda net: setattr(net.other, "weight", net.conv.weight),
        lambda net: setattr(net, "again", net.conv),
        lambda net: nn.utils.parametrizations.weight_norm(net.conv),
    ],
    ids=[
        "batch statistics",
        "hook of the norm",
        "hook of the convolution",
        "tied weight",
        "two places",
        "parametrised",
    ],
)
def test_layers_that_more_depends_on_are_left_alone(change: Callable[[Any], Any]) -> None:
    net = randomised(Wired(lambda self, x: self.norm(self.conv(x)) + self.other(x[:, :, :1, :1]))).eval()
    net.other = nn.Conv2d(3, 3, 3, padding=1)
    change(net)
    folded: Any = fold_bn(net.eval())
    assert isinstance(folded.norm, nn.BatchNorm2d)


def test_linear_over_a_longer_input_is_no_map_of_channels() -> None:
    net = randomised(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))).eval()
    folded: Any = fold_bn(net, tb.tensor(data(2, 4, 3)))  # channels are the second axis, not the features
    assert isinstance(folded[1], nn.BatchNorm1d)


def test_errors_of_folding() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with pytest.raises(ArgumentError, match=r"'model' must be in evaluation mode.*\nHint: call model.eval\(\) first"):
        fold_bn(net)
    net.eval()
    net[1].train()
    with pytest.raises(ArgumentError, match="Got 1 in training"):
        fold_bn(net)
    with pytest.raises(ArgumentError, match=r"'example' must be given.*\nHint: pass an example"):
        fold_bn(nn.Sequential(nn.BatchNorm1d(4)).eval())
    needy = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 1)).eval()
    with pytest.raises(ArgumentError, match=r"does not take an input of shape \(1, 3, 32, 32\)"):
        fold_bn(needy)
    assert isinstance(fold_bn(needy, tb.ones(1, 3, 3, 3))[1], Folded)  # type: ignore[index]
    with pytest.raises(ShapeError):
        fold_bn(needy, tb.ones(1, 2, 3, 3))
    with pytest.raises(DTypeError, match="'model' must be a Module"):
        fold_bn("net")  # type: ignore[arg-type]


def test_a_use_that_the_tape_does_not_know_is_found_by_the_outputs() -> None:
    net = randomised(Wired(lambda self, x: (lambda z: self.norm(z) + z.detach())(self.conv(x)))).eval()
    before = {k: v.tolist() for k, v in net.state_dict().items()}
    for inplace in (False, True):
        with pytest.raises(ArgumentError, match="would change by"):
            fold_bn(net, inplace=inplace)
    assert {k: v.tolist() for k, v in net.state_dict().items()} == before


def test_outputs_of_all_kinds_and_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)

        def forward(self, x: tb.Tensor, scale: float) -> Any:
            return {"y": [self.norm(self.linear(x)) * scale, None], "n": 3}

    net = randomised(Two()).eval()
    x = tb.tensor(data(5, 3))
    folded: Any = fold_bn(net, (x, 2.0))
    assert isinstance(folded.norm, Folded)
    assert relative(folded(x, 2.0)["y"][0], net(x, 2.0)["y"][0]) < 1e-6


def test_a_model_without_batch_norm_is_copied() -> None:
    net = nn.Sequential(nn.ReLU()).eval()
    assert fold_bn(net) is not net
    assert fold_bn(net, inplace=True) is net


@pytest.mark.peers
@pytest.mark.parametrize(("transpose", "shape"), [(False, (4, 3, 3, 3)), (True, (3, 4, 3, 3))])
@pytest.mark.parametrize("bare", [False, True])
def test_fused_weights_follow_pytorch(transpose: bool, shape: tuple[int, ...], bare: bool) -> None:
    torch = pytest.importorskip("torch")
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    arrays: list[Any] = [data(*shape, seed=1), *(data(4, seed=i) for i in range(2, 7))]
    arrays[3] = np.abs(arrays[3]) + 0.5
    if bare:
        arrays[1] = arrays[4] = arrays[5] = None
    mine = [None if a is None else tb.tensor(a) for a in arrays]
    theirs = [None if a is None else torch.from_numpy(a) for a in arrays]
    w, b, mean, var, gain, shift = mine
    found = fusion.fuse_conv_bn_weights(w, b, mean, var, 1e-3, gain, shift, transpose)
    w, b, mean, var, gain, shift = theirs
    want = fuse_conv_bn_weights(w, b, mean, var, 1e-3, gain, shift, transpose)
    for f, g in zip(found, want, strict=True):
        np.testing.assert_allclose(f.detach().numpy(), g.detach().numpy(), rtol=2e-6, atol=2e-6)


def test_fused_pairs() -> None:
    conv, norm = nn.ConvTranspose2d(4, 6, 3, groups=2), randomised(nn.BatchNorm2d(6))
    linear, flat = nn.Linear(4, 6), randomised(nn.BatchNorm1d(6))
    for module in (conv, norm, linear, flat):
        module.eval()
    x, v = tb.tensor(data(2, 4, 5, 5)), tb.tensor(data(3, 4))
    assert relative(nn.utils.fusion.fuse_conv_bn_eval(conv, norm)(x), norm(conv(x))) < 1e-5
    assert relative(nn.utils.fusion.fuse_linear_bn_eval(linear, flat)(v), flat(linear(v))) < 1e-5
    norm.train()
    with pytest.raises(ArgumentError, match=r"both layers must be in evaluation mode.\nHint: call eval"):
        fusion.fuse_conv_bn_eval(conv, norm)
    with pytest.raises(ArgumentError, match="'bn' must have running statistics"):
        fusion.fuse_linear_bn_eval(linear, nn.BatchNorm1d(6, track_running_stats=False).eval())
    with pytest.raises(ArgumentError, match="'bn' must be without an activation"):
        fusion.fuse_linear_bn_eval(linear, nn.BatchNorm1d(6, activation="relu").eval())
    with pytest.raises(ShapeError, match=r"'bn_rm' must have shape \(O,\) = \(6,\)"):
        fusion.fuse_linear_bn_eval(linear, nn.BatchNorm1d(5).eval())


# ----------------------------------------------------------------------------------------------------- freeze


def switches(net: Any) -> list[Any]:
    return [
        ([p.requires_grad for p in m.parameters()], m.update_stats, m.use_batch_stats)
        for m in net.modules()
        if isinstance(m, nn.BatchNorm1d)
    ]


def test_frozen_layers_train_as_they_evaluate_and_thaw() -> None:
    net = randomised(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.BatchNorm1d(4)))
    net[3].weight.requires_grad = False
    net[3].update_stats = False
    before, x = switches(net), tb.tensor(data(6, 3))
    state = {k: v.tolist() for k, v in net.state_dict().items()}
    assert freeze_bn(net) is net
    assert switches(net) == [([False, False], False, False)] * 2
    y = net.train()(x)
    assert y.tolist() == net.eval()(x).tolist()
    (y * y).sum().backward()
    assert net[0].weight.grad is not None
    assert net[1].weight.grad is None
    assert {k: v.tolist() for k, v in net.state_dict().items()} == state
    freeze_bn(net, parameters=False, update_stats=True, use_batch_stats=None)  # what was noted first stays noted
    assert unfreeze_bn(copy.deepcopy(net)) is not net
    assert switches(unfreeze_bn(net)) == before
    net[1].update_stats = False
    assert switches(unfreeze_bn(net))[0] == ([True, True], False, None)  # nothing was frozen: nothing is set


@pytest.mark.parametrize(
    "make", [lambda: nn.GhostBatchNorm(3, 4), lambda: nn.BatchRenorm(3), lambda: nn.LpBatchNorm(3)]
)
def test_the_family_freezes_too(make: Callable[[], Any]) -> None:
    layer, x = make(), tb.tensor(data(8, 3))
    layer(x)
    state = {k: v.tolist() for k, v in layer.state_dict().items()}
    freeze_bn(layer)
    assert layer.train()(x).tolist() == layer.eval()(x).tolist()
    assert {k: v.tolist() for k, v in layer.state_dict().items()} == state
    unfreeze_bn(layer.train())(x)
    assert {k: v.tolist() for k, v in layer.state_dict().items()} != state
    assert all(p.requires_grad for p in layer.parameters())


def test_each_switch_by_itself() -> None:
    x = tb.tensor(data(6, 4))
    for options, want in (
        ({"parameters": True, "update_stats": True, "use_batch_stats": None}, ([False, False], True, None)),
        ({"parameters": False, "update_stats": False, "use_batch_stats": None}, ([True, True], False, None)),
        ({"parameters": False, "update_stats": True, "use_batch_stats": False}, ([True, True], True, False)),
    ):
        layer = nn.BatchNorm1d(4)
        freeze_bn(layer, **options)  # type: ignore[arg-type]
        assert switches(layer) == [want]
        layer(x)
        moved = layer.running_mean.tolist() != [0.0] * 4
        assert moved == (want[1:] == (True, None))


def test_freezing_what_has_no_running_statistics() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False))
    with pytest.raises(ArgumentError, match=r"False, at 1.\nHint: pass use_batch_stats=None"):
        freeze_bn(net)
    assert switches(net) == [([True, True], True, None)] * 2
    assert switches(freeze_bn(net, use_batch_stats=None)) == [([False, False], False, None)] * 2
    assert freeze_bn(nn.ReLU())
    with pytest.raises(DTypeError, match="'model' must be a Module"):
        unfreeze_bn(3)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------- convert


@pytest.mark.parametrize(
    ("to", "kind"),
    [
        ("BatchNorm", nn.BatchNorm2d),
        ("SyncBatchNorm", nn.SyncBatchNorm),
        ("GroupNorm", nn.GroupNorm),
        ("LayerNorm", nn.GroupNorm),
        ("InstanceNorm", nn.InstanceNorm2d),
        ("Identity", nn.Identity),
        (nn.GroupNorm, nn.GroupNorm),
    ],
)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_converted_layers_keep_what_means_the_same(to: Any, kind: type[Any], activation: str | None) -> None:
    net: Any = randomised(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, eps=1e-3, activation=activation)))
    net.double().eval()
    old = net[1]
    assert convert(net, to) is net
    new = net[1]
    assert isinstance(new, kind)
    assert not new.training
    if kind is nn.Identity:
        z = net(tb.tensor(data(2, 3, 8, 8, dtype="float64")))
        assert (wide(z).min() == 0) == (activation == "relu")
        return
    assert new.weight is old.weight
    assert new.bias is old.bias
    assert new.eps == 1e-3
    y = net(tb.tensor(data(2, 3, 8, 8, dtype="float64")))
    assert y.dtype is tb.float64
    assert (wide(y).min() == 0) == (activation == "relu")
    assert pickle.loads(pickle.dumps(net))[1].eps == 1e-3
    if isinstance(new, nn.BatchNorm2d | nn.SyncBatchNorm):
        assert new.running_mean is old.running_mean
        assert list(new.state_dict()) == list(old.state_dict())


def test_converting_and_back() -> None:
    net: Any = nn.Sequential(
        nn.BatchNorm1d(4, momentum=None, running_var="biased", on_single="warn", activation="relu")
    )
    freeze_bn(net)
    old = net[0]
    convert(convert(net, "SyncBatchNorm"), nn.BatchNorm1d)
    new = net[0]
    assert new is not old
    assert repr(new) == repr(old)
    assert (new.on_single, new.update_stats, new.use_batch_stats) == ("warn", False, False)
    assert unfreeze_bn(net)[0].use_batch_stats is None  # type: ignore[index]
    convert(convert(net, "GroupNorm", num_groups=2), "BatchNorm1d")
    assert (net[0].activation, net[0].weight is old.weight) == ("relu", True)


def test_a_converted_norm_computes_what_its_class_does() -> None:
    net: Any = randomised(nn.BatchNorm2d(6, activation="relu"))
    new: Any = convert(net, "GroupNorm", num_groups=3, eps=0.1)
    x = tb.tensor(data(2, 6, 4, 4))
    r = tb.tensor(data(2, 6, 4, 4, seed=1))
    want = (tb.functional.group_norm(x, 3, net.weight, net.bias, 0.1) + r).relu()
    assert new(x, r).tolist() == want.tolist()
    assert new.num_groups == 3


def test_conversion_within_the_family_keeps_running_statistics() -> None:
    net: Any = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3))).eval()
    x = tb.tensor(data(2, 3, 6, 6))
    want, mean = net(x), net[1].running_mean
    convert(net, nn.GhostBatchNorm, ghost_batch_size=8)
    assert (net[1].ghost_batch_size, net[1].momentum, net[1].running_mean is mean) == (8, 0.3, True)
    assert relative(net(x), want) < 1e-6
    convert(net, "BatchNorm2d")
    assert (type(net[1]), net[1].momentum, net[1].running_mean is mean) == (nn.BatchNorm2d, 0.3, True)
    assert net(x).tolist() == want.tolist()
    convert(net, nn.BatchRenorm)
    assert isinstance(net[1], nn.BatchRenorm)
    assert relative(net(x), want) < 1e-6
    assert relative(convert(net, "BatchNorm2d")(x), want) < 1e-6


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LpBatchNorm(8, momentum=0.3, p=1),
        lambda: nn.IterNorm(8, 4, momentum=0.3),
        lambda: nn.GhostBatchNorm(8, 2, momentum=0.3, track_running_stats=False),
    ],
)
def test_the_family_is_converted_whatever_its_statistics(make: Callable[[], Any]) -> None:
    net: Any = nn.Sequential(make())
    old = net[0]
    convert(net, "BatchNorm2d")
    assert isinstance(net[0], nn.BatchNorm2d)
    assert (net[0].momentum, net[0].track_running_stats) == (0.3, old.track_running_stats)
    assert net[0].weight is old.weight
    if old.track_running_stats:
        assert net[0].running_mean is not old.running_mean  # it goes with statistics that mean something else


def test_instance_norms_keep_running_statistics_among_themselves() -> None:
    old = nn.InstanceNorm1d(4, momentum=0.3, affine=True, track_running_stats=True)
    old(tb.tensor(data(3, 4, 5)))
    new: Any = convert(old, "InstanceNorm2d")
    assert new.momentum == 0.3
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert getattr(new, name) is getattr(old, name)


def test_groups_are_the_most_up_to_32_that_divide_the_channels() -> None:
    found = [convert(nn.BatchNorm2d(c), "GroupNorm").num_groups for c in (1, 16, 48, 64, 37, 128)]
    assert found == [1, 16, 24, 32, 1, 32]


def test_a_resnet_with_group_norm_trains() -> None:
    net = convert(tb.models.resnet20(), "GroupNorm", num_groups=4)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    (net(tb.tensor(data(2, 3, 8, 8))) ** 2).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_a_layer_in_two_places_is_replaced_by_one() -> None:
    norm = nn.BatchNorm1d(4)
    net: Any = convert(nn.Sequential(norm, nn.ReLU(), norm), "LayerNorm")
    assert net[0] is net[2]
    assert isinstance(net[0], nn.LayerNorm)


def test_layers_of_the_last_axis_have_to_be_asked_for() -> None:
    net: Any = nn.Sequential(nn.LayerNorm(4), nn.RMSNorm(4))
    assert isinstance(convert(net, "BatchNorm")[0], nn.LayerNorm)  # type: ignore[index]
    convert(net, "BatchNorm", of=(nn.LayerNorm, nn.RMSNorm))
    assert [type(m) for m in net] == [nn.BatchNorm1d] * 2
    assert net[1].bias is None
    with pytest.raises(ArgumentError, match="layers with a number for each channel"):
        convert(nn.LayerNorm((2, 3)), "BatchNorm", of=nn.LayerNorm)


def test_errors_of_conversion() -> None:
    net: Any = nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(2, 4))
    with pytest.raises(ArgumentError, match=r"'to' must be a class or one of BatchNorm, .*Got 'Grupnorm'"):
        convert(net, "Grupnorm")
    with pytest.raises(
        ArgumentError, match=r"for a GroupNorm. Got 'InstanceNorm'.\nHint: name one: to='InstanceNorm2d'"
    ):
        convert(net, "InstanceNorm")
    assert isinstance(net[0], nn.BatchNorm2d)  # nothing was changed
    with pytest.raises(DTypeError, match="'model' must be a Module"):
        convert(3, "GroupNorm")  # type: ignore[arg-type]

    class Own(nn.Module):
        def __init__(self, num_features: int, eps: float, affine: bool, device: Any, dtype: Any) -> None:
            super().__init__()

    assert isinstance(convert(nn.BatchNorm2d(4), Own), Own)
    with pytest.raises(ArgumentError, match="'to' must be able to apply 'relu'. Got Own"):
        convert(nn.BatchNorm2d(4, activation="relu"), Own)


def test_momentum_from_keras() -> None:
    assert momentum_from_keras(0.99) == pytest.approx(0.01)
    assert momentum_from_keras(1) == 0.0
    for bad in (1.5, -0.1, "0.9", None, True, float("nan")):
        with pytest.raises(ArgumentError, match="the weight of the old statistics"):
            momentum_from_keras(bad)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------- three backward passes


@given(strategies.batches("float64", max_mean=10.0, act=0, affine=True))
@pytest.mark.jit_off
def test_the_three_backward_forms_are_equal(p: strategies.Batch) -> None:
    def flat(a: Array) -> tb.Tensor:
        return tb.tensor(a.transpose(0, 2, 1).reshape(-1, a.shape[1]))

    arguments = (flat(p.gy), flat(p.x), tb.tensor(p.weight), tb.tensor(p.bias), p.eps)
    steps = cs231n.backward_step_by_step(*arguments)
    x, weight, bias = (tb.tensor(t.numpy(), requires_grad=True) for t in arguments[1:4])
    y = tb.functional.batch_norm(x, None, None, weight, bias, True, eps=p.eps)
    taped = tb.grad(y, (x, weight, bias), arguments[0])
    invstd = 1 / np.sqrt(wide(arguments[1]).var(0) + p.eps)
    sums = np.abs(wide(arguments[0])).sum(0)
    scales = (np.abs(p.weight) * invstd * (1 + sums), 1 + sums * np.sqrt(p.count), 1 + sums)
    for found in (cs231n.backward_simplified(*arguments), cs231n.backward_fused(*arguments), taped):
        for a, b, scale in zip(found, steps, scales, strict=True):
            assert (np.abs(wide(a) - wide(b)) <= 1e-12 * scale).all()


@pytest.mark.parametrize("form", [cs231n.backward_step_by_step, cs231n.backward_simplified, cs231n.backward_fused])
def test_errors_of_the_backward_forms(form: Any) -> None:
    g, w = tb.ones(4, 3), tb.ones(3)
    with pytest.raises(ShapeError, match=r"'x' must have shape \(m, C\)"):
        form(tb.ones(4, 3, 2), tb.ones(4, 3, 2), w, w)
    with pytest.raises(ShapeError, match="'g' must have the shape of x"):
        form(tb.ones(3, 3), g, w, w)
    with pytest.raises(ShapeError, match="'weight' must have shape"):
        form(g, g, tb.ones(4), w)
    with pytest.raises(ArgumentError, match="more than one value"):
        form(tb.ones(1, 3), tb.ones(1, 3), w, w)
    assert not form(g, g, w, w).x.requires_grad
