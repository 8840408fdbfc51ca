"""Depthwise convolutions by small square kernels, directly: no columns, and rows in the lanes.

    y[n, o, i, j] = b[o] + Σ_{p, q} w[o, p, q] x[n, c, i s + p - top, j s + q - left],  c = ⌊o C / O⌋

Planes are walked through row by row (``depthwise_row_tiles.py``): nothing is transposed or padded, as it is for other
kernels (``depthwise.py``), and both gradients come of one pass over x and gy. A task is some channels that follow each
other, of a sample, or of two where planes are narrow; of backward, of all samples of a part, whose sums of the
gradient of w stay in the first cache, a register a tap. Parts are added in order, then lanes. All of it is fixed by
shapes: any number of threads gives the same bits. Where ``work`` has room for a plane, planes are put together there
and written past the caches.
"""

from __future__ import annotations

from typing import Any

from numba import prange

from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu.depthwise_row_tiles import tiles
from tinygrad_bn.kernels.cpu.simd import lanes, load, load_first, pointer_to, store_first, total, zeros
from tinygrad_bn.kernels.cpu.streams import misaligned, settle, stream

_tiles = tiles()
forward_3_1, forward_3_1_two = _tiles.forward_3_1, _tiles.forward_3_1_two
forward_3_2, forward_3_2_two = _tiles.forward_3_2, _tiles.forward_3_2_two
backward_3_1, backward_3_1_two = _tiles.backward_3_1, _tiles.backward_3_1_two
backward_3_2, backward_3_2_two = _tiles.backward_3_2, _tiles.backward_3_2_two
NEAR = 1 << 12  # values of planes that are computed by one call
GRAIN = 1 << 18  # multiply-adds from which two threads pay


