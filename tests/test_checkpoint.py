"""Activation checkpointing: the same numbers, bit for bit, for less memory, and nothing wrong that passes silently."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import tinygrad_bn as tb
from tinygrad_bn.core.launch import observers
from tinygrad_bn.errors import ArgumentError, GradientError, GraphFreedError, SavedTensorError
from tinygrad_bn.utils.checkpoint import checkpoint, checkpoint_sequential

WIDTH = 256


def network(depth: int = 6, width: int = WIDTH) -> tb.nn.Sequential:
    """Linear, batch norm, ReLU, dropout, several times."""
    tb.manual_seed(0)
    layers: list[tb.nn.Module] = []
    for _ in range(depth):
        linear = tb.nn.Linear(width, width, bias=False)
        layers += [linear, tb.nn.BatchNorm1d(width), tb.nn.ReLU(), tb.nn.Dropout(0.3)]
    return tb.nn.Sequential(*layers)


def trained(net: tb.nn.Module, forward: Callable[[tb.Tensor], Any], rows: int = 512) -> list[Any]:
    """Gradients, buffers and random state after a forward and backward."""
    tb.manual_seed(5)
    x = tb.randn(rows, WIDTH)
    x.requires_grad = True
    y = forward(x)
    (y * y).mean().backward()
    found = [p.grad.numpy() for p in net.parameters()] + [b.numpy() for b in net.buffers()]
    return [*found, x.grad.numpy(), y.detach().numpy(), tb.get_rng_state().numpy()]


def equal(found: list[Any], want: list[Any]) -> None:
    assert len(found) == len(want) > 3
    for a, b in zip(found, want, strict=True):
        assert_array_equal(a, b)


# ---------------------------------------------------------------------------------------------------------- sameness


@pytest.mark.parametrize("how", ["whole", "segments", "each", "nested", "reentrant"])
def test_bit_for_bit_as_without(how: str) -> None:
    plain = network()
    want = trained(plain, plain)
    net = network()
    ways: dict[str, Callable[[tb.Tensor], Any]] = {
        "whole": lambda x: checkpoint(net, x),
        "segments": lambda x: checkpoint_sequential(net, 4, x),
        "each": lambda x: functools.reduce(lambda h, m: checkpoint(m, h), [net[i : i + 4] for i in range(0, 24, 4)], x),
        "nested": lambda x: checkpoint(lambda h: checkpoint_sequential(net, 3, h), x),
        "reentrant": lambda x: checkpoint(net, x, use_reentrant=True),
    }
    equal(trained(net, ways[how]), want)
    assert net[1].num_batches_tracked.item() == 1
    assert net[1].skipped_batches == 0


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_move_once(momentum: float | None) -> None:
    def layers() -> tb.nn.Sequential:
        tb.manual_seed(0)
        norm = tb.nn.BatchNorm2d(3, momentum=momentum)
        return tb.nn.Sequential(tb.nn.Conv2d(2, 3, 3), norm, tb.nn.InstanceNorm2d(3, track_running_stats=True))

    nets = layers(), layers()
    for step in range(3):
        tb.manual_seed(step)
        x = tb.randn(4, 2, 6, 6)
        (nets[0](x) ** 3).sum().backward()
        (checkpoint(nets[1], x) ** 3).sum().backward()
    for a, b in zip(nets[0].buffers(), nets[1].buffers(), strict=True):
        assert_array_equal(a.numpy(), b.numpy())
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert_array_equal(p.grad.numpy(), q.grad.numpy())
    assert nets[1][1].num_batches_tracked.item() == 3


def test_statistics_move_once_where_nobody_can_find_the_module() -> None:
    """The layer is hidden from ``modules_of``: what moves running statistics is left out of the second run."""
    norm = tb.nn.BatchNorm1d(4)
    hidden = {"at": [[norm]]}

    class Opaque:
        def __call__(self, x: tb.Tensor) -> tb.Tensor:
            return hidden["at"][0][0](x)

    x = tb.randn(8, 4)
    checkpoint(Opaque(), x).sum().backward()
    assert norm.num_batches_tracked.item() == 1
    np.testing.assert_allclose(norm.running_mean.numpy(), 0.1 * x.numpy().mean(0), rtol=1e-4, atol=1e-6)
    assert observers == []


def test_state_that_the_result_depends_on_is_that_of_the_first_run() -> None:
    """Spectral normalisation moves its vectors in each forward."""

    def layer() -> Any:
        tb.manual_seed(0)
        return tb.nn.utils.parametrizations.spectral_norm(tb.nn.Linear(5, 4))

    plain, net = layer(), layer()
    x = tb.randn(3, 5)
    for module, call in ((plain, plain), (net, lambda x: checkpoint(net, x))):
        (call(x) ** 2).sum().backward()
        (call(x) ** 2).sum().backward()
        assert module.bias.grad is not None
    for p, q in zip(plain.parameters(), net.parameters(), strict=True):
        assert_array_equal(p.grad.numpy(), q.grad.numpy())
    for a, b in zip(plain.buffers(), net.buffers(), strict=True):
        assert_array_equal(a.numpy(), b.numpy())


def test_random_numbers_without_the_state_differ() -> None:
    x = tb.ones(2000)
    x.requires_grad = True
    y = checkpoint(lambda t: tb.dropout(t * t), x, preserve_rng_state=False)
    y.sum().backward()
    kept, used = y.detach().numpy() != 0, x.grad.numpy() != 0
    assert (kept != used).sum() > 0
    x.grad = None
    y = checkpoint(lambda t: tb.dropout(t * t), x)
    y.sum().backward()
    assert_array_equal(y.detach().numpy() != 0, x.grad.numpy() != 0)


# ------------------------------------------------------------------------------------------------------------- memory


def test_memory_falls() -> None:
    """Of six blocks, 512 rows each, only their inputs are kept."""
    array = 512 * WIDTH * 4

    def kept(forward: Callable[[tb.nn.Sequential, tb.Tensor], tb.Tensor]) -> tuple[int, int]:
        net, x = network(), tb.randn(512, WIDTH)
        x.requires_grad = True
        before = tb.memory_allocated()
        tb.reset_peak_memory_stats()
        y = forward(net, x)
        after = tb.memory_allocated() - before
        loss = (y * y).mean()
        del y
        loss.backward()
        return after, tb.max_memory_allocated() - before

    plain_kept, plain_peak = kept(lambda net, x: net(x))
    few_kept, few_peak = kept(lambda net, x: checkpoint_sequential(net, 6, x))
    one_kept, _ = kept(lambda net, x: checkpoint(net, x))
    assert plain_kept >= 12 * array  # for each block what goes into the activation and into the dropout
    assert few_kept <= 8 * array  # five inputs of blocks, and one block in full
    assert one_kept == array  # the output
    assert few_peak < plain_peak - 3 * array


# -------------------------------------------------------------------------------------------------- shapes of arguments


def test_trees_keywords_and_other_outputs() -> None:
    x, w = tb.randn(3), tb.randn(3)
    for t in (x, w):
        t.requires_grad = True

    def f(pair: Any, scale: float, *, extra: dict[str, Any]) -> dict[str, Any]:
        a = pair[0] * extra["w"] * scale
        return {"a": a, "b": [a.exp(), 7, None], "ids": tb.arange(3), "same": pair[0], "again": a}

    out = checkpoint(f, (x, "text"), 2.0, extra={"w": w, "none": None})
    assert out["b"][1:] == [7, None]
    assert out["same"] is x
    assert out["again"] is out["a"]
    (out["a"].sum() + out["b"][0].sum() + out["same"].sum()).backward()
    found = x.grad.numpy().copy(), w.grad.numpy().copy()
    x.grad = w.grad = None
    plain = f((x, "text"), 2.0, extra={"w": w})
    (plain["a"].sum() + plain["b"][0].sum() + plain["same"].sum()).backward()
    np.testing.assert_allclose(found[0], x.grad.numpy(), rtol=1e-6)
    np.testing.assert_allclose(found[1], w.grad.numpy(), rtol=1e-6)


def test_no_argument_needs_grad() -> None:
    """PyTorch's semantics without re-entrance: parameters that the function finds get their gradients."""
    layer = tb.nn.Linear(3, 2)
    checkpoint(layer, tb.ones(4, 3)).sum().backward()
    assert_array_equal(layer.weight.grad.numpy(), np.full((2, 3), 4.0, np.float32))
    out = checkpoint(lambda x: x * 2, tb.ones(2))
    assert out.node is None
    with tb.no_grad():
        assert checkpoint(layer, tb.ones(4, 3)).node is None
    assert checkpoint(lambda: 3) == 3


