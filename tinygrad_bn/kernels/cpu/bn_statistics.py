"""The statistics of channels, as kernels of normalisation hand them on.

A part of a channel's values is (count, mean, M2), three float64 that lie together; M2 = Σ (x - mean)². Two parts are
merged by Chan's formula (Chan, Golub, LeVeque 1979), in a fixed order. A channel's parts, ``parts`` (C, P, 3), become
its column of ``statistics`` (4, C), of the input's dtype: the mean as two numbers, hi + lo; the biased variance; and
1 / √(var + eps). Whoever sums values up, a kernel of batch normalisation or the one ahead of it, ends with
``finalise``; whoever normalises begins with these rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cpu._jit import jit


@jit(inline=True)
def at_or(values: Any, c: Any, default: Any) -> Any:
    """values[c], or a default where values is empty."""
    return values[c] if values.size else values.dtype.type(default)


@jit(inline=True)
def merge(part: Any, at: Any, count: Any, mean: Any, m2: Any) -> None:
    """Merge count values of that mean and M2 into the part that lies at ``at``."""
    before = part[at]
    n = before + count
    delta = mean - part[at + 1]
    part[at + 1] += delta * (count / n)
    part[at + 2] += m2 + delta * delta * (before * count / n)
    part[at] = n


@jit()
def finalise(parts: Any, c0: Any, c1: Any, eps: Any, statistics: Any) -> None:
    """Merge the parts of channels c0 … c1; hand on their statistics: the one place where mean, variance and
    1 / √(var + eps) are made."""
    cuts = parts.shape[1]
    flat = parts.reshape(-1)
    for c in range(c0, c1):
        at = 3 * c * cuts
        for p in range(at + 3, at + 3 * cuts, 3):
            merge(flat, at, flat[p], flat[p + 1], flat[p + 2])
        m, m2 = flat[at + 1], flat[at + 2]
        v = max(m2 / flat[at], 0.0) if m2 == m2 else m2
        statistics[0, c] = m
        statistics[1, c] = m - np.float64(statistics[0, c]) if abs(m) < np.inf else 0.0
        statistics[2, c] = v
        statistics[3, c] = 1.0 / np.sqrt(v + eps)


@jit()
def given(mean: Any, var: Any, eps: Any, statistics: Any) -> None:
    """The statistics of all channels where mean and variance are constants."""
    for c in range(mean.size):
        statistics[0, c] = mean[c]
        statistics[1, c] = 0.0
        statistics[2, c] = var[c]
        statistics[3, c] = 1.0 / np.sqrt(np.float64(var[c]) + eps)


@jit()
def gather(parts: Any, c0: Any, c1: Any, statistics: Any, count: Any, gweight: Any, gbias: Any) -> None:
    """Add the parts (·, Σ g, Σ g d) of channels c0 … c1 up: gweight = Σ g d invstd, gbias = Σ g. The first part becomes
    (·, k1, k2) of gx = gain (g - k1 - d k2): the means over count values, or zeros where count is 0 (the statistics
    are constants)."""
    cuts = parts.shape[1]
    flat = parts.reshape(-1)
    for c in range(c0, c1):
        at = 3 * c * cuts
        for p in range(at + 3, at + 3 * cuts, 3):
            flat[at + 1] += flat[p + 1]
            flat[at + 2] += flat[p + 2]
        r = np.float64(statistics[3, c])
        gbias[c] = flat[at + 1]
        gweight[c] = flat[at + 2] * r
        flat[at + 1] = flat[at + 1] / count if count else 0.0
        flat[at + 2] = flat[at + 2] * r * r / count if count else 0.0
