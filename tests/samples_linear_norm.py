"""Samples of a linear layer and the batch normalisation behind it, as one operation."""

from __future__ import annotations

from typing import Any

import numpy as np
from op_samples import Array, Sample, batch, normal, record

from tinygrad_bn.ops.batch_norm import Statistics, batch_norm_train
from tinygrad_bn.ops.linear_norm import linear_batch_norm, linear_batch_norm_backward
from tinygrad_bn.ops.matmul import linear

ACTIVATIONS = ("none", "relu", "sigmoid")


def problem(m: int, k: int, n: int) -> tuple[Array, Array, Array, Array]:
    """x and a weight whose product is the input that keeps away from the ReLU's kink, and the affine parameters."""
    z, gain, bias, _, _ = batch((m, n))
    weight = np.linalg.qr(normal(max(n, k), max(n, k), seed=1))[0][:n, :k] if k >= n else None
    if weight is None:
        raise ValueError("the product of fewer inputs than outputs cannot be any z")
    return z @ weight, weight, gain, bias


def fused(activation: str) -> Any:
    def call(lib: Any, x: Any, w: Any, g: Any, b: Any) -> Any:
        if lib.__name__ != "torch":
            return linear_batch_norm(x, w, g, b, 1e-5, activation)[0]
        y = lib.nn.functional.batch_norm(lib.nn.functional.linear(x, w), None, None, g, b, True, 0.1, 1e-5)
        return y if activation == "none" else getattr(lib, activation)(y)

    return call


def composed(activation: str) -> Any:
    def numpy(x: Array, w: Array, g: Array, b: Array) -> Array:
        z = x @ w.T
        y = (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) * g + b
        return {"none": y, "relu": np.maximum(y, 0), "sigmoid": 1 / (1 + np.exp(-y))}[activation]

    return numpy


record(
    "linear_batch_norm",
    [
        Sample(f"{m}x{k}x{n}-{activation}", fused(activation), problem(m, k, n), composed(activation))
        for activation in ACTIVATIONS
        for m, k, n in ((6, 3, 3), (5, 4, 2), (7, 19, 17), (4, 3, 2))
    ],
)


def gradients(activation: str, for_x: bool) -> Any:
    def call(lib: Any, gy: Any, x: Any, w: Any, g: Any, b: Any) -> Any:
        z = linear(x.detach(), w.detach())
        _, statistics = batch_norm_train(z, g.detach(), b.detach(), 1e-5, activation)
        rows: Statistics = statistics
        return linear_batch_norm_backward(gy, x, w, g, b, z, rows, 1e-5, activation, for_x)

    return call


record(
    "linear_batch_norm_backward",
    [
        Sample(
            f"{activation}-{'all' if for_x else 'parameters'}",
            gradients(activation, for_x),
            (normal(6, 3, seed=2), *problem(6, 4, 3)),
            torch=None,
        )
        for activation in ACTIVATIONS
        for for_x in (True, False)
    ],
)
