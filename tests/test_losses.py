"""Losses and activations against PyTorch and their definitions: reductions, weights, smoothing, extreme inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import nn
from tinygrad_bn.core import launch
from tinygrad_bn.errors import ArgumentError, DeviceError, DTypeError, GradientError, ShapeError
from tinygrad_bn.testing import check_vjp

Array = np.ndarray[Any, Any]
Call = Callable[..., Any]
RTOL = {"float32": 2e-5, "float64": 1e-11}


def normal(*shape: int, seed: int = 0) -> Array:
    return np.asarray(np.random.default_rng(seed).normal(size=shape))


def shares(*shape: int, seed: int = 0) -> Array:
    """From 0.02 to 0.98."""
    return np.asarray(np.random.default_rng(seed + 50).uniform(0.02, 0.98, size=shape))


def signs(*shape: int, seed: int = 0) -> Array:
    return np.asarray(np.random.default_rng(seed + 70).choice([-1.0, 1.0], size=shape))


def compare(
    call: Call, inputs: list[Array], others: list[Array], dtype: str, device: str, second: bool = True, least: float = 0
) -> Any:
    """Compare value, gradients, and gradients of gradients with PyTorch's; return the value."""
    torch = pytest.importorskip("torch")
    rtol = max(RTOL[dtype], least)
    fixed = [a.astype(dtype) if a.dtype.kind == "f" else a for a in others]
    ours = [tb.tensor(a.astype(dtype), device=device, requires_grad=True) for a in inputs]
    theirs = [torch.tensor(a.astype(dtype), requires_grad=True) for a in inputs]
    mine = call(F, *ours, *[tb.tensor(a, device=device) for a in fixed])
    reference = call(torch.nn.functional, *theirs, *[torch.tensor(a) for a in fixed])
    assert mine.shape == tuple(reference.shape)
    assert mine.dtype.name == dtype
    close(mine, reference, rtol)
    cotangent = normal(*mine.shape, seed=9).astype(dtype)
    first = tb.grad(mine, ours, tb.tensor(cotangent, device=device), create_graph=True, allow_unused=True)
    wanted = torch.autograd.grad(reference, theirs, torch.tensor(cotangent), create_graph=True, allow_unused=True)
    for g, w in zip(first, wanted, strict=True):
        assert (g is None) == (w is None)
        if w is not None:
            close(g, w, rtol)
    pairs = [
        (g, w) for g, w in zip(first, wanted, strict=True) if w is not None and w.requires_grad and g.requires_grad
    ]
    if not second or not pairs:
        return mine
    directions = [normal(*g.shape, seed=i + 20).astype(dtype) for i, (g, _) in enumerate(pairs)]
    again = tb.grad([g for g, _ in pairs], ours, [tb.tensor(d, device=device) for d in directions], allow_unused=True)
    expected = torch.autograd.grad(
        [w for _, w in pairs], theirs, [torch.tensor(d) for d in directions], allow_unused=True
    )
    for g, w in zip(again, expected, strict=True):
        if w is not None:
            close(tb.zeros(*w.shape) if g is None else g, w, 10 * rtol)
    return mine


def close(mine: Any, reference: Any, rtol: float) -> None:
    want = reference.detach().numpy(force=True)  # PyTorch has zeros without memory
    size = np.abs(want[np.isfinite(want)]).max(initial=0.0)
    np.testing.assert_allclose(mine.detach().numpy(), want, rtol=rtol, atol=rtol * (size + 0.05))


