"""The functional layer: losses against PyTorch and their definitions, batch normalisation with running statistics."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn.errors import ArgumentError, DeviceError, DTypeError, IndexRangeError, ShapeError

RTOL = {"float32": 1e-5, "float64": 1e-12}


def normal(*shape: int, seed: int = 0, dtype: str = "float64") -> np.ndarray[Any, Any]:
    return np.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def classes(shape: tuple[int, ...], count: int, ignored: int | None = None, seed: int = 1) -> np.ndarray[Any, Any]:
    found = np.asarray(np.random.default_rng(seed).integers(0, count, size=shape))
    if ignored is not None and found.ndim:
        found.reshape(-1)[::3] = ignored
    return found


def test_one_module_under_two_names() -> None:
    assert tb.nn.functional is tb.functional
    assert F is tb.functional


# ---------------------------------------------------------------------------------------------- losses

SCORES = (((6, 4), (6,)), ((5,), ()), ((2, 3, 4), (2, 4)), ((2, 3, 4, 5), (2, 4, 5)), ((1, 2), (1,)))
CROSS_ENTROPY = [
    (shape, options)
    for shape in SCORES
    for options in (
        {},
        {"weight": True},
        {"label_smoothing": 0.2},
        {"weight": True, "label_smoothing": 0.3},
        {"weight": True, "label_smoothing": 1.0, "ignore_index": 1},
        {"ignore_index": 1},
    )
]


def compare(
    call: Any,
    inputs: list[np.ndarray[Any, Any]],
    others: list[np.ndarray[Any, Any]],
    dtype: str,
    device: str,
    slack: float = 1.0,
) -> None:
    """Compare value and gradients of a call with PyTorch's; the cotangent is random."""
    torch = pytest.importorskip("torch")
    tolerance = RTOL[dtype] * slack
    ours = [tb.tensor(a.astype(dtype), device=device, requires_grad=True) for a in inputs]
    theirs = [torch.tensor(a.astype(dtype), requires_grad=True) for a in inputs]
    mine = call(F, tb, *ours, *[tb.tensor(o, device=device) for o in others])
    reference = call(torch.nn.functional, torch, *theirs, *[torch.tensor(o) for o in others])
    assert mine.shape == tuple(reference.shape)
    np.testing.assert_allclose(mine.detach().numpy(), reference.detach().numpy(), rtol=tolerance, atol=tolerance)
    cotangent = normal(*mine.shape, seed=9, dtype=dtype)
    mine.backward(tb.tensor(cotangent, device=device))
    reference.backward(torch.tensor(cotangent))
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is not None
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.peers
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("shapes", "options"), CROSS_ENTROPY)
def test_cross_entropy_follows_pytorch(
    shapes: tuple[Any, Any], options: dict[str, Any], reduction: str, dtype: str, device: str
) -> None:
    score, target = shapes
    count = score[1] if len(score) > 1 else score[0]
    chosen = dict(options)
    weighted = chosen.pop("weight", False)
    others = [classes(target, count, chosen.get("ignore_index"))]
    if weighted:
        others.append((0.5 + np.arange(count)).astype(dtype))

    def call(functional: Any, lib: Any, x: Any, t: Any, weight: Any = None) -> Any:
        return functional.cross_entropy(x, t, weight, reduction=reduction, **chosen)

    compare(call, [normal(*score)], others, dtype, device)


@pytest.mark.peers
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.25])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(6, 4), (5,), (2, 3, 4)])
def test_cross_entropy_with_probabilities_follows_pytorch(
    shape: tuple[int, ...], weighted: bool, smoothing: float, reduction: str, dtype: str, device: str
) -> None:
    axis = 1 if len(shape) > 1 else 0
    target = np.exp(normal(*shape, seed=5))
    target /= target.sum(axis, keepdims=True)
    others = [(0.5 + np.arange(shape[axis])).astype(dtype)] if weighted else []

    def call(functional: Any, lib: Any, x: Any, t: Any, weight: Any = None) -> Any:
        return functional.cross_entropy(x, t, weight, reduction=reduction, label_smoothing=smoothing)

    compare(call, [normal(*shape), target], others, dtype, device)


