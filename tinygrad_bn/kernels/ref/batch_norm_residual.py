"""Batch normalisation to which a residual is added ahead of the activation: y = act(bn(x) + r), its gradients.

He et al. 2016 (arXiv:1512.03385), figure 2. Arguments are as in ``batch_norm``; residual, y and their gradients have
the shape of x. The slope of the activation is that of its output: y > 0 of the ReLU, y (1 - y) of the sigmoid. The
backward kernels have one of these two: without an activation the residual's gradient is gy itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.ref.batch_norm import batch_norm_backward, batch_norm_eval, batch_norm_eval_backward
from tinygrad_bn.kernels.ref.batch_norm import batch_norm_train as train
from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]


def _activated(z: Array, act: int) -> Array:
    if act == 1:
        return np.maximum(z, 0)
    return z if act == 0 else 1 / (1 + np.exp(-z))


def _through(gy: Array, y: Array, act: int) -> Array:
    """gy act', by the output; NaN where the output is."""
    out = y.astype(np.float64)
    if act == 1:
        return np.where(np.isnan(out), out, np.where(out > 0, gy, 0))
    product: Array = gy * out * (1 - out)
    return product


@spec(writes="y statistics", workspace="parts")
def batch_norm_residual(
    x: Array, residual: Array, weight: Array, bias: Array, eps: float, act: int,
    y: Array, statistics: Array, parts: Array,
) -> None:  # fmt: skip
    """Normalise by the batch's own statistics, add, activate."""
    z = np.empty(x.shape)
    train(x, weight, bias, eps, 0, z, statistics, parts)
    with np.errstate(all="ignore"):
        y[...] = _activated(z + residual, act)


@spec(writes="gx gresidual gweight gbias", workspace="parts")
def batch_norm_residual_backward(
    gy: Array, x: Array, y: Array, weight: Array, bias: Array, statistics: Array, act: int,
    gx: Array, gresidual: Array, gweight: Array, gbias: Array, parts: Array,
) -> None:  # fmt: skip
    """The gradients of batch_norm_residual; ``y`` is its output."""
    with np.errstate(all="ignore"):
        g = _through(gy, y, act)
        gresidual[...] = g
    batch_norm_backward(g, x, weight, bias, statistics, 0, gx, gweight, gbias, parts)


@spec(writes="y", workspace="statistics")
def batch_norm_residual_eval(
    x: Array, residual: Array, weight: Array, bias: Array, mean: Array, var: Array, eps: float, act: int,
    y: Array, statistics: Array,
) -> None:  # fmt: skip
    """Normalise by given statistics, add, activate."""
    z = np.empty(x.shape)
    batch_norm_eval(x, weight, bias, mean, var, eps, 0, z, statistics)
    with np.errstate(all="ignore"):
        y[...] = _activated(z + residual, act)


@spec(writes="gx gresidual gweight gbias", workspace="statistics parts")
def batch_norm_residual_eval_backward(
    gy: Array, x: Array, y: Array, weight: Array, bias: Array, mean: Array, var: Array, eps: float, act: int,
    gx: Array, gresidual: Array, gweight: Array, gbias: Array, statistics: Array, parts: Array,
) -> None:  # fmt: skip
    """The gradients of batch_norm_residual_eval; ``y`` is its output."""
    with np.errstate(all="ignore"):
        g = _through(gy, y, act)
        gresidual[...] = g
    batch_norm_eval_backward(g, x, weight, bias, mean, var, eps, 0, gx, gweight, gbias, statistics, parts)
