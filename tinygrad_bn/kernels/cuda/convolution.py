"""What turns a convolution into a matrix product: elementwise kernels, each element written once by one thread.

``im2col`` decodes the place of every fourth element and counts on from there; ``col2im`` gathers, so that its sums are
in one order. Formulas: ``kernels/ref/convolution.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.errors import DeviceError
from tinygrad_bn.kernels.cuda.entry import blocks, device, entry
from tinygrad_bn.kernels.cuda.target import cuda

Array = np.ndarray[Any, Any]
_FEW = 1 << 31  # elements below which places are divided in 32 bits


@device
def part(i, n):  # type: ignore[no-untyped-def]
    """i // n of numbers below 2³²: a GPU divides 64 bits by a long program."""
    return np.int64(np.uint32(i) // np.uint32(n))


def limited(count: int) -> None:
    """Raise where numbers of 32 bits do not reach.

    Raises
    ------
    DeviceError
    """
    if count >= _FEW:
        hint = "divide the batch, or choose tb.backends.cuda.conv_algorithm = 'im2col'"
        raise DeviceError(f"convolution: the GPU's outputs must be fewer than {_FEW}. Got {count}.\nHint: {hint}.")


@entry(static="many")
def _im2col(x, out, size, c, h, w, kh, kw, n, oh, ow, sh, sw, top, left, dh, dw, many):  # type: ignore[no-untyped-def]
    g = cuda.grid(1)
    while g * 4 < size:
        at = g * 4
        line = at // ow if many else part(at, ow)
        j = at - line * ow
        image = line // oh if many else part(line, oh)
        i = line - image * oh
        place = image // n if many else part(image, n)
        sample = image - place * n
        row = place // kw if many else part(place, kw)
        q = place - row * kw
        channel = row // kh if many else part(row, kh)
        p = row - channel * kh
        for e in range(4):
            if at + e < size:
                y = i * sh + p * dh - top
                z = j * sw + q * dw - left
                inside = y >= 0 and y < h and z >= 0 and z < w
                value = x[((sample * c + channel) * h + y) * w + z if inside else 0]
                out[at + e] = value if inside else 0.0
            j += 1
            if j == ow:
                j = 0
                i += 1
            if i == oh:
                i = 0
                sample += 1
            if sample == n:
                sample = 0
                q += 1
            if q == kw:
                q = 0
                p += 1
            if p == kh:
                p = 0
                channel += 1
        g += cuda.gridsize(1)


@entry(static="many")
def _col2im(x, out, size, c, h, w, kh, kw, n, oh, ow, sh, sw, top, left, dh, dw, many):  # type: ignore[no-untyped-def]
    at = cuda.grid(1)
    while at < size:
        line = at // w if many else part(at, w)
        z = at - line * w + left
        plane = line // h if many else part(line, h)
        y = line - plane * h + top
        sample = plane // c if many else part(plane, c)
        channel = plane - sample * c
        total = 0.0
        for p in range(kh):
            above = y - p * dh
            i = part(max(above, 0), sh)
            if above >= 0 and i * sh == above and i < oh:
                for q in range(kw):
                    before = z - q * dw
                    j = part(max(before, 0), sw)
                    if before >= 0 and j * sw == before and j < ow:
                        total += x[((((channel * kh + p) * kw + q) * n + sample) * oh + i) * ow + j]
        out[at] = total
        at += cuda.gridsize(1)


def im2col(
    x: Array, stride_h: int, stride_w: int, top: int, left: int, dilation_h: int, dilation_w: int, out: Array
) -> None:
    """x (N, C, H, W), out (C, KH, KW, N, OH, OW)."""
    _, kh, kw, n, oh, ow = out.shape
    steps = stride_h, stride_w, top, left, dilation_h, dilation_w
    many = int(out.size + 4 >= _FEW)
    _im2col[blocks(-(-out.size // 4))](x, out, out.size, *x.shape[1:], kh, kw, n, oh, ow, *steps, many)


def col2im(
    columns: Array, stride_h: int, stride_w: int, top: int, left: int, dilation_h: int, dilation_w: int, out: Array
) -> None:
    """columns (C, KH, KW, N, OH, OW), out (N, C, H, W)."""
    _, kh, kw, n, oh, ow = columns.shape
    steps = stride_h, stride_w, top, left, dilation_h, dilation_w
    many = int(out.size >= _FEW)
    _col2im[blocks(out.size)](columns, out, out.size, *out.shape[1:], kh, kw, n, oh, ow, *steps, many)


@entry(static="biased many")
def _exchange(x, bias, out, size, a, b, length, biased, many):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    while i < size:
        line = i // length if many else part(i, length)
        outer = line // a if many else part(line, a)
        inner = line - outer * a
        value = x[(inner * b + outer) * length + i - line * length]
        if biased:
            value += bias[inner]
        out[i] = value
        i += cuda.gridsize(1)


@entry(static="many")
def _add_bias(bias, out, size, channels, length, many):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    while i < size:
        line = i // length if many else part(i, length)
        channel = line - (line // channels if many else part(line, channels)) * channels
        out[i] += bias[channel]
        i += cuda.gridsize(1)


@entry
def _accumulate(x, out, size):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    while i < size:
        out[i] += x[i]
        i += cuda.gridsize(1)


def exchange(x: Array, bias: Array, out: Array) -> None:
    """x (A, B, L), bias (A,) or (0,), out (B, A, L)."""
    a, b, length = x.shape
    biased = int(bias.size > 0)
    given = bias if biased else x
    _exchange[blocks(out.size)](x, given, out, out.size, a, b, length, biased, int(out.size >= _FEW))


def add_bias(bias: Array, out: Array) -> None:
    """bias (C,), out (N, C, L)."""
    _add_bias[blocks(out.size)](bias, out, out.size, out.shape[1], out.shape[2], int(out.size >= _FEW))


def accumulate(x: Array, out: Array) -> None:
    """Both flat."""
    _accumulate[blocks(out.size)](x, out, out.size)
