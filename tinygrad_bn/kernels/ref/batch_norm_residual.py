"""Batch normalisation to which a residual is added ahead of the activation: y = act(bn(x) + r), its gradients.

He et al. 2016 (arXiv:1512.03385), figure 2. Arguments are as in ``batch_norm``; residual, y and their gradients have
the shape of x. ``kept`` is y where that tells the slope of the activation: y > 0 of the ReLU and of the leaky ReLU of
slope >= 0, y (1 - y) of the sigmoid, 1 - y² of tanh; else it is the residual. The backward kernels have an activation:
without one the residual's gradient is gy itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.ref.batch_norm import (
    activated,
    batch_norm_backward,
    batch_norm_eval,
    batch_norm_eval_backward,
    through,
)
from tinygrad_bn.kernels.ref.batch_norm import batch_norm_train as train
from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]


def _gresidual(
    gy: Array, x: Array, kept: Array, weight: Array, bias: Array, mean: Array, invstd: Array, act: int, slope: float
) -> Array:
    """gy act', by the output where that tells the slope; NaN where it is."""
    out = kept.astype(np.float64)
    if act > 4 or slope < 0:
        z = (x.astype(np.float64) - mean[None, :, None]) * invstd[None, :, None]
        z = z * weight.astype(np.float64)[None, :, None] if weight.size else z
        return through(gy.astype(np.float64), (z + bias[None, :, None] if bias.size else z) + out, act, slope)
    if act in (1, 3):
        return through(gy.astype(np.float64), out, act, slope)
    product: Array = gy * (out * (1 - out) if act == 2 else 1 - out * out)
    return product


@spec(writes="y statistics", workspace="parts")
def batch_norm_residual(
    x: Array, residual: Array, weight: Array, bias: Array, eps: float, act: int, slope: float,
    y: Array, statistics: Array, parts: Array,
) -> None:  # fmt: skip
    """Normalise by the batch's own statistics, add, activate."""
    z = np.empty(x.shape)
    train(x, weight, bias, eps, 0, 0, z, statistics, parts)
    with np.errstate(all="ignore"):
        y[...] = activated(z + residual, act, slope)


@spec(writes="gx gresidual gweight gbias", workspace="parts")
def batch_norm_residual_backward(
    gy: Array, x: Array, kept: Array, weight: Array, bias: Array, statistics: Array, act: int, slope: float,
    gx: Array, gresidual: Array, gweight: Array, gbias: Array, parts: Array,
) -> None:  # fmt: skip
    """The gradients of batch_norm_residual."""
    with np.errstate(all="ignore"):
        mean, low, _, invstd = statistics.astype(np.float64)
        g = _gresidual(gy, x, kept, weight, bias, mean + low, invstd, act, slope)
        gresidual[...] = g
    batch_norm_backward(g, x, weight, bias, statistics, 0, 0, gx, gweight, gbias, parts)


@spec(writes="y", workspace="statistics")
def batch_norm_residual_eval(
    x: Array, residual: Array, weight: Array, bias: Array, mean: Array, var: Array, eps: float, act: int, slope: float,
    y: Array, statistics: Array,
) -> None:  # fmt: skip
    """Normalise by given statistics, add, activate."""
    z = np.empty(x.shape)
    batch_norm_eval(x, weight, bias, mean, var, eps, 0, 0, z, statistics)
    with np.errstate(all="ignore"):
        y[...] = activated(z + residual, act, slope)


@spec(writes="gx gresidual gweight gbias", workspace="statistics parts")
def batch_norm_residual_eval_backward(
    gy: Array, x: Array, kept: Array, weight: Array, bias: Array, mean: Array, var: Array, eps: float,
    act: int, slope: float,
    gx: Array, gresidual: Array, gweight: Array, gbias: Array, statistics: Array, parts: Array,
) -> None:  # fmt: skip
    """The gradients of batch_norm_residual_eval."""
    with np.errstate(all="ignore"):
        invstd = 1 / np.sqrt(var.astype(np.float64) + eps)
        g = _gresidual(gy, x, kept, weight, bias, mean.astype(np.float64), invstd, act, slope)
        gresidual[...] = g
    batch_norm_eval_backward(g, x, weight, bias, mean, var, eps, 0, 0, gx, gweight, gbias, statistics, parts)
