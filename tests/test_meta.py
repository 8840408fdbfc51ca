"""Tests of the tests: rules are broken on purpose, and the checks must notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.core.tape import Node, record
from tinygrad_bn.errors import ArgumentError
from tinygrad_bn.ops import arithmetic, functions, movement, reduction, sums
from tinygrad_bn.ops.batch_norm import (
    BatchNormBackward,
    BatchNormEval,
    BatchNormTrain,
    batch_norm_eval,
    batch_norm_train,
)
from tinygrad_bn.ops.matmul import Linear, Product
from tinygrad_bn.ops.softmax import (
    CrossEntropy,
    CrossEntropyBackward,
    LogSumExp,
    Softmax,
    SoftmaxBackward,
    cross_entropy_indices,
)
from tinygrad_bn.testing import assert_close, check_op, check_vjp, make_tensor

pytestmark = pytest.mark.jit_off

Gradients = list[tb.Tensor | None]


def _each(change: Callable[[tb.Tensor], tb.Tensor | None]) -> Callable[[Gradients], Gradients]:
    return lambda grads: [None if g is None else change(g) for g in grads]


FAULTS: dict[str, Callable[[Gradients], Gradients]] = {
    "zeros": _each(lambda g: g * 0.0),
    "wrong sign": _each(lambda g: -g),
    "a factor of 2": _each(lambda g: g * 2.0),
    "a hundred-thousandth more": _each(lambda g: g * (1 + 1e-5)),
    "no gradient": _each(lambda g: None),
    "the first only": lambda grads: [grads[0] * 3.0 if grads[0] is not None else None, *grads[1:]],
    "elements out of order": _each(lambda g: tb.tensor(np.roll(g.detach().numpy(), 1))),
}


def normal(*shape: int, seed: int = 0) -> tb.Tensor:
    return tb.tensor(np.random.default_rng([seed, *shape]).standard_normal(shape))


def _bn(x: tb.Tensor, w: tb.Tensor, b: tb.Tensor) -> tb.Tensor:
    return batch_norm_train(x, w, b)[0]


def _bn_eval(x: tb.Tensor, w: tb.Tensor, b: tb.Tensor) -> tb.Tensor:
    return batch_norm_eval(x, normal(3, seed=5), normal(3, seed=6) ** 2, w, b)


TARGETS = tb.tensor([0, 2, 1, 1])
VICTIMS: list[tuple[type[Node], Callable[..., Any], list[tb.Tensor], int]] = [
    (arithmetic.Mul, tb.mul, [normal(3, 4), normal(4)], 1),
    (arithmetic.Div, tb.div, [normal(3), normal(3, seed=1) ** 2 + 1.0], 1),
    (functions.Exp, tb.exp, [normal(5)], 1),
    (functions.Tanh, tb.tanh, [normal(5)], 1),
    (functions.TanhBackward, tb.tanh, [normal(5)], 2),
    (functions.Pow, tb.pow, [normal(4) ** 2 + 0.5, normal(4, seed=1)], 1),
    (sums.Sum, lambda x: tb.mean(x, 0), [normal(3, 4)], 1),
    (reduction.Pick, lambda x: x.max(1).values, [normal(3, 4)], 1),
    (movement.Permute, lambda x: x.permute(1, 0), [normal(3, 4)], 1),
    (Product, tb.matmul, [normal(3, 4), normal(4, 2)], 1),
    (Linear, tb.nn.functional.linear, [normal(5, 3), normal(2, 3), normal(2)], 1),
    (Softmax, lambda x: tb.softmax(x, 1), [normal(3, 4)], 1),
    (SoftmaxBackward, lambda x: tb.softmax(x, 1), [normal(3, 4)], 2),
    (LogSumExp, lambda x: tb.logsumexp(x, 1), [normal(3, 4)], 1),
    (CrossEntropy, lambda x: cross_entropy_indices(x, TARGETS), [normal(4, 3)], 1),
    (CrossEntropyBackward, lambda x: cross_entropy_indices(x, TARGETS), [normal(4, 3)], 2),
    (BatchNormTrain, _bn, [normal(6, 3), normal(3), normal(3, seed=1)], 1),
    (BatchNormBackward, _bn, [normal(6, 3), normal(3), normal(3, seed=1)], 2),
    (BatchNormEval, _bn_eval, [normal(6, 3), normal(3), normal(3, seed=1)], 1),
]


def _break(monkeypatch: pytest.MonkeyPatch, rule: type[Node], fault: Callable[[Gradients], Gradients]) -> None:
    name = "backward_all" if hasattr(rule, "backward_all") else "backward"
    right = getattr(rule, name)

    def wrong(self: Node, *gy: Any) -> Gradients:
        return fault(list(right(self, *gy)))

    monkeypatch.setattr(rule, name, wrong)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("rule", "function", "inputs", "order"), VICTIMS, ids=[v[0].__name__ for v in VICTIMS])
def test_check_vjp_notices(
    rule: type[Node],
    function: Callable[..., Any],
    inputs: list[tb.Tensor],
    order: int,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_vjp(function, inputs, order=order)
    _break(monkeypatch, rule, FAULTS[fault])
    which = "first" if order == 1 else "second"
    with pytest.raises(AssertionError, match=f"check_vjp: the {which} derivative is wrong"):
        check_vjp(function, inputs, order=order)


def test_the_gradient_of_a_sum_would_notice_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why cotangents are random: Σ y of batch norm has no input gradient, right or wrong."""
    _break(monkeypatch, BatchNormTrain, lambda grads: [grads[0] * 0.0, *grads[1:]])  # type: ignore[operator]

    def total(x: tb.Tensor) -> tb.Tensor:
        return batch_norm_train(x)[0].sum()

    check_vjp(total, [normal(6, 3)])
    with pytest.raises(AssertionError):
        check_vjp(lambda x: batch_norm_train(x)[0], [normal(6, 3)])


