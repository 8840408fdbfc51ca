"""Anomaly detection: a failure in backward names the operation, the line and the module of its forward."""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import tinygrad_bn as tb
from tinygrad_bn.core import tape, watch
from tinygrad_bn.errors import AnomalyError, GradientError, SavedTensorError

autograd = tb.autograd


class Root(tb.nn.Module):
    def forward(self, x: tb.Tensor) -> tb.Tensor:
        return x.relu().sqrt()  # the line of the root


class Net(tb.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        linear = tb.nn.Linear(4, 4, bias=False)
        self.body = tb.nn.Sequential(linear, tb.nn.BatchNorm1d(4), tb.nn.ReLU())
        self.heads = tb.nn.ModuleList([tb.nn.Linear(4, 4), Root()])

    def forward(self, x: tb.Tensor) -> tb.Tensor:
        return self.heads[1](self.body(x) * 0)


def line_of(text: str, of: Any = None) -> str:
    """Where in this file a line stands, as the message has it."""
    lines, start = inspect.getsourcelines(of or inspect.getmodule(line_of))
    found = [i for i, line in enumerate(lines) if text in line and "line_of" not in line]
    assert len(found) == 1, text
    return f"{__file__}:{max(start, 1) + found[0]}"


@pytest.fixture(autouse=True)
def nobody_watches() -> Any:
    plain = tape._sequence
    yield
    assert watch.watchers == []
    assert tape._sequence is plain is watch._plain
    assert not autograd.is_anomaly_enabled()


# --------------------------------------------------------------------------------------------------------------- NaN


def test_a_nan_names_operation_line_and_module() -> None:
    net = Net()
    with tb.detect_anomaly(), pytest.raises(AnomalyError) as caught:
        (net(tb.randn(8, 4)) * 0).sum().backward()
    message = str(caught.value)
    assert message.startswith("detect_anomaly: the backward of sqrt returned NaN for input 0. Its forward:\n")
    assert f"{line_of('the line of the ' + 'root')} in Root.forward" in message
    assert "    return x.relu().sqrt()  # the line" in message
    assert "module Net.heads.1 (Root)" in message
    assert isinstance(caught.value, GradientError)


def test_values_are_as_without() -> None:
    def slopes() -> list[Any]:
        tb.manual_seed(0)
        net = tb.nn.Sequential(tb.nn.Conv2d(2, 4, 3), tb.nn.BatchNorm2d(4), tb.nn.ReLU(), tb.nn.Flatten())
        x = tb.randn(3, 2, 6, 6)
        x.requires_grad = True
        y = net(x)
        (y * y + y[::2].sum()).mean().backward()
        return [x.grad.numpy(), *[p.grad.numpy() for p in net.parameters()]]

    want = slopes()
    with tb.detect_anomaly():
        found = slopes()
    for a, b in zip(found, want, strict=True):
        assert_array_equal(a, b)


def test_modules_that_run_as_one_are_all_named() -> None:
    net = Net()
    with tb.detect_anomaly():
        loss = net.body(tb.randn(8, 4)).sum()
        with tb.no_grad():
            net.body[0].weight.mul_(2)
        with pytest.raises(SavedTensorError) as caught:
            loss.backward()
    (note,) = caught.value.__notes__
    assert "module Sequential.0+1 (Linear+BatchNorm1d)" in note
    assert "raised in the backward of linear_batch_norm" in note


def test_nan_only_where_a_gradient_is_wanted() -> None:
    """A rule may return what nobody wants."""

    class Product(autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tb.Tensor, y: tb.Tensor) -> tb.Tensor:
            return x * y

        @staticmethod
        def backward(ctx: Any, gy: tb.Tensor) -> tuple[tb.Tensor, tb.Tensor]:
            return gy * 3, gy * float("nan")

    x, y = tb.ones(2, requires_grad=True), tb.ones(2)
    with tb.detect_anomaly():
        Product.apply(x, y).sum().backward()
        with pytest.raises(AnomalyError, match="NaN for input 1"):
            Product.apply(x, y.requires_grad_()).sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]


def test_hints_say_where_the_nan_came_from() -> None:
    x = tb.tensor([1.0], requires_grad=True)
    with tb.detect_anomaly():
        with pytest.raises(AnomalyError, match="the gradient that it was given holds NaN already"):
            (x * 2).backward(tb.tensor([float("nan")]))
        with pytest.raises(AnomalyError, match="NaN stood in its forward already"):
            (x * tb.tensor([float("nan")])).sum().backward()
        with pytest.raises(AnomalyError) as caught:
            (x - 1).sqrt().mul(0).sum().backward()
    assert "Hint" not in str(caught.value)


def test_without_nan_check() -> None:
    x = tb.tensor([0.0], requires_grad=True)
    with autograd.detect_anomaly(check_nan=False):
        assert not autograd.is_anomaly_check_nan_enabled()
        (x.sqrt() * 0).sum().backward()
    assert np.isnan(x.grad.numpy()).all()


def test_infinity_is_no_anomaly() -> None:
    x = tb.tensor([0.0], requires_grad=True)
    with tb.detect_anomaly():
        x.sqrt().sum().backward()
    assert np.isinf(x.grad.numpy()).all()