def test_a_closure_over_a_tracked_tensor() -> None:
    x = tb.randn(4)
    x.requires_grad = True
    h = x.exp()
    y = checkpoint(lambda t: (t * h).tanh() + h, h * 2)
    want = tb.autograd.grad(((h * 2 * h).tanh() + h).sum(), x, retain_graph=True)[0].numpy()
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), want, rtol=1e-6)


def test_an_intermediate_that_is_left_outside_has_its_gradient() -> None:
    aside: list[tb.Tensor] = []
    x = tb.randn(4)
    x.requires_grad = True

    def f(t: tb.Tensor) -> tb.Tensor:
        h = t * t
        if not aside:
            aside.append(h)
        return h.exp()

    (checkpoint(f, x).sum() + aside[0].sum()).backward()
    array = x.detach().numpy()
    np.testing.assert_allclose(x.grad.numpy(), 2 * array * (1 + np.exp(array**2)), rtol=1e-5)


def test_grad_second_derivatives_and_hooks() -> None:
    x, w = tb.randn(3, dtype=tb.float64), tb.randn(3, dtype=tb.float64)
    for t in (x, w):
        t.requires_grad = True
    calls: list[int] = []
    x.register_hook(lambda g: calls.append(1))
    f = lambda t: ((t * w).tanh() * t).sum()  # noqa: E731

    def slopes(call: Callable[[tb.Tensor], tb.Tensor]) -> tb.Tensor:
        (g,) = tb.grad(call(x), x, create_graph=True)
        return g

    plain, found = slopes(f), slopes(lambda t: checkpoint(f, t))
    assert len(calls) == 2
    assert_array_equal(found.detach().numpy(), plain.detach().numpy())
    for name, t in (("x", x), ("w", w)):
        a = tb.grad((plain * plain).sum(), t, retain_graph=True)[0]
        b = tb.grad((found * found).sum(), t, retain_graph=True)[0]
        np.testing.assert_allclose(b.numpy(), a.numpy(), rtol=1e-12, err_msg=name)
    value, slope = tb.value_and_grad(lambda t: checkpoint(f, t))(x)
    assert_array_equal(slope.numpy(), plain.detach().numpy())
    assert value.item() == f(x).item()