def _multiplied(x: Any, w: Any, *rest: Any) -> int:
    """Multiply-adds: every weight meets every window."""
    y = rest[-1]
    return int(y.size * w.size // w.shape[0])


def _multiplied_back(gy: Any, x: Any, w: Any, *rest: Any) -> int:
    return int(2 * gy.size * w.size // w.shape[0])


@jit()
def pour(work: Any, n: Any, y: Any, to: Any) -> None:
    """Write n results past the caches."""
    size = lanes(y)
    i = min(-(misaligned(y) + to) % size, n)
    store_first(y, to, load_first(work, 0, i), i)
    while i + size <= n:
        stream(y, to + i, load(work, i))
        i += size
    store_first(y, to + i, load_first(work, i, n - i), n - i)


@jit()
def chunk_of(length: Any) -> Any:
    """How many planes are computed by one call: few, if they are so large that they would leave the first cache."""
    return max(1, NEAR // length)


@jit()
def forward_channels(
    x: Any, w: Any, bias: Any, stride: Any, top: Any, left: Any, y: Any, n: Any, step: Any, c0: Any, c1: Any, work: Any
) -> None:  # fmt: skip
    """The outputs of channels c0 … c1 of a sample, or of two; by way of ``work``, if there is any."""
    _, channels, height, width = x.shape
    _, outputs, rows, columns = y.shape
    each = outputs // channels
    fx, fw, fy = x.reshape(-1), w.reshape(-1), y.reshape(-1)
    px, pw, pb, py, own = pointer_to(fx), pointer_to(fw), pointer_to(bias), pointer_to(fy), pointer_to(work)
    far, apart = channels * height * width, outputs * rows * columns
    chunk = 1 if work.size else chunk_of(height * width)
    for c in range(c0, c1, chunk):
        count = min(chunk, c1 - c)
        for m in range(each):
            o = c * each + m
            at, to = (n * channels + c) * height * width, (n * outputs + o) * rows * columns
            if step == 2 and stride == 1:
                forward_3_1_two(
                    px, at, far, height, width, pw, pb, bias.size, o, each, count, top, left, py, to, apart, rows,
                    columns,
                )  # fmt: skip
            elif step == 2:
                forward_3_2_two(
                    px, at, far, height, width, pw, pb, bias.size, o, each, count, top, left, py, to, apart, rows,
                    columns,
                )  # fmt: skip
            else:
                target, place = (own, 0) if work.size else (py, to)
                if stride == 1:
                    forward_3_1(
                        px, at, far, height, width, pw, pb, bias.size, o, each, count, top, left, target, place, apart,
                        rows, columns,
                    )  # fmt: skip
                else:
                    forward_3_2(
                        px, at, far, height, width, pw, pb, bias.size, o, each, count, top, left, target, place, apart,
                        rows, columns,
                    )  # fmt: skip
                if work.size:
                    pour(own, rows * columns, py, to)


@parallel(work=_multiplied, grain=GRAIN)
def depthwise_rows(
    x: Any, w: Any, bias: Any, stride: Any, top: Any, left: Any, together: Any, work: Any, y: Any
) -> None:
    samples, channels = x.shape[:2]
    step = 2 if 2 * y.shape[3] <= lanes(x) else 1
    blocks, shares = -(-channels // together), work.shape[0]
    items = -(-samples // step) * blocks
    for share in prange(shares):
        for item in range(items * share // shares, items * (share + 1) // shares):
            n, c0 = item // blocks * step, item % blocks * together
            c1 = min(channels, c0 + together)
            forward_channels(x, w, bias, stride, top, left, y, n, min(step, samples - n), c0, c1, work[share])
        settle()


@jit()
def backward_channels(
    gy: Any, x: Any, w: Any, stride: Any, top: Any, left: Any, gx: Any, sums: Any, to: Any, n: Any, step: Any, c0: Any,
    c1: Any, work: Any,
) -> None:  # fmt: skip
    """The gradients of channels c0 … c1 of a sample, or of two; that of x by way of ``work``, if there is any."""
    _, channels, height, width = x.shape
    rows, columns = gy.shape[2:]
    length, taps = height * width, w.shape[2] * w.shape[3]
    fgy, fx, fw, fgx = gy.reshape(-1), x.reshape(-1), w.reshape(-1), gx.reshape(-1)
    pgy, px, pw, pgx, ps = pointer_to(fgy), pointer_to(fx), pointer_to(fw), pointer_to(fgx), pointer_to(sums)
    far, apart, own = channels * length, channels * rows * columns, pointer_to(work)
    chunk = 1 if work.size else chunk_of(length)
    for c in range(c0, c1, chunk):
        count = min(chunk, c1 - c)
        at, plane = (n * channels + c) * rows * columns, (n * channels + c) * length
        total = to + (c - c0) * taps * lanes(x)
        if step == 2 and stride == 1:
            backward_3_1_two(
                pgy, at, apart, rows, columns, px, plane, far, height, width, pw, c, count, top, left, pgx, plane, ps,
                total,
            )  # fmt: skip
        elif step == 2:
            backward_3_2_two(
                pgy, at, apart, rows, columns, px, plane, far, height, width, pw, c, count, top, left, pgx, plane, ps,
                total,
            )  # fmt: skip
        else:
            target, place = (own, 0) if work.size else (pgx, plane)
            if stride == 1:
                backward_3_1(
                    pgy, at, apart, rows, columns, px, plane, far, height, width, pw, c, count, top, left, target,
                    place, ps, total,
                )  # fmt: skip
            else:
                backward_3_2(
                    pgy, at, apart, rows, columns, px, plane, far, height, width, pw, c, count, top, left, target,
                    place, ps, total,
                )  # fmt: skip
            if work.size:
                pour(own, length, pgx, plane)


@parallel(work=_multiplied_back, grain=GRAIN)
def depthwise_rows_back(
    gy: Any, x: Any, w: Any, stride: Any, top: Any, left: Any, together: Any, parts: Any, partial: Any, work: Any,
    gx: Any, gw: Any,
) -> None:  # fmt: skip
    samples, channels, _, width = x.shape
    size = lanes(x)
    taps = w.shape[2] * w.shape[3]
    blocks, shares = -(-channels // together), work.shape[0]
    narrow = 2 * ((width - 1 + left) // stride + 1) <= size
    fgw = gw.reshape(-1)
    items = blocks * parts
    for share in prange(shares):
        for item in range(items * share // shares, items * (share + 1) // shares):
            part, c0 = item // blocks, item % blocks * together
            c1 = min(channels, c0 + together)
            to = (part * channels + c0) * taps * size
            partial[to : to + (c1 - c0) * taps * size] = 0
            n, end = samples * part // parts, samples * (part + 1) // parts
            while n < end:
                step = 2 if narrow and n + 1 < end else 1
                backward_channels(gy, x, w, stride, top, left, gx, partial, to, n, step, c0, c1, work[share])
                n += step
        settle()
    for block in prange(blocks):
        sums = pointer_to(partial)
        for k in range(block * together * taps, min(channels, (block + 1) * together) * taps):
            v = zeros(x)
            for part in range(parts):
                v = v + load(sums, (part * channels * taps + k) * size)
            fgw[k] = total(v)
