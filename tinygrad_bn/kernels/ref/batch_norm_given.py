"""Batch normalisation whose statistics something else has found, a convolution on its way out for one.

    y = act((x - mean) invstd weight + bias + residual)

The rows of ``statistics`` and the meaning of ``act`` and ``slope`` are those of ``batch_norm.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.ref.batch_norm import activated
from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]


@spec(writes="statistics", workspace="parts")
def batch_norm_statistics(x: Array, eps: float, statistics: Array, parts: Array) -> None:
    """Statistics (4, C) of each channel of x (N, C, L)."""
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        mean, var = wide.mean(axis=(0, 2)), wide.var(axis=(0, 2))
        statistics[0] = mean
        statistics[1] = np.where(np.isfinite(mean), mean - statistics[0].astype(np.float64), 0)
        statistics[2] = var
        statistics[3] = 1 / np.sqrt(var + eps)


@spec(writes="statistics", updates="parts")
def batch_norm_finish(parts: Array, eps: float, statistics: Array) -> None:
    """Statistics (4, C) of channels whose values were seen in parts (C, P, 3): count, mean and M2 of each, merged
    into the first by Chan's formula."""
    with np.errstate(all="ignore"):
        for merged in parts:
            n = merged[:, 0].sum()
            mean = (merged[:, 0] * merged[:, 1]).sum() / n
            m2 = (merged[:, 2] + merged[:, 0] * (merged[:, 1] - mean) ** 2).sum()
            merged[0] = n, mean, m2
        n, mean, m2 = parts[:, 0].T
        statistics[0] = mean
        statistics[1] = np.where(np.isfinite(mean), mean - statistics[0].astype(np.float64), 0)
        statistics[2] = m2 / n
        statistics[3] = 1 / np.sqrt(m2 / n + eps)


@spec(writes="y")
def batch_norm_given(
    x: Array, residual: Array, weight: Array, bias: Array, statistics: Array, act: int, slope: float,
    y: Array,
) -> None:  # fmt: skip
    """Normalise x (N, C, L); a residual of size 0 counts as zeros."""
    with np.errstate(all="ignore"):
        mean, low, _, invstd = (row.astype(np.float64)[None, :, None] for row in statistics)
        z = (x.astype(np.float64) - mean - low) * invstd
        z = z * weight[None, :, None] if weight.size else z
        z = z + bias[None, :, None] if bias.size else z
        z = z + residual if residual.size else z
        y[...] = activated(z, act, slope)
