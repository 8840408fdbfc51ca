"""Networks trained on ``cuda`` as on the CPU: on a GPU where there is one, else simulated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import cuda, nn, optim

pytestmark = pytest.mark.skipif(not cuda.is_available(), reason="no GPU, and NUMBA_ENABLE_CUDASIM is not 1")

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (
        lambda: nn.Sequential(
            nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
        ),
        (5, 6),
    ),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 3),
        ),
        (3, 1, 4, 4),
    ),
}
OPTIMISERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "sgd": lambda params: optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=1e-4),
    "adam": lambda params: optim.Adam(params, lr=0.01),
}


def trained(device: str, network: str, optimiser: str) -> tuple[list[float], nn.Module, optim.Optimizer]:
    """Losses of three steps, from weights and data that are drawn on the CPU."""
    make, shape = NETWORKS[network]
    tb.manual_seed(3)
    model = make()
    x, target = tb.randn(*shape).to(device), tb.randint(3, (shape[0],)).to(device)
    model.to(device)
    steps = OPTIMISERS[optimiser](model.parameters())
    tb.manual_seed(7)
    losses = []
    for step in range(3):
        for group in steps.param_groups:
            group["lr"] *= 0.9**step
        loss = nn.functional.cross_entropy(model(x), target)
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(float(loss.item()))
    return losses, model, steps


@pytest.mark.parametrize("optimiser", sorted(OPTIMISERS))
@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_losses_weights_and_state_are_the_cpu_s(network: str, optimiser: str) -> None:
    ours, model, steps = trained("cuda", network, optimiser)
    theirs, reference, before = trained("cpu", network, optimiser)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    for (name, value), other in zip(model.state_dict().items(), reference.state_dict().values(), strict=True):
        assert value.device.type == "cuda"
        np.testing.assert_allclose(value.cpu().numpy(), other.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)
    for own, other in zip(steps.state.values(), before.state.values(), strict=True):
        assert set(own) == set(other)
        for name, value in own.items():
            assert value.device.type == "cuda", name
            np.testing.assert_allclose(value.cpu().numpy(), other[name].numpy(), rtol=1e-3, atol=1e-5, err_msg=name)


def test_training_is_continued_on_another_device(tmp_path: Any) -> None:
    """A state dict that was saved from the GPU is loaded into a network on the CPU, and the other way round."""
    _, model, steps = trained("cuda", "mlp", "adam")
    tb.save({"model": model.state_dict(), "optimizer": steps.state_dict()}, tmp_path / "a.safetensors")
    saved = tb.load(tmp_path / "a.safetensors")
    _, other, others = trained("cpu", "mlp", "adam")
    other.load_state_dict(saved["model"])
    others.load_state_dict(saved["optimizer"])
    for value, back in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert back.device.type == "cpu"
        np.testing.assert_array_equal(value.cpu().numpy(), back.numpy())
    model.load_state_dict(other.state_dict())
    steps.load_state_dict(others.state_dict())
    assert {p.device.type for p in model.parameters()} == {"cuda"}
    assert {v.device.type for state in steps.state.values() for v in state.values()} == {"cuda"}


def test_gradients_are_clipped_on_the_gpu() -> None:
    _, model, _ = trained("cuda", "mlp", "sgd")
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    assert norm.device.type == "cuda"
    assert norm.item() > 1e-3
    squares = sum((p.grad.cpu().numpy() ** 2).sum() for p in model.parameters() if p.grad is not None)
    np.testing.assert_allclose(squares**0.5, 1e-3, rtol=1e-4)


def test_a_table_is_written_only_when_addresses_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second step on gradients lie where they lay, and nothing but numbers that have changed is copied."""
    from tinygrad_bn.core.cuda_device import CudaDevice

    layer = nn.Linear(3, 2, device="cuda")
    steps = optim.SGD(layer.parameters(), lr=0.1)
    x = tb.ones(2, 3, device="cuda")
    written: list[Any] = []
    write = CudaDevice.write

    def noting(self: CudaDevice, array: Any, host: Any) -> None:
        written.append(array.shape)
        write(self, array, host)

    def step() -> list[Any]:
        written.clear()
        steps.zero_grad()
        layer(x).backward(tb.ones(2, 2, device="cuda"))
        steps.step()
        return list(written)

    step()
    step()
    monkeypatch.setattr(CudaDevice, "write", noting)
    assert step() == []
    steps.param_groups[0]["lr"] = 0.2
    assert step() == [(7,)]
