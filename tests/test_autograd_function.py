"""Operations with a forward and a backward of one's own, as in PyTorch."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.autograd.function import once_differentiable
from tinygrad_bn.errors import DeviceError, DTypeError, GradientError, GraphFreedError, SavedTensorError, ShapeError
from tinygrad_bn.testing import assert_close, check_vjp


class Cube(tb.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: tb.Tensor) -> tb.Tensor:
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx: Any, gy: tb.Tensor) -> tb.Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x * x * gy


class Exp(tb.autograd.Function):
    """Saves its output."""

    @staticmethod
    def forward(ctx: Any, x: tb.Tensor) -> tb.Tensor:
        y = tb.exp(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gy: tb.Tensor) -> tb.Tensor:
        (y,) = ctx.saved_tensors
        return y * gy


class Polar(tb.autograd.Function):
    """Two outputs, both saved, a number, and a gradient for what needs one only."""

    @staticmethod
    def forward(ctx: Any, x: tb.Tensor, power: int, y: tb.Tensor) -> tuple[tb.Tensor, tb.Tensor]:
        ctx.power = power
        a, b = x**power * y, x + y * y
        ctx.save_for_backward(x, None, y, a, b)
        return a, b

    @staticmethod
    def backward(ctx: Any, ga: tb.Tensor, gb: tb.Tensor) -> Any:
        x, nothing, y, a, _ = ctx.saved_tensors
        assert nothing is None
        gx = gy = None
        if ctx.needs_input_grad[0]:
            gx = ga * ctx.power * a / x + gb
        if ctx.needs_input_grad[2]:
            gy = ga * a / y + gb * 2 * y
        return gx, None, gy


def positive(*shape: int, seed: int = 0) -> tb.Tensor:
    return tb.tensor(np.random.default_rng(seed).uniform(0.5, 2.0, shape))


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (Cube.apply, [positive(3, 2)]),
        (Exp.apply, [positive(3, 2)]),
        (lambda x, y: Polar.apply(x, 3, y), [positive(4), positive(4, seed=1)]),
        (lambda x, y: Polar.apply(x * y, 2, Exp.apply(x)), [positive(4), positive(4, seed=1)]),
        (lambda x: Polar.apply(x, 3, positive(4))[0], [positive(4)]),
    ],
    ids=["input saved", "output saved", "several", "composed", "one output unused"],
)
def test_first_and_second_derivatives(function: Any, inputs: list[tb.Tensor], device: str) -> None:
    inputs = [x.to(device) for x in inputs]
    if device == "cpu" or len(inputs) == 2:
        check_vjp(function, inputs, order=2)


def test_third_derivatives_through_a_saved_output() -> None:
    """The output's second way back, as a saved tensor, adds to its first."""
    x = tb.tensor([0.3, -0.7], dtype=tb.float64, requires_grad=True)
    y = Exp.apply(x)
    for _ in range(3):
        (y,) = tb.grad(y.sum() + (y * y).sum() * 0, x, create_graph=True)
    assert_close(y.detach().numpy(), np.exp([0.3, -0.7]), 1e-12)


@pytest.mark.peers
def test_a_script_runs_with_its_import_changed() -> None:
    """The same class body, here and in PyTorch: values, gradients, gradients of gradients."""
    torch = pytest.importorskip("torch")
    found = []
    for lib in (torch, tb):

        class Scaled(lib.autograd.Function):  # type: ignore[name-defined, misc]
            @staticmethod
            def forward(x: Any, scale: float) -> Any:
                return x * x * scale, x.argmax(0)

            @staticmethod
            def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
                x, ctx.scale = inputs
                ctx.save_for_backward(x)
                ctx.mark_non_differentiable(output[1])

            @staticmethod
            def backward(ctx: Any, gy: Any, gi: Any) -> Any:
                (x,) = ctx.saved_tensors
                return 2 * ctx.scale * x * gy, None

        x = lib.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=lib.float64, requires_grad=True)
        y, i = Scaled.apply(x, 1.5)
        assert not i.requires_grad
        (g,) = lib.autograd.grad((y * y).sum(), x, create_graph=True)
        lib.autograd.backward([(g * g).sum()], [lib.tensor(2.0, dtype=lib.float64)])
        found.append([t.detach().numpy() for t in (y, i, g, x.grad)])
    for theirs, ours in zip(*found, strict=True):
        assert_close(ours, theirs, 1e-12)