def test_a_gradient_penalty_within() -> None:
    """The function differentiates, and so makes leaves of its own."""
    layer = tb.nn.Linear(3, 1)

    def penalty(x: tb.Tensor) -> tb.Tensor:
        inner = x.detach().requires_grad_()
        (g,) = tb.grad(layer(inner).tanh().sum(), inner, create_graph=True)
        return (g * g).sum()

    x = tb.randn(5, 3)
    penalty(x).backward()
    want = layer.weight.grad.numpy().copy()
    layer.zero_grad()
    checkpoint(penalty, x).backward()
    assert_array_equal(layer.weight.grad.numpy(), want)


def test_retained_and_freed_graphs() -> None:
    x = tb.randn(4)
    x.requires_grad = True
    y = checkpoint(lambda t: t.exp() * t, x).sum()
    y.backward(retain_graph=True)
    once = x.grad.numpy().copy()
    y.backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * once, rtol=1e-6)
    with pytest.raises(GraphFreedError):
        y.backward()


def test_views_and_other_layouts() -> None:
    base = tb.randn(4, 6, 5)
    base.requires_grad = True
    x = base.permute(2, 0, 1)[1:, :, ::2]
    checkpoint(lambda t: (t.exp() * t).sum(0), x).sum().backward(retain_graph=True)
    found = base.grad.numpy().copy()
    base.grad = None
    (x.exp() * x).sum().backward()
    np.testing.assert_allclose(found, base.grad.numpy(), rtol=1e-5)
    empty = tb.zeros(0, 3)
    empty.requires_grad = True
    checkpoint(lambda t: t * 2, empty).sum().backward()
    assert empty.grad.shape == (0, 3)