@pytest.mark.peers
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shapes", SCORES)
def test_nll_loss_follows_pytorch(
    shapes: tuple[Any, Any], weighted: bool, reduction: str, dtype: str, device: str
) -> None:
    score, target = shapes
    count = score[1] if len(score) > 1 else score[0]
    others = [classes(target, count, -100)]
    if weighted:
        others.append((0.5 + np.arange(count)).astype(dtype))

    def call(functional: Any, lib: Any, x: Any, t: Any, weight: Any = None) -> Any:
        return functional.nll_loss(x, t, weight, reduction=reduction)

    compare(call, [normal(*score)], others, dtype, device)


@pytest.mark.peers
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ["mse_loss", "l1_loss"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3)])
def test_errors_of_values_follow_pytorch(
    name: str, shape: tuple[int, ...], reduction: str, dtype: str, device: str
) -> None:
    def call(functional: Any, lib: Any, x: Any, y: Any) -> Any:
        return getattr(functional, name)(x, y, reduction=reduction)

    compare(call, [normal(*shape), normal(*shape, seed=1)], [], dtype, device)


def test_cross_entropy_is_what_it_says() -> None:
    x, t = normal(7, 3), classes((7,), 3)
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    expected = -np.log(p[np.arange(7), t])
    found = F.cross_entropy(tb.tensor(x), tb.tensor(t), reduction="none")
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    weight = np.array([0.5, 2.0, 1.0])
    found = F.cross_entropy(tb.tensor(x), tb.tensor(t), tb.tensor(weight))
    np.testing.assert_allclose(found.item(), (expected * weight[t]).sum() / weight[t].sum(), rtol=1e-12)


@given(smoothing=st.floats(0, 1), n=st.integers(1, 9), c=st.integers(1, 7), seed=st.integers(0, 99))
def test_smoothed_indices_equal_smoothed_probabilities(smoothing: float, n: int, c: int, seed: int) -> None:
    x, t = tb.tensor(normal(n, c, seed=seed)), classes((n,), c, seed=seed)
    onehot = tb.tensor(np.eye(c)[t])
    one = F.cross_entropy(x, tb.tensor(t), label_smoothing=smoothing)
    two = F.cross_entropy(x, onehot, label_smoothing=smoothing)
    np.testing.assert_allclose(one.item(), two.item(), rtol=1e-12, atol=1e-14)


def test_losses_of_nothing() -> None:
    x, t = tb.zeros(0, 3), tb.zeros(0, dtype=tb.int64)
    for weight in (None, tb.ones(3)):
        assert np.isnan(F.cross_entropy(x, t, weight).item())
        assert F.cross_entropy(x, t, weight, reduction="sum").item() == 0.0
        assert F.cross_entropy(x, t, weight, reduction="none").shape == (0,)
    assert F.nll_loss(x, t, reduction="sum").item() == 0.0


def test_a_difference_in_shape_warns() -> None:
    with pytest.warns(UserWarning, match=r"'target' has shape \(3,\), 'input' \(2, 3\)"):
        assert F.mse_loss(tb.zeros(2, 3), tb.ones(3)).item() == 1.0