REDUCED = ("mean", "sum", "none")
PLAIN: list[tuple[str, Call, list[Array], list[Array]]] = [
    ("mse", lambda f, x, y, **o: f.mse_loss(x, y, **o), [normal(3, 4), normal(3, 4, seed=1)], []),
    ("mse weight", lambda f, x, y, w, **o: f.mse_loss(x, y, weight=w, **o), [normal(3, 4), normal(3, 4, seed=1)],
     [shares(3, 4)]),
    ("l1", lambda f, x, y, **o: f.l1_loss(x, y, **o), [normal(3, 4), normal(3, 4, seed=1)], []),
    ("l1 weight", lambda f, x, y, w, **o: f.l1_loss(x, y, weight=w, **o), [normal(5), normal(5, seed=1)], [shares(5)]),
    ("smooth l1", lambda f, x, y, **o: f.smooth_l1_loss(x, y, **o), [normal(3, 4), normal(3, 4, seed=1)], []),
    ("smooth l1, beta", lambda f, x, y, **o: f.smooth_l1_loss(x, y, beta=0.3, **o),
     [normal(4, 5), normal(4, 5, seed=1)], []),
    ("smooth l1, 0", lambda f, x, y, **o: f.smooth_l1_loss(x, y, beta=0.0, **o),
     [normal(4, 5), normal(4, 5, seed=1)], []),
    ("huber", lambda f, x, y, **o: f.huber_loss(x, y, **o), [normal(3, 4), normal(3, 4, seed=1)], []),
    ("huber, delta", lambda f, x, y, **o: f.huber_loss(x, y, delta=0.4, **o), [normal(4, 5), normal(4, 5, seed=1)], []),
    ("huber, weight", lambda f, x, y, w, **o: f.huber_loss(x, y, delta=2.0, weight=w, **o),
     [normal(4, 5), normal(4, 5, seed=1)], [shares(4, 5)]),
    ("bce", lambda f, x, y, **o: f.binary_cross_entropy(x, y, **o), [shares(3, 4), shares(3, 4, seed=1)], []),
    ("bce weight", lambda f, x, y, w, **o: f.binary_cross_entropy(x, y, w, **o), [shares(3, 4)],
     [shares(3, 4, seed=1), shares(3, 4, seed=2)]),
    ("bce weight of classes", lambda f, x, y, w, **o: f.binary_cross_entropy(x, y, w, **o), [shares(3, 4)],
     [shares(3, 4, seed=1), shares(4, seed=2)]),
    ("logits", lambda f, x, y, **o: f.binary_cross_entropy_with_logits(x, y, **o), [normal(3, 4), shares(3, 4)], []),
    ("logits, weight", lambda f, x, y, w, **o: f.binary_cross_entropy_with_logits(x, y, w, **o), [normal(3, 4)],
     [shares(3, 4), shares(3, 1)]),
    ("logits, pos_weight", lambda f, x, y, w, **o: f.binary_cross_entropy_with_logits(x, y, pos_weight=w, **o),
     [normal(3, 4), shares(3, 4)], [1 + shares(4)]),
    ("logits, both", lambda f, x, y, v, w, **o: f.binary_cross_entropy_with_logits(x, y, v, pos_weight=w, **o),
     [3 * normal(3, 4)], [(shares(3, 4) > 0.5) * 1.0, shares(3, 4), 1 + shares(4)]),
    ("kl", lambda f, x, y, **o: f.kl_div(x, y, **o), [normal(3, 4), shares(3, 4)], []),
    ("kl, log", lambda f, x, y, **o: f.kl_div(x, y, log_target=True, **o), [normal(3, 4), normal(3, 4, seed=1)], []),
    ("cosine embedding", lambda f, x, y, t, **o: f.cosine_embedding_loss(x, y, t, 0.1, **o),
     [normal(6, 3), normal(6, 3, seed=1)], [signs(6)]),
    ("cosine embedding of one", lambda f, x, y, t, **o: f.cosine_embedding_loss(x, y, t, **o),
     [normal(3), normal(3, seed=1)], [signs()]),
    ("ranking", lambda f, x, y, t, **o: f.margin_ranking_loss(x, y, t, 0.2, **o), [normal(7), normal(7, seed=1)],
     [signs(7)]),
    ("hinge", lambda f, x, t, **o: f.hinge_embedding_loss(x, t, **o), [normal(4, 5)], [signs(4, 5)]),
    ("soft margin", lambda f, x, t, **o: f.soft_margin_loss(x, t, **o), [normal(4, 5)], [signs(4, 5)]),
]  # fmt: skip


