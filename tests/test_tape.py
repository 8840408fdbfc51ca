"""The tape: what is recorded, what backward does with it, what it refuses, and what it leaves behind."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.core.backward import backward
from tinygrad_bn.errors import GradientError, GraphFreedError, SavedTensorError, ShapeError

pytestmark = pytest.mark.jit_off


def leaf(*values: float, dtype: object = tb.float64) -> tb.Tensor:
    return tb.tensor(list(values), dtype=dtype, requires_grad=True)


def gradient(x: tb.Tensor) -> list[float]:
    assert x.grad is not None
    found: list[float] = x.grad.tolist()
    return found


# ------------------------------------------------------------------------------------------------------------- passes


def test_a_diamond_adds_up() -> None:
    x = leaf(2.0, 3.0)
    y = x * x
    (y * x + y).sum().backward()
    assert gradient(x) == [3 * 4 + 4, 3 * 9 + 6]


def test_gradients_accumulate_over_passes() -> None:
    x = leaf(1.0)
    (x * 2).backward()
    first = x.grad
    (x * 3).backward()
    assert gradient(x) == [5.0]
    assert first is not None
    assert first.tolist() == [2.0]  # what a caller kept does not change


def test_backward_needs_a_gradient_for_more_than_one_element() -> None:
    x = leaf(1.0, 2.0)
    with pytest.raises(ShapeError, match=r"backward: 'gradient' is needed .* shape \(2,\)\.\nHint: reduce the output"):
        (x * 2).backward()
    (x * 2).backward(tb.tensor([1.0, 10.0], dtype=tb.float64))
    assert gradient(x) == [2.0, 20.0]


def test_the_gradient_given_must_fit() -> None:
    x = leaf(1.0, 2.0)
    with pytest.raises(ShapeError, match=r"backward: 'gradient' must have the output's shape \(2,\)\. Got \(3,\)\."):
        (x * 2).backward(tb.ones(3, dtype=tb.float64))
    with pytest.raises(ShapeError, match=r"backward: 'gradient' must have the output's dtype float64\. Got float32\."):
        (x * 2).backward(tb.ones(2))


def test_backward_needs_something_recorded() -> None:
    with pytest.raises(GradientError, match=r"backward: the output of shape \(1,\) does not require grad"):
        tb.ones(1).backward()
    with tb.no_grad():
        y = leaf(1.0) * 2
    with pytest.raises(GradientError, match=r"or it was computed under no_grad\(\)"):
        y.backward()


def test_backward_of_a_leaf() -> None:
    x = leaf(3.0)
    x.backward()
    assert gradient(x) == [1.0]


def test_a_second_pass_raises() -> None:
    x = leaf(2.0)
    y = (x * x).exp()
    y.backward()
    with pytest.raises(
        GraphFreedError, match=r"Exp: .*released by an earlier backward\.\nHint: pass retain_graph=True"
    ):
        y.backward()
    assert isinstance(GraphFreedError(""), RuntimeError)


def test_a_second_pass_through_a_shared_part_raises() -> None:
    x = leaf(2.0)
    shared = x * x
    (shared * 2).backward()
    with pytest.raises(GraphFreedError, match="Mul"):
        (shared * 3).backward()


def test_retain_graph() -> None:
    x = leaf(2.0)
    y = (x * x).exp()
    y.backward(retain_graph=True)
    once = gradient(x)
    y.backward()
    assert gradient(x) == [2 * once[0]]
    with pytest.raises(GraphFreedError):
        y.backward()


def test_create_graph_of_backward() -> None:
    x = leaf(2.0)
    (x**3).backward(create_graph=True)
    assert x.grad is not None
    assert x.grad.requires_grad
    assert tb.grad(x.grad, x)[0].tolist() == [12.0]


def test_third_derivatives() -> None:
    x = leaf(0.5)
    y = x.sigmoid()
    for _ in range(3):
        (y,) = tb.grad(y, x, create_graph=True)
    s = 1 / (1 + np.exp(-0.5))
    assert y.item() == pytest.approx(s * (1 - s) * (1 - 6 * s + 6 * s * s), rel=1e-12)


def test_a_pass_is_not_recorded_unless_asked_for() -> None:
    x = leaf(2.0)
    (x * x).backward()
    assert x.grad is not None
    assert not x.grad.requires_grad


# ------------------------------------------------------------------------------------------------------------ grad()


def test_grad_leaves_no_trace() -> None:
    x, w = leaf(2.0), leaf(5.0)
    (gx,) = tb.grad(x * w, x)
    assert gx.tolist() == [5.0]
    assert x.grad is None
    assert w.grad is None


def test_grad_of_several_outputs_with_respect_to_several_inputs() -> None:
    a, b = leaf(2.0, 3.0), leaf(5.0, 7.0)
    outs = [a * b, a + b]
    starts = [tb.tensor([1.0, 10.0], dtype=tb.float64), tb.tensor([100.0, 0.0], dtype=tb.float64)]
    ga, gb = tb.grad(outs, [a, b], starts)
    assert ga.tolist() == [105.0, 70.0]
    assert gb.tolist() == [102.0, 30.0]


def test_grad_with_respect_to_what_is_no_leaf() -> None:
    x = leaf(2.0)
    y = x * x
    z = y.exp()
    gy, gx = tb.grad(z, [y, x])
    assert gy.item() == pytest.approx(np.exp(4))
    assert gx.item() == pytest.approx(4 * np.exp(4))


def test_grad_of_an_output_with_respect_to_itself() -> None:
    y = leaf(2.0) * 2
    assert tb.grad(y, y)[0].tolist() == [1.0]


def test_grad_of_what_is_not_used() -> None:
    x, other = leaf(1.0), leaf(1.0)
    with pytest.raises(
        GradientError, match=r"do not depend on the input at position 1\.\nHint: pass allow_unused=True"
    ):
        tb.grad(x * 2, [x, other])
    gx, none = tb.grad(x * 2, [x, other], allow_unused=True)
    assert gx.tolist() == [2.0]
    assert none is None


def test_grad_arguments() -> None:
    x = leaf(1.0)
    with pytest.raises(GradientError, match=r"grad: 'inputs' must require grad\. Got one at position 0"):
        tb.grad(x * 2, tb.ones(1))
    with pytest.raises(GradientError, match=r"grad: the output of shape \(1,\) does not require grad"):
        tb.grad(tb.ones(1), x)
    with pytest.raises(GradientError, match=r"grad: 'grad_outputs' must have one entry an output, 1\. Got 2\."):
        tb.grad(x * 2, x, [x, x])


def test_grad_visits_only_what_leads_to_the_inputs() -> None:
    """The other branch keeps its saved tensors."""
    x, w = leaf(2.0), leaf(3.0)
    side = w.exp()
    (x * x * side.detach() + side).backward(retain_graph=True)
    both = x * x + side
    tb.grad(both, x)
    side.backward()
    assert gradient(w)[0] == pytest.approx(2 * np.exp(3))


# -------------------------------------------------------------------------------------------------------------- depth


def test_100_000_nodes_deep() -> None:
    """No recursion, neither in backward nor when the graph is freed."""
    code = """
