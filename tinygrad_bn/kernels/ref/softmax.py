"""Softmax and its relatives over the middle axis of (A, R, B); cross-entropy over (A, C, B) with classes in the middle.

softmax      y_r = e^(x_r - m) / Σ e^(x - m),  m = max x
logsumexp    y = m + ln Σ e^(x - m)
log_softmax  y_r = x_r - logsumexp(x)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]


def _lse(x: Array) -> Array:
    with np.errstate(all="ignore"):
        m = x.max(axis=1, keepdims=True)
        safe = np.where(np.isfinite(m), m, 0)
        return np.asarray(safe + np.log(np.exp(x - safe).sum(axis=1, keepdims=True)))


@spec()
def softmax(x: Array, out: Array) -> None:
    with np.errstate(all="ignore"):
        e = np.exp(x - x.max(axis=1, keepdims=True))
        out[...] = e / e.sum(axis=1, keepdims=True)


@spec()
def log_softmax(x: Array, out: Array) -> None:
    with np.errstate(all="ignore"):
        shifted = x - x.max(axis=1, keepdims=True)
        out[...] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@spec()
def logsumexp(x: Array, out: Array) -> None:
    """Shape (A, B)."""
    out[...] = _lse(x)[:, 0]


@spec()
def softmax_backward(gy: Array, y: Array, out: Array) -> None:
    """y (gy - Σ gy y)."""
    out[...] = y * (gy - (gy * y).sum(axis=1, keepdims=True))


@spec()
def log_softmax_backward(gy: Array, y: Array, out: Array) -> None:
    """gy - e^y Σ gy."""
    out[...] = gy - np.exp(y) * gy.sum(axis=1, keepdims=True)


@spec(
    writes="out lse scale",
    workspace="work",
    status="'target' must hold class indices from 0 to {limit}. Got {value} at position {position}.",
)
def cross_entropy(
    x: Array, target: Array, ignore_index: int, reduction: int, out: Array, lse: Array, scale: Array,
    work: Array, status: Array,
) -> None:  # fmt: skip
    """The loss lse_ab - x[a, target_ab, b], 0 where the target is ignored; lse_ab = logsumexp.

    ``reduction`` is 0 for the mean over the targets that count, 1 for the sum, 2 for none: out (1, 1) or (A, B). The
    factor of the gradient goes to scale (1,). ``work`` has room for at least one sample, (C + 1) B elements, unless B
    is 1.
    """
    counts = target != ignore_index
    bad = counts & ((target < 0) | (target >= x.shape[1]))
    lse[...] = _lse(x)[:, 0]
    if bad.any():
        at = int(np.argmax(bad.ravel()))
        status[:] = 1, at, target.ravel()[at], x.shape[1] - 1
        return
    picked = np.take_along_axis(x, np.where(counts, target, 0)[:, None], 1)[:, 0]
    with np.errstate(all="ignore"):
        losses = np.where(counts, lse - picked, 0)
        scale[0] = 1 / np.float64(counts.sum()) if reduction == 0 else 1
        if reduction == 2:
            out[...] = losses
        else:
            total = losses.sum(dtype=np.float64)
            out[...] = total / np.float64(counts.sum()) if reduction == 0 else total


@spec()
def cross_entropy_backward(
    gy: Array, x: Array, target: Array, lse: Array, scale: Array, ignore_index: int, out: Array
) -> None:
    """gy_ab scale (softmax(x)_r - [r = target]), 0 where ignored; gy is (A, B) or (1, 1)."""
    ignored = (target == ignore_index)[:, None]
    with np.errstate(all="ignore"):
        g = np.exp(x - lse[:, None]) - (np.arange(x.shape[1])[None, :, None] == target[:, None])
        out[...] = np.where(ignored, 0, gy[:, None] * scale[0] * g)
