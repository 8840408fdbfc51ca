"""Matrix products, batched: out_b = A_b B_b, where A or B may be given transposed.

Products of network size run on micro-kernels that read the operands in place: no packing. The work is split by rows
of the output (columns for ``linear``: rows of the weight), so each element is summed in one order for any number of
threads. Edges shorter than a tile are covered by a tile that overlaps the one before, which writes the same numbers
again. Large products go to SciPy's BLAS, one thread in each part of ours.
"""

from __future__ import annotations

from typing import Any

from numba import prange

from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu.blas import PART, blas_rows
from tinygrad_bn.kernels.cpu.reduction import column_sums
from tinygrad_bn.kernels.cpu.simd import lane, lanes, pointer_to, store_first, zeros
from tinygrad_bn.kernels.cpu.tiles import DOT_COLUMNS, DOT_ROWS, HALF, REGISTERS, ROWS, tiles

_tiles = tiles()
outer_full, outer_edge = _tiles.outer_full, _tiles.outer_edge
outer_half, outer_half_edge = _tiles.outer_half, _tiles.outer_half_edge
outer_row, outer_row_edge = _tiles.outer_row, _tiles.outer_row_edge
dot_full, dot_row = _tiles.dot_full, _tiles.dot_row

GRAIN = 400_000  # multiply-adds from which two threads pay
SHARE = 24  # columns of A Bᵀ in one part: A is read once a part
SLICES = 32  # at most so many shares of the rows of both gradients of ``linear``


@jit()
def outer_block(
    a: Any, pa: Any, row_step: Any, k_step: Any, b: Any, pb: Any, c: Any, pc: Any,
    rows: Any, columns: Any, n: Any, k: Any,
) -> None:  # fmt: skip
    """``rows`` rows and ``columns`` columns of C; its rows, and those of B, are n apart."""
    width = lanes(b)
    tile = REGISTERS * width
    j = 0
    while j < columns:
        full = j + tile <= columns
        step = tile if full else width
        left = columns - j
        i = 0
        while i < rows:
            if rows >= ROWS and rows - i > HALF:
                i = min(i, rows - ROWS)
                if full:
                    outer_full(a, pa + i * row_step, row_step, k_step, b, pb + j, n, c, pc + i * n + j, n, k, left)
                else:
                    outer_edge(a, pa + i * row_step, row_step, k_step, b, pb + j, n, c, pc + i * n + j, n, k, left)
                i += ROWS
            elif rows >= HALF:
                i = min(i, rows - HALF)
                if full:
                    outer_half(a, pa + i * row_step, row_step, k_step, b, pb + j, n, c, pc + i * n + j, n, k, left)
                else:
                    outer_half_edge(a, pa + i * row_step, row_step, k_step, b, pb + j, n, c, pc + i * n + j, n, k, left)
                i += HALF
            else:
                if full:
                    outer_row(a, pa + i * row_step, row_step, k_step, b, pb + j, n, c, pc + i * n + j, n, k, left)
                else:
                    outer_row_edge(a, pa + i * row_step, row_step, k_step, b, pb + j, n, c, pc + i * n + j, n, k, left)
                i += 1
        j += step


@jit()
def dot_columns(
    a: Any, pa: Any, b: Any, pb: Any, bias: Any, biased: Any, c: Any, pc: Any,
    m: Any, n: Any, k: Any, first: Any, last: Any,
) -> None:  # fmt: skip
    """Columns first … last of C = A Bᵀ + bias, all m rows; ``biased`` is 1, or 0 where there is no bias."""
    if last - first >= DOT_COLUMNS:
        i = 0
        while i < m:
            rows = DOT_ROWS if m >= DOT_ROWS else 1
            i = min(i, m - rows)
            j = first
            while j < last:
                j = min(j, last - DOT_COLUMNS)
                if rows > 1:
                    dot_full(a, pa + i * k, k, b, pb + j * k, k, bias, biased, j, c, pc + i * n + j, n, k)
                else:
                    dot_row(a, pa + i * k, k, b, pb + j * k, k, bias, biased, j, c, pc + i * n + j, n, k)
                j += DOT_COLUMNS
            i += rows
    else:
        for j in range(first, last):
            for i in range(m):
                total = bias[j] if biased else lane(zeros(a), 0)
                for q in range(k):
                    total += a[pa + i * k + q] * b[pb + j * k + q]
                c[pc + i * n + j] = total