@pytest.mark.peers
@pytest.mark.parametrize("reduction", REDUCED)
@pytest.mark.parametrize(("name", "call", "inputs", "others"), PLAIN, ids=[p[0].replace(" ", "-") for p in PLAIN])
def test_losses_follow_pytorch(
    name: str, call: Call, inputs: list[Array], others: list[Array], reduction: str, dtype: str, device: str
) -> None:
    """Values, gradients with respect to inputs and targets, and gradients of those."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(kl_div: )?reduction")
        compare(lambda f, *a: call(f, *a, reduction=reduction), inputs, others, dtype, device)


CLASSES = [
    ("nll", lambda f, x, t, w: f.nll_loss(f.log_softmax(x, 1), t, w)),
    ("nll, ignored", lambda f, x, t, w: f.nll_loss(f.log_softmax(x, 1), t, w, ignore_index=2, reduction="sum")),
    ("entropy", lambda f, x, t, w: f.cross_entropy(x, t, w)),
    ("entropy, ignored", lambda f, x, t, w: f.cross_entropy(x, t, w, ignore_index=2, reduction="none")),
    ("entropy, smoothed", lambda f, x, t, w: f.cross_entropy(x, t, w, label_smoothing=0.2)),
    ("all of it", lambda f, x, t, w: f.cross_entropy(x, t, w, ignore_index=0, label_smoothing=0.1, reduction="mean")),
    ("summed", lambda f, x, t, w: f.cross_entropy(x, t, w, ignore_index=0, label_smoothing=0.1, reduction="sum")),
]


@pytest.mark.peers
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(6, 4), (3, 4, 2), (2, 4, 3, 2)], ids=str)
@pytest.mark.parametrize(("name", "call"), CLASSES, ids=[c[0].replace(" ", "-") for c in CLASSES])
def test_second_derivatives_of_losses_of_classes_follow_pytorch(
    name: str, call: Call, shape: tuple[int, ...], weighted: bool, dtype: str, device: str
) -> None:
    target = np.random.default_rng(3).integers(0, shape[1], (shape[0], *shape[2:]))
    if weighted:
        compare(call, [normal(*shape)], [target, np.array([0.5, 1.0, 2.0, 0.25])], dtype, device)
    else:
        compare(lambda f, x, t: call(f, x, t, None), [normal(*shape)], [target], dtype, device)


@pytest.mark.peers
@pytest.mark.parametrize("log_target", [False, True])
def test_batchmean(log_target: bool, dtype: str, device: str) -> None:
    def call(f: Any, x: Any, t: Any) -> Any:
        return f.kl_div(x, t, reduction="batchmean", log_target=log_target)

    for shape in ((5, 3), (4, 3, 2), ()):
        compare(call, [normal(*shape), shares(*shape)], [], dtype, device)


def test_the_divergence_is_what_it_says() -> None:
    p, q = (a / a.sum(1, keepdims=True) for a in (shares(4, 3), shares(4, 3, seed=1)))
    found = F.kl_div(tb.tensor(np.log(q)), tb.tensor(p), reduction="batchmean")
    np.testing.assert_allclose(found.item(), (p * np.log(p / q)).sum() / 4, rtol=1e-12)
    logs = F.kl_div(tb.tensor(np.log(q)), tb.tensor(np.log(p)), reduction="batchmean", log_target=True)
    np.testing.assert_allclose(logs.item(), found.item(), rtol=1e-12)
    x = tb.tensor([[0.0, 1.0]], dtype=tb.float64, requires_grad=True)
    F.kl_div(tb.zeros(1, 2, dtype=tb.float64), x, reduction="sum").backward()
    assert x.grad is not None
    assert np.isfinite(x.grad.numpy()).all()  # 0 ln 0 = 0


def test_the_mean_of_the_divergence_warns() -> None:
    with pytest.warns(UserWarning, match="the divergence is reduction='batchmean'"):
        F.kl_div(tb.zeros(2, 3), tb.ones(2, 3))


@pytest.mark.peers
@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("shapes", [((4, 3), (4, 3)), ((4, 3, 2), (1, 3, 1)), ((3, 2), (4, 3, 2))], ids=str)
def test_cosine_similarity_follows_pytorch(shapes: Any, dim: int, dtype: str, device: str) -> None:
    inputs = [normal(*shapes[0]), normal(*shapes[1], seed=1)]
    compare(lambda f, a, b: f.cosine_similarity(a, b, dim), inputs, [], dtype, device)


def test_vectors_of_length_0_have_a_finite_derivative(device: str) -> None:
    a, b = tb.zeros(2, 3, device=device, requires_grad=True), tb.ones(2, 3, device=device)
    y = F.cosine_similarity(a, b)
    assert y.tolist() == [0.0, 0.0]
    y.backward(tb.ones(2, device=device))
    assert a.grad is not None
    np.testing.assert_allclose(a.grad.numpy(), np.full((2, 3), 1e8 / np.sqrt(3)), rtol=1e-6)


# ------------------------------------------------------------------------------------------------------- extreme inputs

EXTREME = np.array([-1e4, -200.0, -30.0, -1.0, 0.0, 1.0, 30.0, 200.0, 1e4])


def exact_logits(x: Array, t: Array) -> Array:
    rest = np.log1p(np.exp(-np.abs(x)))
    return np.asarray((1 - t) * (np.maximum(x, 0) + rest) + t * (np.maximum(-x, 0) + rest))


@pytest.mark.parametrize("weighted", [False, True])
def test_extreme_scores(weighted: bool, dtype: str, device: str) -> None:
    """Losses of scores up to 1e4 are right to their last digits, as small as they may be; gradients are finite."""
    x, t = (a.ravel() for a in np.meshgrid(EXTREME, [0.0, 0.3, 1.0]))
    scores = tb.tensor(x.astype(dtype), device=device, requires_grad=True)
    target = tb.tensor(t.astype(dtype), device=device)
    weight = tb.ones(1, dtype=dtype, device=device) if weighted else None
    losses = F.binary_cross_entropy_with_logits(scores, target, reduction="none", pos_weight=weight)
    want = exact_logits(x, t.astype(dtype).astype(float))
    np.testing.assert_allclose(losses.detach().numpy(), want, rtol=1e-6 if dtype == "float32" else 1e-14, atol=1e-44)
    losses.backward(tb.ones_like(losses))
    assert scores.grad is not None
    with np.errstate(over="ignore"):
        slope = 1 / (1 + np.exp(-x)) - t
    np.testing.assert_allclose(scores.grad.numpy(), slope, atol=2e-7)


@pytest.mark.peers
@pytest.mark.parametrize(("name", "call"), CLASSES[2:], ids=[c[0].replace(" ", "-") for c in CLASSES[2:]])
def test_extreme_scores_of_classes(name: str, call: Call, dtype: str, device: str) -> None:
    """Scores of ±1e4, of -inf for classes that count for nothing, and NaN, which stays in its own row."""
    scores = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4], [30.0, 0.0, 1e4], [3.0, 2.0, 1.0]])
    weight = np.array([0.5, 1.0, 2.0])
    compare(call, [scores], [np.array([1, 2, 0, 1]), weight], dtype, device, second=False)
    torch = pytest.importorskip("torch")
    scores[1, 0], scores[2, 1] = -np.inf, np.nan
    results = []
    for lib, where in ((tb, device), (torch, "cpu")):
        x = lib.tensor(scores.astype(dtype), device=where)
        f = lib.nn.functional
        results.append(f.cross_entropy(x, lib.tensor([1, 2, 0, 1], device=where), reduction="none").numpy())
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)
    assert np.isnan(results[0]).tolist() == [False, False, True, False]


@pytest.mark.peers
def test_infinite_scores_where_they_are_defined(dtype: str, device: str) -> None:
    torch = pytest.importorskip("torch")
    x, t = np.array([np.inf, -np.inf, np.nan, 3.0], dtype), np.array([0.5, 0.5, 1.0, np.nan], dtype)
    call = "binary_cross_entropy_with_logits"
    mine = getattr(F, call)(tb.tensor(x, device=device), tb.tensor(t, device=device), reduction="none").numpy()
    assert mine[:2].tolist() == [np.inf, np.inf]
    assert np.isnan(mine[2:]).all()
    theirs = getattr(torch.nn.functional, call)(torch.tensor(x), torch.tensor(t), reduction="none").numpy()
    assert np.array_equal(np.isnan(theirs[2:]), np.isnan(mine[2:]))


@pytest.mark.peers
def test_certain_probabilities(dtype: str, device: str) -> None:
    """Logarithms stop at -100; the gradient is limited as in PyTorch."""
    torch = pytest.importorskip("torch")
    x, t = (a.ravel().astype(dtype) for a in np.meshgrid([0.0, 1.0, 1e-30, 0.5], [0.0, 1.0, 0.25]))
    ours, theirs = tb.tensor(x, device=device, requires_grad=True), torch.tensor(x, requires_grad=True)
    mine = F.binary_cross_entropy(ours, tb.tensor(t, device=device), reduction="none")
    reference = torch.nn.functional.binary_cross_entropy(theirs, torch.tensor(t), reduction="none")
    np.testing.assert_allclose(mine.detach().numpy(), reference.detach().numpy(), rtol=1e-6)
    assert mine.detach().numpy().max() == 100.0
    mine.backward(tb.ones_like(mine))
    reference.sum().backward()
    assert ours.grad is not None
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-6)


@pytest.mark.peers
@pytest.mark.parametrize("name", ["huber_loss", "smooth_l1_loss", "mse_loss", "l1_loss"])
def test_extreme_differences(name: str, dtype: str, device: str) -> None:
    torch = pytest.importorskip("torch")
    x = np.array([1e4, -1e4, np.inf, -np.inf, np.nan, 0.0], dtype)
    ours, theirs = tb.tensor(x, device=device, requires_grad=True), torch.tensor(x, requires_grad=True)
    mine = getattr(F, name)(ours, tb.zeros_like(ours), reduction="none")
    reference = getattr(torch.nn.functional, name)(theirs, torch.zeros_like(theirs), reduction="none")
    np.testing.assert_allclose(mine.detach().numpy(), reference.detach().numpy(), rtol=1e-6)
    mine.backward(tb.ones_like(mine))
    reference.sum().backward()
    assert ours.grad is not None
    np.testing.assert_allclose(ours.grad.numpy()[:4], theirs.grad.numpy()[:4], rtol=1e-6)


ACTIVATIONS: list[tuple[str, dict[str, Any]]] = [
    ("leaky_relu", {"negative_slope": 0.1}), ("relu6", {}), ("hardtanh", {}), ("elu", {"alpha": 0.7}), ("selu", {}),
    ("celu", {"alpha": 2.0}), ("gelu", {}), ("gelu", {"approximate": "tanh"}), ("silu", {}), ("mish", {}),
    ("softplus", {}), ("softplus", {"beta": 2.0, "threshold": 5.0}), ("logsigmoid", {}), ("hardsigmoid", {}),
    ("hardswish", {}), ("softsign", {}), ("tanhshrink", {}),
]  # fmt: skip


@pytest.mark.peers
@pytest.mark.parametrize(("name", "options"), ACTIVATIONS)
def test_extreme_activations_follow_pytorch(name: str, options: dict[str, Any], dtype: str, device: str) -> None:
    """Values, first and second derivatives at 0, at the limits and far out; nothing there is NaN.

    PyTorch has no second derivative of hardsigmoid, whose first one it multiplies by 1/6 of float32, and that of mish
    is NaN far out.
    """
    points = np.concatenate([EXTREME, [-3.0, 3.0, 6.0, 0.5, -0.25, 10.0, 12.0]])
    lacking, least = name in ("hardsigmoid", "mish"), 1e-7 if name == "hardsigmoid" else 0
    mine = compare(lambda f, x: getattr(f, name)(x, **options), [points], [], dtype, device, not lacking, least)
    assert np.isfinite(mine.detach().numpy()).all()


@pytest.mark.peers
@pytest.mark.parametrize(("name", "options"), ACTIVATIONS)
def test_nan_and_infinity(name: str, options: dict[str, Any], dtype: str, device: str) -> None:
    """NaN stays NaN, in the gradient too; at infinity the values are PyTorch's where it has some."""
    torch = pytest.importorskip("torch")
    x = np.array([np.nan, np.inf, -np.inf, 1.0], dtype)
    ours = tb.tensor(x, device=device, requires_grad=True)
    mine = getattr(F, name)(ours, **options)
    reference = getattr(torch.nn.functional, name)(torch.tensor(x), **options).numpy()
    known = ~np.isnan(reference)
    np.testing.assert_allclose(mine.detach().numpy()[known], reference[known], rtol=1e-6)
    mine.backward(tb.ones_like(mine))
    assert ours.grad is not None
    assert np.isnan(mine.detach().numpy()[0])
    assert np.isnan(ours.grad.numpy()[0])


