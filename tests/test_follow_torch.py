"""The batch-norm network of the main job follows PyTorch from the same weights and batches."""

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
