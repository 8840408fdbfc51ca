"""Answers in float64, in plain NumPy, shared by the cases."""

from __future__ import annotations

import numpy as np

from bench.harness.case import Array

EPS = 1e-5


def wide(x: Array) -> Array:
    """Return the array in float64."""
    return x.astype(np.float64)


def normal(rng: np.random.Generator, *shape: int) -> Array:
    """Return standard normal numbers in float32."""
    return rng.standard_normal(shape, dtype=np.float32)


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + e^-x)."""
    return 1 / (1 + np.exp(-x))


def per_channel(v: Array, ndim: int) -> Array:
    """Return numbers of the channels in a shape that broadcasts along axis 1."""
    return v.reshape(1, -1, *[1] * (ndim - 2))


def batch_norm(x: Array, weight: Array, bias: Array) -> tuple[Array, Array, Array]:
    """Return y, x̂ and 1/σ of a batch normalised by its own statistics; arXiv:1502.03167, algorithm 1."""
    axes = (0, *range(2, x.ndim))
    centred = x - x.mean(axes, keepdims=True)
    invstd = 1 / np.sqrt((centred * centred).mean(axes, keepdims=True) + EPS)
    hat = centred * invstd
    return hat * per_channel(weight, x.ndim) + per_channel(bias, x.ndim), hat, invstd


def batch_norm_backward(g: Array, hat: Array, invstd: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Return the gradients of the input, the weight and the bias."""
    axes = (0, *range(2, g.ndim))
    inner = g - g.mean(axes, keepdims=True) - hat * (g * hat).mean(axes, keepdims=True)
    return per_channel(weight, g.ndim) * invstd * inner, (g * hat).sum(axes), g.sum(axes)


def cross_entropy(scores: Array, classes: Array) -> tuple[float, Array]:
    """Return the mean cross-entropy of a batch and its gradient."""
    n = np.arange(len(classes))
    shifted = scores - scores.max(1, keepdims=True)
    log = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    g = np.exp(log)
    g[n, classes] -= 1
    return float(-log[n, classes].mean()), g / len(classes)
