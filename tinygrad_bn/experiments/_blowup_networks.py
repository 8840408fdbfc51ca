"""The networks of ``bias_blowup``: normalised in the graph, outside of it, by whitening, or not at all.

    z = g(Norm(Wu + b)),   g the sigmoid,   Norm one of
    batch norm     (x - E[x]) / √Var[x] · γ + β,   gradients through E and Var
    outside        the same, E and Var over the training set, computed between the steps
    decorrelated   Cov[x]^(-1/2) (x - E[x]) · γ + β by eigenvalues;   iter_norm: by Newton's iterations

Ioffe & Szegedy 2015 (arXiv:1502.03167), sections 2 and 3; Huang et al. 2018 (arXiv:1804.08450)
and 2019 (arXiv:1904.03441).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.experiments.runner.experiment import CLOCK, Numbers, Task, curve

EPS = 1e-5
NEWTON = 5
"""Iterations of IterNorm."""


class OutsideNorm(nn.Module):
    """(x - mean) / std · γ + β, mean and std constants that ``measure`` sets, outside of the gradient descent step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(tb.ones(width)), nn.Parameter(tb.zeros(width))
        self.register_buffer("mean", tb.zeros(width))
        self.register_buffer("std", tb.ones(width))

    def measure(self, x: tb.Tensor) -> None:
        """Take the statistics of x, shape (N, width)."""
        self.mean.copy_(x.mean(0))
        self.std.copy_((x.var(0, unbiased=False) + EPS).sqrt())

    def forward(self, x: tb.Tensor) -> tb.Tensor:
        y: tb.Tensor = (x - self.mean) / self.std * self.weight + self.bias
        return y


NETWORKS: dict[str, tuple[str, Callable[[int], nn.Module]]] = {
    "none": ("no normalisation", lambda width: nn.Identity()),
    "bn": ("batch norm", lambda width: nn.BatchNorm1d(width, eps=EPS)),
    "outside": ("outside, each step", OutsideNorm),
    "interval": ("outside, at intervals", OutsideNorm),
    "iter_norm": ("whitening, IterNorm", lambda width: nn.IterNorm(width, T=NEWTON, eps=EPS)),
    "decorrelated": ("whitening, Cov^(−1/2)", lambda width: nn.DecorrelatedBatchNorm(width, eps=EPS)),
}


def flops(arm: str, rows: int, width: int) -> int:
    """Return the operations of a normalisation's forward pass: statistics, and what is done with them.

    Notes
    -----
    Batch norm: 2 an element for the mean, 2 for the variance, 1 to divide, 2 for γ and β. Whitening: 2ND² for the
    covariance and as many for its root times x; eigenvectors 9D³ and the root from them 2D³, or 6D³ an iteration.
    """
    if not arm.startswith(("iter", "decorrelated")):
        return 0 if arm == "none" else 7 * rows * width
    root = 11 * width**3 if arm == "decorrelated" else 6 * NEWTON * width**3
    return 4 * rows * width + 4 * rows * width**2 + root


def problem(setting: Any, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw correlated Gaussian inputs of condition number κ and the classes that a random tanh network gives them."""
    basis = np.linalg.qr(rng.standard_normal((setting.inputs, setting.inputs)))[0]
    z = rng.standard_normal((setting.train, setting.inputs))
    hidden = np.tanh(z @ rng.standard_normal((setting.inputs, setting.width)) * 2 / np.sqrt(setting.inputs))
    scores = hidden @ rng.standard_normal((setting.width, setting.classes))
    x = (z * np.geomspace(1, np.sqrt(setting.kappa), setting.inputs)) @ basis.T
    return (x / x.std()).astype(np.float32), (scores - scores.mean(0)).argmax(1)


def network(arm: str, setting: Any) -> nn.Sequential:
    """Return ``hidden`` layers z = g(Norm(Wu + b)), g the sigmoid, and a classifier; Glorot's weights."""
    widths = [setting.inputs] + [setting.width] * setting.hidden
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), NETWORKS[arm][1](after), nn.Sigmoid()]
    layers.append(nn.Linear(setting.width, setting.classes))
    for layer in layers[::3]:
        nn.init.xavier_normal_(layer.weight)
    return nn.Sequential(*layers)


def train_network(task: Task, rate: float) -> tuple[Numbers, list[float]]:
    """Train by SGD; return losses and the growth of weights and biases, and the seconds of each step."""
    setting = task.setting
    rng = np.random.default_rng([task.seed, 1])  # the same data and batches for each arm and rate
    x, labels = (tb.tensor(a, device=task.device) for a in problem(setting, rng))
    tb.manual_seed(task.seed)
    model = network(task.arm, setting).to(task.device)
    sgd = tb.optim.SGD(model.parameters(), lr=rate)
    before = lengths(model)

    @tb.capture
    def measure(x: tb.Tensor) -> None:
        with tb.no_grad():
            for layer in model:
                if isinstance(layer, OutsideNorm):
                    layer.measure(x)
                x = layer(x)

    def step(x: tb.Tensor, labels: tb.Tensor) -> tb.Tensor:
        sgd.zero_grad()
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        sgd.step()
        return loss

    on_host = task.arm == "decorrelated" and task.device == "cuda"  # its eigenvalues are found by NumPy: no graph
    run: Any = step if on_host else tb.capture(step)
    every = {"outside": 1, "interval": setting.interval}.get(task.arm)
    losses, seconds = [], []
    for i in range(setting.net_steps):
        rows = tb.tensor(rng.integers(setting.train, size=setting.batch), device=task.device)
        batch, began = (x[rows], labels[rows]), time.perf_counter()
        if every and i % every == 0:
            measure(x)
        losses.append(run(*batch).item())
        seconds.append(time.perf_counter() - began)
        task.tick()
    each = max(1, setting.net_steps // 50)
    smooth = np.array(losses)[: len(losses) // each * each].reshape(-1, each).mean(1)
    final = float(smooth[-5:].mean())
    grown = dict(zip(("weight_growth", "bias_growth"), (lengths(model) / before).tolist()))
    ends = {"first": losses[0], "final": final if np.isfinite(final) else float("inf")}
    return {"loss": curve((np.arange(len(smooth)) + 0.5) * each, smooth), **ends, **grown}, seconds


def lengths(model: nn.Sequential) -> np.ndarray:
    """Return the length of all hidden layers' W, and that of all their b."""
    hidden = list(model)[:-1:3]
    return np.asarray(
        np.sqrt(np.sum([[(p.detach() ** 2).sum().item() for p in (m.weight, m.bias)] for m in hidden], 0))
    )


def run_network(task: Task) -> Numbers:
    """Train a network at each rate; its numbers are those of the rate with the lowest loss in the end."""
    found = {str(rate): train_network(task, rate) for rate in task.setting.rates}
    by_rate = {rate: numbers for rate, (numbers, _) in found.items()}
    rate = min(by_rate, key=lambda r: by_rate[r]["final"])
    count = task.setting.hidden * flops(task.arm, task.setting.batch, task.setting.width)
    best = {"rate": rate, "final": by_rate[rate]["final"], "loss": by_rate[rate]["loss"]}
    ms = 1000 * float(np.median([second for _, seconds in found.values() for second in seconds]))
    return {"by_rate": by_rate, **best, "flops": count, CLOCK: {"ms_per_step": ms}}
