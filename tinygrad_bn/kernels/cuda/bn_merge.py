"""How the parts of a channel's values become its statistics, within a block and between blocks.

A block's threads have each a count, a mean (of values shifted by one of the block's) and M2 = Σ (x - mean)², of
the kernel's own type: a tree through shared memory merges them by Chan's formula (Chan, Golub, LeVeque 1979). What
blocks hand on, ``parts`` (C, P, 3), is float64: count, mean, M2; or ·, Σ g, Σ g d of the gradients. Parts of a channel
are merged in float64 with the first one's mean as the shift, so that a constant channel's mean is exact, with one
division:

    mean = m₀ + Σ n (m - m₀) / Σ n,   M2 = Σ (q + n (m - mean)²)

in an order that the number of parts fixes: equal in every run. At most MERGED parts are merged by each block that
needs them, ahead of its own work; more, by a kernel of their own, a block a channel.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.entry import device, entry
from tinygrad_bn.kernels.cuda.target import THREADS, cuda
from tinygrad_bn.kernels.cuda.words import real

__all__ = [
    "MERGED",
    "finish",
    "gather",
    "given",
    "merged_moments",
    "merged_sums",
    "of_block",
    "of_rows",
    "total_of_rows",
]

MERGED = 32
_HELD = 2 * MERGED
Array = np.ndarray[Any, Any]


@device
def of_rows(t: Any, least: Any, lanes: Any, n: Any, m: Any, q: Any) -> None:
    """Merge, by a tree, what threads have written of ``lanes`` columns into shared n[t], m[t, lane], q[t, lane]: those
    whose numbers are equal modulo ``least``, a power of 2. Threads below ``least`` find it where their own was."""
    h = THREADS // 2
    while h >= least:
        if t < h:
            a, b = n[t], n[t + h]
            if b > 0.0:
                share = b / (a + b)
                for v in range(lanes):
                    i = v * THREADS + t
                    delta = m[i + h] - m[i]
                    m[i] = m[i] + delta * share
                    q[i] = q[i] + (q[i + h] + delta * delta * (a * share))
                n[t] = a + b
        cuda.syncthreads()
        h = h // 2


@device
def total_of_rows(t: Any, least: Any, lanes: Any, p: Any, q: Any) -> None:
    """The same of two sums, p and q."""
    h = THREADS // 2
    while h >= least:
        if t < h:
            for v in range(lanes):
                i = v * THREADS + t
                p[i] = p[i] + p[i + h]
                q[i] = q[i] + q[i + h]
        cuda.syncthreads()
        h = h // 2


@device
def of_block(t: Any, count: Any, shift: Any, mean: Any, m2: Any, parts: Any, at: Any) -> None:
    """Merge what each thread has, count values of mean shift + mean, and write it as the part that begins at ``at``."""
    n = cuda.shared.array(THREADS, real)
    m = cuda.shared.array(THREADS, real)
    q = cuda.shared.array(THREADS, real)
    k = cuda.shared.array(1, real)
    if t == 0:
        k[0] = shift
    cuda.syncthreads()
    n[t] = count
    m[t] = (shift - k[0]) + mean
    q[t] = m2
    cuda.syncthreads()
    of_rows(t, 1, 1, n, m, q)
    if t == 0:
        parts[at] = np.float64(n[0])
        parts[at + 1] = np.float64(k[0]) + np.float64(m[0])
        parts[at + 2] = np.float64(q[0])


@device
def held_added(t: Any, held: Any) -> None:
    """Add held[0 … MERGED) up, and what lies MERGED further on; both by a tree."""
    h = MERGED // 2
    while h > 0:
        cuda.syncthreads()
        if t < h:
            held[t] = held[t] + held[t + h]
            held[t + MERGED] = held[t + MERGED] + held[t + MERGED + h]
        h = h // 2
    cuda.syncthreads()


@device
def merged_moments(
    t: Any, parts: Any, at: Any, cuts: Any, eps: Any, c: Any, channels: Any, statistics: Any, writes: Any, found: Any
) -> None:
    """Merge at most MERGED parts from ``at`` on; found[0 … 2], shared, become mean hi, mean lo and 1 / √(var + eps);
    the column of statistics is written where ``writes``."""
    held = cuda.shared.array(_HELD, np.float64)
    n, m, q, first = np.float64(0), np.float64(0), np.float64(0), np.float64(0)
    if t < MERGED:
        first = parts[at + 1]
        if t < cuts:
            n, m, q = parts[at + 3 * t], parts[at + 3 * t + 1], parts[at + 3 * t + 2]
        held[t] = n
        held[t + MERGED] = n * (m - first)
    held_added(t, held)
    total, mean = held[0], first + held[MERGED] / held[0]
    cuda.syncthreads()
    if t < MERGED:
        held[t] = q + n * (m - mean) * (m - mean)
        held[t + MERGED] = np.float64(0)
    held_added(t, held)
    if t == 0:
        var = held[0] / total
        if var < np.float64(0):
            var = np.float64(0)
        found[0] = real(mean)
        found[1] = real(mean - np.float64(real(mean))) if abs(mean) < np.float64(np.inf) else 0.0
        found[2] = real(np.float64(1) / np.float64(math.sqrt(var + eps)))
        if writes:
            statistics[c] = found[0]
            statistics[channels + c] = found[1]
            statistics[2 * channels + c] = real(var)
            statistics[3 * channels + c] = found[2]
    cuda.syncthreads()


@device
def merged_sums(t: Any, parts: Any, at: Any, cuts: Any, r: Any, count: Any, sums: Any) -> None:
    """Add at most MERGED parts (·, Σ g, Σ g d) up; sums[0 … 3], shared float64, become Σ g, Σ g x̂, and k1 and k2 of
    gx = gain (g - k1 - d k2): the means over count values."""
    held = cuda.shared.array(_HELD, np.float64)
    if t < MERGED:
        held[t] = parts[at + 3 * t + 1] if t < cuts else np.float64(0)
        held[t + MERGED] = parts[at + 3 * t + 2] if t < cuts else np.float64(0)
    held_added(t, held)
    if t == 0:
        invstd = np.float64(r)
        sums[0] = held[0]
        sums[1] = held[MERGED] * invstd
        sums[2] = held[0] / count
        sums[3] = held[MERGED] * invstd * invstd / count
    cuda.syncthreads()


@device
def added(t: Any, value: Any, s: Any) -> Any:
    """The sum of the threads' values; s is shared."""
    s[t] = value
    cuda.syncthreads()
    h = THREADS // 2
    while h > 0:
        if t < h:
            s[t] = s[t] + s[t + h]
        cuda.syncthreads()
        h = h // 2
    found = s[0]
    cuda.syncthreads()
    return found


