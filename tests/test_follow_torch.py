"""The batch-norm network of the main job, and ResNet-20, follow PyTorch from the same weights and batches."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb

pytestmark = pytest.mark.peers
SIZES = (784, 100, 100, 100)
STEPS = 20


def network(lib: Any, dtype: Any, batch_norm: bool = True) -> Any:
    """784-100-100-100-10 with sigmoids, built by either library's nn."""
    layers: list[Any] = []
    for n, m in pairwise(SIZES):
        layers.append(lib.nn.Linear(n, m, bias=not batch_norm, dtype=dtype))
        if batch_norm:
            layers.append(lib.nn.BatchNorm1d(m, dtype=dtype))
        layers.append(lib.nn.Sigmoid())
    return lib.nn.Sequential(*layers, lib.nn.Linear(SIZES[-1], 10, dtype=dtype))


def problem(dtype: str) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Initial weights and the batches, drawn in float64 and rounded."""
    rng = np.random.default_rng(7)
    tb.manual_seed(3)
    weights = {k: v.numpy() for k, v in network(tb, tb.float64).state_dict().items()}
    rounded = {k: np.asarray(v, dtype) if v.dtype.kind == "f" else v for k, v in weights.items()}
    return rounded, rng.random((STEPS, 60, 784)).astype(dtype), rng.integers(0, 10, (STEPS, 60))


def train(
    lib: Any, tensor: Any, optimiser: str, options: dict[str, float], dtype: str, start: str = ""
) -> dict[str, Any]:
    """Train STEPS steps from the common start (rounded to ``start`` first); return the state as float64 arrays."""
    weights, batches, targets = problem(start or dtype)
    model = network(lib, getattr(lib, dtype))
    model.load_state_dict(
        {k: tensor(np.array(v, dtype if v.dtype.kind == "f" else v.dtype)) for k, v in weights.items()}
    )
    optimizer = getattr(lib.optim, optimiser)(model.parameters(), **options)
    loss_function = lib.nn.CrossEntropyLoss()
    for x, y in zip(batches, targets):
        optimizer.zero_grad()
        loss_function(model(tensor(x.astype(dtype))), tensor(y)).backward()
        optimizer.step()
    return {k: np.asarray(v.detach().numpy(), np.float64) for k, v in model.state_dict().items()}


def distance(a: dict[str, Any], b: dict[str, Any]) -> float:
    """The largest relative 2-norm of the differences, over parameters and buffers."""
    return max(float(np.linalg.norm(a[k] - b[k]) / max(np.linalg.norm(b[k]), 1e-300)) for k in b)


CASES = [
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}),
    ("Adam", {"lr": 1e-3}),
]


@pytest.mark.parametrize(("optimiser", "options"), CASES)
def test_float64_to_1e_9(optimiser: str, options: dict[str, float]) -> None:
    torch = pytest.importorskip("torch")
    ours = train(tb, tb.tensor, optimiser, options, "float64")
    theirs = train(torch, torch.tensor, optimiser, options, "float64")
    assert ours.keys() == theirs.keys()
    assert distance(ours, theirs) < 1e-9


@pytest.mark.parametrize(("optimiser", "options"), CASES[:1])
def test_float32_no_further_from_float64_than_twice_pytorch(optimiser: str, options: dict[str, float]) -> None:
    torch = pytest.importorskip("torch")
    exact = train(torch, torch.tensor, optimiser, options, "float64", start="float32")
    ours = distance(train(tb, tb.tensor, optimiser, options, "float32"), exact)
    theirs = distance(train(torch, torch.tensor, optimiser, options, "float32"), exact)
    assert 0 < ours <= 2 * theirs


# ----------------------------------------------------------------------------------------------------------- ResNet-20

RESNET = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
"""Section 4.2 of arXiv:1512.03385, whose rate of 0.1 is for batches of 128: eight random pictures would be chaos."""


def torch_resnet20(torch: Any) -> Any:
    """The network as a PyTorch user writes it, with torchvision's names and shortcuts without parameters."""
    nn, functional = torch.nn, torch.nn.functional

    class Block(nn.Module):  # type: ignore[misc, name-defined]  # PyTorch's, known when it runs
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.stride, self.more = 1 if inputs == outputs else 2, outputs - inputs
            self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more)))

    class Net(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
            self.layer1 = nn.Sequential(*(Block(16, 16) for _ in range(3)))
            self.layer2 = nn.Sequential(Block(16, 32), Block(32, 32), Block(32, 32))
            self.layer3 = nn.Sequential(Block(32, 64), Block(64, 64), Block(64, 64))
            self.fc = nn.Linear(64, 10)

        def forward(self, x: Any) -> Any:
            x = torch.relu(self.bn1(self.conv1(x)))
            return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))

    return Net()


def resnet_problem(dtype: str) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Initial weights, and batches of eight pictures, drawn in float64 and rounded.

    In float32 a value at a ReLU's kink falls to one side or the other, and the gradient with it. The norms' biases do
    not start at 0, or these few values would decide on the relative error of the biases, whatever the rest does.
    """
    rng = np.random.default_rng(11)
    tb.manual_seed(5)
    weights = {k: v.numpy() for k, v in tb.models.resnet20().double().state_dict().items()}
    for name, value in weights.items():
        if value.ndim == 1 and name.endswith(("weight", "bias")):
            weights[name] = 0.3 * rng.standard_normal(value.shape) + name.endswith("weight")
    rounded = {k: np.asarray(v, dtype) if v.dtype.kind == "f" else v for k, v in weights.items()}
    return rounded, rng.standard_normal((STEPS, 8, 3, 32, 32)).astype(dtype), rng.integers(0, 10, (STEPS, 8))


def train_resnet(lib: Any, model: Any, dtype: str, start: str = "") -> dict[str, Any]:
    """Train STEPS steps from the common start (rounded to ``start`` first); return the state as float64 arrays."""
    weights, batches, targets = resnet_problem(start or dtype)
    model = model.double() if dtype == "float64" else model
    model.load_state_dict(
        {k: lib.tensor(np.array(v, dtype if v.dtype.kind == "f" else v.dtype)) for k, v in weights.items()}
    )
    optimizer = lib.optim.SGD(model.parameters(), **RESNET)
    for x, y in zip(batches, targets):
        optimizer.zero_grad()
        lib.nn.functional.cross_entropy(model(lib.tensor(x.astype(dtype))), lib.tensor(y)).backward()
        optimizer.step()
    return {k: np.asarray(v.detach().numpy(), np.float64) for k, v in model.state_dict().items()}


@pytest.mark.slow
def test_resnet20_in_float64_to_1e_9() -> None:
    torch = pytest.importorskip("torch")
    ours = train_resnet(tb, tb.models.resnet20(), "float64")
    theirs = train_resnet(torch, torch_resnet20(torch), "float64")
    assert ours.keys() == theirs.keys()
    assert distance(ours, theirs) < 1e-9


@pytest.mark.slow
def test_resnet20_in_float32_no_further_from_float64_than_twice_pytorch() -> None:
    torch = pytest.importorskip("torch")
    exact = train_resnet(torch, torch_resnet20(torch), "float64", start="float32")
    ours = distance(train_resnet(tb, tb.models.resnet20(), "float32"), exact)
    theirs = distance(train_resnet(torch, torch_resnet20(torch), "float32"), exact)
    assert 0 < ours <= 2 * theirs
