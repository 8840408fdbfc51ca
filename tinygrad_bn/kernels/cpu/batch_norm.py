"""Batch normalisation of an input seen as (N, C, L): statistics, normalise, gradients, running statistics.

    y  = act((x - mean) invstd weight + bias),  invstd = 1 / √(var + eps), var biased
    gx = weight invstd (g - mean(g) - x̂ mean(g x̂)),  gweight = Σ g x̂,  gbias = Σ g,  g = gy act'(z)

Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithm 1. Forward reads x from memory once (the second look comes from the
cache) and writes y; backward reads x and gy, and writes gx: the activation's slope is recomputed. A task does all that
its channels need, one phase after the other, while they are in the cache (``bn_tasks``); where the batch is cut into
parts, each phase is one of all tasks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu.bn_activation import RELU
from tinygrad_bn.kernels.cpu.bn_statistics import finalise, gather, given
from tinygrad_bn.kernels.cpu.bn_tasks import channels_of, find_gradient, find_statistics, find_sums, normalise, tasks_of

GRAIN = 1 << 14


@parallel(work="x", grain=GRAIN)
def batch_norm_train(
    x: Any, weight: Any, bias: Any, eps: Any, act: Any, slope: Any,
    y: Any, statistics: Any, parts: Any,
) -> None:  # fmt: skip
    tasks, cuts = tasks_of(x), parts.shape[1]
    if cuts == 1:
        for t in prange(tasks):
            c0, c1 = channels_of(x, t)
            find_statistics(x, t, 0, parts)
            finalise(parts, c0, c1, eps, statistics)
            normalise(x, None, y, t, 0, 1, statistics, weight, bias, act, slope)
    else:
        for i in prange(tasks * cuts):
            find_statistics(x, i // cuts, i % cuts, parts)
        finalise(parts, 0, x.shape[1], eps, statistics)
        for i in prange(tasks * cuts):
            normalise(x, None, y, i // cuts, i % cuts, cuts, statistics, weight, bias, act, slope)


@parallel(work="gy", grain=GRAIN)
def batch_norm_backward(
    gy: Any, x: Any, weight: Any, bias: Any, statistics: Any, act: Any, slope: Any,
    gx: Any, gweight: Any, gbias: Any, parts: Any,
) -> None:  # fmt: skip
    samples, channels, length = x.shape
    tasks, cuts = tasks_of(x), parts.shape[1]
    count = np.float64(samples * length)
    mask, past = act == RELU, act <= RELU
    g = gx if act > RELU else gy  # gy act'(z) waits where gx will be
    if cuts == 1:
        for t in prange(tasks):
            c0, c1 = channels_of(x, t)
            find_sums(gy, x, None, gx, t, 0, statistics, weight, bias, act, slope, parts)
            gather(parts, c0, c1, statistics, count, gweight, gbias)
            find_gradient(g, x, gx, t, 0, statistics, weight, bias, mask, count, gweight, gbias, parts, past)
    else:
        for i in prange(tasks * cuts):
            find_sums(gy, x, None, gx, i // cuts, i % cuts, statistics, weight, bias, act, slope, parts)
        gather(parts, 0, channels, statistics, count, gweight, gbias)
        for i in prange(tasks * cuts):
            t, p = i // cuts, i % cuts
            find_gradient(g, x, gx, t, p, statistics, weight, bias, mask, count, gweight, gbias, parts, past)


@parallel(work="x", grain=GRAIN)
def batch_norm_eval(
    x: Any, weight: Any, bias: Any, mean: Any, var: Any, eps: Any, act: Any, slope: Any,
    y: Any, statistics: Any,
) -> None:  # fmt: skip
    tasks = tasks_of(x)
    cuts = max(1, min(x.shape[0], 8 // tasks))
    given(mean, var, eps, statistics)
    for i in prange(tasks * cuts):
        normalise(x, None, y, i // cuts, i % cuts, cuts, statistics, weight, bias, act, slope)


@parallel(work="gy", grain=GRAIN)
def batch_norm_eval_backward(
    gy: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, eps: Any, act: Any, slope: Any,
    gx: Any, gweight: Any, gbias: Any, statistics: Any, parts: Any,
) -> None:  # fmt: skip
    mask, past = act == RELU, act <= RELU
    g = gx if act > RELU else gy
    given(mean, var, eps, statistics)
    cuts = parts.shape[1]
    for i in prange(tasks_of(x) * cuts):
        t, p = i // cuts, i % cuts
        find_sums(gy, x, None, gx, t, p, statistics, weight, bias, act, slope, parts)
        find_gradient(g, x, gx, t, p, statistics, weight, bias, mask, 0.0, gweight, gbias, parts, past)
    gather(parts, 0, x.shape[1], statistics, 0.0, gweight, gbias)


@jit()
def batch_norm_update(
    statistics: Any, count: Any, momentum: Any, unbiased: Any,
    running_mean: Any, running_var: Any, tracked: Any, skipped: Any,
) -> None:  # fmt: skip
    mean, var = statistics[0], statistics[2]
    finite = True
    for c in range(mean.size):
        finite = finite and abs(mean[c]) < np.inf and abs(var[c]) < np.inf
    if not finite:
        skipped[()] += 1
        return
    tracked[()] += 1
    weight = momentum if momentum >= 0 else 1.0 / tracked[()]
    factor = count / (count - 1.0) if unbiased and count > 1 else 1.0
    for c in range(mean.size):
        running_mean[c] += weight * (np.float64(mean[c]) - running_mean[c])
    for c in range(mean.size):
        running_var[c] += weight * (np.float64(var[c]) * factor - running_var[c])