def test_lower_tails_keep_their_digits(device: str) -> None:
    """gelu, silu and logsigmoid of float32 far below 0, relative to themselves."""
    from scipy.special import log_expit, ndtr

    x = np.linspace(-12, -2, 200).astype(np.float32)
    wide = x.astype(np.float64)
    for name, want in (
        ("gelu", wide * ndtr(wide)),
        ("silu", wide / (1 + np.exp(-wide))),
        ("logsigmoid", log_expit(wide)),
    ):
        np.testing.assert_allclose(getattr(F, name)(tb.tensor(x, device=device)).numpy(), want, rtol=2e-6)
        up = getattr(F, name)(tb.tensor(-x, device=device)).numpy()
        if name == "logsigmoid":
            np.testing.assert_allclose(up, log_expit(-wide), rtol=2e-6)


# ---------------------------------------------------------------------------------------------------- in place, modules

IN_PLACE = [
    ("relu", {}), ("relu6", {}), ("leaky_relu", {"negative_slope": 0.2}), ("hardtanh", {}), ("elu", {"alpha": 0.5}),
    ("selu", {}), ("celu", {"alpha": 0.5}), ("silu", {}), ("mish", {}), ("hardsigmoid", {}), ("hardswish", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), IN_PLACE)
def test_activations_in_place(name: str, options: dict[str, Any], device: str) -> None:
    """The input itself is returned, changed; gradients are those of the pure function; a leaf is refused."""
    function = getattr(F, name)
    x = tb.tensor(2 * normal(3, 4), device=device, requires_grad=True)
    with pytest.raises(GradientError):
        function(x, inplace=True, **options)
    y = x * 1.0
    assert function(y, inplace=True, **options) is y
    pure = function(x, **options)
    assert y.tolist() == pure.tolist()
    w = tb.tensor(normal(3, 4, seed=1), device=device)
    assert tb.grad(y, x, w)[0].tolist() == tb.grad(pure, x, w)[0].tolist()


