"""Kernels that change batches of pictures, (N, C, H, W), for loaders; formulas: ``kernels/ref/image.py``."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.copying import as_words
from tinygrad_bn.kernels.cuda.entry import blocks, device, entry
from tinygrad_bn.kernels.cuda.reduction import plus, settled
from tinygrad_bn.kernels.cuda.target import THREADS, cuda
from tinygrad_bn.kernels.cuda.words import real

__all__ = ["crop_pictures", "jitter_pictures", "mirror_pictures", "normalise_pictures", "tint_pictures"]

Array = np.ndarray[Any, Any]
BRIGHTNESS, CONTRAST, SATURATION = 0, 1, 2


@entry
def _crop(
    x: Any, top: Any, left: Any, fill: Any, out: Any, channels: Any, height: Any, width: Any, rows: Any, columns: Any,
    n: Any,
) -> None:  # fmt: skip
    o = cuda.grid(1)
    while o < n:
        line = o // columns
        plane = line // rows
        picture = plane // channels
        h = line - plane * rows + top[picture]
        w = o - line * columns + left[picture]
        if h >= 0 and h < height and w >= 0 and w < width:
            out[o] = x[(plane * height + h) * width + w]
        else:
            out[o] = fill
        o += cuda.gridsize(1)


@entry
def _mirror(x: Any, flags: Any, out: Any, width: Any, size: Any, n: Any) -> None:
    o = cuda.grid(1)
    while o < n:
        w = o % width
        at = o + width - 1 - 2 * w if flags[o // size] != 0 else o
        out[o] = x[at]
        o += cuda.gridsize(1)


@entry(real="out")
def _normalise(x: Any, divisor: Any, mean: Any, std: Any, out: Any, channels: Any, plane: Any, n: Any) -> None:
    o = cuda.grid(1)
    while o < n:
        c = o // plane % channels
        out[o] = (real(x[o]) / divisor - mean[c]) / std[c]
        o += cuda.gridsize(1)


@entry(real="out")
def _tint(x: Any, divisor: Any, shift: Any, out: Any, plane: Any, n: Any) -> None:
    o = cuda.grid(1)
    while o < n:
        out[o] = real(x[o]) / divisor + shift[o // plane]
        o += cuda.gridsize(1)


@device
def grey(r: Any, g: Any, b: Any) -> Any:
    return 0.299 * r + 0.587 * g + 0.114 * b


@device
def mixed(v: Any, by: Any, towards: Any) -> Any:
    """by v + (1 - by) towards, within [0, 1]."""
    w = by * v + (1.0 - by) * towards
    return 0.0 if w < 0.0 else (1.0 if w > 1.0 else w)


@entry(real="out")
def _jitter(x: Any, divisor: Any, factors: Any, order: Any, out: Any, plane: Any) -> None:
    """A block a picture; a thread has the same pixels in each step."""
    merged = cuda.shared.array(THREADS, np.float64)
    t = cuda.threadIdx.x
    picture = cuda.blockIdx.x
    base = picture * 3 * plane
    for k in range(t, plane, THREADS):
        for c in range(3):
            out[base + c * plane + k] = real(x[base + c * plane + k]) / divisor
    for e in range(3):
        step = order[picture * 3 + e]
        by = factors[picture * 3 + step]
        towards = real(0.0)
        if step == CONTRAST:
            total = real(0.0)
            lost = real(0.0)
            plain = real(0.0)
            for k in range(t, plane, THREADS):
                v = grey(out[base + k], out[base + plane + k], out[base + 2 * plane + k])
                total, lost, plain = plus(total, lost, plain, v)
            merged[t] = settled(total, lost, plain)
            cuda.syncthreads()
            half = THREADS // 2
            while half > 0:
                if t < half:
                    merged[t] += merged[t + half]
                cuda.syncthreads()
                half //= 2
            towards = real(merged[0] / np.float64(plane))
        for k in range(t, plane, THREADS):
            r = out[base + k]
            g = out[base + plane + k]
            b = out[base + 2 * plane + k]
            if step == SATURATION:
                towards = grey(r, g, b)
            out[base + k] = mixed(r, by, towards)
            out[base + plane + k] = mixed(g, by, towards)
            out[base + 2 * plane + k] = mixed(b, by, towards)


def crop_pictures(x: Array, top: Array, left: Array, fill: float, out: Array) -> None:
    """Pieces of the extents of ``out``, from (top, left) of each picture on; both may lie outside of it."""
    if out.size:
        words = as_words(out)
        value = np.array(fill).astype(out.dtype).view(words.dtype)[()]
        sizes = *x.shape[1:], *out.shape[2:]
        _crop[blocks(out.size)](as_words(x), top, left, value, words, *sizes, out.size)


def mirror_pictures(x: Array, flags: Array, out: Array) -> None:
    """Left and right exchanged where the flag is set."""
    if out.size:
        size = out.size // len(out)
        _mirror[blocks(out.size)](as_words(x), as_words(flags), as_words(out), out.shape[3], size, out.size)


def normalise_pictures(x: Array, divisor: float, mean: Array, std: Array, out: Array) -> None:
    """Values of ``x`` divided, the channel's mean taken off, and divided by the channel's deviation."""
    if out.size:
        _, channels, height, width = out.shape
        _normalise[blocks(out.size)](x, float(divisor), mean, std, out, channels, height * width, out.size)


def jitter_pictures(x: Array, divisor: float, factors: Array, order: Array, out: Array) -> None:
    """Brightness (0), contrast (1) and saturation (2) by ``factors`` (N, 3), in the ``order`` (N, 3)."""
    if out.size:
        _jitter[len(out)](x, float(divisor), factors, order, out, out.shape[2] * out.shape[3])


def tint_pictures(x: Array, divisor: float, shift: Array, out: Array) -> None:
    """A colour added to each picture."""
    if out.size:
        _tint[blocks(out.size)](x, float(divisor), shift, out, out.shape[2] * out.shape[3], out.size)
