"""Batch normalisation of an input seen as (N, C, L): statistics over N and L, one mean and variance a channel.

    y  = act((x - mean) invstd weight + bias),  invstd = 1 / √(var + eps), var biased
    gx = weight invstd (g - mean(g) - x̂ mean(g x̂)),  gweight = Σ g x̂,  gbias = Σ g,  g = gy act'(z)

Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithm 1 and the gradients of section 3. ``weight`` and ``bias`` of size 0
count as ones and zeros. The mean is handed on as two numbers of the input's dtype, hi + lo, so that a large mean
costs no accuracy: the rows of ``statistics`` (4, C) are mean hi, mean lo, var and invstd. ``act`` is 0 for none, 1
for ReLU, 2 for the sigmoid, 3 for the leaky ReLU, 4 for tanh, 5 for SiLU, 6 for GELU, 7 for GELU's approximation by
tanh; ``slope`` is that of the leaky ReLU below 0, a float. Without need of the others' code it is the int 0, of none
and ReLU. ``parts`` is scratch of shape (C, P, 3), float64: the sums of a channel may be taken in P parts of the batch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]
_erf = np.vectorize(math.erf, otypes=[np.float64])


def _wide(a: Array) -> Array:
    return a.astype(np.float64)[None, :, None]


def _gain(weight: Array, like: Array) -> Array:
    return _wide(weight) if weight.size else np.ones((1, like.size, 1))


def _logistic(z: Array) -> Array:
    e = np.exp(-np.abs(z))
    return np.asarray(np.where(z < 0, e, 1) / (1 + e))


def _cubic(z: Array) -> Array:
    return math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)


def activated(z: Array, act: int, slope: float) -> Array:
    """act(z)."""
    match act:
        case 0:
            return z
        case 1:
            return np.maximum(z, 0)
        case 2:
            return _logistic(z)
        case 3:
            return np.where(z > 0, z, slope * z)
        case 4:
            return np.tanh(z)
        case 5:
            return z * _logistic(z)
        case 6:
            return np.asarray(z * (1 + _erf(z / math.sqrt(2))) / 2)
        case _:
            return np.asarray(z * (1 + np.tanh(_cubic(z))) / 2)


def through(g: Array, z: Array, act: int, slope: float) -> Array:
    """g act'(z); NaN where z is."""
    match act:
        case 0:
            return g
        case 1:
            return np.where(np.isnan(z), z, np.where(z > 0, g, 0))
        case 2:
            steep = _logistic(z) * _logistic(-z)
        case 3:
            steep = np.where(np.isnan(z), z, np.where(z > 0, 1, slope))
        case 4:
            steep = 1 / np.cosh(z) ** 2
        case 5:
            steep = _logistic(z) + z * _logistic(z) * _logistic(-z)
        case 6:
            steep = (1 + _erf(z / math.sqrt(2))) / 2 + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        case _:
            t = np.tanh(_cubic(z))
            inner = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z**2)
            steep = (1 + t) / 2 + z * inner / np.cosh(_cubic(z)) ** 2 / 2
    product: Array = g * steep
    return product


@spec(writes="y statistics", workspace="parts")
def batch_norm_train(
    x: Array, weight: Array, bias: Array, eps: float, act: int, slope: float,
    y: Array, statistics: Array, parts: Array,
) -> None:  # fmt: skip
    """Normalise by the batch's own statistics, in float64 throughout."""
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        first = wide[:1, :, :1]
        m = first[0, :, 0] + (wide - first).mean(axis=(0, 2))  # of a constant channel, exactly its value
        v = ((wide - m[None, :, None]) ** 2).mean(axis=(0, 2))
        statistics[0] = m
        statistics[1] = np.where(np.isfinite(m), m - statistics[0].astype(np.float64), 0)
        statistics[2] = v
        statistics[3] = 1 / np.sqrt(v + eps)
        z = (wide - m[None, :, None]) / np.sqrt(v + eps)[None, :, None] * _gain(weight, m)
        z = z + (_wide(bias) if bias.size else 0)
        y[...] = activated(z, act, slope)