# ------------------------------------------------------------------------------------------------- nothing silently


def test_a_function_that_does_something_else_the_second_time() -> None:
    x = tb.randn(4)
    x.requires_grad = True
    other = tb.randn(4)
    other.requires_grad = True
    runs: list[int] = []

    def tried(*results: Callable[[tb.Tensor], Any], **options: Any) -> None:
        runs.clear()

        def f(t: tb.Tensor) -> Any:
            runs.append(1)
            return results[min(len(runs), len(results)) - 1](t)

        out = checkpoint(f, x, **options)
        (out[0] if isinstance(out, tuple) else out).sum().backward()

    with pytest.raises(GradientError, match=r"did not do the same .*: output 0 is float32 of shape \(2,\), it was"):
        tried(lambda t: t * 2, lambda t: t[:2] * 2)
    with pytest.raises(GradientError, match="2 outputs require grad, 1 did"):
        tried(lambda t: t * 2, lambda t: (t * 2, t * 3))
    with pytest.raises(GradientError, match="0 outputs require grad, 1 did"):
        tried(lambda t: t * 2, lambda t: t.detach())
    with pytest.raises(GradientError, match="depends on other tensors"):
        tried(lambda t: t * 2, lambda t: t * other)
    with pytest.raises(GradientError, match="depends on other tensors"):
        tried(lambda t: t * other, lambda t: t * 2)
    with pytest.raises(GradientError, match="other values"):
        tried(lambda t: t * 2, lambda t: t * 3, determinism_check="values")
    with pytest.raises(ZeroDivisionError):
        tried(lambda t: t * 2, lambda t: t * (1 / 0))
    tried(lambda t: t * 2, lambda t: t * 2, determinism_check="values")
    assert x.grad.tolist() == [2.0] * 4
    assert observers == []
    assert tb.is_grad_enabled()


def test_an_error_in_the_second_run_leaves_the_state_as_it_is() -> None:
    norm, runs = tb.nn.BatchNorm1d(3), []

    def f(x: tb.Tensor) -> tb.Tensor:
        runs.append(1)
        y = tb.dropout(norm(x))
        if len(runs) > 1:
            raise RuntimeError("second")
        return y

    loss = checkpoint(f, tb.randn(4, 3)).sum()
    tb.randn(3)
    state, buffers = tb.get_rng_state().numpy(), [b.numpy().copy() for b in norm.buffers()]
    with pytest.raises(RuntimeError, match="second"):
        loss.backward()
    assert_array_equal(tb.get_rng_state().numpy(), state)
    for b, before in zip(norm.buffers(), buffers, strict=True):
        assert_array_equal(b.numpy(), before)
    assert observers == []


def test_changes_between_the_runs_are_errors() -> None:
    layer, x = tb.nn.Linear(3, 3), tb.randn(2, 3)
    loss = checkpoint(layer, x).sum()
    x.mul_(2)
    with pytest.raises(SavedTensorError, match="Checkpoint: a tensor of shape"):
        loss.backward()

    optimiser = tb.optim.SGD(layer.parameters(), lr=0.1)
    for f in (layer, lambda t: checkpoint(layer, t), lambda t: t + layer.bias):  # the last saves nothing
        x = tb.randn(2, 3)
        x.requires_grad = True
        loss = checkpoint(f, x).sum()
        layer(x).sum().backward()
        optimiser.step()
        with pytest.raises(SavedTensorError, match="changed in place after its first run"):
            loss.backward()


def test_changing_an_argument_is_an_error() -> None:
    for tracked in (False, True):
        layer = tb.nn.Linear(3, 3)
        x = tb.randn(2, 3)
        if tracked:
            x.requires_grad = True
            x = x * 1
        with pytest.raises(ArgumentError, match="free of in-place changes to arguments"):
            checkpoint(lambda t: layer(t.mul_(2)), x)  # noqa: B023