def test_second_derivatives_name_what_recorded_them() -> None:
    x = tb.tensor([0.0], requires_grad=True, dtype=tb.float64)
    with tb.detect_anomaly():
        y = x.pow(1.5)  # the first forward
        (g,) = tb.grad(y.sum(), x, create_graph=True)
        with pytest.raises(AnomalyError) as caught:
            tb.grad(g.sum() * 0, x)
    message = str(caught.value)
    assert line_of("(g,) = tb.grad(y.sum()") in message
    assert "This was recorded by the backward of pow, whose forward is at" in message
    assert line_of("# the first " + "forward") in message


# ------------------------------------------------------------------------------------------------------------- errors


def test_an_error_keeps_its_class_and_gets_a_note() -> None:
    class Mine(Exception):
        pass

    class Fails(autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tb.Tensor) -> tb.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, gy: tb.Tensor) -> tb.Tensor:
            raise Mine("own")

    x = tb.ones(2, requires_grad=True)
    with tb.detect_anomaly():
        y = Fails.apply(x * 3)  # where it was called
        with pytest.raises(Mine, match="^own\n?") as caught:
            y.sum().backward()
    assert str(caught.value) == "own"
    (note,) = caught.value.__notes__
    assert "raised in the backward of FailsBackward" in note
    assert line_of("# where it " + "was called") in note


def test_a_forward_outside_is_said_to_be_unknown() -> None:
    x = tb.tensor([0.0], requires_grad=True)
    y = (x.sqrt() * 0).sum()
    with tb.detect_anomaly(), pytest.raises(AnomalyError, match="it ran outside of detect_anomaly"):
        y.backward()


def test_a_backward_outside_looks_at_nothing() -> None:
    x = tb.tensor([0.0], requires_grad=True)
    with tb.detect_anomaly():
        y = (x.sqrt() * 0).sum()
    y.backward()
    assert np.isnan(x.grad.item())


def test_within_a_checkpoint() -> None:
    net = Net()
    with tb.detect_anomaly(), pytest.raises(AnomalyError) as caught:
        (tb.checkpoint(net, tb.randn(8, 4)) * 0).sum().backward()
    message = str(caught.value)
    assert line_of("the line of the " + "root") in message
    assert "module Net.heads.1 (Root)" in message
    assert "recorded by the backward of Checkpoint" in message


# -------------------------------------------------------------------------------------------------------- on and off


def test_it_can_be_nested_set_and_used_as_a_decorator() -> None:
    on = autograd.is_anomaly_enabled
    with tb.detect_anomaly():
        with tb.detect_anomaly(check_nan=False):
            assert not autograd.is_anomaly_check_nan_enabled()
        assert autograd.is_anomaly_check_nan_enabled()
        with autograd.set_detect_anomaly(False):
            assert not on()
            assert watch.watchers == []
        assert on()
    assert not on()
    autograd.set_detect_anomaly(True)
    assert on()
    autograd.set_detect_anomaly(False)
    assert not on()

    @tb.detect_anomaly()
    def decorated() -> bool:
        return on()

    assert decorated()
    assert not on()


def test_an_exception_switches_it_off() -> None:
    with pytest.raises(ZeroDivisionError), tb.detect_anomaly():
        raise ZeroDivisionError


def test_each_thread_for_itself() -> None:
    x = tb.tensor([0.0], requires_grad=True)
    seen: list[Any] = []

    def elsewhere() -> None:
        y = tb.tensor([0.0], requires_grad=True)
        (y.sqrt() * 0).sum().backward()
        seen.append((autograd.is_anomaly_enabled(), np.isnan(y.grad.item())))

    with tb.detect_anomaly():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        with pytest.raises(AnomalyError):
            (x.sqrt() * 0).sum().backward()
    assert seen == [(False, True)]


def test_hooks_multiple_outputs_and_partial_passes_work() -> None:
    """The watched pass does what the unwatched one does."""

    def run(watched: Callable[[], Any]) -> list[Any]:
        with watched():
            x = tb.tensor([[1.0, 5.0, 2.0], [4.0, 3.0, 9.0]], requires_grad=True, dtype=tb.float64)
            seen: list[Any] = []
            values, _ = x.max(dim=1)
            a, b = (x * values.unsqueeze(1)).split([1, 2], dim=1)
            a.register_hook(lambda g: seen.append(g.numpy().copy()) or g * 2)
            loss = (a.sum() ** 2) + b.exp().mean()
            first = tb.grad(loss, [x, a], retain_graph=True, allow_unused=True)
            loss.backward(retain_graph=True)
            loss.backward()
            return [x.grad.numpy(), *[f.numpy() for f in first], *seen]

    found, want = run(tb.detect_anomaly), run(tb.enable_grad)
    assert len(found) == 6
    for a, b in zip(found, want, strict=True):
        assert_array_equal(a, b)


def test_what_is_kept_goes_with_the_graph() -> None:
    import gc
    import weakref

    net = Net()
    with tb.detect_anomaly():
        y = net(tb.randn(8, 4))
        kept = watch.kept_of(y.node, "anomaly")
        assert kept.function == "Root.forward"
        seen = weakref.ref(kept)
        del kept, y
        gc.collect()
        assert seen() is None


@pytest.mark.peers
def test_as_torch() -> None:
    torch = pytest.importorskip("torch")
    for value, fails in ((0.0, True), (1.0, False)):
        t = torch.tensor([value], requires_grad=True)
        x = tb.tensor([value], requires_grad=True)
        results = []
        for context, leaf in ((torch.autograd.detect_anomaly, t), (autograd.detect_anomaly, x)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with context():
                    try:
                        (leaf.sqrt() * 0).sum().backward()
                        results.append(None)
                    except RuntimeError:
                        results.append("raised")
        assert results == ["raised" if fails else None] * 2