import tinygrad_bn as tb
x = tb.ones(1, dtype=tb.float64, device="ref", requires_grad=True)
y = x
for _ in range(100_000):
    y = y * 1.0
y.backward(retain_graph=True)
assert x.grad.tolist() == [1.0]
del y                                   # a retained graph, freed in one go
y = x
for _ in range(100_000):
    y = y + x
del y                                   # a graph that was never used
g = tb.grad(sum_ := (x * 2.0).exp(), x, create_graph=True)[0]
g.backward()
print("alive")
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert found.stdout == "alive\n", found.stderr[-2000:]


# ------------------------------------------------------------------------------------------------------ saved tensors


def test_a_changed_input_is_caught() -> None:
    x = leaf(1.0, 2.0)
    w = tb.tensor([3.0, 4.0], dtype=tb.float64)
    y = x * w
    w.add_(1.0)
    with pytest.raises(
        SavedTensorError, match=r"Mul: a tensor of shape \(2,\) .*version 0 was saved, it is at version 1\.\nHint"
    ):
        y.sum().backward()


def test_a_changed_output_is_caught() -> None:
    x = leaf(1.0, 2.0)
    y = x.exp()
    z = y.sum()
    with tb.no_grad():
        y.mul_(2.0)
    with pytest.raises(SavedTensorError, match="Exp"):
        z.backward()


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w[0].add_(1.0),
        lambda w: w.view(2, 1).zero_(),
        lambda w: w.detach().fill_(5.0),
        lambda w: w.data.mul_(2.0),
        lambda w: w.__setitem__(0, 9.0),
        lambda w: w.reshape(-1)[1:].copy_(tb.zeros(1)),
        lambda w: w.t().neg_(),
    ],
    ids=["index", "view", "detach", "data", "setitem", "copy_", "transpose"],
)
def test_a_change_through_an_alias_is_caught(change: Callable[[tb.Tensor], object]) -> None:
    x = leaf(1.0, 2.0)
    w = tb.tensor([3.0, 4.0], dtype=tb.float64)
    y = (x * w).sum()
    change(w)
    with pytest.raises(SavedTensorError, match="Mul"):
        y.backward()


