"""What batch normalisation must satisfy whatever the numbers: identities, as properties of drawn problems."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import strategies
from hypothesis import assume, given
from hypothesis import strategies as st

import tinygrad_bn as tb
from tinygrad_bn.ops._activations import ACTIVATIONS
from tinygrad_bn.ops.batch_norm import batch_norm_eval, batch_norm_train
from tinygrad_bn.testing import check_vjp

pytestmark = pytest.mark.jit_off

Array = np.ndarray[Any, Any]
EPS = {"float32": 2.0**-23, "float64": 2.0**-52}
plain = strategies.batches(min_count=3, max_mean=10.0, act=0, affine=True)
devices = st.sampled_from(["cpu", "ref"])


def normalised(p: strategies.Batch, device: str, **changes: Any) -> tuple[tb.Tensor, dict[str, tb.Tensor]]:
    """The output, and the tensors that it was computed from."""
    given_ = {"x": p.x, "weight": p.weight, "bias": p.bias, **changes}
    tensors = {k: tb.tensor(v, device=device, requires_grad=True) for k, v in given_.items()}
    y, _ = batch_norm_train(tensors["x"], tensors["weight"], tensors["bias"], p.eps)
    return y, tensors


def wide(x: tb.Tensor) -> Array:
    return x.detach().numpy().astype(np.float64)


def moments(p: strategies.Batch) -> tuple[Array, Array]:
    x = p.x.astype(np.float64)
    return x.mean((0, 2)), x.var((0, 2))


def precision(p: strategies.Batch) -> Array:
    """What a rounding costs a normalised value of each channel: an ulp of the dtype, and of float64 at the mean's size.

    In float32 the mean is handed on as two numbers, and a large one costs nothing; float64 has nothing wider.
    """
    mean, v = moments(p)
    return EPS[p.x.dtype.name] + EPS["float64"] * np.abs(mean) / np.sqrt(v + p.eps)


@given(plain, devices)
def test_the_sum_of_a_channel_is_m_beta(p: strategies.Batch, device: str) -> None:
    y, _ = normalised(p, device)
    size = np.abs(p.weight) + np.abs(p.bias)
    assert (np.abs(wide(y).mean((0, 2)) - p.bias) <= 16 * precision(p) * size).all()


@given(plain, devices)
def test_the_variance_of_a_channel(p: strategies.Batch, device: str) -> None:
    """γ² v / (v + eps)."""
    y, _ = normalised(p, device)
    _, v = moments(p)
    want = p.weight.astype(np.float64) ** 2 * v / (v + p.eps)
    size = p.weight.astype(np.float64) ** 2 + p.bias.astype(np.float64) ** 2
    assert (np.abs(wide(y).var((0, 2)) - want) <= 64 * precision(p) * size).all()


@given(plain, devices)
def test_input_gradients_sum_to_nothing(p: strategies.Batch, device: str) -> None:
    """|Σ gx| <= 8 ulp Σ|gx|, and likewise of Σ gx x̂ but for eps; the ulps are of the terms that gx is made of."""
    y, t = normalised(p, device)
    y.backward(tb.tensor(p.gy, device=device))
    assert t["x"].grad is not None
    gx = wide(t["x"].grad)
    mean, v = moments(p)
    gain = (np.abs(p.weight) / np.sqrt(v + p.eps))[:, None]
    hat = (p.x.astype(np.float64) - mean[:, None]) / np.sqrt(v + p.eps)[:, None]
    g = np.abs(p.gy.astype(np.float64))
    terms = (gain * (g + g.mean((0, 2))[:, None] + np.abs(hat) * (g * np.abs(hat)).mean((0, 2))[:, None])).sum((0, 2))
    assert (np.abs(gx.sum((0, 2))) <= 8 * precision(p) * terms).all()
    # Σ gx x̂ = gain Σ g x̂ (1 - Σ x̂² / m) and Σ x̂² / m = v / (v + eps)
    left = (p.gy.astype(np.float64) * hat).sum((0, 2)) * (gain * np.sign(p.weight)[:, None])[:, 0] * p.eps / (v + p.eps)
    bound = 16 * precision(p) * terms * np.maximum(np.abs(hat).max((0, 2)), 1)
    assert (np.abs((gx * hat).sum((0, 2)) - left) <= bound).all()


@given(strategies.batches(min_count=8, max_mean=1.0, act=0, affine=True), devices)
def test_input_gradients_sum_to_nothing_beside_themselves(p: strategies.Batch, device: str) -> None:
    """eps = 0: |Σ gx| <= 8 ulp Σ|gx|, and |Σ gx x̂| <= 16 ulp Σ|gx| max|x̂|, the ulp a normalised value's, as above,
    where gx is not what two others left of each other: what of gy is neither 1 nor x̂ is no smaller than those."""
    mean, v = moments(p)
    hat = (p.x.astype(np.float64) - mean[:, None]) / np.sqrt(v)[:, None]
    x, weight = (tb.tensor(a, device=device, requires_grad=True) for a in (p.x, p.weight))
    y, _ = batch_norm_train(x, weight, None, 0.0)
    y.backward(tb.tensor(p.gy, device=device))
    assert x.grad is not None
    gx, left = wide(x.grad), np.abs(wide(x.grad)) * np.sqrt(v)[:, None]
    use = left.sum((0, 2)) >= 0.25 * np.abs(p.weight) * np.abs(p.gy.astype(np.float64)).sum((0, 2))
    ulps = 8 * (EPS[p.x.dtype.name] + EPS["float64"] * np.abs(mean) / np.sqrt(v))
    assert (np.abs(gx.sum((0, 2))) <= ulps * np.abs(gx).sum((0, 2)))[use].all()
    bound = 2 * ulps * np.abs(gx).sum((0, 2)) * np.abs(hat).max((0, 2))
    assert (np.abs((gx * hat).sum((0, 2))) <= bound)[use].all()


@given(st.integers(3, 12), st.integers(1, 5), st.floats(0.01, 100), st.integers(0, 999), devices)
def test_a_positive_scale_of_the_weights_ahead(n: int, c: int, a: float, seed: int, device: str) -> None:
    """BN((a W) u) = BN(W u), ∂/∂u unchanged, ∂/∂(a W) = (1 / a) ∂/∂W: eps = 0."""
    rng = np.random.default_rng(seed)
    u, w, gy = rng.standard_normal((n, 4)), rng.standard_normal((c, 4)), rng.standard_normal((n, c))
    if ((u @ w.T).std(0) < 0.05).any():
        return
    found = []
    for scale in (1.0, a):
        t = [tb.tensor(v, device=device, requires_grad=True) for v in (u, scale * w)]
        y, _ = batch_norm_train(tb.nn.functional.linear(t[0], t[1]), eps=0.0)
        y.backward(tb.tensor(gy, device=device))
        assert t[0].grad is not None
        assert t[1].grad is not None
        found.append((wide(y), wide(t[0].grad), scale * wide(t[1].grad)))
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-9, atol=1e-9 * max(np.abs(one).max(), np.abs(gy).max()))


@given(
    st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.integers(2, 4), st.integers(0, 999), devices,
    st.sampled_from(["float32", "float64"]),
)  # fmt: skip
def test_the_effective_batch_of_a_convolution(
    m: int, c: int, p: int, q: int, seed: int, device: str, dtype: str
) -> None:
    """m samples of p × q places are m·p·q samples, with one parameter and one statistic a channel."""
    rng = np.random.default_rng(seed)
    x, gy = (rng.standard_normal((m, c, p, q)).astype(dtype) for _ in range(2))

    def flat(a: Array) -> Array:
        return a.transpose(0, 2, 3, 1).reshape(m * p * q, c)

    found = []
    for kind, a, g in ((tb.nn.BatchNorm2d, x, gy), (tb.nn.BatchNorm1d, flat(x), flat(gy))):
        layer = kind(c, momentum=1.0, dtype=dtype, device=device)
        t = tb.tensor(np.ascontiguousarray(a), device=device, requires_grad=True)
        y = layer(t)
        y.backward(tb.tensor(np.ascontiguousarray(g), device=device))
        assert t.grad is not None
        assert layer.weight.grad.shape == layer.running_var.shape == (c,)
        shaped = [wide(v) if v.ndim == 2 else flat(wide(v)) for v in (y, t.grad)]
        found.append([*shaped, *map(wide, (layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var))])
    tolerance = 64 * EPS[dtype]
    for i, (one, two) in enumerate(zip(*found, strict=True)):
        scale = 1 / np.sqrt(found[1][5].min() + 1e-5) if i == 1 else 1.0
        size = max(np.abs(one).max(), 1.0) * max(scale, 1.0) * m * p * q
        np.testing.assert_allclose(two, one, rtol=tolerance, atol=tolerance * size)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 999), st.sampled_from(["linear", "conv", "transposed"]))
def test_folding_into_the_layer_ahead_changes_nothing(outputs: int, inputs: int, seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    nn = tb.nn
    ahead: tb.nn.Module
    if kind == "linear":
        ahead, norm, shape = nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), (6, inputs)
    else:
        make = nn.Conv2d if kind == "conv" else nn.ConvTranspose2d
        ahead, norm, shape = make(inputs, outputs, 2), nn.BatchNorm2d(outputs), (3, inputs, 4, 5)  # type: ignore[assignment]
    net = nn.Sequential(ahead, norm).double().eval()
    with tb.no_grad():
        for name, t in (("weight", norm.weight), ("bias", norm.bias), ("running_mean", norm.running_mean)):
            assert t is not None, name
            t.copy_(tb.tensor(rng.standard_normal(outputs)))
        norm.running_var.copy_(tb.tensor(rng.uniform(0.01, 9, outputs)))  # type: ignore[union-attr]
    x = tb.tensor(rng.standard_normal(shape))
    folded: Any = nn.utils.fold_bn(net, x)
    assert not isinstance(folded[1], nn.BatchNorm1d | nn.BatchNorm2d)
    want = net(x).detach().numpy()
    np.testing.assert_allclose(folded(x).detach().numpy(), want, rtol=1e-10, atol=1e-10 * np.abs(want).max())


@given(plain, devices, st.sampled_from([0.25, 2.0, 64.0]))
def test_a_positive_scale_ahead_changes_nothing(p: strategies.Batch, device: str, a: float) -> None:
    """BN(a x) = BN(x) and ∂/∂(a x) = (1 / a) ∂/∂x, exactly as eps goes to 0; powers of two are exact, so is eps a²."""
    outs, gradients = [], []
    for factor, eps in ((1.0, p.eps), (a, p.eps * a * a)):
        x = tb.tensor(p.x * p.x.dtype.type(factor), device=device, requires_grad=True)
        y, _ = batch_norm_train(x, tb.tensor(p.weight, device=device), tb.tensor(p.bias, device=device), eps)
        y.backward(tb.tensor(p.gy, device=device))
        assert x.grad is not None
        outs.append(wide(y))
        gradients.append(wide(x.grad) * factor)
    tolerance = 32 * precision(p).max()
    np.testing.assert_allclose(outs[1], outs[0], rtol=tolerance, atol=tolerance * np.abs(outs[0]).max())
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=tolerance, atol=tolerance * np.abs(gradients[0]).max())


@given(devices, st.integers(0, 99))
def test_a_bias_ahead_has_no_gradient(device: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    u = tb.tensor(rng.standard_normal((9, 5)), device=device)
    w = tb.tensor(rng.standard_normal((4, 5)), device=device, requires_grad=True)
    b = tb.tensor(rng.standard_normal(4), device=device, requires_grad=True)
    y, _ = batch_norm_train(tb.nn.functional.linear(u, w, b))
    y.backward(tb.tensor(rng.standard_normal((9, 4)), device=device))
    assert b.grad is not None
    assert w.grad is not None
    assert np.abs(wide(b.grad)).max() <= 1e-13 * np.abs(wide(w.grad)).sum()
    assert np.abs(wide(w.grad)).max() > 1e-3


@given(plain, devices)
def test_gamma_and_beta_can_undo_it(p: strategies.Batch, device: str) -> None:
    """γ = √(Var + eps), β = mean returns the input."""
    mean, v = moments(p)
    kind = p.x.dtype
    y, _ = normalised(p, device, weight=np.sqrt(v + p.eps).astype(kind), bias=mean.astype(kind))
    np.testing.assert_allclose(wide(y), p.x, rtol=0, atol=16 * EPS[kind.name] * np.abs(p.x).max())


@given(plain, devices)
def test_inference_is_affine(p: strategies.Batch, device: str) -> None:
    """y = a x + c with a = γ / √(var + eps), c = β - a mean; and derivatives of such."""
    mean, v = (a.astype(p.x.dtype) for a in moments(p))
    t = {k: tb.tensor(a, device=device) for k, a in (("x", p.x), ("w", p.weight), ("b", p.bias), ("m", mean), ("v", v))}
    t["x"].requires_grad_()
    y = batch_norm_eval(t["x"], t["m"], t["v"], t["w"], t["b"], p.eps)
    a = p.weight.astype(np.float64) / np.sqrt(v.astype(np.float64) + p.eps)
    c = p.bias - a * mean
    want = a[:, None] * p.x.astype(np.float64) + c[:, None]
    size = np.abs(a[:, None] * (p.x.astype(np.float64) - mean[:, None])) + np.abs(p.bias)[:, None]
    assert (
        np.abs(wide(y) - want) <= 8 * (EPS[p.x.dtype.name] * size + EPS["float64"] * np.abs(a * mean)[:, None])
    ).all()
    y.backward(tb.tensor(p.gy, device=device))
    assert t["x"].grad is not None
    np.testing.assert_allclose(wide(t["x"].grad), p.gy * a[:, None], rtol=8 * EPS[p.x.dtype.name])


@given(plain, devices, st.integers(0, 99))
def test_shuffling_the_batch_permutes_the_output(p: strategies.Batch, device: str, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(p.x.shape[0])
    y, _ = normalised(p, device)
    shuffled, _ = normalised(p, device, x=p.x[order])
    size = np.abs(p.weight)[:, None] * 10 + np.abs(p.bias)[:, None]
    assert (np.abs(wide(shuffled) - wide(y)[order]) <= 16 * precision(p)[:, None] * size).all()
    before, after = (
        batch_norm_train(tb.tensor(x, device=device))[1].rows.astype(np.float64) for x in (p.x, p.x[order])
    )
    assert (np.abs(after[2] - before[2]) <= 4 * precision(p) * before[2]).all()
    size = np.sqrt(before[2]) + EPS["float64"] / EPS[p.x.dtype.name] * np.abs(before[0])
    assert (np.abs(after[:2].sum(0) - before[:2].sum(0)) <= 4 * EPS[p.x.dtype.name] * size).all()


@given(plain, devices, st.sampled_from([0.0, 1.0, 0.1, -1e6, 3e30, 1e-30]))
def test_a_constant_channel_gives_exactly_beta(p: strategies.Batch, device: str, value: float) -> None:
    x = p.x.copy()
    x[:, 0] = value
    y, t = normalised(p, device, x=x)
    assert (y.detach().numpy()[:, 0] == p.bias[0]).all()
    y.backward(tb.tensor(p.gy, device=device))
    assert all(np.isfinite(g.grad.numpy()).all() for g in t.values() if g.grad is not None)


@given(plain, devices)
def test_gamma_of_0(p: strategies.Batch, device: str) -> None:
    """First and second derivatives are finite."""
    zero = np.zeros_like(p.weight)
    y, t = normalised(p, device, weight=zero)
    np.testing.assert_array_equal(y.detach().numpy(), np.broadcast_to(p.bias[:, None], p.x.shape))
    gy = tb.tensor(p.gy, device=device, requires_grad=True)
    first = tb.grad(y, list(t.values()), gy, create_graph=True)
    cotangents = [
        tb.tensor(np.random.default_rng(0).standard_normal(g.shape).astype(p.x.dtype), device=device) for g in first
    ]
    second = tb.grad(first, [*t.values(), gy], cotangents, allow_unused=True)
    for g in (*first, *second):
        assert g is None or np.isfinite(g.detach().numpy()).all()
    assert not first[0].detach().numpy().any()
    assert second[0] is not None


@pytest.mark.parametrize("activation", ["none", "relu", "sigmoid"])
def test_second_derivatives_at_gamma_0_are_right(activation: str, device: str) -> None:
    rng = np.random.default_rng(0)
    x = tb.tensor(rng.standard_normal((7, 3)), device=device)
    b = tb.tensor(rng.choice([-1.0, 1.0], 3), device=device)
    check_vjp(lambda x, w, b: batch_norm_train(x, w, b, 1e-5, activation)[0], [x, tb.zeros_like(b), b], order=2)


@given(strategies.batches(min_count=3, max_mean=10.0), devices)
def test_every_layout_gives_the_same(p: strategies.Batch, device: str) -> None:
    """(N, C, H, W) in C order, channels_last and sliced: the same output, in the layout of the input, and gradients."""
    n, c, length = p.x.shape
    weight, bias = (tb.tensor(a, device=device) if a.size else None for a in (p.weight, p.bias))
    activation = tuple(ACTIVATIONS)[p.act]
    found = []
    for name in ("plain", "channels_last", "sliced"):
        array = p.x.reshape(n, c, length, 1)
        if name == "channels_last":
            array = array.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
        elif name == "sliced":
            array = np.repeat(array, 2, axis=2)[:, :, ::2]
        x = tb.from_numpy(array.copy(order="K") if name != "sliced" else array).to(device=device).requires_grad_()
        y, _ = batch_norm_train(x, weight, bias, p.eps, activation)
        y.backward(tb.tensor(p.gy.reshape(y.shape), device=device))
        assert x.grad is not None
        found.append((wide(y), wide(x.grad)))
        if name == "channels_last" and c > 1 and device == "cpu":
            assert y.permute(0, 2, 3, 1).is_contiguous()
    z, _ = batch_norm_train(tb.tensor(p.x, device=device), weight, bias, p.eps)
    assume(
        p.act not in (1, 3) or np.abs(wide(z)).min() > 1e-4
    )  # rounding must not decide on which side of the kink a value lies
    mean, v = moments(p)
    gain = (np.abs(p.weight) if p.weight.size else 1.0) / np.sqrt(v + p.eps)
    hat = np.abs(p.x.astype(np.float64) - mean[:, None]) / np.sqrt(v + p.eps)[:, None]
    size = (gain[:, None] * np.abs(p.gy).max() * (2 + hat)).reshape(n, c, length, 1)
    tolerance = 64 * precision(p).max()
    for y_, gx in found[1:]:
        np.testing.assert_allclose(y_, found[0][0], rtol=tolerance, atol=tolerance * (1 + np.abs(found[0][0]).max()))
        assert (np.abs(gx - found[0][1]) <= tolerance * size).all()


@given(plain, devices)
def test_relu_fused_is_relu_after(p: strategies.Batch, device: str) -> None:
    y, t = normalised(p, device)
    composed = tb.relu(y)
    fused, _ = batch_norm_train(*[tb.tensor(a, device=device) for a in (p.x, p.weight, p.bias)], p.eps, "relu")
    np.testing.assert_array_equal(fused.numpy(), composed.detach().numpy())
    assert t["x"].requires_grad


@given(plain, devices)
def test_gradients_of_gamma_and_beta(p: strategies.Batch, device: str) -> None:
    """gγ = Σ gy x̂, gβ = Σ gy."""
    y, t = normalised(p, device)
    y.backward(tb.tensor(p.gy, device=device))
    mean, v = moments(p)
    hat = (p.x.astype(np.float64) - mean[:, None]) / np.sqrt(v + p.eps)[:, None]
    g = p.gy.astype(np.float64)
    assert t["weight"].grad is not None
    assert t["bias"].grad is not None
    tolerance, size = 8 * precision(p), np.abs(g).sum((0, 2))
    assert (
        np.abs(wide(t["weight"].grad) - (g * hat).sum((0, 2))) <= tolerance * (np.abs(g * hat).sum((0, 2)) + size)
    ).all()
    assert (np.abs(wide(t["bias"].grad) - g.sum((0, 2))) <= tolerance * size).all()


def test_what_is_not_finite_goes_through(device: str, dtype: str) -> None:
    """A NaN or an infinity spoils its own channel and no other, in both directions."""
    for bad in (np.nan, np.inf):
        for shape in ((5, 20), (4, 3, 7)):
            array = np.random.default_rng(0).standard_normal(shape).astype(dtype)
            array[(2, 1) + (0,) * (len(shape) - 2)] = bad
            x = tb.tensor(array, device=device, requires_grad=True)
            y, statistics = batch_norm_train(x, activation="relu")
            y.backward(tb.ones_like(x))
            assert x.grad is not None
            for found in (y.detach().numpy(), x.grad.numpy()):
                assert np.isnan(found[:, 1]).any()
                assert np.isfinite(np.delete(found, 1, 1)).all()
            assert not np.isfinite(statistics.rows[2, 1])
