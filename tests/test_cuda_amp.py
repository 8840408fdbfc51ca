"""Mixed precision on ``cuda`` as on the CPU: steps under a loss scaler, eager and captured; batch norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import cuda, nn, optim
from tinygrad_bn.amp import GradScaler
from tinygrad_bn.core.launch import observers

pytestmark = pytest.mark.skipif(not cuda.is_available(), reason="no GPU, and NUMBA_ENABLE_CUDASIM is not 1")

OPTIMISERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "SGD": lambda params: optim.SGD(params, lr=0.1, momentum=0.9),
    "Adam": lambda params: optim.Adam(params, lr=0.01),
}
STEPS = 6


@contextmanager
def launches() -> Iterator[list[tuple[str, int]]]:
    """Names and numbers of arguments of the kernels that are launched meanwhile."""
    seen: list[tuple[str, int]] = []

    def note(kernel: Any, arguments: tuple[Any, ...], run: Callable[[], None]) -> None:
        seen.append((kernel.name, len(arguments)))
        run()

    observers.append(note)
    try:
        yield seen
    finally:
        observers.remove(note)


def trained(device: str, optimiser: str, poison: int | None, captured: bool = False) -> dict[str, Any]:
    """What steps under a scaler leave behind, of which one may have a gradient that is infinite."""
    tb.manual_seed(0)
    weight = nn.Parameter(tb.randn(3, 4).to(device))
    bias = nn.Parameter(tb.randn(3).to(device))
    scaler = GradScaler(init_scale=128.0, growth_interval=3)
    optimizer = OPTIMISERS[optimiser]([weight, bias])
    x, t = tb.randn(5, 4).to(device), tb.tensor([0, 2, 1, 1, 0]).to(device)

    def step(x: tb.Tensor, t: tb.Tensor, factor: tb.Tensor) -> tb.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(x, weight, bias), t)
        scaler.scale(loss * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    run: Any = tb.capture(step) if captured else step
    factors = [tb.tensor(math.inf if i == poison else 1.0).to(device) for i in range(STEPS)]
    losses, scales = [], []
    for factor in factors:
        losses.append(run(x, t, factor).item())
        scales.append(scaler.get_scale())
    assert not captured or run.replays
    tensors = {"weight": weight, "bias": bias}
    for name, p in list(tensors.items()):
        tensors |= {f"{name}.{key}": value for key, value in optimizer.state[p].items()}
    return {"losses": losses, "scales": scales} | {name: t.tolist() for name, t in tensors.items()}


@pytest.mark.parametrize("poison", [None, 4])
@pytest.mark.parametrize("optimiser", sorted(OPTIMISERS))
def test_a_scaled_step_does_what_it_does_on_the_cpu(optimiser: str, poison: int | None) -> None:
    """Parameters, state with its count of steps, and scale, whether or not a step is left out."""
    ours, theirs = (trained(device, optimiser, poison) for device in ("cuda", "cpu"))
    assert ours.keys() == theirs.keys()
    assert ours["scales"] == theirs["scales"]
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    if poison is not None:
        assert ours["losses"][poison] == ours["losses"][poison + 1]


@pytest.mark.parametrize("poison", [None, 4])
@pytest.mark.parametrize("optimiser", sorted(OPTIMISERS))
def test_a_captured_scaled_step_is_the_eager_one_bit_for_bit(optimiser: str, poison: int | None) -> None:
    assert trained("cuda", optimiser, poison, captured=True) == trained("cuda", optimiser, poison)


@pytest.mark.parametrize("factor", [1.0, math.inf])
def test_the_host_does_not_look_at_what_a_scaler_has_found(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is copied to the host in a step and an update: the launches are the same whatever the gradients are."""
    p = nn.Parameter(tb.ones(3, device="cuda"))
    optimizer, scaler = optim.SGD([p], lr=0.1), GradScaler(init_scale=4.0)
    loss = scaler.scale((p * tb.full((3,), factor, device="cuda")).sum())
    loss.backward()
    scaler.step(optimizer)  # makes the tables
    scaler.update()
    before = p.tolist()

    def refuse(*_: Any) -> Any:
        raise AssertionError("a copy to the host")

    with monkeypatch.context() as patch, launches() as seen:
        patch.setattr(type(p.device), "to_host", refuse)
        scaler.step(optimizer)
        scaler.update()
    wanted = ["unscale", "sgd", "update_scale"]
    assert [name for name, _ in seen if name in wanted] == wanted
    assert ("sgd", 4) in seen
    assert (p.tolist() == before) is math.isinf(factor)