def test_gradients_that_are_missing_come_as_zeros_or_none() -> None:
    seen: list[Any] = []

    class Pair(tb.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tb.Tensor, materialize: bool) -> Any:
            ctx.set_materialize_grads(materialize)
            return x * 1, x * 2, 7

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            seen.append(gradients)
            return gradients[0], None

    x = tb.ones(2, requires_grad=True)
    for materialize in (True, False):
        first, _, number = Pair.apply(x, materialize)
        assert number == 7
        first.sum().backward()
    assert seen[0][1].tolist() == [0.0, 0.0]
    assert seen[0][2] is None
    assert seen[1][1] is None


def test_modes_and_what_needs_gradients(device: str) -> None:
    """Forward is never recorded, backward where it is asked for; nothing is kept where nothing is tracked."""
    notes: list[Any] = []

    class Noting(tb.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tb.Tensor, y: tb.Tensor) -> tb.Tensor:
            notes.append((tb.is_grad_enabled(), ctx.needs_input_grad))
            return x * y

        @staticmethod
        def backward(ctx: Any, gy: tb.Tensor) -> Any:
            notes.append(tb.is_grad_enabled())
            return gy, None

    x, y = tb.ones(2, device=device, requires_grad=True), tb.ones(2, device=device)
    Noting.apply(x, y).sum().backward()
    assert notes == [(False, (True, False)), False]
    tb.grad(Noting.apply(x, y).sum(), x, create_graph=True)
    assert notes[2:] == [(False, (True, False)), True]
    assert not Noting.apply(y, y).requires_grad
    with tb.no_grad():
        assert not Noting.apply(x, y).requires_grad


def test_an_input_that_is_returned_is_another_tensor() -> None:
    class Same(tb.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tb.Tensor) -> tb.Tensor:
            return x

        @staticmethod
        def backward(ctx: Any, gy: tb.Tensor) -> tb.Tensor:
            return gy * 5

    x = tb.ones(2, requires_grad=True)
    y = Same.apply(x)
    y.sum().backward()
    assert y is not x
    assert x.is_leaf
    assert x.grad is not None
    assert x.grad.tolist() == [5.0, 5.0]


def test_a_change_in_place(device: str) -> None:
    class Doubled(tb.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tb.Tensor) -> tb.Tensor:
            ctx.mark_dirty(x)
            x.mul_(2.0)
            return x

        @staticmethod
        def backward(ctx: Any, gy: tb.Tensor) -> tb.Tensor:
            return gy * 2

    leaf = tb.ones(2, device=device, requires_grad=True)
    x = leaf * 3
    y = Doubled.apply(x)
    assert y is x
    y.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [6.0, 6.0]
    with pytest.raises(GradientError, match="Doubled: a leaf that requires grad cannot be changed in place"):
        Doubled.apply(leaf)


def test_once_differentiable() -> None:
    class Sine(tb.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tb.Tensor) -> tb.Tensor:
            ctx.save_for_backward(x)
            return tb.from_numpy(np.sin(x.detach().numpy()))

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, gy: tb.Tensor) -> tb.Tensor:
            (x,) = ctx.saved_tensors
            return gy * tb.from_numpy(np.cos(x.detach().numpy()))

    x = tb.tensor([0.5, 1.0], dtype=tb.float64)
    check_vjp(Sine.apply, [x])
    x.requires_grad_()
    (g,) = tb.grad(Sine.apply(x).sum(), x, create_graph=True)
    assert_close(g.detach().numpy(), np.cos([0.5, 1.0]), 1e-12)
    with pytest.raises(GradientError, match=r"^Sine: its backward is marked once_differentiable"):
        g.sum().backward()


def test_the_graph_is_freed() -> None:
    x = tb.ones(2, requires_grad=True)
    y = Cube.apply(x).sum()
    y.backward(retain_graph=True)
    y.backward()
    with pytest.raises(GraphFreedError, match="were released by an earlier backward"):
        y.backward()