def test_the_message_names_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    _break(monkeypatch, arithmetic.Mul, lambda grads: [grads[0], -grads[1]])  # type: ignore[operator]
    with pytest.raises(AssertionError) as caught:
        check_vjp(tb.mul, [normal(3), normal(3, seed=1)])
    lines = str(caught.value).splitlines()
    assert lines[1] == "  input 0 of shape (3,): right."
    assert lines[2].startswith("  input 1 of shape (3,): Backward gives ")
    assert "relative error" in lines[2]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda g: g.reshape(-1),
        lambda g: g.to(tb.float32),
        lambda g: g.to(device="ref"),
    ],
    ids=["shape", "dtype", "device"],
)
def test_the_kind_of_a_gradient(spoil: Callable[[tb.Tensor], tb.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    _break(monkeypatch, functions.Exp, _each(spoil))
    with pytest.raises(
        AssertionError,
        match=r"the gradient of input 0 \(first derivative\) must have its shape \(2, 3\), dtype float64",
    ):
        check_vjp(tb.exp, [normal(2, 3)])


def test_a_kink_is_noticed() -> None:
    with pytest.raises(AssertionError, match="or the function is not smooth there"):
        check_vjp(tb.relu, [tb.zeros(3)])


def test_second_derivatives_are_not_taken_for_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backward that leaves the tape gives right first derivatives and no second ones."""

    def cut(self: Node, gy: tb.Tensor) -> Gradients:
        (y,) = (self.unpack_output(),)
        return [gy * y.detach()]

    monkeypatch.setattr(functions.Exp, "backward", cut)
    check_vjp(tb.exp, [normal(3)])
    with pytest.raises(AssertionError, match="second derivative"):
        check_vjp(tb.exp, [normal(3)], order=2)


def test_arguments() -> None:
    with pytest.raises(ArgumentError, match=r"check_vjp: 'order' must be 1 or 2\. Got 3\."):
        check_vjp(tb.exp, [normal(3)], order=3)


# ------------------------------------------------------------------------------------------------------------ check_op


def _raises(function: Callable[..., Any], message: str, *arrays: Any, **options: Any) -> None:
    given = arrays or (np.random.default_rng(0).standard_normal((3, 4)),)
    with pytest.raises(AssertionError, match=message):
        check_op(function, given, devices=("cpu",), **options)


def test_check_op_notices_wrong_values() -> None:
    _raises(
        lambda x: x * (1.001 if x.dtype is tb.float32 else 1.0), "check_op on cpu in float32, plain: output 0 is off at"
    )
    _raises(lambda x: x * 2.0, "output 0 is off", reference=lambda a: 3 * a)
    _raises(lambda x: x * float("nan"), "output 0 must be", reference=lambda a: a)
    _raises(lambda x: x.sum(0), r"output 0 must have shape \(3, 1\)\. Got \(4,\)", reference=lambda a: a[:, :1])
    _raises(lambda x: (x * 1.0, x * 2.0), "outputs: 1 were expected. Got 2", reference=lambda a: a)


def test_check_op_notices_layouts() -> None:
    def careless(x: tb.Tensor) -> tb.Tensor:
        return x * 2.0 if x.is_contiguous() else x * 2.1

    _raises(careless, "permuted: output 0 is off")


def test_check_op_notices_gradients_that_depend_on_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    class Careless(Node):
        __slots__ = ()

        def backward(self, gy: tb.Tensor) -> Gradients:
            return [gy * (2.0 if self.constants[0] else 2.5)]

    def double(x: tb.Tensor) -> tb.Tensor:
        return record(Careless, x.detach() * 2.0, (x,), constants=(x.is_contiguous(),))

    _raises(double, "permuted: gradient 0 is off")


def test_check_op_notices_a_changed_input() -> None:
    def spoil(x: tb.Tensor) -> tb.Tensor:
        y = x * 1.0
        x.numpy()[...] = 0.0
        return y

    _raises(spoil, "input 0 was changed", order=0)


def test_check_op_notices_shared_memory() -> None:
    _raises(lambda x: x.reshape(4, 3), "an output shares memory with an input")
    check_op(lambda x: x.reshape(4, 3), [np.ones((3, 4))], view=True)


def test_check_op_notices_dtypes() -> None:
    _raises(lambda x: x.to(tb.float64) * 2.0, "outputs must have dtype float32. Got float64")


def test_check_op_notices_a_shared_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    from tinygrad_bn.core import backward as module

    monkeypatch.setattr(module, "_clone", lambda g: g)
    _raises(lambda x: x.clone(), "a gradient shares memory with another tensor")


def test_check_op_passes_what_is_right() -> None:
    check_op(lambda x, i: x[i] * 2.0, [np.arange(6.0), np.array([0, 5, 5])], reference=lambda x, i: 2 * x[i])


@pytest.mark.parametrize("layout", ["plain", "permuted", "sliced", "expanded"])
def test_make_tensor(layout: str, device: str) -> None:
    array = np.ones((2, 3, 4)) * np.arange(4)
    x = make_tensor(array, layout, device)
    np.testing.assert_array_equal(x.numpy(), array)
    assert x.device == device
    assert x.is_contiguous() == (layout == "plain")
    assert not np.shares_memory(x.numpy(), array)
    for edge in (np.asarray(1.0), np.zeros((0, 3)), np.zeros(1)):
        assert make_tensor(edge, layout, device).shape == edge.shape


def test_assert_close() -> None:
    inf, nan = np.inf, np.nan
    assert_close(np.array([1.0, inf, -inf, nan]), np.array([1.0 + 1e-9, inf, -inf, nan]), 1e-8)
    for wrong in ([1.0, inf], [nan, inf], [1.0, nan], [1.0, -inf], [1.0, 1.0], [1.1, nan]):
        with pytest.raises(AssertionError):
            assert_close(np.array(wrong), np.array([1.1, inf]), 1e-8)
    with pytest.raises(AssertionError, match="must be"):
        assert_close(np.array([1, 2]), np.array([1, 3]), 1.0)
    assert_close(np.array([1, 2]), np.array([1, 2]), 0.0)
    assert_close(np.array([1e-9, 1.0]), np.array([0.0, 1.0]), 1e-8)
    assert_close(np.zeros((0, 2)), np.zeros((0, 2)), 0.0)


def test_a_float32_backward_is_judged_by_its_own_tolerance() -> None:
    check_vjp(tb.exp, [normal(5)], dtype="float32")
    with pytest.raises(AssertionError):
        check_vjp(tb.exp, [normal(5)], dtype="float32", rtol=1e-12)