@jit()
def parts(extent: Any, grain: Any) -> Any:
    """How many parts of ``grain`` an extent is cut into; the last takes what is over."""
    return max(1, extent // grain)


@jit()
def large(m: Any, n: Any, k: Any) -> Any:
    """Whether packing pays: beyond these sizes panels leave the second-level cache."""
    return m * n * k >= 1 << 32 or (k > 4096 and m * n * k >= 1 << 27)


@jit()
def rows_of_part(m: Any) -> Any:
    """Rows of the output in one part: few where there are few, else enough to use a panel of B often."""
    return ROWS if m <= 16 * ROWS else 8 * ROWS


@jit()
def extents(out: Any) -> Any:
    """(batch, M, N) of an output of two or three axes."""
    return (out.size // (out.shape[-2] * out.shape[-1]), out.shape[-2], out.shape[-1])


def _nn_work(a: Any, b: Any, out: Any) -> int:
    return out.size * a.shape[-1]  # type: ignore[no-any-return]


def _tn_work(a: Any, b: Any, out: Any) -> int:
    return out.size * a.shape[-2]  # type: ignore[no-any-return]


def _linear_work(x: Any, weight: Any, bias: Any, out: Any) -> int:
    return x.size * len(weight)  # type: ignore[no-any-return]


@parallel(work=_nn_work, grain=GRAIN)
def matmul_nn(a: Any, b: Any, out: Any) -> None:
    batch, m, n = extents(out)
    k = a.shape[-1]
    fa, fb, fc = a.reshape(-1), b.reshape(-1), out.reshape(-1)
    step_a = m * k if fa.size > m * k else 0
    step_b = k * n if fb.size > k * n else 0
    if large(m, n, k):
        cuts = -(-m // PART)
        for block in prange(batch * cuts):
            z, lo = block // cuts, block % cuts * PART
            left, right = fa[z * step_a :], fb[z * step_b :]
            blas_rows(left, right, fc[z * m * n :], m, n, k, lo, min(m, lo + PART), False, False)
    else:
        height = rows_of_part(m)
        blocks = parts(m, height)
        for block in prange(batch * blocks):
            z, i = block // blocks, block % blocks * height
            rows = height if block % blocks < blocks - 1 else m - i
            outer_block(
                pointer_to(fa), z * step_a + i * k, k, 1, pointer_to(fb), z * step_b,
                pointer_to(fc), (z * m + i) * n, rows, n, n, k,
            )  # fmt: skip


@parallel(work=_tn_work, grain=GRAIN)
def matmul_tn(a: Any, b: Any, out: Any) -> None:
    batch, m, n = extents(out)
    k = a.shape[-2]
    fa, fb, fc = a.reshape(-1), b.reshape(-1), out.reshape(-1)
    step_a = m * k if fa.size > m * k else 0
    step_b = k * n if fb.size > k * n else 0
    if large(m, n, k):
        cuts = -(-m // PART)
        for block in prange(batch * cuts):
            z, lo = block // cuts, block % cuts * PART
            left, right = fa[z * step_a :], fb[z * step_b :]
            blas_rows(left, right, fc[z * m * n :], m, n, k, lo, min(m, lo + PART), True, False)
    else:
        height = rows_of_part(m)
        blocks = parts(m, height)
        for block in prange(batch * blocks):
            z, i = block // blocks, block % blocks * height
            rows = height if block % blocks < blocks - 1 else m - i
            outer_block(
                pointer_to(fa), z * step_a + i, 1, m, pointer_to(fb), z * step_b,
                pointer_to(fc), (z * m + i) * n, rows, n, n, k,
            )  # fmt: skip


@parallel(work=_nn_work, grain=GRAIN)
def matmul_nt(a: Any, b: Any, out: Any) -> None:
    batch, m, n = extents(out)
    k = a.shape[-1]
    fa, fb, fc = a.reshape(-1), b.reshape(-1), out.reshape(-1)
    step_a = m * k if fa.size > m * k else 0
    step_b = k * n if fb.size > k * n else 0
    if large(m, n, k):
        cuts = -(-m // PART)
        for block in prange(batch * cuts):
            z, lo = block // cuts, block % cuts * PART
            left, right = fa[z * step_a :], fb[z * step_b :]
            blas_rows(left, right, fc[z * m * n :], m, n, k, lo, min(m, lo + PART), False, True)
    else:
        blocks = parts(n, SHARE)
        for block in prange(batch * blocks):
            z, first = block // blocks, block % blocks * SHARE
            last = first + SHARE if block % blocks < blocks - 1 else n
            dot_columns(
                pointer_to(fa), z * step_a, pointer_to(fb), z * step_b, pointer_to(fa), 0,
                pointer_to(fc), z * m * n, m, n, k, first, last,
            )  # fmt: skip


@parallel(work=_linear_work, grain=GRAIN)
def linear(x: Any, weight: Any, bias: Any, out: Any) -> None:
    m, n = out.shape
    k = x.shape[1]
    fx, fw, fc = x.reshape(-1), weight.reshape(-1), out.reshape(-1)
    if large(m, n, k):
        for block in prange(-(-m // PART)):
            lo = block * PART
            hi = min(m, lo + PART)
            blas_rows(fx, fw, fc, m, n, k, lo, hi, False, True)
            if bias.size:
                add_bias(out[lo:hi], bias)
    else:
        blocks = parts(n, SHARE)
        for block in prange(blocks):
            first = block * SHARE
            last = first + SHARE if block < blocks - 1 else n
            dot_columns(
                pointer_to(fx), 0, pointer_to(fw), 0, pointer_to(bias), min(bias.size, 1),
                pointer_to(fc), 0, m, n, k, first, last,
            )  # fmt: skip


@jit()
def add_bias(rows: Any, bias: Any) -> None:
    for i in range(rows.shape[0]):
        row = rows[i]
        for j in range(bias.size):
            row[j] += bias[j]


@jit()
def product_rows(
    a: Any, row_step: Any, k_step: Any, b: Any, c: Any, m: Any, n: Any, k: Any, slice_: Any, slices: Any
) -> None:
    """One of ``slices`` equal shares of the rows of C = A B, or of C = Aᵀ B where A's rows are its k."""
    blocks = parts(m, ROWS)
    lo = blocks * slice_ // slices * ROWS
    hi = blocks * (slice_ + 1) // slices * ROWS if slice_ + 1 < slices else m
    if lo < hi:
        if large(m, n, k):
            blas_rows(a, b, c, m, n, k, lo, hi, k_step != 1, False)
        else:
            outer_block(
                pointer_to(a), lo * row_step, row_step, k_step, pointer_to(b), 0,
                pointer_to(c), lo * n, hi - lo, n, n, k,
            )  # fmt: skip


def _linear_backward_work(gy: Any, x: Any, weight: Any, gx: Any, gweight: Any, gbias: Any) -> int:
    return len(gy) * (gweight.size + (weight.size if gx.size else 0))  # type: ignore[no-any-return]


@parallel(work=_linear_backward_work, grain=GRAIN)
def linear_backward(gy: Any, x: Any, weight: Any, gx: Any, gweight: Any, gbias: Any) -> None:
    m, n = gy.shape
    fgy = gy.reshape(-1)
    width = lanes(gy)
    slices = max(
        1, min(SLICES, max(m, n) // 24)
    )  # a panel of B is read once a slice: few slices where there are few rows
    for slice_ in prange(slices):
        if gweight.size:
            product_rows(fgy, 1, n, x.reshape(-1), gweight.reshape(-1), n, gweight.shape[1], m, slice_, slices)
        if gx.size:
            product_rows(fgy, n, 1, weight.reshape(-1), gx.reshape(-1), m, gx.shape[1], n, slice_, slices)
        if gbias.size:
            registers = -(-n // width)
            for r in range(registers * slice_ // slices, registers * (slice_ + 1) // slices):
                j = r * width
                store_first(gbias, j, column_sums(fgy, j, m, n, n - j), n - j)