@pytest.mark.parametrize("function", [Cube, Exp])
def test_a_saved_tensor_that_was_changed_is_caught(function: Any) -> None:
    """The input, or the output."""
    x = tb.ones(2, requires_grad=True) * 1
    y = function.apply(x)
    (x if function is Cube else y).add_(1.0)
    with pytest.raises(SavedTensorError, match=f"{function.__name__}Backward: a tensor of shape"):
        y.sum().backward()


def test_no_reference_cycle() -> None:
    """Memory goes when the last name does, without the collector."""
    gc.disable()
    try:
        x = tb.ones(3, requires_grad=True)
        y = Exp.apply(x)
        gone = weakref.ref(y), weakref.ref(y.node.whole)
        del y
        assert [g() for g in gone] == [None, None]
    finally:
        gc.enable()


def _returning(result: Any) -> Any:
    class Wrong(tb.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tb.Tensor, factor: float) -> tb.Tensor:
            return x * factor

        @staticmethod
        def backward(ctx: Any, gy: tb.Tensor) -> Any:
            return result

    return Wrong


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (
            tb.ones(2, 3),
            GradientError,
            r"^Wrong\.backward: 'result' must have 2 gradients, one an argument of apply\(\), None where there is none"
            r"\. Got 1\.$",
        ),
        ((tb.ones(2, 3), None, tb.ones(1)), GradientError, r"^Wrong\.backward: 'result' must have 2 gradients"),
        (
            (tb.ones(2, 3), tb.ones(1)),
            GradientError,
            r"^Wrong\.backward: 'result\[1\]' must be None, as the argument is no tensor\. Got Tensor\.$",
        ),
        ((1.0, None), DTypeError, r"^Wrong\.backward: 'result\[0\]' must be a Tensor or None\. Got float\.$"),
        (
            (tb.ones(3, 2), None),
            ShapeError,
            r"^Wrong\.backward: 'result\[0\]' must have the argument's shape \(2, 3\), or one that it broadcasts to"
            r"\. Got \(3, 2\)\.$",
        ),
        ((tb.ones(2, 3, device="ref"), None), DeviceError, r"^Wrong\.backward: 'result\[0\]' must be on device cpu"),
    ],
    ids=["too few", "too many", "not None", "no tensor", "shape", "device"],
)
def test_what_backward_returns_is_checked(result: Any, error: type[Exception], message: str) -> None:
    x = tb.ones(2, 3, requires_grad=True)
    with pytest.raises(error, match=message):
        _returning(result).apply(x, 2.0).sum().backward()


def test_gradients_are_fitted_to_the_argument() -> None:
    """Broadcast axes are summed, dtypes converted, extra Nones passed over, as in PyTorch."""
    x = tb.ones(3, requires_grad=True)
    result = (tb.ones(2, 3, dtype=tb.float64), None, None)
    _returning(result).apply(x, 2.0).sum().backward()
    assert x.grad is not None
    assert x.grad.dtype is tb.float32
    assert x.grad.tolist() == [2.0] * 3


def test_other_errors() -> None:
    class Listing(tb.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tb.Tensor) -> Any:
            return [x]

    class Saving(tb.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tb.Tensor) -> Any:
            ctx.save_for_backward(x, 3)

    x = tb.ones(2, requires_grad=True)
    with pytest.raises(DTypeError, match=r"^Listing\.forward: 'result' must be a Tensor, or a tuple that holds one\."):
        Listing.apply(x)
    with pytest.raises(DTypeError, match=r"^save_for_backward: 'tensors\[1\]' must be a Tensor or None\. Got int\.$"):
        Saving.apply(x)
    with pytest.raises(NotImplementedError, match="a subclass must define forward"):
        tb.autograd.Function.apply(x)
    with pytest.raises(GradientError, match=r"^backward: 'grad_tensors' must have one entry a tensor, 1\. Got 2\.$"):
        tb.autograd.backward(x.sum(), [None, None])


def test_a_context_that_outlives_the_graph() -> None:
    kept: list[Any] = []

    class Keeping(tb.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tb.Tensor) -> tb.Tensor:
            ctx.save_for_backward(x)
            kept.append(ctx)
            return x * 1

    x = tb.ones(2, requires_grad=True)
    y = Keeping.apply(x)
    assert kept[0].saved_tensors[0] is x
    del y
    with pytest.raises(GraphFreedError, match="saved_tensors: the graph was released"):
        kept[0].saved_tensors  # noqa: B018