MODULES: list[tuple[str, tuple[Any, ...]]] = [
    ("LeakyReLU", ()), ("LeakyReLU", (0.3, True)), ("ELU", ()), ("ELU", (0.5, True)), ("GELU", ()), ("GELU", ("tanh",)),
    ("SiLU", ()), ("SiLU", (True,)), ("Softplus", ()), ("Softplus", (2, 10)), ("Hardtanh", ()),
    ("Hardtanh", (-2, 0.5, True)), ("ReLU6", ()), ("ReLU6", (True,)), ("LogSigmoid", ()), ("SELU", ()),
    ("SELU", (True,)),
    ("CELU", ()), ("CELU", (2.0, True)), ("Mish", ()), ("Mish", (True,)), ("Hardsigmoid", ()), ("Hardsigmoid", (True,)),
    ("Hardswish", ()), ("Hardswish", (True,)), ("Softsign", ()), ("Tanhshrink", ()), ("PReLU", ()), ("PReLU", (4, 0.1)),
]  # fmt: skip


@pytest.mark.peers
@pytest.mark.parametrize(("name", "arguments"), MODULES)
def test_modules_of_activations_follow_pytorch(name: str, arguments: tuple[Any, ...], dtype: str, device: str) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = (getattr(lib.nn, name)(*arguments) for lib in (tb, torch))
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.to(dtype, device=device)
    theirs.to(getattr(torch, dtype))
    a = 2 * normal(3, 4, 2).astype(dtype)
    x, y = tb.tensor(a, device=device, requires_grad=True), torch.tensor(a, requires_grad=True)
    mine, reference = ours(x * 1.0), theirs(y * 1.0)
    cotangent = normal(3, 4, 2, seed=1).astype(dtype)
    mine.backward(tb.tensor(cotangent, device=device))
    reference.backward(torch.from_numpy(cotangent))
    pairs = [(mine, reference), (x.grad, y.grad)]
    pairs += [(p.grad, q.grad) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True)]
    for p, q in pairs:
        close(p, q, max(RTOL[dtype], 1e-7 if name == "Hardsigmoid" else 0))