SCORE, INDEX = tb.zeros(2, 3), tb.tensor([0, 2])
ERRORS: list[tuple[str, Any, type[Exception], str]] = [
    ("legacy", lambda: F.cross_entropy(SCORE, INDEX, size_average=True), ArgumentError,  # type: ignore[arg-type]
     "cross_entropy: 'size_average' must be left out: PyTorch, too, has replaced it. Got a value.\nHint: use"),
    ("legacy", lambda: F.mse_loss(SCORE, SCORE, reduce=False), ArgumentError,  # type: ignore[arg-type]
     "mse_loss: 'reduce' must be left out"),
    ("reduction", lambda: F.cross_entropy(SCORE, INDEX, reduction="avg"), ArgumentError,
     "cross_entropy: 'reduction' must be 'mean', 'sum' or 'none'. Got 'avg'."),
    ("smoothing", lambda: F.cross_entropy(SCORE, INDEX, label_smoothing=1.5), ArgumentError,
     "cross_entropy: 'label_smoothing' must be from 0 to 1. Got 1.5."),
    ("class", lambda: F.cross_entropy(SCORE, tb.tensor([0, 3])), IndexRangeError, "cross_entropy: "),
    ("class, weights", lambda: F.cross_entropy(SCORE, tb.tensor([0, 3]), tb.ones(3)), IndexRangeError, "cross_"),
    ("negative class", lambda: F.cross_entropy(SCORE, tb.tensor([0, -1]), label_smoothing=0.1), IndexRangeError,
     "cross_entropy: "),
    ("class, nll", lambda: F.nll_loss(SCORE, tb.tensor([0, -1])), IndexRangeError,
     "nll_loss: 'target' must have classes from 0 to 2 or -100"),
    ("weight", lambda: F.cross_entropy(SCORE, INDEX, tb.ones(2)), ShapeError,
     "cross_entropy: 'weight' must have shape (C,) = (3,). Got (2,)."),
    ("weight's dtype", lambda: F.cross_entropy(SCORE, INDEX, tb.ones(3, dtype=tb.float64)), DTypeError,
     "cross_entropy: 'weight' must have dtype float32, as input has. Got float64."),
    ("weight's device", lambda: F.cross_entropy(SCORE, INDEX, tb.ones(3, device="ref")), DeviceError,
     "cross_entropy: 'weight' must be on device cpu"),
    ("probabilities", lambda: F.cross_entropy(SCORE, tb.ones(2)), ShapeError,
     "cross_entropy: 'target' must have the input's shape (2, 3) as class probabilities. Got (2,)."),
    ("probabilities' dtype", lambda: F.cross_entropy(SCORE, tb.ones(2, 3, dtype=tb.float64)), DTypeError,
     "cross_entropy: 'target' must have dtype float32"),
    ("ignored", lambda: F.cross_entropy(SCORE, tb.ones(2, 3), ignore_index=1), ArgumentError, "'ignore_index' must be"),
    ("integer scores", lambda: F.cross_entropy(INDEX, INDEX), DTypeError, "'input' must be a floating-point"),
    ("indices' shape", lambda: F.nll_loss(SCORE, tb.tensor([0])), ShapeError, "'target' must have shape (2,)"),
    ("indices' dtype", lambda: F.nll_loss(SCORE, tb.ones(2)), DTypeError, "nll_loss: 'target' must have dtype int64"),
    ("no tensor", lambda: F.cross_entropy(np.zeros((2, 3)), INDEX), DTypeError,  # type: ignore[arg-type]
     "cross_entropy: 'input' must be a Tensor. Got ndarray."),
    ("no axis", lambda: F.softmax(SCORE), ArgumentError, "softmax: 'dim' must be an int. Got None.\nHint: dim=1"),
    ("no axis", lambda: F.log_softmax(SCORE), ArgumentError, "log_softmax: 'dim' must be an int. Got None."),
    ("dropout", lambda: F.dropout(SCORE, 1.5), ArgumentError, "dropout: 'p' must be from 0 to 1. Got 1.5."),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS])
def test_errors(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert message in str(caught.value)


def test_names_that_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="did you mean cross_entropy"):
        _ = F.crossentropy


def test_in_place_variants() -> None:
    x = tb.tensor([-1.0, 2.0])
    assert F.relu(x, inplace=True) is x
    assert x.tolist() == [0.0, 2.0]
    y = tb.ones(1000)
    assert F.dropout(y, 0.5, inplace=True) is y
    assert set(y.tolist()) == {0.0, 2.0}
    assert F.dropout(y, 0.5, training=False) is y
    leaf = tb.ones(3, requires_grad=True)
    h = leaf * 1.0
    F.relu(h, inplace=True).backward(tb.tensor([1.0, 2.0, 3.0]))
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [1.0, 2.0, 3.0]


# --------------------------------------------------------------------------------- batch normalisation

