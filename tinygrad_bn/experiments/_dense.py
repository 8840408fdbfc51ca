"""Fully connected networks as experiments train them: data, steps, Jacobians of layers, shift of their gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.experiments.runner.experiment import Task

PLAIN, FIXED, BN = "plain", "bn_fixed", "bn"
"""Without batch normalisation; with it, but without γ and β; with all of it."""

Array = np.ndarray[Any, Any]


def fill(weight: tb.Tensor, init: str) -> None:
    """Draw the weights of a layer."""
    if init == "he":
        nn.init.kaiming_normal_(weight, nonlinearity="relu")
    elif init == "xavier":
        nn.init.xavier_normal_(weight)
    else:
        nn.init.normal_(weight, 0, {"small": 0.01, "large": 1.0}[init])


def network(kind: str, depth: int, inputs: int, width: int, init: str = "he", activation: Any = nn.ReLU) -> Any:
    """Return a fully connected network; its weights follow from the seed of ``tb.manual_seed``."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers.append(nn.Linear(width if i else inputs, width, bias=kind == PLAIN))
        if kind != PLAIN:
            layers.append(nn.BatchNorm1d(width, affine=kind == BN))
        layers.append(activation())
    net = nn.Sequential(*layers, nn.Linear(width, 10))
    for layer in net:
        if isinstance(layer, nn.Linear):
            fill(layer.weight, init)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net


def stage(kind: str) -> int:
    """Return how many modules a hidden layer consists of."""
    return 2 if kind == PLAIN else 3


@dataclass(frozen=True)
class Data:
    """Pictures as rows, with mean 0 and variance 1 over all pixels of the training pictures."""

    x: Array
    y: Array
    test_x: Array
    test_y: Array


def data(task: Task, count: int) -> Data:
    """Return as many training pictures as asked for, chosen by the seed, and all test pictures."""
    p = task.data
    chosen = np.random.default_rng([task.seed, 1]).permutation(len(p.train_x))[:count]
    x = p.train_x[chosen].reshape(len(chosen), -1)
    mean, deviation = x.mean(dtype=np.float64), x.std(dtype=np.float64)
    rows = [((a - mean) / deviation).astype(np.float32) for a in (x, p.test_x.reshape(len(p.test_x), -1))]
    return Data(rows[0], p.train_y[chosen], rows[1], p.test_y)


def training(net: Any, rows: Data, task: Task, steps: int) -> Iterator[tuple[int, tb.Tensor, tb.Tensor]]:
    """Train by plain SGD, at the ``lr`` and with the ``batch`` of the task's setting.

    Yields the number and the mini-batch of each step ahead of it.
    """
    s = task.setting
    optimizer = tb.optim.SGD(net.parameters(), lr=s.lr)

    @tb.capture
    def step(images: tb.Tensor, classes: tb.Tensor) -> None:
        optimizer.zero_grad()
        tb.functional.cross_entropy(net(images), classes).backward()
        optimizer.step()

    rng = np.random.default_rng([task.seed, 2])
    order, at = rng.permutation(len(rows.x)), 0
    for n in range(steps):
        if at + s.batch > len(order):
            order, at = rng.permutation(len(rows.x)), 0
        chosen, at = order[at : at + s.batch], at + s.batch
        images, classes = (tb.from_numpy(a[chosen]).to(task.device) for a in (rows.x, rows.y))
        yield n, images, classes
        step(images, classes)
        if n % 50 == 49:
            task.tick(50)


def shift(net: Any, kind: str, images: tb.Tensor, classes: tb.Tensor, rate: float) -> list[float]:
    """Return ‖G_i - G'_i‖ / ‖G_i‖ of each layer behind the first; the network is left as it was.

    G_i is the gradient of the loss with respect to the layer's weights, G'_i the same after the layers ahead of it have
    made their step of gradient descent: the internal covariate shift of Santurkar et al. 2018 (arXiv:1805.11604),
    definition 2.1, here relative to the gradient.
    """
    size = stage(kind)
    groups = [list(net[i : i + size].parameters()) for i in range(0, len(net), size)]
    every = [p for group in groups for p in group]

    def gradients(of: list[tb.Tensor]) -> Any:
        return tb.grad(tb.functional.cross_entropy(net(images), classes), of)

    before = [p.detach().clone() for p in every]
    g = dict(zip(every, gradients(every), strict=True))
    found = []
    for i, group in enumerate(groups):
        weight = group[0]
        if i:  # here the layers ahead have made their steps, this one and those behind have not
            change = gradients([weight])[0] - g[weight]
            found.append(float(tb.square(change).sum() / tb.square(g[weight]).sum()) ** 0.5)
        with tb.no_grad():
            for p in group:
                p.sub_(rate * g[p])
    with tb.no_grad():
        for p, old in zip(every, before, strict=True):
            p.copy_(old)
    return found


def layer_jacobians(net: Any, kind: str, depth: int, x: Array, points: int, device: str) -> Array:
    """Return the Jacobians of x̂ → ẑ of neighbouring layers, shape (depth - 1, points, width, width).

    x̂ and ẑ are what batch normalisation makes of W u ahead of γ and β, without it W u + b. Statistics are those of all
    pictures and do not depend on a single one: section 3.3 looks at the map of features.
    """
    images = tb.from_numpy(x).to(device)
    if kind != PLAIN:
        tb.nn.utils.update_bn(net, [images])
    net.eval()
    found, size = [], stage(kind)
    for i in range(depth - 1):
        here, there = ((i + k) * size + size - 1 for k in (0, 1))
        with tb.no_grad():
            z = net[:here](images[:points])
        block = net[here:there]
        found.append(_jacobian(block, z))
        if kind == BN:
            gammas = [net[end - 1].weight.detach().cpu().numpy() for end in (here, there)]
            found[-1] = found[-1] * gammas[0] / gammas[1][:, None]
    net.train()
    return np.array(found)


def _jacobian(block: Any, z: tb.Tensor) -> Array:
    """The Jacobian at each row; rows do not depend on each other, so that one sum over them serves all."""
    every: tb.Tensor = tb.autograd.functional.jacobian(lambda rows: block(rows).sum(0), z)
    return every.cpu().numpy().transpose(1, 0, 2)
