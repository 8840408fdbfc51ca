"""The gradient of a 3×3 convolution's filters by Winograd's F(4×4, 3×3): the adjoint of ``winograd.py``.

    gw[o, c] = Gᵀ [Σ_t (A gy[o, t] Aᵀ) ⊙ (Bᵀ x[c, t] B)] G

over tiles t of 4×4 results. In the transformed domain it is a product for each of 36 points: U[o, c] = Σ_t M[t, o]
V[t, c], registers along the channels, which the transforms have in their lanes too (``winograd_lanes.py``).

Where U is small, blocks of tiles are transformed and multiplied in the second-level cache and added up in a fixed
number of parts, each by one thread, and the parts in their order. Where it is large, a stretch of tiles is transformed
to memory, and each point's products are formed at once, over all of them. Both are the same sums for any number of
threads.
"""

from __future__ import annotations

from typing import Any

from numba import prange

from tinygrad_bn.kernels import winograd
from tinygrad_bn.kernels.cpu._jit import generated, jit, parallel
from tinygrad_bn.kernels.cpu.simd import lanes, load, pointer_to, store
from tinygrad_bn.kernels.cpu.tiles import HEAD
from tinygrad_bn.kernels.cpu.vector import WIDTH
from tinygrad_bn.kernels.cpu.winograd import GRAIN, F
from tinygrad_bn.kernels.cpu.winograd_lanes import tiles_before, transform_units
from tinygrad_bn.kernels.winograd import HEIGHT, LANES, POINTS

filter_gradient = jit(inline=True)(winograd.filter_gradient)
points_plane = jit(inline=True)(winograd.points_plane)
unit_work = jit(inline=True)(winograd.unit_work)
DEEP = 128  # tiles whose products are summed up at once: of three registers a tile, they fit the first-level cache
PIECES = 4  # of a point's outputs
TALL = HEIGHT if WIDTH == 64 else HEIGHT // 2  # rows of a micro-kernel, as in ``winograd_block.py``


def panel_tile(name: str, rows: int, registers: int) -> str:
    """Source of a micro-kernel: C[i, j] = Σ_k A[k, i] B[k, j], to C if ``more``; k goes by LANES in A and in B, of
    which each register has its own place."""
    cells = [(i, j) for i in range(rows) for j in range(registers)]
    columns = range(registers)
    lines = [
        "@jit(inline=True)",
        f"def {name}(a, pa, b, {', '.join(f'p{j}' for j in columns)}, c, pc, ldc, depth, more):",
        "    width = lanes(b)",
        *[f"    c{i}_{j} = zeros(b)" for i, j in cells],
        f"    for k in range(0, depth * {LANES}, {LANES}):",
        *[f"        b{j} = load(b, p{j} + k)" for j in columns],
    ]
    for i in range(rows):
        lines.append(f"        x = splat(a[pa + k + {i}])")
        lines += [f"        c{i}_{j} = fma(x, b{j}, c{i}_{j})" for j in columns]
    lines.append("    if more:")
    lines += [f"        c{i}_{j} = c{i}_{j} + load(c, pc + {i} * ldc + {j} * width)" for i, j in cells]
    lines += [f"    store(c, pc + {i} * ldc + {j} * width, c{i}_{j})" for i, j in cells]
    return "\n".join(lines) + "\n"


SHAPES = {"rows_1": (TALL, 1), "rows_2": (TALL, 2), "rows_3": (TALL, 3), "both_1": (2 * TALL, 1)}
_tiles = generated(
    "winograd_panels", HEAD + "\n\n" + "\n\n".join(panel_tile(name, *shape) for name, shape in SHAPES.items())
)
rows_1, rows_2, rows_3, both_1 = _tiles.rows_1, _tiles.rows_2, _tiles.rows_3, _tiles.both_1


@jit(inline=True)
def place_of(c: Any, pitch: Any) -> Any:
    """Where channel c lies in groups of LANES that are ``pitch`` apart."""
    return c // LANES * pitch + c % LANES