NORMALISED = [(8, 3), (5, 2, 7), (4, 3, 2, 5), (2, 3, 2, 2, 2), (2, 1), (64, 17)]


def norm_arguments(shape: tuple[int, ...], dtype: str, affine: bool = True) -> list[np.ndarray[Any, Any]]:
    c = shape[1]
    arrays = [normal(*shape) * 2 + 1]
    if affine:
        arrays += [normal(c, seed=1) + 1, normal(c, seed=2)]
    return [a.astype(dtype) for a in arrays]


@pytest.mark.peers
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("shape", NORMALISED)
def test_batch_norm_follows_pytorch(
    shape: tuple[int, ...], activation: str | None, affine: bool, training: bool, dtype: str, device: str
) -> None:
    torch = pytest.importorskip("torch")
    c = shape[1]
    mean, var = normal(c, seed=3).astype(dtype), (normal(c, seed=4) ** 2 + 0.5).astype(dtype)
    running = {
        lib: (make(mean), make(var))
        for lib, make in ((tb, lambda a: tb.tensor(a, device=device)), (torch, torch.tensor))
    }

    def call(functional: Any, lib: Any, x: Any, weight: Any = None, bias: Any = None) -> Any:
        arguments = (x, *running[lib], weight, bias, training, 0.3, 1e-3)
        if activation is None:
            return functional.batch_norm(*arguments)
        if lib is tb:
            return functional.batch_norm_act(*arguments, activation=activation)
        return functional.relu(functional.batch_norm(*arguments))

    slack = 20 if dtype == "float32" and shape[0] == 2 else 1  # gradients of two values cancel, in PyTorch in float32
    compare(call, norm_arguments(shape, dtype, affine), [], dtype, device, slack)
    for mine, theirs in zip(running[tb], running[torch], strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=RTOL[dtype], atol=RTOL[dtype])
    assert bool((running[tb][0].numpy() != mean).any()) == training


def layouts(a: np.ndarray[Any, Any]) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    yield "C", a
    order = (0, *range(2, a.ndim), 1)
    yield "channels last", np.ascontiguousarray(a.transpose(order)).transpose(np.argsort(order))
    yield "reversed", np.ascontiguousarray(a.T).T
    wide = np.repeat(a, 2, axis=-1)
    yield "every second", wide[..., ::2]


@pytest.mark.parametrize("shape", [(8, 3), (5, 2, 7), (4, 3, 2, 5)])
def test_batch_norm_is_the_same_in_every_layout(shape: tuple[int, ...], device: str) -> None:
    a, w, b = norm_arguments(shape, "float64")
    results = []
    for _, strided in layouts(a):
        x = tb.from_numpy(strided).to(device=device).detach()
        x.requires_grad = True
        mean, var = (
            tb.zeros(shape[1], dtype=tb.float64, device=device),
            tb.ones(shape[1], dtype=tb.float64, device=device),
        )
        y = F.batch_norm(x, mean, var, tb.tensor(w, device=device), tb.tensor(b, device=device), True)
        y.backward(tb.tensor(normal(*shape, seed=8), device=device))
        assert x.grad is not None
        results.append((y.detach().numpy(), x.grad.numpy(), mean.numpy(), var.numpy()))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_allclose(two, one, rtol=1e-12, atol=1e-13)


def test_running_statistics_that_are_strided(device: str) -> None:
    x = tb.tensor(normal(6, 3), device=device)
    plain = (tb.zeros(3, dtype=tb.float64, device=device), tb.ones(3, dtype=tb.float64, device=device))
    table = tb.tensor([[0.0, 1.0]] * 3, dtype=tb.float64, device=device)
    strided = (table[:, 0], table[:, 1])
    F.batch_norm(x, *plain, training=True)
    F.batch_norm(x, *strided, training=True)
    for one, two in zip(plain, strided, strict=True):
        np.testing.assert_array_equal(one.numpy(), two.numpy())
    assert table.numpy()[0, 0] != 0.0


