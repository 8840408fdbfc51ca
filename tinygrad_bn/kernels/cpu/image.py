"""Kernels that change batches of pictures, (N, C, H, W), for loaders; formulas as in ``kernels/ref/image.py``.

crop: out_nij = x_n,top_n+i,left_n+j or fill; mirror: out_nij = x_n,i,W-1-j; normalise: (x / divisor - mean_c) / std_c;
jitter: blends of a picture with black, with the mean of its grey values and with its grey values; tint: x / divisor +
shift_nc. Serial, without the interpreter's lock: a loader's thread runs them beside the pool.
"""

from __future__ import annotations

from typing import Any

from tinygrad_bn.kernels.cpu._jit import jit

RED, GREEN, BLUE = 0.299, 0.587, 0.114


@jit()
def crop_pictures(x: Any, top: Any, left: Any, fill: Any, out: Any) -> None:
    height, width = x.shape[2], x.shape[3]
    for n in range(out.shape[0]):
        first = min(max(-left[n], 0), out.shape[3])  # the columns of ``out`` that lie in the picture
        last = max(min(width - left[n], out.shape[3]), first)
        for c in range(out.shape[1]):
            for i in range(out.shape[2]):
                row = out[n, c, i]
                at = top[n] + i
                if at < 0 or at >= height:
                    row[:] = fill
                    continue
                source = x[n, c, at]
                for j in range(first):
                    row[j] = fill
                for j in range(first, last):
                    row[j] = source[left[n] + j]
                for j in range(last, row.size):
                    row[j] = fill


@jit()
def mirror_pictures(x: Any, flags: Any, out: Any) -> None:
    width = x.shape[3]
    for n in range(out.shape[0]):
        for c in range(out.shape[1]):
            for i in range(out.shape[2]):
                row, source = out[n, c, i], x[n, c, i]
                if flags[n]:
                    for j in range(width):
                        row[j] = source[width - 1 - j]
                else:
                    for j in range(width):
                        row[j] = source[j]


@jit()
def normalise_pictures(x: Any, divisor: Any, mean: Any, std: Any, out: Any) -> None:
    kind = out.dtype.type
    by = kind(divisor)
    for n in range(out.shape[0]):
        for c in range(out.shape[1]):
            m, s = mean[c], std[c]
            for i in range(out.shape[2]):
                row, source = out[n, c, i], x[n, c, i]
                for j in range(row.size):
                    row[j] = (kind(source[j]) / by - m) / s


@jit()
def mixed(v: Any, by: Any, towards: Any) -> Any:
    """A blend, kept within [0, 1]; NaN stays."""
    blend = by * v + (1.0 - by) * towards
    return 0.0 if blend < 0.0 else 1.0 if blend > 1.0 else blend


@jit()
def change_colours(v: Any, step: Any, by: Any) -> None:
    """One step of a picture's jitter, in place."""
    height, width = v.shape[1], v.shape[2]
    mean = 0.0
    if step == 1:
        for i in range(height):
            for j in range(width):
                mean += RED * v[0, i, j] + GREEN * v[1, i, j] + BLUE * v[2, i, j]
        mean /= height * width
    for i in range(height):
        for j in range(width):
            towards = mean
            if step == 2:
                towards = RED * v[0, i, j] + GREEN * v[1, i, j] + BLUE * v[2, i, j]
            for c in range(3):
                v[c, i, j] = mixed(v[c, i, j], by, towards)


@jit()
def jitter_pictures(x: Any, divisor: Any, factors: Any, order: Any, out: Any) -> None:
    for n in range(out.shape[0]):
        picture = out[n]
        for c in range(3):
            for i in range(out.shape[2]):
                for j in range(out.shape[3]):
                    picture[c, i, j] = x[n, c, i, j] / divisor
        for k in range(3):
            change_colours(picture, order[n, k], factors[n, order[n, k]])


@jit()
def tint_pictures(x: Any, divisor: Any, shift: Any, out: Any) -> None:
    kind = out.dtype.type
    by = kind(divisor)
    for n in range(out.shape[0]):
        for c in range(out.shape[1]):
            add = shift[n, c]
            for i in range(out.shape[2]):
                row, source = out[n, c, i], x[n, c, i]
                for j in range(row.size):
                    row[j] = kind(source[j]) / by + add