# ---------------------------------------------------------------------------------------------------------- batch norm

LOW = {"bfloat16": (tb.bfloat16, 2.0**-8), "float16": (tb.float16, 2.0**-11)}
WAYS = [("train", "none", False), ("train", "relu", True), ("train", "silu", True), ("eval", "relu", False)]
WAYS += [("eval", "silu", True), ("eval", "none", True)]


def close(got: tb.Tensor, want: tb.Tensor, places: float) -> None:
    """To so many times the size of an element, and of the largest."""
    a, b = np.array(got.float().tolist()), np.array(want.float().tolist())
    size = np.abs(b) + np.abs(b).max()
    assert np.isfinite(a).all()
    assert (np.abs(a - b) <= places * size).all(), f"{a} instead of {b}"


def normalised(
    x: tb.Tensor, way: tuple[str, str, bool], own: tb.dtype = tb.float32, second: bool = False
) -> tuple[list[tb.Tensor], tb.Tensor]:
    """Running statistics and gradients of one step, with parameters of a dtype; and the result."""
    mode, activation, added = way
    channels = x.shape[1]
    x = x.clone().requires_grad_()
    tb.manual_seed(5)
    draws = [tb.randn(channels).to("cuda") for _ in range(2)]
    weight, bias = ((d + 0.5).to(own).requires_grad_() for d in draws)
    mean, var = draws[1].to(own), (draws[0] * draws[0] + 0.5).to(own)
    residual = tb.randn(*x.shape).to(device="cuda").to(tb.bfloat16).to(x.dtype).requires_grad_() if added else None
    y = F.batch_norm_act(x, mean, var, weight, bias, mode == "train", 0.1, 1e-5, activation, residual)
    start = tb.randn(*x.shape).to("cuda").to(tb.bfloat16).to(y.dtype)
    given = [x, weight, bias] + ([residual] if residual is not None else [])
    found = tb.autograd.grad(y, given, start, create_graph=second)
    if second:
        found = tb.autograd.grad(found[0], given[:2], start)
    return [*found, mean, var], y


def input_of(shape: tuple[int, ...], dtype: tb.dtype, last: bool = False) -> tb.Tensor:
    """Numbers that bfloat16 has, as the GPU holds them; ``last``: with the channels innermost."""
    tb.manual_seed(1)
    x = tb.randn(*shape).to(tb.bfloat16).to("cuda").to(dtype)
    if not last:
        return x
    order = (0, *range(2, len(shape)), 1)
    return x.permute(*order).contiguous().permute(0, len(shape) - 1, *range(1, len(shape) - 1))


@pytest.mark.parametrize("way", WAYS, ids=["-".join(map(str, w)) for w in WAYS])
@pytest.mark.parametrize("name", sorted(LOW))
def test_batch_norm_takes_low_precision_as_it_is(name: str, way: tuple[str, str, bool]) -> None:
    """Values, gradients and running statistics are those in float32, of which the large ones are rounded."""
    dtype, places = LOW[name]
    x = input_of((3, 2, 2, 3), dtype)
    (ours, y), (theirs, wanted) = (normalised(v, way) for v in (x, x.float()))
    assert y.dtype is dtype
    assert [t.dtype for t in ours] == [dtype if t.ndim > 1 else tb.float32 for t in ours]
    for got, want in zip([y, *ours], [wanted, *theirs], strict=True):
        close(got, want, places if got.dtype is dtype else 1e-5)


