"""Where branches meet, a gradient is added to the one that waits in its own memory, but only where nobody can tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.core import backward, launch

SHAPE = (128, 257)  # large enough for the pool


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that gradients have been added with."""
    seen: list[str] = []

    def note(kernel: Any, arguments: tuple[Any, ...], run: Callable[[], None]) -> None:
        if kernel.name in ("add", "accumulate"):
            seen.append(kernel.name)
        run()

    monkeypatch.setattr(launch, "observers", [note])
    return seen


def leaf(device: str) -> tb.Tensor:
    tb.manual_seed(0)
    return tb.randn(*SHAPE, device=device, requires_grad=True)


def branches(x: tb.Tensor) -> tb.Tensor:
    h = x * 2.0
    return (h * 3.0).sum() + (h * h).sum() + (h.tanh() * 5.0).sum() + (x * x * x).sum()


def test_sums_are_made_in_place_and_have_the_same_bits(
    device: str, sums: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = leaf(device)
    loss = branches(x)
    sums.clear()
    loss.backward()
    assert set(sums) == {"accumulate"}
    again = leaf(device)
    monkeypatch.setattr(backward, "_ours", lambda gradient: False)
    loss = branches(again)
    sums.clear()
    loss.backward()
    assert set(sums) == {"add"}
    np.testing.assert_array_equal(x.grad.numpy(), again.grad.numpy())


def test_a_gradient_that_two_nodes_wait_with(device: str) -> None:
    x = leaf(device)
    u, v = x * 2.0, x * 3.0
    t = u * 5.0
    (u + v + t).backward(tb.ones(*SHAPE, device=device))  # one tensor is the gradient of u, v and t
    np.testing.assert_array_equal(x.grad.numpy(), np.full(SHAPE, 15.0, np.float32))


def test_what_the_caller_starts_from_is_left_alone(device: str) -> None:
    x, start = leaf(device), tb.ones(*SHAPE, device=device)
    h = x * 2.0
    (h + h * 2.0).backward(start)
    np.testing.assert_array_equal(start.numpy(), np.ones(SHAPE, np.float32))
    np.testing.assert_array_equal(x.grad.numpy(), np.full(SHAPE, 6.0, np.float32))


HOLDERS: dict[str, Callable[[tb.Tensor], Any]] = {
    "the tensor": lambda g: g,
    "an array": lambda g: g.numpy(),
    "a view": lambda g: g[3],
    "a detached tensor": lambda g: g.detach(),
    "a slice of the array": lambda g: g.numpy()[1:, 1:],
    "another shape of it": lambda g: g.reshape(-1),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_what_a_hook_keeps_is_left_alone(holder: str, device: str) -> None:
    x, kept = leaf(device), []
    h = x * 1.0
    t = h * 2.0
    y = h + 3.0
    y.register_hook(lambda g: kept.append(HOLDERS[holder](g)))  # h's gradient is y's, until t's is added
    (y * 1.0).sum().backward(retain_graph=True)
    before = np.array(kept[0])
    ((y * 1.0) + t).sum().backward()
    np.testing.assert_array_equal(np.array(kept[0]), before)
    np.testing.assert_array_equal(np.array(kept[1]), before)
    np.testing.assert_array_equal(x.grad.numpy(), np.full(SHAPE, 4.0, np.float32))


def test_memory_of_the_users_own_is_left_alone(device: str) -> None:
    room = np.full((2, *SHAPE), 4.0, np.float32)

    class Own(tb.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tb.Tensor) -> tb.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gy: tb.Tensor) -> tb.Tensor:
            return tb.from_numpy(room[0]).to(device)

    x = leaf(device)
    h = x * 1.0
    t = h * 2.0
    (Own.apply(h) + t).sum().backward()
    np.testing.assert_array_equal(room, np.full((2, *SHAPE), 4.0, np.float32))
    np.testing.assert_array_equal(x.grad.numpy(), np.full(SHAPE, 6.0, np.float32))


def test_a_recorded_backward_adds_out_of_place(device: str, sums: list[str]) -> None:
    x = leaf(device)
    loss = branches(x)
    sums.clear()
    (first,) = tb.grad(loss, [x], create_graph=True)
    assert first is not None
    assert "accumulate" not in sums
    first.sum().backward()
    value = x.detach().numpy().astype(np.float64)
    slope = 1 - np.tanh(2 * value) ** 2
    expected = 8 - 40 * np.tanh(2 * value) * slope + 6 * value
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_layouts_that_differ_are_added_out_of_place(device: str) -> None:
    x = tb.ones(4, 8, 32, 32, device=device, requires_grad=True)
    h = x * 1.0
    t = h * 2.0
    s = h.permute(0, 2, 3, 1) * tb.arange(8, device=device, dtype=tb.float32)
    (s.sum() + t.sum()).backward()
    np.testing.assert_array_equal(x.grad.numpy()[0, :, 0, 0], 2.0 + np.arange(8))
