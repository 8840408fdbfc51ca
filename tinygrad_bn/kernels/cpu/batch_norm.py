"""Batch normalisation of an input seen as (N, C, L): statistics, normalise, gradients, running statistics.

    y  = act((x - mean) invstd weight + bias),  invstd = 1 / √(var + eps), var biased
    gx = weight invstd (g - mean(g) - x̂ mean(g x̂)),  gweight = Σ g x̂,  gbias = Σ g,  g = gy act'(z)

Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithm 1. A task is one channel (L > 1, ``bn_rows``) or one register of
channels (L = 1, ``bn_columns``); where there are few of them, the batch is cut into P parts besides, P =
parts.shape[1], merged in order. Forward reads x from memory once (the second look comes from the cache) and writes y;
backward reads x and gy, and writes gx: the activation's slope is recomputed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu.bn_columns import (
    BLOCK,
    block_backward,
    block_forward,
    columns_apply,
    columns_gradient,
    columns_slope,
    columns_statistics,
    columns_sums,
    register_or,
)
from tinygrad_bn.kernels.cpu.bn_rows import (
    RELU,
    SIGMOID,
    merge,
    rows_apply,
    rows_gradient,
    rows_slope,
    rows_statistics,
    rows_sums,
)
from tinygrad_bn.kernels.cpu.simd import lanes, load_first, sqrt, zeros

GRAIN = 1 << 14


@jit(inline=True)
def at_or(values: Any, c: Any, default: Any) -> Any:
    """values[c], or a default where values is empty."""
    return values[c] if values.size else values.dtype.type(default)


@jit(inline=True)
def finalise(part: Any, eps: Any, c: Any, mean: Any, mean_lo: Any, var: Any, invstd: Any) -> None:
    """Merge a channel's parts; hand on its statistics: the one place where mean, variance and 1 / √(var + eps) are
    made."""
    for p in range(1, part.shape[0]):
        merge(part[0], part[p, 0], part[p, 1], part[p, 2])
    m = part[0, 1]
    v = max(part[0, 2] / part[0, 0], 0.0) if part[0, 2] == part[0, 2] else part[0, 2]
    mean[c] = m
    mean_lo[c] = m - np.float64(mean[c]) if abs(m) < np.inf else 0.0
    var[c] = v
    invstd[c] = 1.0 / np.sqrt(v + eps)


@parallel(work="x", grain=GRAIN)
def batch_norm_train(
    x: Any, weight: Any, bias: Any, eps: Any, act: Any,
    y: Any, statistics: Any, parts: Any,
) -> None:  # fmt: skip
    mean, mean_lo, var, invstd = statistics[0], statistics[1], statistics[2], statistics[3]
    samples, channels, length = x.shape
    fx, fy = x.reshape(-1), y.reshape(-1)
    cuts = parts.shape[1]
    if length > 1:
        if cuts == 1:
            for c in prange(channels):
                rows_statistics(fx, c, channels, length, 0, samples, parts[c, 0])
                finalise(parts[c], eps, c, mean, mean_lo, var, invstd)
                gain = invstd[c] * at_or(weight, c, 1)
                rows_apply(fx, fy, c, channels, length, 0, samples, mean[c], mean_lo[c], gain, at_or(bias, c, 0), act)
        else:
            for t in prange(channels * cuts):
                c, p = t // cuts, t % cuts
                n0, n1 = samples * p // cuts, samples * (p + 1) // cuts
                rows_statistics(fx, c, channels, length, n0, n1, parts[c, p])
            for c in range(channels):
                finalise(parts[c], eps, c, mean, mean_lo, var, invstd)
            for t in prange(channels * cuts):
                c, p = t // cuts, t % cuts
                n0, n1 = samples * p // cuts, samples * (p + 1) // cuts
                gain = invstd[c] * at_or(weight, c, 1)
                rows_apply(fx, fy, c, channels, length, n0, n1, mean[c], mean_lo[c], gain, at_or(bias, c, 0), act)
    elif cuts == 1 and samples <= BLOCK:
        width = lanes(fx)
        rows = statistics.reshape(-1)
        for t in prange(-(-channels // width)):
            c0 = t * width
            n = min(width, channels - c0)
            block_forward(fx, fy, channels, c0, n, samples, eps, weight, bias, act, rows)
    else:
        width = lanes(fx)
        registers = -(-channels // width)
        for t in prange(registers * cuts):
            c0, p = t // cuts * width, t % cuts
            n0, n1 = samples * p // cuts, samples * (p + 1) // cuts
            columns_statistics(fx, channels, c0, min(width, channels - c0), n0, n1, parts, p)
        for c in range(channels):
            finalise(parts[c], eps, c, mean, mean_lo, var, invstd)
        for t in prange(registers * cuts):
            c0, p = t // cuts * width, t % cuts
            n0, n1 = samples * p // cuts, samples * (p + 1) // cuts
            n = min(width, channels - c0)
            h, e = load_first(mean, c0, n), load_first(mean_lo, c0, n)
            gain = load_first(invstd, c0, n) * register_or(weight, c0, n, 1)
            columns_apply(fx, fy, channels, c0, n, n0, n1, h, e, gain, register_or(bias, c0, n, 0), act)


@jit(inline=True)
def gather_sums(part: Any, c: Any, invstd: Any, gweight: Any, gbias: Any) -> None:
    """Add a channel's parts up; gweight = Σ g d invstd, gbias = Σ g."""
    for p in range(1, part.shape[0]):
        part[0, 1] += part[p, 1]
        part[0, 2] += part[p, 2]
    gbias[c] = part[0, 1]
    gweight[c] = part[0, 2] * invstd[c]


