"""Batch normalisation of an input seen as (N, C, L): statistics, normalise, gradients, running statistics.

    y  = act((x - mean) invstd weight + bias),  invstd = 1 / √(var + eps), var biased
    gx = weight invstd (g - mean(g) - x̂ mean(g x̂)),  gweight = Σ g x̂,  gbias = Σ g,  g = gy act'(z)

Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithm 1. Two passes over memory a direction, one each where the statistics
are constants: ``bn_rows`` and ``bn_columns``, by ``bn_launch``; sums in an order that shape and GPU fix, so that
results are equal in every run. x, y, gy, gx may be float16, or bfloat16 as uint16: then weight, bias, statistics and
all that is computed are float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.bn_launch import Passes
from tinygrad_bn.kernels.cuda.bn_merge import given
from tinygrad_bn.kernels.cuda.entry import entry
from tinygrad_bn.kernels.cuda.target import THREADS, cuda
from tinygrad_bn.kernels.cuda.words import real

Array = np.ndarray[Any, Any]


def batch_norm_train(
    x: Array, weight: Array, bias: Array, eps: float, act: int, slope: float,
    y: Array, statistics: Array, parts: Array,
) -> None:  # fmt: skip
    Passes(x, weight, bias, statistics, act, slope, y).train(None, parts, eps, y)


def batch_norm_backward(
    gy: Array, x: Array, weight: Array, bias: Array, statistics: Array, act: int, slope: float,
    gx: Array, gweight: Array, gbias: Array, parts: Array,
) -> None:  # fmt: skip
    passes = Passes(x, weight, bias, statistics, act, slope, gy, gx)
    used = passes.sums(gy, None, None, None, parts)
    passes.gradient(gy, act, gx, gweight, gbias, parts, used)


def batch_norm_eval(
    x: Array, weight: Array, bias: Array, mean: Array, var: Array, eps: float, act: int, slope: float,
    y: Array, statistics: Array,
) -> None:  # fmt: skip
    given(mean, var, eps, statistics)
    Passes(x, weight, bias, statistics, act, slope, y).apply(None, y)


def batch_norm_eval_backward(
    gy: Array, x: Array, weight: Array, bias: Array, mean: Array, var: Array, eps: float, act: int, slope: float,
    gx: Array, gweight: Array, gbias: Array, statistics: Array, parts: Array,
) -> None:  # fmt: skip
    given(mean, var, eps, statistics)
    passes = Passes(x, weight, bias, statistics, act, slope, gy, gx)
    passes.constant_sums(gy, None, None, gx, gweight, gbias, parts)


@entry(real="statistics", static="unbiased")
def _update(  # type: ignore[no-untyped-def]
    statistics, channels, count, momentum, running_mean, running_var, tracked, skipped, unbiased
):
    """One block: whether all is finite is known before anything moves."""
    bad = cuda.shared.array(THREADS, np.int32)
    share = cuda.shared.array(1, np.float64)
    t = cuda.threadIdx.x
    found = 0
    c = t
    while c < channels:
        if not (abs(statistics[c]) < np.inf and abs(statistics[2 * channels + c]) < np.inf):
            found = 1
        c += THREADS
    bad[t] = found
    cuda.syncthreads()
    h = THREADS // 2
    while h > 0:
        if t < h:
            bad[t] = bad[t] | bad[t + h]
        cuda.syncthreads()
        h = h // 2
    if t == 0:
        if bad[0]:
            skipped[0] += 1
        else:
            tracked[0] += 1
            share[0] = momentum if momentum >= np.float64(0) else np.float64(1) / np.float64(tracked[0])
    cuda.syncthreads()
    if not bad[0]:
        weight, factor = share[0], np.float64(1)
        if unbiased and count > 1:
            factor = np.float64(count) / np.float64(count - 1)
        c = t
        while c < channels:
            m, v = np.float64(running_mean[c]), np.float64(running_var[c])
            running_mean[c] = real(m + weight * (np.float64(statistics[c]) - m))
            running_var[c] = real(v + weight * (np.float64(statistics[2 * channels + c]) * factor - v))
            c += THREADS


def batch_norm_update(
    statistics: Array, count: int, momentum: float, unbiased: bool,
    running_mean: Array, running_var: Array, tracked: Array, skipped: Array,
) -> None:  # fmt: skip
    _update[1](
        statistics, statistics.shape[1], int(count), np.float64(momentum),
        running_mean, running_var, tracked, skipped, int(unbiased),
    )  # fmt: skip