@jit()
def multiply(
    a: Any, pa: Any, first: Any, last: Any, b: Any, pb: Any, pitch: Any, c: Any, pc: Any, wide: Any, depth: Any,
    more: Any,
) -> None:  # fmt: skip
    """C[o, c] = Σ_t A[t, o] B[t, c] of the panels ``first`` … ``last`` - 1 of outputs and of ``wide`` channels, added
    to what is there if ``more``; groups of A and B are ``pitch`` apart."""
    width = lanes(b)
    for k in range(0, depth, DEEP):
        d = min(DEEP, depth - k)
        a0, b0 = pa + k * LANES, pb + k * LANES
        adds = more or k > 0
        j = 0
        while j < wide:
            left = (wide - j) // width
            registers = 2 if left == 4 else min(left, 3)  # four are two and two: one alone would wait for its own sums
            p0 = b0 + place_of(j, pitch)
            p1, p2 = b0 + place_of(j + width, pitch), b0 + place_of(j + 2 * width, pitch)
            p = first
            while p < last:
                to = pc + p * HEIGHT * wide + j
                x = a0 + place_of(p * HEIGHT, pitch)
                if registers == 1 and TALL == HEIGHT and p % 2 == 0 and p + 1 < last:
                    both_1(a, x, b, p0, c, to, wide, d, adds)
                    p += 1
                else:
                    for i in range(0, HEIGHT, TALL):
                        if registers == 3:
                            rows_3(a, x + i, b, p0, p1, p2, c, to + i * wide, wide, d, adds)
                        elif registers == 2:
                            rows_2(a, x + i, b, p0, p1, c, to + i * wide, wide, d, adds)
                        else:
                            rows_1(a, x + i, b, p0, c, to + i * wide, wide, d, adds)
                p += 1
            j += registers * width


