"""Convolutions in groups of few channels, directly: a sum over the places of the kernel.

    y[n, o, i, j] = b[o] + Σ_{c, p, q} w[o, c, p, q] x[n, c, i s_h + p d_h - top, j s_w + q d_w - left]

c runs over the channels of o's group, x is 0 outside. ``band``, ``parts`` and the workspaces are the fast kernels' own
matter; see ``kernels/cpu/depthwise.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]
Steps = tuple[int, int, int, int, int, int]


def _seen(x: Array, kernel: tuple[int, ...], size: tuple[int, ...], steps: Steps) -> Iterator[tuple[int, int, Array]]:
    """For each place (p, q) of the kernel: what it sees of x (…, H, W), as a view, 0 outside; in float64."""
    stride_h, stride_w, top, left, dilation_h, dilation_w = steps
    height = max(x.shape[-2] + top, (size[0] - 1) * stride_h + (kernel[0] - 1) * dilation_h + 1)
    width = max(x.shape[-1] + left, (size[1] - 1) * stride_w + (kernel[1] - 1) * dilation_w + 1)
    padded = np.zeros((*x.shape[:-2], height, width))
    padded[..., top : top + x.shape[-2], left : left + x.shape[-1]] = x
    yield from _places(padded, kernel, size, steps)


def _places(
    padded: Array, kernel: tuple[int, ...], size: tuple[int, ...], steps: Steps
) -> Iterator[tuple[int, int, Array]]:
    for p in range(kernel[0]):
        for q in range(kernel[1]):
            rows = slice(p * steps[4], p * steps[4] + (size[0] - 1) * steps[0] + 1, steps[0])
            columns = slice(q * steps[5], q * steps[5] + (size[1] - 1) * steps[1] + 1, steps[1])
            yield p, q, padded[..., rows, columns]


def _grouped(x: Array, groups: int) -> Array:
    """(N, C, H, W) as (N, groups, C / groups, H, W)."""
    return x.reshape(x.shape[0], groups, -1, *x.shape[2:])


@spec(writes="y", workspace="table work")
def depthwise(
    x: Array, w: Array, bias: Array, stride_h: int, stride_w: int, top: int, left: int, dilation_h: int,
    dilation_w: int, band: int, table: Array, work: Array, y: Array,
) -> None:  # fmt: skip
    """x (N, C, H, W), w (O, C / groups, KH, KW), bias (O,) or (0,), y (N, O, OH, OW)."""
    groups = x.shape[1] // w.shape[1]
    filters = w.reshape(groups, -1, *w.shape[1:]).astype(np.float64)
    out = np.zeros((x.shape[0], *filters.shape[:2], *y.shape[2:]))
    steps = (stride_h, stride_w, top, left, dilation_h, dilation_w)
    for p, q, seen in _seen(_grouped(x, groups), w.shape[2:], y.shape[2:], steps):
        out += np.einsum("gmi,ngihw->ngmhw", filters[..., p, q], seen)
    y[...] = out.reshape(y.shape) + (bias[:, None, None] if bias.size else 0)


@spec(writes="gx", workspace="table work")
def depthwise_input(
    gy: Array, w: Array, stride_h: int, stride_w: int, top: int, left: int, dilation_h: int, dilation_w: int,
    band: int, table: Array, work: Array, gx: Array,
) -> None:  # fmt: skip
    """gx[n, c] = what w gives back of gy: the adjoint of ``depthwise`` without its bias."""
    groups = gx.shape[1] // w.shape[1]
    filters = w.reshape(groups, -1, *w.shape[1:]).astype(np.float64)
    steps = (stride_h, stride_w, top, left, dilation_h, dilation_w)
    height = max(gx.shape[2] + top, (gy.shape[2] - 1) * stride_h + (w.shape[2] - 1) * dilation_h + 1)
    width = max(gx.shape[3] + left, (gy.shape[3] - 1) * stride_w + (w.shape[3] - 1) * dilation_w + 1)
    padded = np.zeros((gx.shape[0], groups, w.shape[1], height, width))
    for p, q, seen in _places(padded, w.shape[2:], gy.shape[2:], steps):
        seen += np.einsum("gmi,ngmhw->ngihw", filters[..., p, q], _grouped(gy, groups))
    gx[...] = padded[..., top : top + gx.shape[2], left : left + gx.shape[3]].reshape(gx.shape)


@spec(writes="gw", workspace="table partial work")
def depthwise_weight(
    gy: Array, x: Array, stride_h: int, stride_w: int, top: int, left: int, dilation_h: int, dilation_w: int,
    band: int, parts: int, table: Array, partial: Array, work: Array, gw: Array,
) -> None:  # fmt: skip
    """gw[o, c, p, q] = Σ_{n, i, j} gy[n, o, i, j] x[n, c, i s_h + p d_h - top, j s_w + q d_w - left]."""
    groups = x.shape[1] // gw.shape[1]
    steps = (stride_h, stride_w, top, left, dilation_h, dilation_w)
    for p, q, seen in _seen(_grouped(x, groups), gw.shape[2:], gy.shape[2:], steps):
        found = np.einsum("ngmhw,ngihw->gmi", _grouped(gy, groups).astype(np.float64), seen)
        gw[..., p, q] = found.reshape(gw.shape[:2])
