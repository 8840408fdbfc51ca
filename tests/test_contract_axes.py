"""Batch normalisation over any axes, and of what a mask leaves: against NumPy, the packed values and PyTorch."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import nn
from tinygrad_bn.nn.bn_tools import run_ranks
from tinygrad_bn.nn.bn_tools.members import second_of
from tinygrad_bn.testing import check_vjp

pytestmark = pytest.mark.jit_off
Array = np.ndarray[Any, Any]
devices = st.sampled_from(["cpu", "ref"])


def data(*shape: int, seed: int = 0) -> Array:
    return np.asarray(np.random.default_rng(seed).normal(size=shape) * 2 + 1)


def padded(lengths: tuple[int, ...], extent: int) -> Array:
    """True where a sequence is no padding, (N, L)."""
    return np.asarray(np.arange(extent) < np.array(lengths)[:, None])


# ------------------------------------------------------------------------------------------------------- axes


@st.composite
def problems(draw: st.DrawFn) -> tuple[Array, tuple[int, ...], int]:
    """An input of 2 to 5 axes, those that are kept, and how to write them: as ints from 0 or from the end."""
    ndim = draw(st.integers(2, 5))
    shape = tuple(draw(st.integers(1, 4)) for _ in range(ndim))
    kept = draw(st.sets(st.integers(0, ndim - 1), max_size=ndim - 1).map(lambda s: tuple(sorted(s))))
    rest = [n for i, n in enumerate(shape) if i not in kept]
    if np.prod(rest) < 2:
        shape = tuple(n + 2 * (i not in kept) for i, n in enumerate(shape))
    return data(*shape, seed=draw(st.integers(0, 999))), kept, draw(st.sampled_from([0, ndim]))


@given(problems(), devices, st.booleans())
def test_any_axis_tuple(p: tuple[Array, tuple[int, ...], int], device: str, turned: bool) -> None:
    """Axes: every tuple of kept axes, counted from either end: output, buffers and all gradients from the formula."""
    a, kept, back = p
    rest = tuple(i for i in range(a.ndim) if i not in kept)
    features = tuple(a.shape[i] for i in kept)
    wide = tuple(1 if i in rest else n for i, n in enumerate(a.shape))
    gy, w, b = data(*a.shape, seed=1), data(*features, seed=2), data(*features, seed=3)
    names = [i - back for i in kept]
    mean, var = tb.zeros(features, dtype=tb.float64, device=device), tb.ones(features, dtype=tb.float64, device=device)
    array = np.asfortranarray(a) if turned else a
    x = tb.from_numpy(array).to(device=device).requires_grad_()
    weight, bias = (tb.tensor(v, device=device, requires_grad=True) for v in (w, b))
    y = F.batch_norm(x, mean, var, weight, bias, True, 0.25, 1e-3, axis=tuple(names[::-1]))
    y.backward(tb.tensor(gy, device=device))

    m = a.size // max(int(np.prod(features)), 1)
    mu, v = a.mean(rest, keepdims=True), a.var(rest, keepdims=True)
    invstd = 1 / np.sqrt(v + 1e-3)
    hat = (a - mu) * invstd
    np.testing.assert_allclose(y.detach().numpy(), hat * w.reshape(wide) + b.reshape(wide), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(mean.numpy(), 0.25 * mu.reshape(features), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(var.numpy(), 0.75 + 0.25 * v.reshape(features) * m / (m - 1), rtol=1e-11)
    inner = gy - gy.mean(rest, keepdims=True) - hat * (gy * hat).mean(rest, keepdims=True)
    assert x.grad is not None
    assert weight.grad is not None
    assert bias.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), w.reshape(wide) * invstd * inner, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(weight.grad.numpy(), (gy * hat).sum(rest), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(bias.grad.numpy(), gy.sum(rest), rtol=1e-9, atol=1e-10)
    assert weight.grad.shape == features
    eval_ = F.batch_norm(x, mean, var, weight, bias, axis=tuple(names)).detach().numpy()
    want = (a - mean.numpy().reshape(wide)) / np.sqrt(var.numpy().reshape(wide) + 1e-5) * w.reshape(wide)
    np.testing.assert_allclose(eval_, want + b.reshape(wide), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("kind", "features", "axis", "shape"),
    [(nn.BatchNorm1d, 3, -1, (4, 5, 3)), (nn.BatchNorm1d, 3, -1, (4, 3)), (nn.BatchNorm1d, 4, 0, (4, 5, 3)),
     (nn.BatchNorm1d, (3, 5), (1, 2), (4, 3, 5)), (nn.BatchNorm2d, (3, 2), (1, -1), (4, 3, 5, 2)),
     (nn.BatchNorm3d, (2,), (-1,), (4, 3, 2, 2, 2))],
)  # fmt: skip
def test_layers_of_any_axis(kind: Any, features: Any, axis: Any, shape: tuple[int, ...], device: str) -> None:
    """As a plain layer of the channels brought to the second axis, in both modes, through copies and state dicts."""
    options: dict[str, Any] = {"dtype": tb.float64, "device": device}
    layer = kind(features, axis=axis, activation="relu", **options)
    assert f"axis={axis}" in repr(layer)
    kept = sorted(i % len(shape) for i in (axis if isinstance(axis, tuple) else (axis,)))
    rest = [i for i in range(len(shape)) if i not in kept]
    size = int(np.prod([shape[i] for i in kept]))
    plain = nn.BatchNorm1d(size, activation="relu", **options)
    with tb.no_grad():
        for p in (layer, plain):
            p.weight.copy_(tb.tensor(data(size, seed=4).reshape(p.weight.shape)))
    for seed in range(2):
        a = data(*shape, seed=seed)
        flat = tb.tensor(a.transpose(*rest, *kept).reshape(-1, size), device=device)
        y, z = layer(tb.tensor(a, device=device)), plain(flat)
        np.testing.assert_allclose(
            y.detach().numpy().transpose(*rest, *kept).reshape(-1, size), z.detach().numpy(), rtol=1e-10, atol=1e-12
        )
    np.testing.assert_allclose(layer.running_var.numpy().reshape(-1), plain.running_var.numpy(), rtol=1e-12)
    twin = kind(features, axis=axis, **options)
    twin.load_state_dict(layer.state_dict())
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        other.load_state_dict(twin.state_dict())
        x = tb.tensor(data(*shape, seed=9), device=device)
        assert tb.equal(other.eval()(x), layer.eval()(x))
        layer.train()


@pytest.mark.parametrize("axis", [-1, (1, 2), (0, 2)])
def test_derivatives_over_any_axes(axis: Any, device: str) -> None:
    a = data(3, 4, 2)
    kept = sorted(i % 3 for i in (axis if isinstance(axis, tuple) else (axis,)))
    shape = tuple(a.shape[i] for i in kept)
    given_ = [tb.tensor(v, device=device) for v in (a, data(*shape, seed=1), data(*shape, seed=2))]
    check_vjp(lambda x, w, b: F.batch_norm(x, None, None, w, b, True, axis=axis), given_, order=2)


def test_neither_a_chain_nor_folding_takes_another_axis_for_the_channels() -> None:
    """All extents are equal, so that nothing but the axis tells the difference."""
    tb.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32, axis=-1), nn.ReLU())
    x = tb.randn(2, 32, 32, 32)
    want = tb.relu(F.batch_norm(net[0](x), None, None, training=True, axis=-1))
    np.testing.assert_allclose(net(x).detach().numpy(), want.detach().numpy(), rtol=1e-4, atol=1e-4)
    net.eval()
    folded: Any = nn.utils.fold_bn(net, x)
    assert type(folded[1]) is nn.BatchNorm2d
    linear = nn.Sequential(nn.Linear(6, 6, bias=False), nn.BatchNorm1d(6, axis=0))
    x = tb.randn(6, 6)
    want = F.batch_norm(linear[0](x), None, None, training=True, axis=0)
    np.testing.assert_allclose(linear(x).detach().numpy(), want.detach().numpy(), rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------------ masks


@given(
    st.integers(1, 6), st.integers(1, 5), st.integers(1, 7), st.integers(0, 999), devices,
    st.sampled_from(["float32", "float64"]), st.booleans(),
)  # fmt: skip
def test_a_mask_leaves_what_packing_leaves(
    n: int, c: int, length: int, seed: int, device: str, dtype: str, training: bool
) -> None:
    """Masks: bit for bit the batch norm of the values that count, 0 elsewhere, whatever stands there."""
    rng = np.random.default_rng(seed)
    mask = (
        padded(tuple(rng.integers(0, length + 1, n)), length) if rng.random() < 0.5 else rng.random((n, length)) < 0.6
    )
    mask.reshape(-1)[rng.permutation(mask.size)[:2]] = True
    if mask.sum() < 2:
        return
    a, gy = (data(n, c, length, seed=seed + i).astype(dtype) for i in range(2))
    a.transpose(0, 2, 1)[~mask] = rng.choice([np.nan, np.inf, 1e30, 0.0])
    one, two = (nn.BatchNorm1d(c, dtype=dtype, device=device, activation="relu").train(training) for _ in range(2))
    for layer in (one, two):
        with tb.no_grad():
            layer.weight.copy_(tb.tensor(data(c, seed=7)))
            layer.bias.copy_(tb.tensor(data(c, seed=8)))
    x = tb.tensor(a, device=device, requires_grad=True)
    packed = tb.tensor(np.ascontiguousarray(a.transpose(0, 2, 1)[mask]), device=device, requires_grad=True)
    y, z = one(x, mask=tb.tensor(mask, device=device)), two(packed)
    y.backward(tb.tensor(gy, device=device))
    z.backward(tb.tensor(np.ascontiguousarray(gy.transpose(0, 2, 1)[mask]), device=device))
    for found, want in ((y.detach(), z.detach()), (x.grad, packed.grad)):
        assert found is not None
        assert want is not None
        np.testing.assert_array_equal(found.numpy().transpose(0, 2, 1)[mask], want.numpy())
        assert not found.numpy().transpose(0, 2, 1)[~mask].any()
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        np.testing.assert_array_equal(p.grad.numpy(), q.grad.numpy())
    for name, t in two.state_dict().items():
        np.testing.assert_array_equal(one.state_dict()[name].numpy(), t.numpy())
    assert one.num_batches_tracked.item() == training
    assert one.skipped_batches == 0


@pytest.mark.parametrize("form", ["(N, L)", "(N, 1, L)", "(1, 1, L)", "(N, 1, 1)"])
def test_forms_of_a_mask(form: str, device: str) -> None:
    a = data(4, 3, 5)
    mask = {"(1, 1, L)": np.arange(5) < 3, "(N, 1, 1)": (np.arange(4) < 2)[:, None]}.get(form, padded((5, 1, 3, 0), 5))
    wide = np.broadcast_to(mask, (4, 5))
    shape = {"(N, L)": (4, 5), "(N, 1, L)": (4, 1, 5), "(1, 1, L)": (1, 1, 5), "(N, 1, 1)": (4, 1, 1)}[form]
    y = F.batch_norm(
        tb.tensor(a, device=device), None, None, training=True, mask=tb.tensor(mask.reshape(shape), device=device)
    ).numpy()
    values = a.transpose(0, 2, 1)[wide]
    want = (values - values.mean(0)) / np.sqrt(values.var(0) + 1e-5)
    np.testing.assert_allclose(y.transpose(0, 2, 1)[wide], want, rtol=1e-10)


def test_masks_of_samples_pictures_and_other_axes(device: str) -> None:
    for shape, axis in (((6, 3), 1), ((4, 3, 5, 2), 1), ((4, 5, 3), -1), ((4, 3, 5), (1, 2)), ((4, 3, 2, 2, 2), 1)):
        a = data(*shape)
        kept = sorted(i % a.ndim for i in (axis if isinstance(axis, tuple) else (axis,)))
        rest = [i for i in range(a.ndim) if i not in kept]
        mask = np.random.default_rng(1).random([shape[i] for i in rest]) < 0.7
        size = [shape[i] for i in kept]
        given_ = tb.tensor(a, device=device), None, None, tb.tensor(data(*size, seed=1), device=device)
        y = F.batch_norm(*given_, training=True, axis=axis, mask=tb.tensor(mask, device=device)).numpy()
        values = a.transpose(*rest, *kept)[mask]
        want = (values - values.mean(0)) / np.sqrt(values.var(0) + 1e-5) * data(*size, seed=1)
        np.testing.assert_allclose(y.transpose(*rest, *kept)[mask], want, rtol=1e-9, atol=1e-10)
        assert not y.transpose(*rest, *kept)[~mask].any()


def test_a_mask_of_everything_is_no_mask(device: str) -> None:
    x = tb.tensor(data(4, 3, 5), device=device)
    one, two = (nn.BatchNorm1d(3, dtype=tb.float64, device=device) for _ in range(2))
    y = one(x, mask=tb.ones(4, 5, device=device) > 0)
    np.testing.assert_allclose(y.detach().numpy(), two(x).detach().numpy(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(one.running_var.numpy(), two.running_var.numpy(), rtol=1e-13)


@pytest.mark.parametrize("training", [True, False])
def test_derivatives_under_a_mask(training: bool, device: str) -> None:
    mask = tb.tensor(padded((4, 1, 3), 4), device=device)
    mean, var = (tb.tensor(v, device=device) for v in (data(2, seed=5), np.array([0.5, 2.0])))
    given_ = [tb.tensor(v, device=device) for v in (data(3, 2, 4), np.array([0.0, 1.5]), data(2, seed=2))]
    check_vjp(lambda x, w, b: F.batch_norm(x, mean, var, w, b, training, 0.0, mask=mask), given_, order=2)


def test_a_mask_of_nothing_is_an_empty_batch(device: str) -> None:
    layer = nn.BatchNorm1d(3, device=device)
    x = tb.tensor(data(4, 3, 5).astype(np.float32), device=device, requires_grad=True)
    with pytest.warns(RuntimeWarning, match="'mask' is False everywhere.*\nHint: True marks what counts"):
        y = layer(x, mask=tb.zeros(4, 5, device=device) > 0)
    y.backward(tb.ones_like(x))
    assert x.grad is not None
    assert not y.detach().numpy().any()
    assert not x.grad.numpy().any()
    assert (layer.weight.grad.tolist(), layer.bias.grad.tolist()) == ([0.0] * 3, [0.0] * 3)
    assert (layer.running_mean.tolist(), layer.running_var.tolist()) == ([0.0] * 3, [1.0] * 3)
    assert layer.num_batches_tracked.item() == 0


def test_a_mask_with_a_residual_the_switches_and_a_single_value(device: str) -> None:
    mask = padded((2, 0, 5), 5)
    a, r = data(3, 2, 5), data(3, 2, 5, seed=1)
    layer = nn.BatchNorm1d(2, activation="relu", on_single="warn", dtype=tb.float64, device=device)
    x, other, m = tb.tensor(a, device=device), tb.tensor(r, device=device), tb.tensor(mask, device=device)
    values = a.transpose(0, 2, 1)[mask]
    want = (values - values.mean(0)) / np.sqrt(values.var(0) + 1e-5) + r.transpose(0, 2, 1)[mask]
    np.testing.assert_allclose(
        layer(x, other, mask=m).detach().numpy().transpose(0, 2, 1)[mask], np.maximum(want, 0), rtol=1e-9, atol=1e-10
    )
    layer.use_batch_stats = False
    before = layer.state_dict()["running_mean"].tolist()
    mean, var = layer.running_mean.numpy(), layer.running_var.numpy()
    want = np.maximum((values - mean) / np.sqrt(var + 1e-5), 0)
    np.testing.assert_allclose(layer(x, mask=m).detach().numpy().transpose(0, 2, 1)[mask], want, rtol=1e-10, atol=1e-12)
    layer.use_batch_stats = None
    with tb.no_grad():
        layer.bias.copy_(tb.tensor([0.5, -0.5]))
    single = tb.tensor(padded((0, 1, 0), 5), device=device)
    with pytest.warns(RuntimeWarning, match="the output is the bias"):
        y = layer(x, mask=single).detach().numpy()
    assert y[1, :, 0].tolist() == [0.5, 0.0]
    assert layer.running_mean.tolist() == before


def test_update_bn_and_the_doctor_see_what_counts() -> None:
    """A model that hands its mask on; and layers that keep several axes."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)
            self.units = nn.BatchNorm1d((3, 5), axis=(1, 2))

        def forward(self, x: tb.Tensor) -> Any:
            return self.units(self.norm(x, mask=(x[:, 0] < 90)))

    net, a = Net(), data(12, 3, 5).astype(np.float32)
    mask = padded((5, 2, 3, 4, 5, 1, 5, 5, 2, 3, 4, 5), 5)
    a.transpose(0, 2, 1)[~mask] = 100.0
    nn.utils.update_bn(net, [tb.tensor(a[:5]), tb.tensor(a[5:])])
    values = a.transpose(0, 2, 1)[mask].astype(np.float64)
    np.testing.assert_allclose(net.norm.running_mean.numpy(), values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(net.norm.running_var.numpy(), values.var(0, ddof=1), rtol=1e-5)
    assert second_of(net.units) == "running_var"
    assert net.units.running_mean.shape == (3, 5)
    assert net.units.num_batches_tracked.item() == 2
    assert (net.units.running_var.numpy() != 1).all()


def test_a_mask_over_several_ranks_is_refused() -> None:
    def work(group: Any) -> str:
        layer = nn.SyncBatchNorm(3, process_group=group)
        try:
            layer(tb.ones(2, 3, 4), mask=tb.ones(2, 4) > 0)
        except tb.errors.ArgumentError as error:
            return str(error)
        return ""

    for text in run_ranks(2, work):
        assert "SyncBatchNorm: 'mask' must be None where statistics go over several ranks" in text
        assert "Hint: select what counts first" in text
    alone = nn.SyncBatchNorm(3)
    assert alone(tb.randn(2, 3, 4), mask=tb.ones(2, 4) > 0).shape == (2, 3, 4)