@device
def finished(c: Any, channels: Any, n: Any, mean: Any, m2: Any, eps: Any, statistics: Any) -> None:
    """Write a channel's column of statistics (4, C): mean hi and lo, biased variance, 1 / √(var + eps)."""
    var = m2 / n
    if var < np.float64(0):
        var = np.float64(0)
    hi = real(mean)
    statistics[c] = hi
    statistics[channels + c] = real(mean - np.float64(hi)) if abs(mean) < np.float64(np.inf) else 0.0
    statistics[2 * channels + c] = real(var)
    statistics[3 * channels + c] = real(np.float64(1) / np.float64(math.sqrt(var + eps)))


@entry(real="statistics")
def _finish(parts, stride, cuts, eps, statistics, channels):  # type: ignore[no-untyped-def]
    s = cuda.shared.array(THREADS, np.float64)
    c, t = cuda.blockIdx.x, cuda.threadIdx.x
    at = 3 * stride * c
    first = parts[at + 1]
    n, d = np.float64(0), np.float64(0)
    p = t
    while p < cuts:
        n += parts[at + 3 * p]
        d += parts[at + 3 * p] * (parts[at + 3 * p + 1] - first)
        p += THREADS
    n = added(t, n, s)
    mean = first + added(t, d, s) / n
    q = np.float64(0)
    p = t
    while p < cuts:
        e = parts[at + 3 * p + 1] - mean
        q += parts[at + 3 * p + 2] + parts[at + 3 * p] * e * e
        p += THREADS
    q = added(t, q, s)
    if t == 0:
        parts[at] = n
        parts[at + 1] = mean
        parts[at + 2] = q
        finished(c, channels, n, mean, q, eps, statistics)


@entry(real="statistics")
def _gather(parts, stride, cuts, statistics, count, gweight, gbias, channels):  # type: ignore[no-untyped-def]
    s = cuda.shared.array(THREADS, np.float64)
    c, t = cuda.blockIdx.x, cuda.threadIdx.x
    at = 3 * stride * c
    a, b = np.float64(0), np.float64(0)
    p = t
    while p < cuts:
        a += parts[at + 3 * p + 1]
        b += parts[at + 3 * p + 2]
        p += THREADS
    a = added(t, a, s)
    b = added(t, b, s)
    if t == 0:
        r = np.float64(statistics[3 * channels + c])
        gbias[c] = real(a)
        gweight[c] = real(b * r)
        parts[at + 1] = a / count if count > np.float64(0) else np.float64(0)
        parts[at + 2] = b * r * r / count if count > np.float64(0) else np.float64(0)


@entry
def _given(mean, var, eps, statistics, channels):  # type: ignore[no-untyped-def]
    c = cuda.grid(1)
    if c < channels:
        statistics[c] = mean[c]
        statistics[channels + c] = 0.0
        statistics[2 * channels + c] = var[c]
        statistics[3 * channels + c] = real(np.float64(1) / np.float64(math.sqrt(np.float64(var[c]) + eps)))


def finish(parts: Array, cuts: int, eps: float, statistics: Array) -> None:
    """Merge each channel's first ``cuts`` parts (count, mean, M2) into the first; write the statistics (4, C)."""
    channels = statistics.shape[1]
    _finish[channels](parts, parts.shape[1], cuts, np.float64(eps), statistics, channels)


def gather(parts: Array, cuts: int, statistics: Array, count: float, gweight: Array, gbias: Array) -> None:
    """Add each channel's first ``cuts`` parts (·, Σ g, Σ g d) up: gweight, gbias; the first part becomes (·, k1, k2),
    the means over count values, or zeros where count is 0."""
    channels = statistics.shape[1]
    _gather[channels](parts, parts.shape[1], cuts, statistics, np.float64(count), gweight, gbias, channels)


def given(mean: Array, var: Array, eps: float, statistics: Array) -> None:
    """Write the statistics (4, C) of constants."""
    _given[-(-mean.size // THREADS)](mean, var, np.float64(eps), statistics, mean.size)