@spec(writes="gx gweight gbias", workspace="parts")
def batch_norm_backward(
    gy: Array, x: Array, weight: Array, bias: Array, statistics: Array, act: int, slope: float,
    gx: Array, gweight: Array, gbias: Array, parts: Array,
) -> None:  # fmt: skip
    """The gradients of batch_norm_train, in float64 throughout."""
    mean, mean_lo, _, invstd = statistics
    with np.errstate(all="ignore"):
        n = x.shape[0] * x.shape[2]
        hat = (x.astype(np.float64) - _wide(mean) - _wide(mean_lo)) * _wide(invstd)
        g = gy.astype(np.float64)
        if act:
            g = through(g, hat * _gain(weight, mean) + (_wide(bias) if bias.size else 0), act, slope)
        gbias[:] = g.sum(axis=(0, 2))
        gweight[:] = (g * hat).sum(axis=(0, 2))
        inner = g - g.mean(axis=(0, 2), keepdims=True) - hat * (g * hat).sum(axis=(0, 2), keepdims=True) / n
        gx[...] = _gain(weight, mean) * _wide(invstd) * inner


@spec(writes="y", workspace="statistics")
def batch_norm_eval(
    x: Array, weight: Array, bias: Array, mean: Array, var: Array, eps: float, act: int, slope: float,
    y: Array, statistics: Array,
) -> None:  # fmt: skip
    """Normalise by given statistics; ``statistics`` (4, C) is scratch."""
    with np.errstate(all="ignore"):
        z = (x.astype(np.float64) - _wide(mean)) / np.sqrt(_wide(var) + eps) * _gain(weight, mean)
        z = z + (_wide(bias) if bias.size else 0)
        y[...] = activated(z, act, slope)


@spec(writes="gx gweight gbias", workspace="statistics parts")
def batch_norm_eval_backward(
    gy: Array, x: Array, weight: Array, bias: Array, mean: Array, var: Array, eps: float, act: int, slope: float,
    gx: Array, gweight: Array, gbias: Array, statistics: Array, parts: Array,
) -> None:  # fmt: skip
    """The gradients of batch_norm_eval: the statistics are constants."""
    with np.errstate(all="ignore"):
        invstd = 1 / np.sqrt(_wide(var) + eps)
        hat = (x.astype(np.float64) - _wide(mean)) * invstd
        g = gy.astype(np.float64)
        if act:
            g = through(g, hat * _gain(weight, mean) + (_wide(bias) if bias.size else 0), act, slope)
        gbias[:] = g.sum(axis=(0, 2))
        gweight[:] = (g * hat).sum(axis=(0, 2))
        gx[...] = _gain(weight, mean) * invstd * g


@spec(updates="running_mean running_var tracked skipped", writes="")
def batch_norm_update(
    statistics: Array, count: int, momentum: float, unbiased: bool,
    running_mean: Array, running_var: Array, tracked: Array, skipped: Array,
) -> None:  # fmt: skip
    """Move the running statistics towards a batch's: running += momentum (batch - running).

    ``tracked`` and ``skipped``, int64 of shape (), count batches. One with a statistic that is not finite is
    skipped: nothing moves but that counter. momentum < 0 stands for the cumulative average, 1 / (batches tracked).
    ``count`` values a channel went into the statistics: the running variance takes Bessel's factor count / (count -
    1) if ``unbiased``.
    """
    mean, var = statistics[0], statistics[2]
    if not (np.isfinite(mean).all() and np.isfinite(var).all()):
        skipped[()] += 1
        return
    tracked[()] += 1
    weight = momentum if momentum >= 0 else 1.0 / tracked[()]
    factor = count / (count - 1) if unbiased and count > 1 else 1.0
    running_mean += (weight * (mean.astype(np.float64) - running_mean)).astype(mean.dtype)
    running_var += (weight * (var.astype(np.float64) * factor - running_var)).astype(var.dtype)