@parallel(work="x", grain=GRAIN)
def winograd_gradient(
    x: Any, statistics: Any, weight: Any, shift: Any, act: Any, gy: Any, top: Any, left: Any, high: Any, wide: Any,
    tiles: Any, work: Any, u: Any,
) -> None:  # fmt: skip
    samples, inputs = x.shape[:2]
    outputs = gy.shape[1]
    grid = (-(-gy.shape[2] // 4), -(-gy.shape[3] // 4), high, wide)
    units = samples * -(-grid[0] // high) * -(-grid[1] // wide)
    shares, parts = work.shape[0], u.shape[0]
    panels, row = -(-outputs // HEIGHT), -(-inputs // LANES) * LANES
    at_once = max(1, tiles // (high * wide))
    v_point, m_point = points_plane(inputs, tiles), points_plane(outputs, tiles)
    v = unit_work(high, wide)
    m = v + POINTS * v_point
    fx, fgy, fu = x.reshape(-1), gy.reshape(-1), u.reshape(-1)
    for share in prange(shares):
        own = work[share]
        given = (
            pointer_to(statistics.reshape(-1)), pointer_to(weight), weight.size > 0, pointer_to(shift), shift.size > 0,
            act, x.shape[1],
        )  # fmt: skip
        norm, none = (statistics.size > 0, *given), (False, *given)
        for part in range(parts * share // shares, parts * (share + 1) // shares):
            start, stop = units * part // parts, units * (part + 1) // parts
            u[part, :, (panels * HEIGHT * row if start < stop else 0) :] = 0
            for first in range(start, stop, at_once):
                last = min(stop, first + at_once)
                transform_units(
                    pointer_to(fx), x.shape, (0, row), grid, (first, last), (top, left), True, norm,
                    pointer_to(own), pointer_to(own), v, tiles, v_point,
                )  # fmt: skip
                transform_units(
                    pointer_to(fgy), gy.shape, (0, panels * HEIGHT), grid, (first, last), (0, 0), False, none,
                    pointer_to(own), pointer_to(own), m, tiles, m_point,
                )  # fmt: skip
                depth = tiles_before(last, grid) - tiles_before(first, grid)
                for q in range(POINTS):
                    multiply(
                        pointer_to(own), m + q * m_point, 0, panels, pointer_to(own), v + q * v_point, tiles * LANES,
                        pointer_to(fu), (part * POINTS + q) * u.shape[2], row, depth, first > start,
                    )  # fmt: skip


@parallel(work="x", grain=GRAIN)
def winograd_points(
    x: Any, statistics: Any, weight: Any, shift: Any, act: Any, gy: Any, top: Any, left: Any, high: Any, wide: Any,
    first: Any, last: Any, work: Any, v: Any, m: Any,
) -> None:  # fmt: skip
    grid = (-(-gy.shape[2] // 4), -(-gy.shape[3] // 4), high, wide)
    before = tiles_before(first, grid)
    tiles = tiles_before(last, grid) - before
    groups = -(-x.shape[1] // LANES)
    each = groups + -(-gy.shape[1] // LANES)
    shares, tasks = work.shape[0], (last - first) * each
    fx, fgy, fv, fm = x.reshape(-1), gy.reshape(-1), v.reshape(-1), m.reshape(-1)
    v[:, -LANES:] = 0
    m[:, -LANES:] = 0
    for share in prange(shares):
        own = work[share]
        given = (
            pointer_to(statistics.reshape(-1)), pointer_to(weight), weight.size > 0, pointer_to(shift), shift.size > 0,
            act, x.shape[1],
        )  # fmt: skip
        norm, none = (statistics.size > 0, *given), (False, *given)
        for task in range(tasks * share // shares, tasks * (share + 1) // shares):
            unit, group = first + task // each, task % each
            t = (tiles_before(unit, grid) - before) * LANES
            if group < groups:
                c = group * LANES
                transform_units(
                    pointer_to(fx), x.shape, (c, c + LANES), grid, (unit, unit + 1), (top, left), True, norm,
                    pointer_to(own), pointer_to(fv), t, tiles, v.shape[1],
                )  # fmt: skip
            else:
                c = (group - groups) * LANES
                transform_units(
                    pointer_to(fgy), gy.shape, (c, c + LANES), grid, (unit, unit + 1), (0, 0), False, none,
                    pointer_to(own), pointer_to(fm), t, tiles, m.shape[1],
                )  # fmt: skip


@parallel(work="v", grain=GRAIN)
def winograd_products(m: Any, v: Any, tiles: Any, more: Any, u: Any) -> None:
    row = (v.shape[1] - LANES) // tiles
    panels = (u.shape[2] - LANES) // (HEIGHT * row)
    fm, fv, fu = m.reshape(-1), v.reshape(-1), u.reshape(-1)
    for task in prange(POINTS * PIECES):
        q, piece = task // PIECES, task % PIECES
        if piece == 0:
            u[0, q, panels * HEIGHT * row :] = 0
        multiply(
            pointer_to(fm), q * m.shape[1], panels * piece // PIECES, panels * (piece + 1) // PIECES,
            pointer_to(fv), q * v.shape[1], tiles * LANES, pointer_to(fu), q * u.shape[2], row, tiles, more,
        )  # fmt: skip


@jit(inline=True)
def column_gradient(u: Any, p: Any, step: Any) -> Any:
    """Gᵀ of one column of points."""
    return filter_gradient(
        load(u, p), load(u, p + 6 * step), load(u, p + 12 * step), load(u, p + 18 * step), load(u, p + 24 * step),
        load(u, p + 30 * step), F,
    )  # fmt: skip


@jit()
def taps(u: Any, p: Any, step: Any) -> None:
    """Gᵀ u G of a register of filters, in place: the nine taps where the first nine points were."""
    a, b, c = column_gradient(u, p, step), column_gradient(u, p + step, step), column_gradient(u, p + 2 * step, step)
    d, e = column_gradient(u, p + 3 * step, step), column_gradient(u, p + 4 * step, step)
    f = column_gradient(u, p + 5 * step, step)
    g0, g1, g2 = filter_gradient(a[0], b[0], c[0], d[0], e[0], f[0], F)
    g3, g4, g5 = filter_gradient(a[1], b[1], c[1], d[1], e[1], f[1], F)
    g6, g7, g8 = filter_gradient(a[2], b[2], c[2], d[2], e[2], f[2], F)
    store(u, p, g0)
    store(u, p + step, g1)
    store(u, p + 2 * step, g2)
    store(u, p + 3 * step, g3)
    store(u, p + 4 * step, g4)
    store(u, p + 5 * step, g5)
    store(u, p + 6 * step, g6)
    store(u, p + 7 * step, g7)
    store(u, p + 8 * step, g8)


@jit()
def merge(u: Any, at: Any, n: Any, parts: Any, step: Any) -> None:
    """The parts of one row of one point added to the first, n elements, whole registers."""
    for i in range(at, at + n, lanes(u)):
        total = load(u, i)
        for part in range(1, parts):
            total = total + load(u, i + part * step)
        store(u, i, total)


@jit()
def spread(u: Any, at: Any, step: Any, n: Any, gw: Any, to: Any) -> None:
    """The nine taps of n filters, which lie ``step`` apart, side by side."""
    for c in range(n):
        for i in range(9):
            gw[to + 9 * c + i] = u[at + i * step + c]


@parallel(work="u", grain=GRAIN)
def winograd_filter_gradient(u: Any, gw: Any) -> None:
    outputs, inputs = gw.shape[:2]
    parts, _, step = u.shape
    wide = -(-inputs // LANES) * LANES
    fu, fgw = u.reshape(-1), gw.reshape(-1)
    for o in prange(outputs):
        row = o * wide
        if parts > 1:
            for q in range(POINTS):
                merge(pointer_to(fu), q * step + row, wide, parts, POINTS * step)
        for c in range(0, wide, lanes(u)):
            taps(pointer_to(fu), row + c, step)
        spread(pointer_to(fu), row, step, inputs, pointer_to(fgw), 9 * o * inputs)