VALUES, PROBABILITIES, SIGNS = normal(6, 3), shares(6, 3), signs(6, 3)
LOSSES: list[tuple[str, dict[str, Any], list[Array]]] = [
    ("SmoothL1Loss", {"beta": 0.5}, [VALUES, normal(6, 3, seed=1)]),
    ("HuberLoss", {"delta": 0.5}, [VALUES, normal(6, 3, seed=1)]),
    ("BCELoss", {"weight": shares(3)}, [PROBABILITIES, shares(6, 3, seed=1)]),
    ("BCEWithLogitsLoss", {"weight": shares(3), "pos_weight": 1 + shares(3)}, [VALUES, PROBABILITIES]),
    ("KLDivLoss", {"log_target": True}, [VALUES, normal(6, 3, seed=1)]),
    ("CosineEmbeddingLoss", {"margin": 0.2}, [VALUES, normal(6, 3, seed=1), signs(6)]),
    ("MarginRankingLoss", {"margin": 0.2}, [VALUES, normal(6, 3, seed=1), SIGNS]),
    ("HingeEmbeddingLoss", {}, [VALUES, SIGNS]),
    ("SoftMarginLoss", {}, [VALUES, SIGNS]),
]


@pytest.mark.peers
@pytest.mark.parametrize("reduction", [*REDUCED, "batchmean"])
@pytest.mark.parametrize(("name", "options", "arrays"), LOSSES, ids=[c[0] for c in LOSSES])
def test_modules_of_losses_follow_pytorch(
    name: str, options: dict[str, Any], arrays: list[Array], reduction: str
) -> None:
    torch = pytest.importorskip("torch")
    if reduction == "batchmean" and name != "KLDivLoss":
        with pytest.raises(ArgumentError, match=f"{name}: 'reduction' must be 'mean', 'sum' or 'none'"):
            getattr(nn, name)(reduction=reduction)
        return
    found = []
    for lib in (tb, torch):
        made = {k: lib.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        loss = getattr(lib.nn, name)(reduction=reduction, **made)
        assert list(loss.state_dict()) == [k for k, v in options.items() if isinstance(v, np.ndarray)]
        assert repr(loss) == f"{name}()"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(kl_div: )?reduction")
            found.append(loss(*[lib.tensor(a) for a in arrays]).numpy())
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)