def test_running_statistics_are_not_recorded_but_their_version_rises() -> None:
    mean, var = tb.zeros(3), tb.ones(3)
    x = tb.tensor(normal(6, 3, dtype="float32"), requires_grad=True)
    evaluated = F.batch_norm(x, mean, var)
    F.batch_norm(x, mean, var, training=True)
    assert (mean.version, var.version) == (1, 1)
    assert not mean.requires_grad
    with pytest.raises(tb.errors.SavedTensorError, match="changed in place"):
        evaluated.backward(tb.ones(6, 3))


def test_running_statistics_by_their_formula(device: str) -> None:
    a = normal(6, 3, 4)
    mean, var = tb.full((3,), 2.0, dtype=tb.float64, device=device), tb.full((3,), 3.0, dtype=tb.float64, device=device)
    F.batch_norm(tb.tensor(a, device=device), mean, var, training=True, momentum=0.25)
    np.testing.assert_allclose(mean.numpy(), 0.75 * 2 + 0.25 * a.mean((0, 2)), rtol=1e-13)
    np.testing.assert_allclose(var.numpy(), 0.75 * 3 + 0.25 * a.var((0, 2), ddof=1), rtol=1e-13)


def test_an_empty_or_infinite_batch_moves_nothing(device: str) -> None:
    for x in (tb.zeros(0, 3, device=device), tb.tensor([[np.inf, 1, 1], [0, 1, 2]], dtype=tb.float32, device=device)):
        mean, var = tb.full((3,), 2.0, device=device), tb.full((3,), 3.0, device=device)
        y = F.batch_norm(x, mean, var, training=True)
        assert y.shape == x.shape
        assert mean.tolist() == [2.0] * 3
        assert var.tolist() == [3.0] * 3
    assert np.isnan(y.numpy()[:, 0]).all()
    np.testing.assert_allclose(y.numpy()[:, 2], [-1, 1], rtol=1e-4)


STATS = (tb.zeros(3), tb.ones(3))
NORM_ERRORS: list[tuple[str, Any, type[Exception], str]] = [
    ("one missing", lambda: F.batch_norm(SCORE, STATS[0], None, training=True), ArgumentError, "'running_var' must be"),
    ("none in eval", lambda: F.batch_norm(SCORE, None, None), ArgumentError, "'running_mean' must be given"),
    ("shape", lambda: F.batch_norm(SCORE, tb.zeros(2), STATS[1], training=True), ShapeError,
     "batch_norm: 'running_mean' must have shape (C,) = (3,). Got (2,)."),
    ("dtype", lambda: F.batch_norm(SCORE, STATS[0], tb.ones(3, dtype=tb.float64), training=True), DTypeError,
     "batch_norm: 'running_var' must have dtype float32, as input has. Got float64."),
    ("device", lambda: F.batch_norm(SCORE, STATS[0], tb.ones(3, device="ref"), training=True), DeviceError,
     "batch_norm: 'running_var' must be on device cpu"),
    ("momentum", lambda: F.batch_norm(SCORE, *STATS, training=True, momentum=1.5), ArgumentError,
     "batch_norm: 'momentum' must be from 0 to 1, the weight of the new batch. Got 1.5."),
    ("no momentum", lambda: F.batch_norm(SCORE, *STATS, None, None, True, "x"), ArgumentError,  # type: ignore[arg-type]
     "batch_norm: 'momentum' must be"),
    ("single", lambda: F.batch_norm(tb.zeros(1, 3), *STATS, training=True), ArgumentError,
     "batch_norm: 'input' must have more than one value a channel in training. Got shape (1, 3)."),
    ("axes", lambda: F.batch_norm(tb.zeros(3), *STATS, training=True), ShapeError, "'input' must have at least"),
    ("activation", lambda: F.batch_norm_act(SCORE, *STATS, activation="tan"), ArgumentError, "'activation' must be"),
    ("no tensor", lambda: F.batch_norm(3, *STATS, training=True), DTypeError,  # type: ignore[arg-type]
     "batch_norm: 'input' must be a Tensor. Got int."),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), [e[1:] for e in NORM_ERRORS], ids=[e[0] for e in NORM_ERRORS])
