"""Changes in place: values, versions, gradients through them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.errors import ArgumentError, DeviceError, DTypeError, GradientError, ShapeError
from tinygrad_bn.testing import check_vjp

pytestmark = pytest.mark.jit_off

METHODS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("add_", (2.0,)),
    ("sub_", (2.0,)),
    ("mul_", (3.0,)),
    ("div_", (4.0,)),
    ("pow_", (3,)),
    ("neg_", ()),
    ("exp_", ()),
    ("sqrt_", ()),
    ("tanh_", ()),
    ("sigmoid_", ()),
    ("relu_", ()),
    ("clamp_", (0.5, 1.5)),
    ("fill_", (7.0,)),
    ("zero_", ()),
)
ids = [m for m, _ in METHODS]


def values(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).uniform(0.3, 2.0, shape)


@pytest.mark.parametrize(("method", "arguments"), METHODS, ids=ids)
def test_values(method: str, arguments: tuple[Any, ...], device: str, dtype: str) -> None:
    """The tensor itself is returned, its memory changed, its version raised; others that share the memory see it."""
    x = tb.tensor(values(3, 4).astype(dtype), device=device)
    before, array, view, version = x.clone(), x.numpy(), x[1], x.version
    assert getattr(x, method)(*arguments) is x
    pure = {"fill_": lambda t, v: tb.full_like(t, v), "zero_": tb.zeros_like}.get(
        method, getattr(tb, method[:-1], None)
    )
    np.testing.assert_array_equal(x.numpy(), pure(before, *arguments).numpy())
    assert x.numpy() is array
    assert x.version > version
    np.testing.assert_array_equal(view.numpy(), array[1])


@pytest.mark.peers
@pytest.mark.parametrize(("method", "arguments"), METHODS, ids=ids)
def test_gradients_of_pytorch(method: str, arguments: tuple[Any, ...]) -> None:
    torch = pytest.importorskip("torch")
    found = []
    for lib in (torch, tb):
        x = lib.tensor(values(3, 4), requires_grad=True)
        y = x * 1.5
        getattr(y, method)(*arguments)
        (y * lib.tensor(values(3, 4))).sum().backward()
        found.append(x.grad.numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("layout", ["permuted", "sliced"])
def test_strides(layout: str, device: str) -> None:
    room = np.arange(24.0).reshape(4, 6)
    array = room.T if layout == "permuted" else room[1:3, ::2]
    want = array * 2 + 1
    x = tb.from_numpy(array).to(device=device)
    x.mul_(2.0)
    x[...] = x + 1.0
    np.testing.assert_array_equal(x.numpy(), want)
    if device == "cpu":
        np.testing.assert_array_equal(array, want)  # in the array's own memory


def test_operators_in_place() -> None:
    x = tb.tensor([1.0, 2.0])
    same = x
    x += 1
    x -= tb.tensor([0.5, 0.5])
    x *= 4
    x /= 2
    assert x is same
    assert x.tolist() == [3.0, 5.0]


def test_broadcasting_goes_into_the_tensor_only() -> None:
    x = tb.zeros(2, 3)
    x.add_(tb.tensor([1.0, 2.0, 3.0]))
    assert x.tolist() == [[1.0, 2.0, 3.0]] * 2
    with pytest.raises(ShapeError, match=r"add_: 'other' must have a shape that broadcasts to \(3,\)\. Got \(2, 3\)\."):
        tb.zeros(3).add_(x)


def test_kinds_are_kept() -> None:
    with pytest.raises(DTypeError, match=r"add_: a result of dtype float32 cannot be written into int64\."):
        tb.arange(3).add_(0.5)
    x = tb.ones(2)
    x.add_(tb.ones(2, dtype=tb.float64))
    assert x.dtype is tb.float32
    assert tb.arange(3).add_(2).tolist() == [2, 3, 4]


def test_copy_converts_broadcasts_and_moves(device: str) -> None:
    x = tb.zeros(2, 3, device=device)
    assert x.copy_(tb.arange(3)) is x
    assert x.tolist() == [[0.0, 1.0, 2.0]] * 2
    with pytest.raises(ShapeError, match="indexing: 'value' must have a shape that broadcasts"):
        x.copy_(tb.zeros(2))
    with pytest.raises(DTypeError, match="copy_: 'src' must be a Tensor"):
        x.copy_([1.0])  # type: ignore[arg-type]


def test_copy_from_another_device_is_recorded() -> None:
    source = tb.tensor([1.0, 2.0], device="ref", requires_grad=True)
    x = tb.zeros(2)
    x.copy_(source)
    (x * x).sum().backward()
    assert source.grad is not None
    assert source.grad.device == "ref"
    assert source.grad.tolist() == [2.0, 4.0]


def test_values_of_another_device_are_refused() -> None:
    with pytest.raises(
        DeviceError, match=r"indexing: 'value' must be on device cpu, as the first argument is\. Got ref\."
    ):
        tb.zeros(2)[0] = tb.ones(1, device="ref")


# ------------------------------------------------------------------------------------------------------ on the tape


def _chained(x: tb.Tensor, w: tb.Tensor) -> tb.Tensor:
    y = x * 1.0
    y.mul_(w)
    y.add_(x)
    y[1] = w[0] * 3.0
    y[:, 1] = y[:, 0].clone() * w[:, 1]
    y.tanh_()
    return y


def test_derivatives_through_changes(device: str) -> None:
    x, w = (tb.tensor(values(3, 2) * s, device=device) for s in (1.0, 0.5))
    check_vjp(_chained, [x, w], order=2)


def test_a_tracked_value_written_into_a_plain_tensor() -> None:
    v = tb.tensor([1.0, 2.0], requires_grad=True)
    x = tb.zeros(4)
    x[1:3] = v * v
    assert x.requires_grad
    (x * tb.tensor([1.0, 10.0, 100.0, 1000.0])).sum().backward()
    assert v.grad is not None
    assert v.grad.tolist() == [20.0, 400.0]


def test_what_is_overwritten_gets_no_gradient() -> None:
    x = tb.ones(3, requires_grad=True)
    y = x * 2.0
    y[1] = 5.0
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 0.0, 2.0]


def test_repeated_positions_take_the_last_value(device: str) -> None:
    x = tb.zeros(3, device=device)
    x[tb.tensor([0, 2, 0])] = tb.tensor([1.0, 2.0, 3.0], device=device)
    assert x.tolist() == [3.0, 0.0, 2.0]


def test_a_tensor_changed_twice_keeps_its_history() -> None:
    x = tb.tensor([2.0], requires_grad=True)
    y = x.clone()
    y.mul_(3.0).add_(1.0)
    y.mul_(2.0)
    y.backward()
    assert x.grad is not None
    assert x.grad.tolist() == [6.0]


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(("method", "arguments"), METHODS, ids=ids)
def test_a_leaf_that_requires_grad(method: str, arguments: tuple[Any, ...]) -> None:
    x = tb.tensor(values(2), requires_grad=True)
    before = x.detach().clone()
    name = {"fill_": "indexing", "zero_": "indexing"}.get(method, method)
    with pytest.raises(
        GradientError, match=rf"^{name}: a leaf that requires grad cannot be changed in place .*\nHint: change it under"
    ):
        getattr(x, method)(*arguments)
    np.testing.assert_array_equal(x.detach().numpy(), before.numpy())
    with tb.no_grad():
        getattr(x, method)(*arguments)
    assert x.requires_grad
    assert x.is_leaf


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y[0].add_(1.0),
        lambda y: y.view(-1).zero_(),
        lambda y: y[:1].__setitem__(0, 1.0),
        lambda y: y.t().mul_(2.0),
    ],
    ids=["add_", "zero_", "setitem", "mul_"],
)
def test_a_view_of_what_is_tracked(change: Callable[[tb.Tensor], object]) -> None:
    y = tb.ones(2, 2, requires_grad=True) * 2.0
    with pytest.raises(
        GradientError, match=r"a view of shape .* of tracked memory cannot be changed .*\nHint: index the whole tensor"
    ):
        change(y)
    with tb.no_grad():
        change(y)


def test_a_tracked_value_into_memory_that_has_views() -> None:
    x = tb.zeros(3)
    view = x[:2]
    v = tb.ones(3, requires_grad=True)
    with pytest.raises(
        GradientError,
        match=r"a tracked value cannot be written into a tensor of which views exist.*\nHint: take the views",
    ):
        x.copy_(v)
    del view
    x.copy_(v)
    assert x.requires_grad


def test_a_tracked_value_into_a_view() -> None:
    x = tb.zeros(3)
    with pytest.raises(GradientError, match="a view of shape"):
        x[:2].copy_(tb.ones(2, requires_grad=True))


def test_views_of_plain_tensors_may_be_changed() -> None:
    x = tb.zeros(2, 3)
    x[0].add_(1.0)
    x[:, 1].mul_(5.0)
    x.t()[2] = 7.0
    assert x.tolist() == [[1.0, 5.0, 7.0], [0.0, 0.0, 7.0]]


def test_a_refused_change_changes_nothing() -> None:
    x = tb.zeros(3)
    version = x.version
    with pytest.raises(ShapeError):
        x.add_(tb.ones(2, 3))
    with pytest.raises(ShapeError):
        x[0] = tb.ones(2)
    with pytest.raises(ArgumentError):
        x.clamp_()
    assert x.version == version
    assert x.tolist() == [0.0] * 3


def test_a_change_under_no_grad_keeps_the_tensor_where_it_is() -> None:
    x = tb.ones(2, requires_grad=True)
    y = x * 3.0
    with tb.no_grad():
        y.mul_(2.0)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [3.0, 3.0]


def test_data() -> None:
    x = tb.tensor([1.0, 2.0], requires_grad=True)
    assert not x.data.requires_grad
    x.data = tb.tensor([3.0, 4.0])
    assert x.tolist() == [3.0, 4.0]
    assert x.requires_grad
    with pytest.raises(
        ShapeError, match=r"data: 'value' must have shape \(2,\) and dtype float32\. Got \(3,\), float32\."
    ):
        x.data = tb.ones(3)


def test_old_values_are_kept_for_a_product_with_itself_changed() -> None:
    """What an operation needs of the values that it overwrites is copied, whatever version they had."""
    x = tb.tensor([[2.0, 3.0]], dtype=tb.float64, requires_grad=True)
    w = tb.tensor([5.0, 7.0], dtype=tb.float64, requires_grad=True)
    y = x + 1.0
    y.add_(1.0)
    y.mul_(w)
    y.pow_(2)
    y.sum().backward(retain_graph=True)
    y.sum().backward(create_graph=True)
    assert x.grad is not None
    assert w.grad is not None
    np.testing.assert_allclose(x.grad.tolist(), 2 * 2 * (np.array([[4.0, 5.0]]) * [5.0, 7.0] ** np.array(2)))
    np.testing.assert_allclose(w.grad.tolist(), 2 * 2 * np.array([5.0, 7.0]) * np.array([4.0, 5.0]) ** 2)