@pytest.mark.peers
def test_cosine_similarity_as_a_module() -> None:
    torch = pytest.importorskip("torch")
    a, b = normal(4, 3, 2), normal(4, 3, 2, seed=1)
    ours, theirs = (lib.nn.CosineSimilarity(2, 1e-6)(lib.tensor(a), lib.tensor(b)) for lib in (tb, torch))
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-12)


def test_modules_keep_their_weights_as_buffers() -> None:
    loss = nn.BCEWithLogitsLoss(tb.ones(3), pos_weight=tb.ones(3)).double()
    assert loss.weight is not None
    assert loss.pos_weight is not None
    assert loss.weight.dtype is loss.pos_weight.dtype is tb.float64


def test_gradients_reach_the_weights() -> None:
    """Of pos_weight, and of both sides of every loss of pairs, to the second order."""
    x, t, w = (tb.tensor(a) for a in (normal(3, 4), shares(3, 4), 1 + shares(4)))
    check_vjp(lambda x, t, w: F.binary_cross_entropy_with_logits(x, t, pos_weight=w), [x, t, w], order=2)
    a, b, s = tb.tensor(normal(4, 3)), tb.tensor(normal(4, 3, seed=1)), tb.tensor([1, -1, 1, -1])
    check_vjp(lambda a, b: F.cosine_embedding_loss(a, b, s, -0.9, reduction="none"), [a, b], order=2)


# --------------------------------------------------------------------------------------------------------------- errors