def test_batch_norm_errors(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert message in str(caught.value)
    assert STATS[0].tolist() == [0.0] * 3
    assert STATS[1].tolist() == [1.0] * 3


# ------------------------------------------------------------------------------------------ predicates

VALUES = np.array([0.0, -1.5, np.inf, -np.inf, np.nan, 1e30])


def test_finite_infinite_nan(device: str, dtype: str) -> None:
    a = VALUES.astype(dtype)
    x = tb.tensor(a, device=device)
    for name in ("isfinite", "isinf", "isnan"):
        found = getattr(tb, name)(x)
        assert found.dtype is tb.bool
        np.testing.assert_array_equal(found.numpy(), getattr(np, name)(a))
        np.testing.assert_array_equal(getattr(tb, name)(tb.arange(3, device=device)).numpy(), [name == "isfinite"] * 3)


@given(st.lists(st.sampled_from([*VALUES, 1.0, 1.0 + 1e-6, 1.1]), min_size=1, max_size=5), st.data())
def test_isclose_follows_numpy(values: list[float], data: st.DataObject) -> None:
    others = data.draw(st.lists(st.sampled_from([*VALUES, 1.0]), min_size=len(values), max_size=len(values)))
    equal_nan = data.draw(st.booleans())
    a, b = np.array(values), np.array(others)
    found = tb.isclose(tb.tensor(a), tb.tensor(b), equal_nan=equal_nan)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(found.numpy(), np.isclose(a, b, equal_nan=equal_nan))
        assert tb.allclose(tb.tensor(a), tb.tensor(b), equal_nan=equal_nan) is bool(
            np.allclose(a, b, equal_nan=equal_nan)
        )


def test_equal_and_others() -> None:
    x = tb.tensor([1.0, 2.0])
    assert tb.equal(x, x.clone()) is True
    assert tb.equal(x, tb.tensor([1.0, 3.0])) is False
    assert tb.equal(x, tb.tensor([[1.0, 2.0]])) is False
    assert tb.equal(tb.zeros(0), tb.zeros(0)) is True
    assert tb.all(x).item() is True
    assert tb.any(tb.zeros(3)).item() is False
    assert tb.is_tensor(x)
    assert not tb.is_tensor(x.numpy())
    assert tb.is_floating_point(x)
    assert not tb.is_floating_point(tb.arange(2))
    assert tb.numel(tb.zeros(2, 3)) == 6
    assert tb.square(x).tolist() == [1.0, 4.0]
    assert tb.mm(tb.ones(2, 3), tb.ones(3, 4)).shape == (2, 4)
    assert tb.bmm(tb.ones(5, 2, 3), tb.ones(5, 3, 4)).shape == (5, 2, 4)
    with pytest.raises(ShapeError, match="mm: 'mat2' must have 2 axes"):
        tb.mm(tb.ones(2, 3), tb.ones(1, 3, 4))
    with pytest.raises(ShapeError, match="bmm: 'mat2' must have a batch of 5"):
        tb.bmm(tb.ones(5, 2, 3), tb.ones(1, 3, 4))


def test_importing_loads_nothing_slow() -> None:
    slow = ("numba", "scipy", "safetensors", "matplotlib")
    code = f"import sys, tinygrad_bn; print([m for m in {slow} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    code = "import tinygrad_bn as tb; print(tb.data.__name__, tb.testing.__name__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "tinygrad_bn.data tinygrad_bn.testing"


def test_public_names_exist() -> None:
    for module in (tb, tb.nn, tb.functional, tb.optim, tb.cuda, tb.ops, tb.optim.lr_scheduler):
        for name in module.__all__:
            assert getattr(module, name) is not None, (module.__name__, name)
    with pytest.raises(AttributeError, match="did you mean .*linspace"):
        _ = tb.linspce
    with pytest.raises(AttributeError, match="__wrapped__"):
        _ = tb.__wrapped__
    assert not tb.cuda.is_available()
    assert tb.cuda.device_count() == 0
    assert isinstance(tb.float32, tb.dtype)
    assert tb.float is tb.float32
    assert tb.long is tb.int64
    assert "linspace" in dir(tb)
