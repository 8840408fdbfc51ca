"""Batch normalisation to which a residual is added ahead of the activation: y = act(bn(x) + r), its gradients.

    y  = act((x - mean) invstd weight + bias + r)
    g  = gy act'(·),  gr = g,  gx, gweight, gbias of g as in ``batch_norm``

He et al. 2016 (arXiv:1512.03385), figure 2. Forward reads x and r and writes y: the sum takes place in registers.
Backward finds the slope from what is kept, y or r: gr is written ahead of the sums or with them, and read out of the
cache in the pass that writes gx. Of memory, 3 values are read and 2 written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from tinygrad_bn.kernels.cpu._jit import parallel
from tinygrad_bn.kernels.cpu.batch_norm import GRAIN
from tinygrad_bn.kernels.cpu.bn_statistics import finalise, gather, given
from tinygrad_bn.kernels.cpu.bn_tasks import channels_of, find_gradient, find_statistics, find_sums, normalise, tasks_of
from tinygrad_bn.kernels.cpu.simd import pointer_to


@parallel(work="x", grain=GRAIN)
def batch_norm_residual(
    x: Any, residual: Any, weight: Any, bias: Any, eps: Any, act: Any, slope: Any,
    y: Any, statistics: Any, parts: Any,
) -> None:  # fmt: skip
    tasks, cuts = tasks_of(x), parts.shape[1]
    r = pointer_to(residual)
    if cuts == 1:
        for t in prange(tasks):
            c0, c1 = channels_of(x, t)
            find_statistics(x, t, 0, parts)
            finalise(parts, c0, c1, eps, statistics)
            normalise(x, r, y, t, 0, 1, statistics, weight, bias, act, slope)
    else:
        for i in prange(tasks * cuts):
            find_statistics(x, i // cuts, i % cuts, parts)
        finalise(parts, 0, x.shape[1], eps, statistics)
        for i in prange(tasks * cuts):
            normalise(x, r, y, i // cuts, i % cuts, cuts, statistics, weight, bias, act, slope)


@parallel(work="gy", grain=GRAIN)
def batch_norm_residual_backward(
    gy: Any, x: Any, kept: Any, weight: Any, bias: Any, statistics: Any, act: Any, slope: Any,
    gx: Any, gresidual: Any, gweight: Any, gbias: Any, parts: Any,
) -> None:  # fmt: skip
    samples, channels, length = x.shape
    tasks, cuts = tasks_of(x), parts.shape[1]
    count = np.float64(samples * length)
    k, g = pointer_to(kept), gresidual
    if cuts == 1:
        for t in prange(tasks):
            c0, c1 = channels_of(x, t)
            find_sums(gy, x, k, g, t, 0, statistics, weight, bias, act, slope, parts)
            gather(parts, c0, c1, statistics, count, gweight, gbias)
            find_gradient(g, x, gx, t, 0, statistics, weight, bias, False, count, gweight, gbias, parts, True)
    else:
        for i in prange(tasks * cuts):
            find_sums(gy, x, k, g, i // cuts, i % cuts, statistics, weight, bias, act, slope, parts)
        gather(parts, 0, channels, statistics, count, gweight, gbias)
        for i in prange(tasks * cuts):
            t, p = i // cuts, i % cuts
            find_gradient(g, x, gx, t, p, statistics, weight, bias, False, count, gweight, gbias, parts, True)


@parallel(work="x", grain=GRAIN)
def batch_norm_residual_eval(
    x: Any, residual: Any, weight: Any, bias: Any, mean: Any, var: Any, eps: Any, act: Any, slope: Any,
    y: Any, statistics: Any,
) -> None:  # fmt: skip
    tasks = tasks_of(x)
    cuts = max(1, min(x.shape[0], 8 // tasks))
    r = pointer_to(residual)
    given(mean, var, eps, statistics)
    for i in prange(tasks * cuts):
        normalise(x, r, y, i // cuts, i % cuts, cuts, statistics, weight, bias, act, slope)


@parallel(work="gy", grain=GRAIN)
def batch_norm_residual_eval_backward(
    gy: Any, x: Any, kept: Any, weight: Any, bias: Any, mean: Any, var: Any, eps: Any, act: Any, slope: Any,
    gx: Any, gresidual: Any, gweight: Any, gbias: Any, statistics: Any, parts: Any,
) -> None:  # fmt: skip
    k, g = pointer_to(kept), gresidual
    given(mean, var, eps, statistics)
    cuts = parts.shape[1]
    for i in prange(tasks_of(x) * cuts):
        t, p = i // cuts, i % cuts
        find_sums(gy, x, k, g, t, p, statistics, weight, bias, act, slope, parts)
        find_gradient(g, x, gx, t, p, statistics, weight, bias, False, 0.0, gweight, gbias, parts, True)
    gather(parts, 0, x.shape[1], statistics, 0.0, gweight, gbias)