@parallel(work="gy", grain=GRAIN)
def batch_norm_backward(
    gy: Any, x: Any, weight: Any, bias: Any, statistics: Any, act: Any,
    gx: Any, gweight: Any, gbias: Any, parts: Any,
) -> None:  # fmt: skip
    mean, mean_lo, invstd = statistics[0], statistics[1], statistics[3]
    samples, channels, length = x.shape
    fgy, fx, fgx = gy.reshape(-1), x.reshape(-1), gx.reshape(-1)
    cuts = parts.shape[1]
    count = np.float64(samples * length)
    mask = 1 if act == RELU else 0
    source = fgx if act == SIGMOID else fgy  # gy σ'(z) waits where gx will be
    if length > 1:
        if cuts == 1:
            for c in prange(channels):
                gain, beta = invstd[c] * at_or(weight, c, 1), at_or(bias, c, 0)
                hi, lo = mean[c], mean_lo[c]
                if act == SIGMOID:
                    rows_slope(fgy, fx, fgx, c, channels, length, 0, samples, hi, lo, gain, beta)
                rows_sums(source, fx, c, channels, length, 0, samples, hi, lo, gain, beta, mask, parts[c, 0])
                gather_sums(parts[c], c, invstd, gweight, gbias)
                k1 = mean.dtype.type(parts[c, 0, 1] / count)
                k2 = mean.dtype.type(parts[c, 0, 2] * invstd[c] * invstd[c] / count)
                rows_gradient(source, fx, fgx, c, channels, length, 0, samples, hi, lo, gain, beta, mask, k1, k2)
        else:
            for t in prange(channels * cuts):
                c, p = t // cuts, t % cuts
                n0, n1 = samples * p // cuts, samples * (p + 1) // cuts
                gain, beta = invstd[c] * at_or(weight, c, 1), at_or(bias, c, 0)
                hi, lo = mean[c], mean_lo[c]
                if act == SIGMOID:
                    rows_slope(fgy, fx, fgx, c, channels, length, n0, n1, hi, lo, gain, beta)
                rows_sums(source, fx, c, channels, length, n0, n1, hi, lo, gain, beta, mask, parts[c, p])
            for c in range(channels):
                gather_sums(parts[c], c, invstd, gweight, gbias)
            for t in prange(channels * cuts):
                c, p = t // cuts, t % cuts
                n0, n1 = samples * p // cuts, samples * (p + 1) // cuts
                gain, beta = invstd[c] * at_or(weight, c, 1), at_or(bias, c, 0)
                k1 = mean.dtype.type(parts[c, 0, 1] / count)
                k2 = mean.dtype.type(parts[c, 0, 2] * invstd[c] * invstd[c] / count)
                hi, lo = mean[c], mean_lo[c]
                rows_gradient(source, fx, fgx, c, channels, length, n0, n1, hi, lo, gain, beta, mask, k1, k2)
    elif cuts == 1 and samples <= BLOCK:
        width = lanes(fx)
        rows = statistics.reshape(-1)
        for t in prange(-(-channels // width)):
            c0 = t * width
            n = min(width, channels - c0)
            block_backward(fgy, fx, fgx, channels, c0, n, samples, rows, weight, bias, act, gweight, gbias)
    else:
        width = lanes(fx)
        registers = -(-channels // width)
        for t in prange(registers * cuts):
            c0, p = t // cuts * width, t % cuts
            n0, n1 = samples * p // cuts, samples * (p + 1) // cuts
            n = min(width, channels - c0)
            gain = load_first(invstd, c0, n) * register_or(weight, c0, n, 1)
            beta = register_or(bias, c0, n, 0)
            h, e = load_first(mean, c0, n), load_first(mean_lo, c0, n)
            if act == SIGMOID:
                columns_slope(fgy, fx, fgx, channels, c0, n, n0, n1, h, e, gain, beta)
            columns_sums(source, fx, channels, c0, n, n0, n1, h, e, gain, beta, mask, parts, p)
        for c in range(channels):
            gather_sums(parts[c], c, invstd, gweight, gbias)
        for t in prange(registers * cuts):
            c0, p = t // cuts * width, t % cuts
            n0, n1 = samples * p // cuts, samples * (p + 1) // cuts
            n = min(width, channels - c0)
            r = load_first(invstd, c0, n)
            gain = r * register_or(weight, c0, n, 1)
            beta = register_or(bias, c0, n, 0)
            h, e = load_first(mean, c0, n), load_first(mean_lo, c0, n)
            k1 = load_first(gbias, c0, n) / x.dtype.type(count)
            k2 = load_first(gweight, c0, n) * r / x.dtype.type(count)
            columns_gradient(source, fx, fgx, channels, c0, n, n0, n1, h, e, gain, beta, mask, k1, k2)


@jit(inline=True)
def inverse_deviation(var: Any, c: Any, eps: Any) -> Any:
    """1 / √(var[c] + eps), computed in float64."""
    return var.dtype.type(1.0 / np.sqrt(np.float64(var[c]) + eps))


@parallel(work="x", grain=GRAIN)
def batch_norm_eval(x: Any, weight: Any, bias: Any, mean: Any, var: Any, eps: Any, act: Any, y: Any) -> None:
    samples, channels, length = x.shape
    fx, fy = x.reshape(-1), y.reshape(-1)
    if length > 1:
        for c in prange(channels):
            gain = inverse_deviation(var, c, eps) * at_or(weight, c, 1)
            lo = x.dtype.type(0)
            rows_apply(fx, fy, c, channels, length, 0, samples, mean[c], lo, gain, at_or(bias, c, 0), act)
    else:
        width = lanes(fx)
        one = x.dtype.type(1)
        for t in prange(-(-channels // width)):
            c0 = t * width
            n = min(width, channels - c0)
            h, e = load_first(mean, c0, n), zeros(fx)
            gain = register_or(weight, c0, n, 1) * (one / sqrt(load_first(var, c0, n) + x.dtype.type(eps)))
            columns_apply(fx, fy, channels, c0, n, 0, samples, h, e, gain, register_or(bias, c0, n, 0), act)


@parallel(work="gy", grain=GRAIN)
def batch_norm_eval_backward(
    gy: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, eps: Any, act: Any,
    gx: Any, gweight: Any, gbias: Any, parts: Any,
) -> None:  # fmt: skip
    samples, channels, length = x.shape
    fgy, fx, fgx = gy.reshape(-1), x.reshape(-1), gx.reshape(-1)
    zero = x.dtype.type(0)
    mask = 1 if act == RELU else 0
    source = fgx if act == SIGMOID else fgy
    if length > 1:
        for c in prange(channels):
            r = inverse_deviation(var, c, eps)
            gain, beta, hi = r * at_or(weight, c, 1), at_or(bias, c, 0), mean[c]
            if act == SIGMOID:
                rows_slope(fgy, fx, fgx, c, channels, length, 0, samples, hi, zero, gain, beta)
            rows_sums(source, fx, c, channels, length, 0, samples, hi, zero, gain, beta, mask, parts[c, 0])
            gbias[c] = parts[c, 0, 1]
            gweight[c] = parts[c, 0, 2] * r
            rows_gradient(source, fx, fgx, c, channels, length, 0, samples, hi, zero, gain, beta, mask, zero, zero)
    else:
        width = lanes(fx)
        one = x.dtype.type(1)
        for t in prange(-(-channels // width)):
            c0 = t * width
            n = min(width, channels - c0)
            h, e = load_first(mean, c0, n), zeros(fx)
            gain = register_or(weight, c0, n, 1) * (one / sqrt(load_first(var, c0, n) + x.dtype.type(eps)))
            beta = register_or(bias, c0, n, 0)
            if act == SIGMOID:
                columns_slope(fgy, fx, fgx, channels, c0, n, 0, samples, h, e, gain, beta)
            columns_sums(source, fx, channels, c0, n, 0, samples, h, e, gain, beta, mask, parts, 0)
            columns_gradient(source, fx, fgx, channels, c0, n, 0, samples, h, e, gain, beta, mask, e, e)
        for c in range(channels):
            gbias[c] = parts[c, 0, 1]
            gweight[c] = parts[c, 0, 2] * inverse_deviation(var, c, eps)


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