def test_a_change_of_the_whole_is_caught_through_a_saved_view() -> None:
    x = leaf(1.0)
    w = tb.tensor([3.0, 4.0], dtype=tb.float64)
    y = x * w[1:]
    w[0] = 7.0  # elsewhere in the same memory: the tape cannot tell
    with pytest.raises(SavedTensorError):
        y.backward()


def test_a_change_ahead_of_saving_does_not_matter() -> None:
    x = leaf(1.0, 2.0)
    w = tb.zeros(2, dtype=tb.float64)
    w.add_(3.0)
    y = (x * w).sum()
    y.backward()
    assert gradient(x) == [3.0, 3.0]


def test_a_change_of_what_is_not_saved_does_not_matter() -> None:
    """A product with a constant saves the constant alone."""
    x = leaf(1.0, 2.0)
    y = x + 1.0
    z = (y * tb.tensor([2.0, 3.0], dtype=tb.float64)).sum()
    with tb.no_grad():
        y.zero_()
    z.backward()
    assert gradient(x) == [2.0, 3.0]


def test_a_stale_view_is_caught() -> None:
    """A view taken before an in-place change of tracked memory would be differentiated as if nothing had happened."""
    x = leaf(1.0, 2.0)
    y = x * 1.0
    view = y[:1]
    y.mul_(3.0)
    with pytest.raises(
        SavedTensorError, match=r"Mul: an input of shape \(1,\) is a view of memory that was changed .*\nHint: take"
    ):
        view * 2.0
    with pytest.raises(SavedTensorError, match=r"Mul: an input of shape \(1,\) is a view"):
        leaf(1.0) * view  # a tracked operand ahead of it does not hide it
    (y[:1] * 2.0).backward()
    assert gradient(x) == [6.0, 0.0]


# --------------------------------------------------------------------------------------------------------- references


@pytest.mark.parametrize(
    "function",
    [
        tb.exp,
        tb.sqrt,
        tb.tanh,
        tb.sigmoid,
        tb.relu,
        lambda x: tb.softmax(x, 0),
        lambda x: tb.log_softmax(x, 0),
        lambda x: tb.logsumexp(x, 0),
        lambda x: x**x,
        tb.max,
        lambda x: x.max(0).values,
        lambda x: x[[0, 1]],
        lambda x: tb.ops.batch_norm_train(x.reshape(2, 1))[0],
        lambda x: tb.cat([x, x]),
    ],
    ids=[
        "exp",
        "sqrt",
        "tanh",
        "sigmoid",
        "relu",
        "softmax",
        "log_softmax",
        "logsumexp",
        "pow",
        "max",
        "max(0)",
        "index",
        "bn",
        "cat",
    ],
)
def test_nothing_refers_to_itself(function: Callable[[tb.Tensor], tb.Tensor]) -> None:
    """What is dropped is freed at once, without the garbage collector: before a pass, after it, with create_graph."""
    x = leaf(0.3, 1.7)
    y = function(x)  # first of all, to compile: frames of the compiler wait for the collector
    y.backward(tb.ones_like(y), create_graph=True)
    del y
    x.grad = None
    gc.collect()
    gc.disable()
    try:
        y = function(x)
        dead = weakref.ref(y.node)
        del y
        assert dead() is None
        y = function(x)
        dead = weakref.ref(y.node)
        y.backward(tb.ones_like(y))
        del y
        assert dead() is None
        y = function(x)
        dead = weakref.ref(y.node)
        (g,) = tb.grad(y, x, tb.ones_like(y), create_graph=True)
        del y, g
        assert dead() is None
    finally:
        gc.enable()


def test_a_retained_gradient_is_no_cycle() -> None:
    x = leaf(1.0)
    y = x * 2
    y.retain_grad()
    dead = weakref.ref(y)
    gc.collect()
    gc.disable()
    try:
        del y
        assert dead() is None
    finally:
        gc.enable()


def test_a_leaf_dies_with_its_last_reference() -> None:
    x = leaf(1.0)
    y = x * 2
    dead = weakref.ref(x)
    del x
    assert dead() is None
    y.backward()  # its gradient goes nowhere


def test_backward_frees_what_was_saved() -> None:
    x = leaf(*range(4))
    w = tb.ones(4, dtype=tb.float64)
    y = x * w
    saved = weakref.ref(w)
    del w
    assert saved() is not None
    y.sum().backward()
    assert saved() is None


# ----------------------------------------------------------------------------------------------------------- aliasing


