"""Convolutions in groups of few channels, directly: no columns, and planes in the lanes.

    y[n, o, i, j] = b[o] + Σ_{c, p, q} w[o, c, p, q] x[n, c, i s_h + p d_h - top, j s_w + q d_w - left]

Groups compute alike. As many of them as a register has lanes, of one sample after the other, form a block: a band of
rows of their planes is transposed, so that a pixel is a register, into a strip with its padding about it. There a tap
is one distance for all outputs, whatever stride and dilation are, every load is aligned, and small pictures fill the
lanes as well as large ones. Results are transposed back. Blocks whose lanes hold the same groups follow each other:
their weights are put into lanes once.

The gradient of x is the same sum over strips of gy, for each phase of x with the taps that meet it. That of w keeps a
register of sums a tap for all samples of a part; parts are added in order. Every output is computed by itself and
parts are fixed by shapes: any number of threads gives the same bits.
"""

from __future__ import annotations

from typing import Any

from numba import prange

from tinygrad_bn.kernels import depthwise as sizes
from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu.depthwise_lanes import (
    before,
    period_of,
    put_lanes,
    put_pixels,
    put_places,
    put_rows,
    runs_of_inputs,
    runs_of_outputs,
    take_pixels,
)
from tinygrad_bn.kernels.cpu.depthwise_tiles import tiles
from tinygrad_bn.kernels.cpu.simd import lanes, pointer_to

_tiles = tiles()
filter_8, filter_7, filter_4, filter_1 = _tiles.filter_8, _tiles.filter_7, _tiles.filter_4, _tiles.filter_1
weight_8, weight_7, weight_4, weight_1 = _tiles.weight_8, _tiles.weight_7, _tiles.weight_4, _tiles.weight_1
span, after = (jit(inline=True)(f) for f in (sizes.span, sizes.after))
GRAIN = 1 << 18  # multiply-adds from which two threads pay


@jit()
def filter_row(
    strip: Any, at: Any, step: Any, runs: Any, first: Any, last: Any, w: Any, base: Any, shift: Any, out: Any, to: Any,
    out_step: Any, columns: Any,
) -> None:  # fmt: skip
    """A row of outputs; a tile at the end may overlap the one before and write the same numbers again."""
    j = 0
    while j < columns:
        if columns % 7 == 0:
            filter_7(strip, at + j * step, step, runs, first, last, w, base, shift, out, to + j * out_step, out_step)
            j += 7
        elif columns - j > 4 and columns >= 8:
            j = min(j, columns - 8)
            filter_8(strip, at + j * step, step, runs, first, last, w, base, shift, out, to + j * out_step, out_step)
            j += 8
        elif columns >= 4:
            j = min(j, columns - 4)
            filter_4(strip, at + j * step, step, runs, first, last, w, base, shift, out, to + j * out_step, out_step)
            j += 4
        else:
            filter_1(strip, at + j * step, step, runs, first, last, w, base, shift, out, to + j * out_step, out_step)
            j += 1


@jit()
def weight_row(
    gy: Any, to: Any, strip: Any, at: Any, step: Any, runs: Any, last: Any, sums: Any, base: Any, columns: Any
) -> None:
    """Add to the sums of all taps what a row of gradients gives."""
    size = lanes(gy)
    j = 0
    while j < columns:
        if columns % 7 == 0:
            weight_7(gy, to + j * size, size, strip, at + j * step, step, runs, 0, last, sums, base)
            j += 7
        elif columns - j >= 8:
            weight_8(gy, to + j * size, size, strip, at + j * step, step, runs, 0, last, sums, base)
            j += 8
        elif columns - j >= 4:
            weight_4(gy, to + j * size, size, strip, at + j * step, step, runs, 0, last, sums, base)
            j += 4
        else:
            weight_1(gy, to + j * size, size, strip, at + j * step, step, runs, 0, last, sums, base)
            j += 1


# ------------------------------------------------------------------------------------------------------------- kernels