@pytest.mark.parametrize("kind", ["layer", "function", "function without running statistics", "residual"])
def test_batch_norm_converts_no_tensor_of_low_precision(kind: str) -> None:
    x = input_of((3, 2, 2, 3), tb.bfloat16).requires_grad_()
    gy, residual = (input_of((3, 2, 2, 3), tb.bfloat16) for _ in range(2))
    layer = nn.BatchNorm2d(2, device="cuda")
    own: Any = (layer.weight, layer.bias)
    calls: dict[str, Callable[[], tb.Tensor]] = {
        "layer": lambda: layer(x),
        "function": lambda: F.batch_norm(x, layer.running_mean, layer.running_var, *own, training=True),
        "function without running statistics": lambda: F.batch_norm(x, None, None, *own, training=True),
        "residual": lambda: F.batch_norm_act(x, None, None, *own, training=True, residual=residual),
    }
    with launches() as seen:
        calls[kind]().backward(gy)
    wanted = {"batch_norm_train", "batch_norm_backward"}
    if kind == "residual":
        wanted = {"batch_norm_residual", "batch_norm_residual_backward"}
    assert {name for name, _ in seen} - {"batch_norm_update", "fill"} == wanted
    assert x.grad is not None
    assert x.grad.dtype is tb.bfloat16


@pytest.mark.parametrize(("shape", "last"), [((4, 3), False), ((2, 3, 2, 2), True), ((2, 2, 40), False)])
def test_batch_norm_in_low_precision_of_any_layout(shape: tuple[int, ...], last: bool) -> None:
    x = input_of(shape, tb.bfloat16, last)
    (ours, y), (theirs, wanted) = (normalised(v, WAYS[0]) for v in (x, x.float()))
    assert y.array.strides == x.array.strides
    for got, want in zip([y, *ours], [wanted, *theirs], strict=True):
        close(got, want, 2.0**-6)


def test_parameters_of_low_precision_keep_it() -> None:
    """Those are widened, and what moves in place is rounded into them."""
    x = input_of((3, 2, 2, 3), tb.bfloat16)
    (ours, y), (theirs, wanted) = (normalised(v, WAYS[1], own) for v, own in ((x, x.dtype), (x.float(), tb.float32)))
    assert {t.dtype for t in [y, *ours]} == {tb.bfloat16}
    for got, want in zip([y, *ours], [wanted, *theirs], strict=True):
        close(got, want, 2.0**-5)


@pytest.mark.parametrize("way", [WAYS[0], WAYS[2], WAYS[4]], ids=["train", "train-residual", "eval-residual"])
def test_second_derivatives_of_batch_norm_in_low_precision(way: tuple[str, str, bool]) -> None:
    x = input_of((4, 2, 3), tb.bfloat16)
    (ours, _), (theirs, _) = (normalised(v, way, second=True) for v in (x, x.float()))
    for got, want in zip(ours, theirs, strict=True):
        close(got, want, 2.0**-5)


def test_a_layer_under_autocast_gives_its_parameters_gradients_in_float32() -> None:
    tb.manual_seed(2)
    conv, norm = nn.Conv2d(1, 2, 3, device="cuda"), nn.BatchNorm2d(2, device="cuda")
    with tb.autocast("cuda", tb.bfloat16):
        y = norm(conv(tb.randn(2, 1, 4, 4, device="cuda")))
    (y * y * y).float().sum().backward()
    assert y.dtype is tb.bfloat16
    assert {t.dtype for t in (norm.running_mean, norm.weight.grad, norm.bias.grad, conv.weight.grad)} == {tb.float32}
    np.testing.assert_allclose(y.float().mean((0, 2, 3)).tolist(), [0.0, 0.0], atol=0.01)
    assert norm.num_batches_tracked.item() == 1