def test_gradients_of_a_sum_share_no_memory() -> None:
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    given = tb.ones(2, dtype=tb.float64)
    (a + b).backward(given)
    assert a.grad is not None
    assert b.grad is not None
    arrays = [a.grad.array, b.grad.array, given.array]
    assert not any(np.shares_memory(p, q) for i, p in enumerate(arrays) for q in arrays[:i])


def test_gradients_of_a_sum_share_no_memory_with_create_graph() -> None:
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    given = tb.ones(2, dtype=tb.float64)
    (a + b).backward(given, create_graph=True)
    assert a.grad is not None
    assert b.grad is not None
    arrays = [a.grad.array, b.grad.array, given.array]
    assert not any(np.shares_memory(p, q) for i, p in enumerate(arrays) for q in arrays[:i])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.clone(),
        lambda x: x.reshape(2, 1),
        lambda x: x + 0.0,
        lambda x: x.view(2),
        lambda x: x.expand(2),
    ],
    ids=["clone", "reshape", "add", "view", "expand"],
)
def test_a_gradient_that_was_given_is_not_adopted(function: Callable[[tb.Tensor], tb.Tensor]) -> None:
    x = leaf(1.0, 2.0)
    y = function(x)
    given = tb.ones_like(y.detach())
    y.backward(given)
    assert x.grad is not None
    assert not np.shares_memory(x.grad.array, given.array)
    x.grad.add_(1.0)
    assert (given.numpy() == 1.0).all()


def test_a_gradient_that_a_hook_has_kept_is_not_adopted() -> None:
    x = leaf(1.0, 2.0)
    kept: list[tb.Tensor] = []
    x.register_hook(lambda g: kept.append(g))
    (x * 2.0).sum().backward()
    assert x.grad is not None
    assert not np.shares_memory(x.grad.array, kept[0].array)


def test_a_retained_gradient_is_a_copy() -> None:
    x = leaf(1.0, 2.0)
    y = x * 2.0
    y.retain_grad()
    given = tb.ones(2, dtype=tb.float64)
    y.backward(given)
    assert y.grad is not None
    y.grad.zero_()
    assert given.tolist() == [1.0, 1.0]
    assert gradient(x) == [2.0, 2.0]


def test_a_fresh_weight_gradient_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    from tinygrad_bn.core import backward as module

    copies: list[tb.Tensor] = []
    clone = module._clone
    monkeypatch.setattr(module, "_clone", lambda g: copies.append(g) or clone(g))
    x, w, b = tb.randn(4, 3), tb.randn(2, 3, requires_grad=True), tb.randn(2, requires_grad=True)
    for _ in range(2):  # once to compile: frames of the compiler refer to what they were given
        w.grad = b.grad = None
        copies.clear()
        tb.nn.functional.linear(x, w, b).backward(tb.randn(4, 2))
    assert w.grad is not None
    assert copies == []


# -------------------------------------------------------------------------------------------------------------- hooks


def test_a_hook_sees_the_complete_gradient_once() -> None:
    x = leaf(2.0)
    seen: list[float] = []
    x.register_hook(lambda g: seen.append(g.item()))
    (x * 3 + x * 4).backward()
    assert seen == [7.0]
    assert gradient(x) == [7.0]


def test_a_hook_inside_the_graph_sees_the_complete_gradient_and_may_replace_it() -> None:
    x = leaf(2.0)
    y = x * 3
    y.register_hook(lambda g: g * 10)
    (y * 5 + y * 6).backward()
    assert gradient(x) == [3 * 110.0]


def test_a_hook_on_a_leaf_may_replace_its_gradient() -> None:
    x = leaf(2.0)
    x.register_hook(lambda g: g * 0 + 42)
    (x * 3).backward()
    assert gradient(x) == [42.0]
    assert tb.grad(x * 3, x)[0].tolist() == [42.0]


def test_hooks_run_in_order_and_can_be_removed() -> None:
    x = leaf(2.0)
    first = x.register_hook(lambda g: g + 1)
    x.register_hook(lambda g: g * 2)
    assert tb.grad(x * 3, x)[0].tolist() == [8.0]
    first.remove()
    first.remove()
    assert tb.grad(x * 3, x)[0].tolist() == [6.0]


def test_one_hook_registered_twice_is_removed_once() -> None:
    x = leaf(2.0)

    def double(g: tb.Tensor) -> tb.Tensor:
        return g * 2

    x.register_hook(double)
    handle = x.register_hook(double)
    handle.remove()
    assert tb.grad(x * 3, x)[0].tolist() == [6.0]
    handle.remove()
    assert tb.grad(x * 3, x)[0].tolist() == [6.0]