def test_a_leaf_made_within_and_kept_is_an_error() -> None:
    aside: list[tb.Tensor] = []

    def f(x: tb.Tensor) -> tb.Tensor:
        aside.append(tb.ones(3).requires_grad_())
        return x * aside[-1]

    with pytest.raises(GradientError, match="made a tensor that requires grad and left it somewhere"):
        checkpoint(f, tb.ones(3).requires_grad_())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: checkpoint(3, tb.ones(1)), "'function' must be callable"),  # type: ignore[arg-type]
        (lambda: checkpoint(tb.exp, tb.ones(1), determinism_check="maybe"), "'determinism_check'"),
        (lambda: checkpoint_sequential(tb.nn.Sequential(tb.nn.ReLU()), 2, tb.ones(1)), "'segments'"),
        (lambda: checkpoint_sequential(tb.nn.Sequential(tb.nn.ReLU()), 0, tb.ones(1)), "'segments'"),
        (lambda: checkpoint_sequential([tb.exp], 1, tb.ones(1), nonsense=1), "no argument 'nonsense'"),
    ],
)
def test_errors(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call()


def test_a_list_of_functions_and_contexts() -> None:
    x = tb.randn(5)
    x.requires_grad = True
    y = checkpoint_sequential([tb.exp, tb.tanh, tb.sigmoid, tb.exp], 3, x)
    y.sum().backward()
    found = x.grad.numpy().copy()
    x.grad = None
    x.exp().tanh().sigmoid().exp().sum().backward()
    assert_array_equal(found, x.grad.numpy())

    order: list[str] = []

    @contextmanager
    def noted(name: str) -> Iterator[None]:
        order.append(name)
        yield

    checkpoint(tb.exp, x, context_fn=lambda: (noted("first"), noted("second"))).sum().backward()
    assert order == ["first", "second"]
    assert tb.checkpoint is checkpoint
    assert tb.utils.checkpoint.checkpoint is checkpoint


def test_two_threads_at_once() -> None:
    """One thread's second run leaves another's running statistics alone."""
    norms = [tb.nn.BatchNorm1d(8) for _ in range(2)]
    x = tb.randn(64, 8)

    def work(norm: Any) -> None:
        for _ in range(40):
            checkpoint(norm, x).sum().backward()

    def plain(norm: Any) -> None:
        for _ in range(200):
            norm(x)

    threads = [threading.Thread(target=work, args=norms[:1]), threading.Thread(target=plain, args=norms[1:])]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [n.num_batches_tracked.item() for n in norms] == [40, 200]


def test_recurrent_layers_and_functions_of_ones_own() -> None:
    class Square(tb.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tb.Tensor) -> tb.Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, gy: tb.Tensor) -> tb.Tensor:
            (x,) = ctx.saved_tensors
            return 2 * x * gy

    tb.manual_seed(0)
    layer = tb.nn.LSTM(3, 4, num_layers=2, dropout=0.5)
    x = tb.randn(5, 2, 3)

    def f(t: tb.Tensor) -> tb.Tensor:
        out, (h, c) = layer(t)
        return Square.apply(out).sum() + (h * c).sum()

    def slopes(call: Callable[[], tb.Tensor]) -> list[Any]:
        layer.zero_grad()
        tb.manual_seed(1)
        call().backward()
        return [p.grad.numpy().copy() for p in layer.parameters()]

    for a, b in zip(slopes(lambda: f(x)), slopes(lambda: checkpoint(f, x)), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-7)


@pytest.mark.peers
def test_no_argument_that_requires_grad_as_torch() -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.checkpoint import checkpoint as theirs

    weight, x = np.random.default_rng(0).normal(size=(2, 3)), np.random.default_rng(1).normal(size=(4, 3))
    w, v = torch.tensor(weight, requires_grad=True), tb.tensor(weight, requires_grad=True)
    theirs(lambda t: (t @ w.T).tanh().sum(), torch.tensor(x), use_reentrant=False).backward()
    checkpoint(lambda t: (t @ v.T).tanh().sum(), tb.tensor(x), use_reentrant=False).backward()
    np.testing.assert_allclose(v.grad.numpy(), w.grad.numpy(), rtol=1e-12)