HALF = tb.full((2, 3), 0.5)
ERRORS: list[tuple[str, Call, type[Exception], str]] = [
    ("reduction", lambda: F.binary_cross_entropy(HALF, HALF, reduction="avg"), ArgumentError,
     "binary_cross_entropy: 'reduction' must be 'mean', 'sum' or 'none'. Got 'avg'."),
    ("reduction, kl", lambda: F.kl_div(HALF, HALF, reduction="avg"), ArgumentError,
     "kl_div: 'reduction' must be 'batchmean', 'mean', 'sum' or 'none'. Got 'avg'."),
    ("deprecated", lambda: F.huber_loss(HALF, HALF, "avg"), ArgumentError, "huber_loss: 'reduction' must be"),
    ("size_average", lambda: F.smooth_l1_loss(HALF, HALF, True), ArgumentError,  # type: ignore[arg-type]
     "smooth_l1_loss: 'size_average' must be left out"),
    ("shape", lambda: F.binary_cross_entropy(HALF, tb.ones(3)), ShapeError,
     "binary_cross_entropy: 'target' must have the input's shape (2, 3). Got (3,)."),
    ("dtype", lambda: F.binary_cross_entropy_with_logits(HALF, tb.ones(2, 3, dtype=tb.int64)), DTypeError,
     "binary_cross_entropy_with_logits: 'target' must have dtype float32, as input has. Got int64.\nHint: convert it"),
    ("input", lambda: F.binary_cross_entropy(HALF * 3, HALF), ArgumentError,
     "binary_cross_entropy: 'input' must be from 0 to 1. Got other values.\nHint: binary_cross"),
    ("target", lambda: F.binary_cross_entropy(HALF, -HALF), ArgumentError,
     "binary_cross_entropy: 'target' must be from 0 to 1. Got other values."),
    ("NaN", lambda: F.binary_cross_entropy(HALF * float("nan"), HALF), ArgumentError, "'input' must be from 0 to 1"),
    ("weight", lambda: F.binary_cross_entropy(HALF, HALF, tb.ones(4, 2, 3)), ShapeError,
     "binary_cross_entropy: 'weight' must have a shape that broadcasts to (2, 3). Got (4, 2, 3)."),
    ("pos_weight", lambda: F.binary_cross_entropy_with_logits(HALF, HALF, pos_weight=tb.ones(2, 1, 1)), ShapeError,
     "'pos_weight' must have a shape that broadcasts to (2, 3)"),
    ("weight's device", lambda: F.binary_cross_entropy(HALF, HALF, tb.ones(3, device="ref")), DeviceError,
     "binary_cross_entropy: 'weight' must be on device cpu"),
    ("device", lambda: F.binary_cross_entropy(HALF, tb.ones(2, 3, device="ref")), DeviceError, "'target' must be on"),
    ("no target", lambda: F.kl_div(HALF, [1.0]), DTypeError, "kl_div: 'target' must be a Tensor. Got list."),
    ("integers", lambda: F.kl_div(tb.ones(2, dtype=tb.int64), HALF), DTypeError, "kl_div: 'input' must be a floating"),
    ("weight, mse", lambda: F.mse_loss(HALF, HALF, weight=tb.ones(3)), ShapeError,
     "mse_loss: 'weight' must have the input's shape (2, 3). Got (3,)."),
    ("beta", lambda: F.smooth_l1_loss(HALF, HALF, beta=-1.0), ArgumentError,
     "smooth_l1_loss: 'beta' must be at least 0. Got -1.0."),
    ("delta", lambda: F.huber_loss(HALF, HALF, delta=0.0), ArgumentError,
     "huber_loss: 'delta' must be above 0. Got 0.0."),
    ("cosine", lambda: F.cosine_embedding_loss(HALF, HALF, tb.ones(2, 1)), ShapeError,
     "cosine_embedding_loss: 'target' must have (N,) for inputs (N, D)"),
    ("ranking", lambda: F.margin_ranking_loss(HALF, HALF, tb.ones(3)), ShapeError,
     "margin_ranking_loss: 'target' must have as many axes as the inputs, 2. Got (3,)."),
    ("Hardtanh", lambda: nn.Hardtanh(1.0, 1.0), ArgumentError,
     "Hardtanh: 'max_val' must be above min_val = 1.0. Got 1.0."),
    ("module", lambda: nn.BCELoss(reduction="batchmean"), ArgumentError, "BCELoss: 'reduction' must be"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "call", "kind", "message"), ERRORS, ids=[e[0].replace(" ", "-") for e in ERRORS])
def test_errors(name: str, call: Call, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["smooth_l1_loss", "huber_loss", "mse_loss", "l1_loss"])
def test_a_difference_in_shape_warns(name: str) -> None:
    with pytest.warns(UserWarning, match=rf"{name}: 'target' has shape \(3,\), 'input' \(2, 3\)") as caught:
        getattr(F, name)(tb.zeros(2, 3), tb.ones(3))
    assert caught[0].filename == __file__


def test_numbers_as_operands_are_taken_flat() -> None:
    """A kernel on one large operand and single numbers is split among threads: its arrays have one axis."""
    seen: list[tuple[str, list[int]]] = []

    def watch(kernel: Any, arguments: tuple[Any, ...], run: Callable[[], None]) -> None:
        seen.append((kernel.name, [a.size for a in arguments if a.ndim == 1]))
        run()

    x, one = tb.zeros(3, 4, 5), tb.ones(())
    launch.observers.append(watch)
    try:
        F.elu(x)
        tb.where(x, x, 0.0)
        tb.clamp(one, 0.0)
    finally:
        launch.observers.remove(watch)
    assert seen == [("elu", [60, 1, 1, 1, 60]), ("ne", [60, 1, 60]), ("where", [60, 60, 1, 60]), ("clamp", [1] * 4)]
