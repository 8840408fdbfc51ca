"""Normalisation within a sample, of an input seen as (N, G, D, L): a mean and variance for each (n, g).

    y  = (x - mean) invstd w_c + b_c,  invstd = 1 / √(var + eps), var biased, c = g D + d
    gx = invstd (h - mean(h) - x̂ mean(h x̂)),  h = gy w_c;  gw_c = Σ gy x̂ and gb_c = Σ gy over n and L

Group norm, Wu & He 2018 (arXiv:1803.08494): D channels a group, L places. Layer norm, Ba et al. 2016
(arXiv:1607.06450): G = L = 1, an element is its own channel. Instance norm, Ulyanov et al. 2016 (arXiv:1607.08022):
D = 1. ``weight`` and ``bias`` of size 0 count as ones and zeros. The rows of ``statistics`` (4, N·G) are mean hi, mean
lo, var and invstd: the mean is handed on as two numbers of the input's dtype, hi + lo, so that a large one costs no
accuracy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]
INNER = (2, 3)


def _by_channel(values: Array, shape: tuple[int, ...], default: float) -> Array:
    """A number a channel, to broadcast over (N, G, D, L)."""
    if not values.size:
        return np.full((1, 1, 1, 1), default)
    return values.astype(np.float64).reshape(1, shape[1], shape[2], 1)


@spec(writes="y statistics")
def group_norm(x: Array, weight: Array, bias: Array, eps: float, y: Array, statistics: Array) -> None:
    """Normalise each (n, g) by its own statistics, in float64 throughout."""
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        first = wide[:, :, :1, :1]
        mean = first + (wide - first).mean(axis=INNER, keepdims=True)  # of a constant row, exactly its value
        var = ((wide - mean) ** 2).mean(axis=INNER, keepdims=True)
        invstd = 1 / np.sqrt(var + eps)
        statistics[0] = mean.reshape(-1)
        low = mean.reshape(-1) - statistics[0].astype(np.float64)
        statistics[1] = np.where(np.isfinite(mean.reshape(-1)), low, 0)
        statistics[2] = var.reshape(-1)
        statistics[3] = invstd.reshape(-1)
        y[...] = (wide - mean) * invstd * _by_channel(weight, x.shape, 1) + _by_channel(bias, x.shape, 0)


@spec(writes="gx gweight gbias", workspace="recent sums")
def group_norm_backward(
    gy: Array, x: Array, weight: Array, statistics: Array,
    gx: Array, gweight: Array, gbias: Array, recent: Array, sums: Array,
) -> None:  # fmt: skip
    """The gradients of group_norm, in float64 throughout; those of weight and bias only where they are not of size 0.

    ``sums``, float64 of shape (P, 2, C), is scratch: the samples may be summed in P parts. So is ``recent``, of the
    input's dtype, of that shape where L is 1, else of size 0.
    """
    with np.errstate(all="ignore"):
        mean, low, _, invstd = statistics.astype(np.float64).reshape(4, *x.shape[:2], 1, 1)
        hat = (x.astype(np.float64) - mean - low) * invstd
        g = gy.astype(np.float64)
        if gweight.size:
            gweight[:] = (g * hat).sum(axis=(0, 3)).reshape(-1)
        if gbias.size:
            gbias[:] = g.sum(axis=(0, 3)).reshape(-1)
        h = g * _by_channel(weight, x.shape, 1)
        inner = h - h.mean(axis=INNER, keepdims=True) - hat * (h * hat).mean(axis=INNER, keepdims=True)
        gx[...] = invstd * inner
