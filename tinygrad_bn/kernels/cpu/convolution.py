"""What turns a convolution into a matrix product.

    im2col    columns[c, p, q, n, i, j] = x[n, c, i s_h + p d_h - top, j s_w + q d_w - left], 0 outside of x
    col2im    the adjoint: out[n, c, h, w] = Σ columns[c, p, q, n, i, j] over all that im2col reads from there

With the samples inside the columns, a filter bank (O, C KH KW) meets all of them, N OH OW columns, in one product,
and groups are its batch. Tap (p, q) of channel c and sample n is one plane: the windows' part of x, shifted, whose rows
are contiguous pieces of x's where the stride is 1. im2col is split by such planes; col2im by planes of the output, each
of which collects its taps in a fixed order: any number of threads gives the same bits.

Chellapilla, Puri & Simard 2006 (Tenth International Workshop on Frontiers in Handwriting Recognition).
"""

from __future__ import annotations

from typing import Any

from numba import prange

from tinygrad_bn.kernels.cpu._jit import jit, parallel

GRAIN = 1 << 17
BLOCK = 1 << 13


@jit()
def inside(offset: Any, stride: Any, extent: Any, count: Any) -> Any:
    """The windows lo … hi, of ``count``, of which a tap at ``offset`` from the window's start is inside the axis."""
    lo = min(count, max(0, -(offset // stride)))
    hi = min(count, (extent - 1 - offset) // stride + 1)
    return lo, max(lo, hi)


@jit()
def gather_plane(x: Any, down: Any, right: Any, stride_h: Any, stride_w: Any, out: Any) -> None:
    """out[i, j] = x[i stride_h + down, j stride_w + right]."""
    top, bottom = inside(down, stride_h, x.shape[0], out.shape[0])
    lo, hi = inside(right, stride_w, x.shape[1], out.shape[1])
    if bottom - top < out.shape[0] or hi - lo < out.shape[1]:
        out[:] = 0  # in one go: edges row by row take longer than what lies between them
    if lo == hi:
        return
    for i in range(top, bottom):
        row = x[i * stride_h + down][lo * stride_w + right :]
        into = out[i][lo:hi]
        if stride_w == 1:
            for j in range(into.size):
                into[j] = row[j]
        else:
            for j in range(into.size):
                into[j] = row[j * stride_w]


@jit()
def scatter_plane(x: Any, down: Any, right: Any, stride_h: Any, stride_w: Any, out: Any) -> None:
    """out[i stride_h + down, j stride_w + right] += x[i, j]."""
    top, bottom = inside(down, stride_h, out.shape[0], x.shape[0])
    lo, hi = inside(right, stride_w, out.shape[1], x.shape[1])
    if lo == hi:
        return
    for i in range(top, bottom):
        row = x[i][lo:hi]
        into = out[i * stride_h + down][lo * stride_w + right :]
        if stride_w == 1:
            for j in range(row.size):
                into[j] += row[j]
        else:
            for j in range(row.size):
                into[j * stride_w] += row[j]


@parallel(work="out", grain=GRAIN)
def im2col(
    x: Any, stride_h: Any, stride_w: Any, top: Any, left: Any, dilation_h: Any, dilation_w: Any, out: Any
) -> None:
    channels, kh, kw, samples, _, _ = out.shape
    for plane in prange(channels * kh * kw * samples):
        n = plane % samples
        tap = plane // samples
        q = tap % kw
        p = tap // kw % kh
        c = tap // (kw * kh)
        gather_plane(x[n, c], p * dilation_h - top, q * dilation_w - left, stride_h, stride_w, out[c, p, q, n])


@parallel(work="columns", grain=GRAIN)
def col2im(
    columns: Any, stride_h: Any, stride_w: Any, top: Any, left: Any, dilation_h: Any, dilation_w: Any, out: Any
) -> None:
    channels, kh, kw, samples, _, _ = columns.shape
    for plane in prange(samples * channels):
        n = plane // channels
        c = plane % channels
        into = out[n, c]
        into[:] = 0
        for p in range(kh):
            for q in range(kw):
                down, right = p * dilation_h - top, q * dilation_w - left
                scatter_plane(columns[c, p, q, n], down, right, stride_h, stride_w, into)


@parallel(work="x", grain=GRAIN)
def exchange(x: Any, bias: Any, out: Any) -> None:
    a, b, length = x.shape
    for pair in prange(a * b):
        i, k = pair % a, pair // a
        row, into = x[i, k], out[k, i]
        if bias.size:
            shift = bias[i]
            for j in range(length):
                into[j] = row[j] + shift
        else:
            for j in range(length):
                into[j] = row[j]


@parallel(work="out", grain=GRAIN)
def add_bias(bias: Any, out: Any) -> None:
    samples, channels, length = out.shape
    for plane in prange(samples * channels):
        into = out[plane // channels, plane % channels]
        shift = bias[plane % channels]
        for j in range(length):
            into[j] += shift


@parallel(work="out", grain=GRAIN)
def accumulate(x: Any, out: Any) -> None:
    for block in prange(-(-out.size // BLOCK)):
        term, total = x[block * BLOCK :][:BLOCK], out[block * BLOCK :][:BLOCK]
        for i in range(total.size):
            total[i] += term[i]