def test_a_hook_needs_a_gradient() -> None:
    with pytest.raises(GradientError, match=r"register_hook: the tensor does not require grad\."):
        tb.ones(1).register_hook(lambda g: None)


def test_retain_grad() -> None:
    x = leaf(2.0)
    y = x * 3
    y.retain_grad()
    y.retain_grad()  # twice is once
    z = y * y
    assert y.grad is None
    z.backward()
    assert gradient(y) == [12.0]
    assert gradient(x) == [36.0]
    x.retain_grad()  # a leaf keeps its gradient anyway
    assert gradient(x) == [36.0]


# -------------------------------------------------------------------------------------------------------------- modes


def test_no_grad_and_enable_grad_nest() -> None:
    x = leaf(1.0)
    with tb.no_grad():
        assert not (x * 2).requires_grad
        with tb.enable_grad():
            assert (x * 2).requires_grad
            with tb.set_grad_enabled(False):
                assert not tb.is_grad_enabled()
            assert tb.is_grad_enabled()
        assert not tb.is_grad_enabled()
    assert tb.is_grad_enabled()


def test_modes_as_decorators() -> None:
    @tb.no_grad()
    def off(x: tb.Tensor) -> tb.Tensor:
        return x * 2

    @tb.enable_grad()
    def on(x: tb.Tensor) -> tb.Tensor:
        return x * 2

    x = leaf(1.0)
    assert not off(x).requires_grad
    assert not off(x).requires_grad
    with tb.no_grad():
        assert on(x).requires_grad
        assert not tb.is_grad_enabled()
    assert tb.is_grad_enabled()


def test_a_decorated_function_may_call_itself() -> None:
    @tb.no_grad()
    def down(n: int) -> bool:
        return tb.is_grad_enabled() or (n > 0 and down(n - 1))

    assert not down(5)
    assert tb.is_grad_enabled()


def test_an_error_restores_the_mode() -> None:
    with pytest.raises(ZeroDivisionError), tb.no_grad():
        raise ZeroDivisionError
    assert tb.is_grad_enabled()


def test_modes_are_per_thread() -> None:
    seen: list[bool] = []
    with tb.no_grad():
        thread = threading.Thread(target=lambda: seen.append(tb.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_two_threads_differentiate_at_once() -> None:
    def work(k: float) -> None:
        x = leaf(1.0, k)
        for _ in range(50):
            (x * x).sum().backward()
        results[k] = gradient(x)

    results: dict[float, list[float]] = {}
    threads = [threading.Thread(target=work, args=(float(k),)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == {float(k): [100.0, 100.0 * k] for k in range(4)}


def test_an_error_in_backward_leaves_a_clean_state() -> None:
    x = leaf(2.0)
    y = x * x

    def fail(g: tb.Tensor) -> None:
        raise ZeroDivisionError

    handle = y.register_hook(fail)
    with pytest.raises(ZeroDivisionError):
        (y * 3).backward()
    assert tb.is_grad_enabled()
    assert x.grad is None
    handle.remove()
    y.backward()
    assert gradient(x) == [4.0]


# -------------------------------------------------------------------------------------------------------- requires_grad


def test_requires_grad() -> None:
    x = tb.zeros(2)
    assert not x.requires_grad
    assert x.requires_grad_() is x
    assert x.requires_grad
    assert x.is_leaf
    assert (x * 2).is_leaf is False
    x.requires_grad = False
    assert not (x * 2).requires_grad
    with pytest.raises(GradientError, match=r"requires_grad: only floating-point tensors have gradients\. Got int64\."):
        tb.arange(3).requires_grad_()
    y = leaf(1.0) * 2
    with pytest.raises(
        GradientError, match=r"requires_grad: only a leaf's flag can be changed.*\nHint: use detach\(\)"
    ):
        y.requires_grad = False


def test_detach() -> None:
    x = leaf(1.0)
    y = (x * 2).detach()
    assert not y.requires_grad
    assert y.is_leaf
    z = x * 3
    z.detach_()
    assert not z.requires_grad


def test_grad_fn() -> None:
    x = leaf(1.0)
    assert x.grad_fn is None
    assert "Mul" in repr((x * 2).grad_fn)


def test_integers_are_not_recorded() -> None:
    x = leaf(1.5, 2.5)
    assert not x.long().requires_grad
    assert not (x > 2).requires_grad
    assert not x.argmax().requires_grad


def test_several_outputs_at_once() -> None:
    x = leaf(2.0)
    a, b = x * 3, x * 5
    backward([a, b], [None, tb.tensor([10.0], dtype=tb.float64)], None, False)
    assert gradient(x) == [53.0]