def _multiplied(x: Any, w: Any, *rest: Any) -> int:
    """Multiply-adds: every weight meets every window."""
    y = rest[-1]
    return int(y.size * w.size // w.shape[0])


def _multiplied_back(gy: Any, w: Any, *rest: Any) -> int:
    return int(gy.size * w.size // w.shape[0])


def _multiplied_weight(gy: Any, x: Any, *rest: Any) -> int:
    gw = rest[-1]
    return int(gy.size * gw.size // gw.shape[0])


@parallel(work=_multiplied, grain=GRAIN)
def depthwise(
    x: Any, w: Any, bias: Any, stride_h: Any, stride_w: Any, top: Any, left: Any, dilation_h: Any, dilation_w: Any,
    band: Any, table: Any, work: Any, y: Any,
) -> None:  # fmt: skip
    samples, channels, height, width = x.shape
    _, outputs, rows, columns = y.shape
    _, depth, kh, kw = w.shape
    groups, each = channels // depth, outputs * depth // channels
    size = lanes(x)
    taps = depth * kh * kw
    held = span(band, kh, dilation_h, stride_h)
    wide = max(left + width, span(columns, kw, dilation_w, stride_w))
    put_places(table, held, width, left, wide, size)
    runs = table[held * width :]
    last = runs_of_outputs(runs, depth, kh, kw, stride_w, dilation_h, dilation_w, held, wide, size)
    units, period, bands = samples * groups, period_of(groups, size), -(-rows // band)
    turns = -(-units // (size * period))
    items, shares = period * turns * bands, work.shape[0]
    fx, fw, fy = x.reshape(-1), w.reshape(-1), y.reshape(-1)
    filters = depth * held * wide * size
    shifts = filters + each * taps * size
    out = shifts + each * size
    for share in prange(shares):
        work[share, :out] = 0
        own = pointer_to(work[share])
        now = -1
        for item in range(items * share // shares, items * (share + 1) // shares):
            turn = item // bands
            unit = (turn // turns + turn % turns * period) * size
            count = min(size, units - unit)
            if count <= 0:
                continue
            if turn // turns != now:
                now = turn // turns
                put_lanes(pointer_to(fw), each * taps, groups, unit, own, filters, size)
                if bias.size:
                    put_lanes(pointer_to(bias), each, groups, unit, own, shifts, size)
            r0 = item % bands * band
            these = min(band, rows - r0)
            for c in range(depth):
                put_rows(
                    pointer_to(fx), (unit * depth + c) * height * width, depth * height * width, count, height, width,
                    r0 * stride_h - top, span(these, kh, dilation_h, stride_h), own, c * held * wide * size, wide,
                    pointer_to(table),
                )  # fmt: skip
            for m in range(each):
                for r in range(these):
                    filter_row(
                        own, r * stride_h * wide * size, stride_w * size, pointer_to(runs), 0, last, own,
                        filters + m * taps * size, shifts + m * size, own, out + r * columns * size, size, columns,
                    )  # fmt: skip
                take_pixels(
                    own, out, these * columns, pointer_to(fy), ((unit * each + m) * rows + r0) * columns,
                    each * rows * columns, count,
                )  # fmt: skip


@parallel(work=_multiplied_back, grain=GRAIN)
def depthwise_input(
    gy: Any, w: Any, stride_h: Any, stride_w: Any, top: Any, left: Any, dilation_h: Any, dilation_w: Any, band: Any,
    table: Any, work: Any, gx: Any,
) -> None:  # fmt: skip
    _, outputs, rows, columns = gy.shape
    samples, channels, height, width = gx.shape
    _, depth, kh, kw = w.shape
    groups, each = channels // depth, outputs * depth // channels
    size = lanes(gy)
    taps = kh * kw
    down, across = -(-height // stride_h), -(-width // stride_w)
    up, back = before(kh, dilation_h, stride_h, top), before(kw, dilation_w, stride_w, left)
    more = up + after(stride_h, top)
    held, wide = band + more, back + max(columns, across + after(stride_w, left))
    put_places(table, held, columns, back, wide, size)
    runs = table[held * columns :]
    begins = runs[4 * each * taps :]
    runs_of_inputs(
        runs, begins, each, depth, kh, kw, stride_h, stride_w, top, left, dilation_h, dilation_w, held, wide, size
    )
    units, period, bands = samples * groups, period_of(groups, size), -(-down // band)
    turns = -(-units // (size * period))
    items, shares = period * turns * bands, work.shape[0]
    fgy, fw, fx = gy.reshape(-1), w.reshape(-1), gx.reshape(-1)
    filters = each * held * wide * size
    shift = filters + each * depth * taps * size
    out = shift + size
    for share in prange(shares):
        work[share, :out] = 0
        own = pointer_to(work[share])
        now = -1
        for item in range(items * share // shares, items * (share + 1) // shares):
            turn = item // bands
            unit = (turn // turns + turn % turns * period) * size
            count = min(size, units - unit)
            if count <= 0:
                continue
            if turn // turns != now:
                now = turn // turns
                put_lanes(pointer_to(fw), each * depth * taps, groups, unit, own, filters, size)
            r0 = item % bands * band
            these = min(band, down - r0)
            for m in range(each):
                put_rows(
                    pointer_to(fgy), (unit * each + m) * rows * columns, each * rows * columns, count, rows, columns,
                    r0 - up, these + more, own, m * held * wide * size, wide, pointer_to(table),
                )  # fmt: skip
            lines = min(these * stride_h, height - r0 * stride_h)
            for c in range(depth):
                for r in range(lines):
                    for b in range(stride_w):
                        phase = r % stride_h * stride_w + b
                        filter_row(
                            own, r // stride_h * wide * size, size, pointer_to(runs), begins[phase], begins[phase + 1],
                            own, filters + c * taps * size, shift, own, out + (r * width + b) * size, stride_w * size,
                            -((b - width) // stride_w),
                        )  # fmt: skip
                take_pixels(
                    own, out, lines * width, pointer_to(fx), ((unit * depth + c) * height + r0 * stride_h) * width,
                    depth * height * width, count,
                )  # fmt: skip


@parallel(work=_multiplied_weight, grain=GRAIN)
def depthwise_weight(
    gy: Any, x: Any, stride_h: Any, stride_w: Any, top: Any, left: Any, dilation_h: Any, dilation_w: Any, band: Any,
    parts: Any, table: Any, partial: Any, work: Any, gw: Any,
) -> None:  # fmt: skip
    samples, channels, height, width = x.shape
    _, outputs, rows, columns = gy.shape
    _, depth, kh, kw = gw.shape
    groups, each = channels // depth, outputs * depth // channels
    size = lanes(x)
    taps = depth * kh * kw
    held = span(band, kh, dilation_h, stride_h)
    wide = max(left + width, span(columns, kw, dilation_w, stride_w))
    put_places(table, held, width, left, wide, size)
    places = table[held * width :]
    put_places(places, band, columns, 0, columns, size)
    runs = places[band * columns :]
    last = runs_of_outputs(runs, depth, kh, kw, stride_w, dilation_h, dilation_w, held, wide, size)
    units, period = samples * groups, period_of(groups, size)
    turns = -(-units // (size * period))
    items, shares = period * parts, work.shape[0]
    fgy, fx, fgw = gy.reshape(-1), x.reshape(-1), gw.reshape(-1)
    gradients = depth * held * wide * size
    length = each * taps * size
    for share in prange(shares):
        work[share, :gradients] = 0
        own = pointer_to(work[share])
        for item in range(items * share // shares, items * (share + 1) // shares):
            residue, part = item // parts, item % parts
            partial[item * length : (item + 1) * length] = 0
            for turn in range(turns * part // parts, turns * (part + 1) // parts):
                unit = (residue + turn * period) * size
                count = min(size, units - unit)
                for r0 in range(0, rows if count > 0 else 0, band):
                    these = min(band, rows - r0)
                    for c in range(depth):
                        put_rows(
                            pointer_to(fx), (unit * depth + c) * height * width, depth * height * width, count, height,
                            width, r0 * stride_h - top, span(these, kh, dilation_h, stride_h), own,
                            c * held * wide * size, wide, pointer_to(table),
                        )  # fmt: skip
                    for m in range(each):
                        put_pixels(
                            pointer_to(fgy), ((unit * each + m) * rows + r0) * columns, each * rows * columns, count,
                            these * columns, own, gradients, pointer_to(places),
                        )  # fmt: skip
                        for r in range(these):
                            weight_row(
                                own, gradients + r * columns * size, own, r * stride_h * wide * size, stride_w * size,
                                pointer_to(runs), last, pointer_to(partial), item * length + m * taps * size, columns,
                            )  # fmt: skip
    fgw[:] = 0
    for item in range(items):
        for lane in range(size):
            at = (item // parts * size + lane) % groups * each * taps
            for k in range(each * taps):
                fgw[at + k] += partial[item * length + k * size + lane]
