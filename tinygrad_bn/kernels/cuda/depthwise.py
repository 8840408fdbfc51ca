"""Convolutions in groups of few channels, directly: a thread computes four outputs of a column, or one of the input's
gradient; sums over the places of the kernel in one order.

    y[n, o, i, j] = b[o] + Σ_{c, p, q} w[o, c, p, q] x[n, c, i s_h + p d_h - top, j s_w + q d_w - left]

The filters' gradient is summed by a block for each output, channel of its group, run of nine taps and part of the
windows: nine sums a thread, then a tree over the threads, then the parts in order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.convolution import limited, part
from tinygrad_bn.kernels.cuda.direct_weight import add_parts
from tinygrad_bn.kernels.cuda.entry import blocks, entry
from tinygrad_bn.kernels.cuda.target import SIMULATED, cuda

Array = np.ndarray[Any, Any]
_THREADS = 8 if SIMULATED else 256  # of a block that sums
_TAPS = 9  # whose sums a thread keeps


@entry(static="biased")
def _depthwise(x, w, bias, y, size, outputs, depth, each, h, wide, oh, ow, bands, kh, kw, sh, sw, top, left, dh, dw, biased):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    at = cuda.grid(1)
    while at < size:
        line = part(at, ow)
        j = at - line * ow
        plane = part(line, bands)
        i = (line - plane * bands) * 4
        sample = part(plane, outputs)
        o = plane - sample * outputs
        first = (sample * part(outputs, each) + part(o, each)) * depth
        a = 0.0
        b = 0.0
        c = 0.0
        d = 0.0
        for channel in range(depth):
            base = (first + channel) * h * wide
            for p in range(kh):
                row = i * sh + p * dh - top
                for q in range(kw):
                    column = j * sw + q * dw - left
                    if column >= 0 and column < wide:
                        factor = w[((o * depth + channel) * kh + p) * kw + q]
                        place = base + row * wide + column
                        step = sh * wide
                        if row >= 0 and row < h:
                            a += factor * x[place]
                        if row + sh >= 0 and row + sh < h:
                            b += factor * x[place + step]
                        if row + 2 * sh >= 0 and row + 2 * sh < h:
                            c += factor * x[place + 2 * step]
                        if row + 3 * sh >= 0 and row + 3 * sh < h:
                            d += factor * x[place + 3 * step]
        if biased:
            a += bias[o]
            b += bias[o]
            c += bias[o]
            d += bias[o]
        place = (plane * oh + i) * ow + j
        y[place] = a
        if i + 1 < oh:
            y[place + ow] = b
        if i + 2 < oh:
            y[place + 2 * ow] = c
        if i + 3 < oh:
            y[place + 3 * ow] = d
        at += cuda.gridsize(1)


@entry
def _depthwise_input(gy, w, gx, size, depth, each, groups, h, wide, oh, ow, kh, kw, sh, sw, top, left, dh, dw):  # type: ignore[no-untyped-def]  # fmt: skip
    at = cuda.grid(1)
    while at < size:
        line = part(at, wide)
        column = at - line * wide + left
        plane = part(line, h)
        row = line - plane * h + top
        whole = part(plane, depth)
        channel = plane - whole * depth
        sample = part(whole, groups)
        group = whole - sample * groups
        total = 0.0
        for p in range(kh):
            above = row - p * dh
            i = part(max(above, 0), sh)
            if above >= 0 and i * sh == above and i < oh:
                for q in range(kw):
                    before = column - q * dw
                    j = part(max(before, 0), sw)
                    if before >= 0 and j * sw == before and j < ow:
                        for m in range(each):
                            factor = w[(((group * each + m) * depth + channel) * kh + p) * kw + q]
                            total += factor * gy[((whole * each + m) * oh + i) * ow + j]
        gx[at] = total
        at += cuda.gridsize(1)


def _weight_source() -> str:
    """A block of ``_depthwise_weight``: sums in registers have names, so the lines are written out."""
    sums = [f"a{e}" for e in range(_TAPS)]
    lines = ["shared = cuda.shared.array(_THREADS, np.float64)", "t = cuda.threadIdx.x", "z = cuda.blockIdx.x"]
    lines += ["run = z % runs", "z = z // runs", "channel = z % depth", "z = z // depth"]
    lines += ["o = z % outputs", "piece = z // outputs", "group = o // each", "taps = kh * kw"]
    for e in range(_TAPS):
        lines += [
            f"tap = run * {_TAPS} + {e}",
            f"p{e} = np.int32(tap // kw * dh - top) if tap < taps else np.int32({-1 << 30})",
            f"q{e} = np.int32(tap % kw * dw - left)",
        ]
    lines += [f"{name} = 0.0" for name in sums]
    lines += [
        "at = piece * share + t",
        "last = min((piece + 1) * share, size)",
        "while at < last:",
        "    line = part(at, ow)",
        "    column = np.int32((at - line * ow) * sw)",
        "    sample = part(line, oh)",
        "    row = np.int32((line - sample * oh) * sh)",
        "    g = gy[((sample * outputs + o) * oh + line - sample * oh) * ow + at - line * ow]",
        "    base = ((sample * (outputs // each) + group) * depth + channel) * h * wide",
    ]
    for e in range(_TAPS):
        lines += [
            f"    y = np.int32(row + p{e})",
            f"    z = np.int32(column + q{e})",
            "    if y >= 0 and y < h and 0 <= z and z < wide:",
            f"        a{e} += g * x[base + y * wide + z]",
        ]
    lines.append("    at += _THREADS")
    for e in range(_TAPS):
        lines += [
            f"shared[t] = np.float64(a{e})",
            "half = _THREADS // 2",
            "while half > 0:",
            "    cuda.syncthreads()",
            "    if t < half:",
            "        shared[t] += shared[t + half]",
            "    half = half // 2",
            f"tap = run * {_TAPS} + {e}",
            "if t == 0 and tap < taps:",
            "    gw[((piece * outputs + o) * depth + channel) * taps + tap] = real(shared[0])",
            "cuda.syncthreads()",
        ]
    parameters = (
        "gy, x, gw, size, share, outputs, depth, each, h, wide, oh, ow, kh, kw, sh, sw, top, left, dh, dw, runs"
    )
    return "\n".join([f"def _depthwise_weight({parameters}):", *["    " + line for line in lines], ""])


_text = _weight_source()
exec(compile(_text, __file__, "exec"), globals())
_weight = entry(threads=_THREADS, text=_text)(globals()["_depthwise_weight"])


def depthwise(
    x: Array, w: Array, bias: Array, stride_h: int, stride_w: int, top: int, left: int, dilation_h: int,
    dilation_w: int, band: int, table: Array, work: Array, y: Array,
) -> None:  # fmt: skip
    """x (N, C, H, W), w (O, C / groups, KH, KW), bias (O,) or (0,), y (N, O, OH, OW)."""
    outputs, depth, kh, kw = w.shape
    each = outputs * depth // x.shape[1]
    oh, ow = y.shape[2:]
    bands = -(-oh // 4)
    size = y.shape[0] * outputs * bands * ow
    limited(size)
    steps = stride_h, stride_w, top, left, dilation_h, dilation_w
    biased = int(bias.size > 0)
    _depthwise[blocks(size)](
        x, w, bias if biased else w, y, size, outputs, depth, each, *x.shape[2:], oh, ow, bands, kh, kw, *steps, biased
    )


def depthwise_input(
    gy: Array, w: Array, stride_h: int, stride_w: int, top: int, left: int, dilation_h: int, dilation_w: int,
    band: int, table: Array, work: Array, gx: Array,
) -> None:  # fmt: skip
    """gx[n, c] = what w gives back of gy: the adjoint of ``depthwise`` without its bias."""
    outputs, depth, kh, kw = w.shape
    groups = gx.shape[1] // depth
    limited(gx.size)
    steps = stride_h, stride_w, top, left, dilation_h, dilation_w
    _depthwise_input[blocks(gx.size)](
        gy, w, gx, gx.size, depth, outputs // groups, groups, *gx.shape[2:], *gy.shape[2:], kh, kw, *steps
    )


def depthwise_weight(
    gy: Array, x: Array, stride_h: int, stride_w: int, top: int, left: int, dilation_h: int, dilation_w: int,
    band: int, parts: int, table: Array, partial: Array, work: Array, gw: Array,
) -> None:  # fmt: skip
    """gw[o, c, p, q] = Σ_{n, i, j} gy[n, o, i, j] x[n, c, i s_h + p d_h - top, j s_w + q d_w - left]."""
    outputs, depth, kh, kw = gw.shape
    size = gy.shape[0] * gy.shape[2] * gy.shape[3]
    limited(size)
    share = -(-size // parts)
    count, runs = -(-size // share), -(-kh * kw // _TAPS)
    each = outputs * depth // x.shape[1]
    steps = stride_h, stride_w, top, left, dilation_h, dilation_w
    sums = gw if count == 1 else partial
    _weight[count * outputs * depth * runs](
        gy, x, sums, size, share, outputs, depth, each, *x.shape[2:], *gy.shape[2:], kh, kw, *steps, runs
    )
    if count > 1:
        add_parts(partial, gw, count)
