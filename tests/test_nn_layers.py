"""Layers without statistics, losses as modules, and initial values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError
from tinygrad_bn.testing import check_vjp


def data(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=shape)


LAYERS: list[tuple[str, tuple[Any, ...], tuple[int, ...]]] = [
    ("Linear", (4, 3), (5, 4)),
    ("Linear", (4, 3, False), (5, 4)),
    ("Linear", (4, 3), (4,)),
    ("Linear", (4, 3), (2, 5, 4)),
    ("Identity", (54, "unused"), (2, 3)),
    ("ReLU", (), (2, 3)),
    ("ReLU", (True,), (2, 3)),
    ("Sigmoid", (), (2, 3)),
    ("Tanh", (), (2, 3)),
    ("Softmax", (1,), (2, 3)),
    ("LogSoftmax", (-1,), (2, 3, 4)),
    ("Flatten", (), (2, 3, 4)),
    ("Flatten", (0, 1), (2, 3, 4)),
    ("Dropout", (0.0,), (2, 3)),
]


@pytest.mark.peers
@pytest.mark.parametrize(("name", "arguments", "shape"), LAYERS)
def test_layers_follow_pytorch(
    name: str, arguments: tuple[Any, ...], shape: tuple[int, ...], dtype: str, device: str
) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = (getattr(lib.nn, name)(*arguments) for lib in (tb, torch))
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.to(dtype, device=device)
    theirs.to(getattr(torch, dtype))
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    a = data(*shape).astype(dtype)
    x, y = tb.tensor(a, device=device, requires_grad=True), torch.tensor(a, requires_grad=True)
    mine, reference = ours(x * 1.0), theirs(y * 1.0)
    cotangent = data(*reference.shape, seed=1).astype(dtype)
    mine.backward(tb.tensor(cotangent, device=device))
    reference.backward(torch.from_numpy(cotangent))
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    pairs = [(mine.detach(), reference.detach()), (x.grad, y.grad)]
    pairs += [(p.grad, q.grad) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True)]
    for p, q in pairs:
        np.testing.assert_allclose(p.numpy(), q.numpy(), rtol=tolerance, atol=tolerance)


def test_linear_by_its_formula() -> None:
    layer = nn.Linear(4, 3, dtype=tb.float64)
    a = data(5, 4)
    assert layer.bias is not None
    expected = a @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    np.testing.assert_allclose(layer(tb.tensor(a)).detach().numpy(), expected, rtol=1e-12)
    arrays = (a, data(3, 4, seed=1), data(3, seed=2))
    check_vjp(tb.nn.functional.linear, [tb.tensor(b) for b in arrays], order=2)


def test_linear_of_nothing() -> None:
    assert nn.Linear(4, 3)(tb.zeros(0, 4)).shape == (0, 3)
    assert nn.Linear(0, 3)(tb.zeros(2, 0)).shape == (2, 3)
    assert nn.Linear(4, 0)(tb.zeros(2, 4)).shape == (2, 0)


def test_dropout_layer() -> None:
    layer = nn.Dropout(0.25)
    y = layer(tb.ones(20_000)).numpy()
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 0.02
    x = tb.ones(5)
    assert layer.eval()(x) is x
    tb.manual_seed(3)
    one = layer.train()(x).tolist()
    tb.manual_seed(3)
    assert layer(x).tolist() == one


@pytest.mark.peers
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ["CrossEntropyLoss", "NLLLoss", "MSELoss", "L1Loss"])
def test_losses_follow_pytorch(name: str, reduction: str) -> None:
    torch = pytest.importorskip("torch")
    x, t = data(6, 3), np.array([0, 2, 1, 1, -100, 2])
    target: Any = data(6, 3, seed=1) if name in ("MSELoss", "L1Loss") else t
    options: dict[str, Any] = {"reduction": reduction}
    weight = np.array([0.5, 1.0, 2.0])
    results = []
    for lib in (tb, torch):
        extra = {"weight": lib.tensor(weight)} if name in ("CrossEntropyLoss", "NLLLoss") else {}
        loss = getattr(lib.nn, name)(**options, **extra)
        results.append(loss(lib.tensor(x), lib.tensor(target)).numpy())
        assert list(loss.state_dict()) == list(extra)
    np.testing.assert_allclose(results[0], results[1], rtol=1e-12)


def test_losses_check_when_they_are_made() -> None:
    for kind in (nn.CrossEntropyLoss, nn.NLLLoss, nn.MSELoss, nn.L1Loss):
        with pytest.raises(ArgumentError, match=f"{kind.__name__}: 'reduction' must be 'mean'"):
            kind(reduction="avg")
        with pytest.raises(ArgumentError, match="'size_average' must be left out"):
            kind(size_average=True)  # type: ignore[arg-type]


def test_label_smoothing_of_the_module() -> None:
    x, t = tb.tensor(data(6, 3)), tb.tensor([0, 2, 1, 1, 0, 2])
    found = nn.CrossEntropyLoss(ignore_index=1, label_smoothing=0.5)(x, t)
    expected = tb.nn.functional.cross_entropy(x, t, ignore_index=1, label_smoothing=0.5)
    assert found.item() == expected.item()
    assert found.item() != nn.CrossEntropyLoss()(x, t).item()


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.Linear(3, -1), ArgumentError, "Linear: 'out_features' must be an int of at least 0. Got -1."),
        (lambda: nn.Linear(3.0, 1), ArgumentError, "Linear: 'in_features' must be an int"),  # type: ignore[arg-type]
        (lambda: nn.Linear(3, 2)(tb.zeros(2, 4)), ShapeError, "linear: 'weight' must have shape"),
        (lambda: nn.Dropout(-0.1), ArgumentError, "Dropout: 'p' must be from 0 to 1. Got -0.1."),
        (lambda: nn.Softmax()(tb.zeros(2, 4)), ArgumentError, "softmax: 'dim' must be an int. Got None."),
    ],
)
def test_errors(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert message in str(caught.value)


# ------------------------------------------------------------------------------------------------------- initial values

SIZE = (160, 125)  # fan out, fan in


def drawn(name: str, *arguments: Any, **options: Any) -> np.ndarray[Any, Any]:
    tensor = tb.zeros(*SIZE, dtype=tb.float64)
    version = tensor.version
    assert getattr(nn.init, name)(tensor, *arguments, **options) is tensor
    assert tensor.version == version + 1
    return tensor.numpy().ravel()


UNIFORM: list[tuple[str, tuple[Any, ...], float, float]] = [
    ("uniform_", (), 0.0, 1.0),
    ("uniform_", (-3.0, 5.0), -3.0, 5.0),
    ("xavier_uniform_", (), -math.sqrt(6 / 285), math.sqrt(6 / 285)),
    ("xavier_uniform_", (2.0,), -2 * math.sqrt(6 / 285), 2 * math.sqrt(6 / 285)),
    ("kaiming_uniform_", (), -math.sqrt(6 / 125), math.sqrt(6 / 125)),
    ("kaiming_uniform_", (math.sqrt(5),), -1 / math.sqrt(125), 1 / math.sqrt(125)),
    ("kaiming_uniform_", (0, "fan_out", "relu"), -math.sqrt(6 / 160), math.sqrt(6 / 160)),
]
NORMAL: list[tuple[str, tuple[Any, ...], float, float]] = [
    ("normal_", (), 0.0, 1.0),
    ("normal_", (2.0, 3.0), 2.0, 3.0),
    ("xavier_normal_", (0.5,), 0.0, 0.5 * math.sqrt(2 / 285)),
    ("kaiming_normal_", (), 0.0, math.sqrt(2 / 125)),
    ("kaiming_normal_", (0, "fan_out", "tanh"), 0.0, 5 / 3 / math.sqrt(160)),
]


@pytest.mark.parametrize(("name", "arguments", "low", "high"), UNIFORM)
def test_uniform_values(name: str, arguments: tuple[Any, ...], low: float, high: float) -> None:
    found = drawn(name, *arguments)
    assert low <= found.min() < found.max() <= high
    assert stats.kstest(found, "uniform", (low, high - low)).pvalue > 1e-3


@pytest.mark.parametrize(("name", "arguments", "mean", "std"), NORMAL)
def test_normal_values(name: str, arguments: tuple[Any, ...], mean: float, std: float) -> None:
    assert stats.kstest(drawn(name, *arguments), "norm", (mean, std)).pvalue > 1e-3


@pytest.mark.parametrize(
    ("mean", "std", "a", "b"),
    [(0.0, 1.0, -2.0, 2.0), (1.0, 0.5, 0.9, 1.0), (0, 1, 6.0, 9.0), (0, 1, -9, -6), (2, 3, -1, 9)],
)
def test_truncated_normal_values(mean: float, std: float, a: float, b: float) -> None:
    found = drawn("trunc_normal_", mean, std, a, b)
    assert a <= found.min() < found.max() <= b
    reference = stats.truncnorm((a - mean) / std, (b - mean) / std, mean, std)
    assert stats.kstest(found, reference.cdf).pvalue > 1e-3


def test_constants() -> None:
    assert set(drawn("zeros_")) == {0.0}
    assert set(drawn("ones_")) == {1.0}
    assert set(drawn("constant_", 2.5)) == {2.5}


def test_initialising_parameters_is_not_recorded() -> None:
    p = nn.Parameter(tb.zeros(3, 4))
    generator = tb.Generator().manual_seed(5)
    nn.init.kaiming_uniform_(p, generator=generator)
    assert p.is_leaf
    assert p.requires_grad
    other = nn.Parameter(tb.zeros(3, 4))
    nn.init.kaiming_uniform_(other, generator=tb.Generator().manual_seed(5))
    assert tb.equal(p.detach(), other.detach())
    strided = tb.zeros(4, 3).T
    nn.init.kaiming_uniform_(strided, generator=tb.Generator().manual_seed(5))
    assert tb.equal(strided, p.detach())
    for name in ("uniform_", "normal_", "trunc_normal_", "zeros_"):
        assert getattr(nn.init, name)(tb.zeros(0, 3)).shape == (0, 3)


def test_linear_starts_as_in_pytorch() -> None:
    layer = nn.Linear(100, 200)
    assert layer.bias is not None
    for p in (layer.weight, layer.bias):
        found = p.detach().numpy().ravel()
        assert np.abs(found).max() <= 0.1
        assert stats.kstest(found, "uniform", (-0.1, 0.2)).pvalue > 1e-3
    kept = layer.weight.detach().clone()
    layer.reset_parameters()
    assert not tb.equal(layer.weight.detach(), kept)
    tb.manual_seed(1)
    one = nn.Linear(3, 2)
    tb.manual_seed(1)
    assert tb.equal(nn.Linear(3, 2).weight.detach(), one.weight.detach())


@pytest.mark.peers
def test_gains_and_fans_follow_pytorch() -> None:
    torch = pytest.importorskip("torch")
    for name in ("linear", "identity", "sigmoid", "tanh", "relu", "leaky_relu", "selu", "conv2d"):
        if name != "identity":  # PyTorch lacks it
            assert nn.init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    assert nn.init.calculate_gain("leaky_relu", 0.3) == torch.nn.init.calculate_gain("leaky_relu", 0.3)
    for shape in ((4, 3), (4, 3, 2), (4, 3, 5, 7)):
        fans = torch.nn.init._calculate_fan_in_and_fan_out(torch.zeros(shape))
        assert nn.init._calculate_fan_in_and_fan_out(tb.zeros(shape)) == fans


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.init.calculate_gain("gelu"), ArgumentError, "calculate_gain: 'nonlinearity' must be one of linear"),
        (lambda: nn.init.xavier_uniform_(tb.zeros(3)), ShapeError, "init: 'tensor' must have at least 2 axes"),
        (lambda: nn.init.kaiming_normal_(tb.zeros(3, 2), mode="both"), ArgumentError, "'mode' must be 'fan_in' or"),
        (lambda: nn.init.normal_(tb.zeros(3), std=-1), ArgumentError, "normal_: 'std' must be at least 0. Got -1."),
        (lambda: nn.init.trunc_normal_(tb.zeros(3), std=0), ArgumentError, "trunc_normal_: 'std' must be above 0"),
        (
            lambda: nn.init.trunc_normal_(tb.zeros(3), a=2, b=2),
            ArgumentError,
            "trunc_normal_: 'a' must be below 'b' = 2",
        ),
        (lambda: nn.init.uniform_(tb.arange(3)), DTypeError, "uniform_: 'tensor' must be a floating-point tensor"),
        (lambda: nn.init.normal_([1.0]), DTypeError, "normal_: 'tensor' must be a Tensor"),  # type: ignore[arg-type]
    ],
)
def test_init_errors(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert message in str(caught.value)
