"""Batch normalisation whose statistics something else has found: the last phase of ``batch_norm.py`` by itself.

y = act((x - mean) invstd weight + bias + residual)
"""

from __future__ import annotations

from typing import Any

from numba import prange

from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu.bn_statistics import finalise
from tinygrad_bn.kernels.cpu.bn_tasks import find_statistics, normalise, tasks_of
from tinygrad_bn.kernels.cpu.simd import pointer_to

GRAIN = 1 << 14


@parallel(work="x", grain=GRAIN)
def batch_norm_statistics(x: Any, eps: Any, statistics: Any, parts: Any) -> None:
    cuts = parts.shape[1]
    for i in prange(tasks_of(x) * cuts):
        find_statistics(x, i // cuts, i % cuts, parts)
    finalise(parts, 0, x.shape[1], eps, statistics)


@jit()
def batch_norm_finish(parts: Any, eps: Any, statistics: Any) -> None:
    finalise(parts, 0, parts.shape[0], eps, statistics)


@parallel(work="x", grain=GRAIN)
def batch_norm_given(
    x: Any, residual: Any, weight: Any, bias: Any, statistics: Any, act: Any, slope: Any, y: Any
) -> None:
    tasks = tasks_of(x)
    cuts = max(1, min(x.shape[0], 8 // tasks))
    r = pointer_to(residual)
    if residual.size:
        for i in prange(tasks * cuts):
            normalise(x, r, y, i // cuts, i % cuts, cuts, statistics, weight, bias, act, slope)
    else:
        for i in prange(tasks * cuts):
            normalise(x, None, y, i // cuts, i % cuts, cuts, statistics, weight, bias, act, slope)
