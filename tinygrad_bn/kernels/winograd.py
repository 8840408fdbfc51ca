"""The transforms of Winograd's F(4×4, 3×3): 16 outputs of a 3×3 convolution from 36 products instead of 144.

    y = Aᵀ [(G w Gᵀ) ⊙ (Bᵀ x B)] A

for tiles x of 6×6 inputs and y of 4×4 outputs (Winograd 1980; Lavin & Gray 2016, arXiv:1509.09308), with the points
0, ±3/4, ±3/2 and infinity in place of 0, ±1, ±2 and infinity: the error falls three- to fourfold. Each function
transforms one axis, of numbers, NumPy arrays or registers; ``k`` holds the constants in their type (``constants``).

What kernels exchange is padded: outputs to whole panels of HEIGHT, inputs of the filters' gradient to LANES, and from
point to point an odd number of cache lines more, or the points of a tile would meet in a few sets of the cache.
"""

from __future__ import annotations

from typing import Any

P, Q = 0.75, 1.5  # the points are 0, ±P, ±Q and infinity
POINTS = 36
HEIGHT = 8  # outputs whose transformed filters lie side by side, a panel: the rows of a micro-kernel
LANES = 16  # of a register, at most; a block has a multiple of as many tiles
RUN = 128  # pixels of a plane that are copied at once before they are turned, and
ROW = RUN + LANES  # from one such copy to the next


def padded(n: int, unit: int) -> int:
    """The multiple of ``unit`` that holds n."""
    return -(-n // unit) * unit


def filter_plane(outputs: int, inputs: int) -> int:
    """Elements of one point of the transformed filters: (panels, inputs, HEIGHT) and the padding."""
    return padded(outputs, HEIGHT) * inputs + LANES


def gradient_plane(outputs: int, inputs: int) -> int:
    """Elements of one point of the filters' gradient: (outputs, inputs), each padded, and the padding."""
    return padded(outputs, HEIGHT) * padded(inputs, LANES) + LANES


def line_work(tiles: int) -> int:
    """Room for twelve lines of a block, and for reading and writing a register beyond either end."""
    return 12 * (4 * tiles + 2 * LANES) + 6 * LANES


def block_work(inputs: int, held: int, tiles: int) -> int:
    """Elements of workspace that one share of ``winograd_convolution`` needs, with ``held`` outputs at once."""
    return POINTS * (tiles * (inputs + held) + 2 * LANES) + line_work(tiles)


def gradient_work(outputs: int, inputs: int, high: int, wide: int, tiles: int) -> int:
    """Elements of workspace that one share of ``winograd_gradient`` needs."""
    return unit_work(high, wide) + POINTS * (points_plane(inputs, tiles) + points_plane(outputs, tiles))


def unit_of(unit: Any, grid: Any) -> Any:
    """Sample, first row and column of tiles, rows and columns of tiles of a unit of the gradient.

    ``grid``: rows and columns of tiles of a picture, and of a unit of it; those at its lower and right edge have fewer.
    """
    down, across, high, wide = grid
    bands = -(-across // wide)
    each = -(-down // high) * bands
    n = unit // each
    inside = unit - n * each
    ty = inside // bands * high
    tx = inside % bands * wide
    return n, ty, tx, min(high, down - ty), min(wide, across - tx)


def tiles_before(unit: Any, grid: Any) -> Any:
    """The number of tiles of all units before this one."""
    n, ty, tx, rows, _ = unit_of(unit, grid)
    return (n * grid[0] + ty) * grid[1] + tx * rows


def unit_work(high: int, wide: int) -> int:
    """Elements of workspace to transform a unit of the gradient, ``high`` rows of ``wide`` tiles: for pixels that are
    turned, a row of zeros, six lines and the strip."""
    return (ROW + (4 * high + 9) * (4 * wide + 2) + LANES) * LANES


def points_plane(channels: int, tiles: int) -> int:
    """Elements of one point of transformed tiles of the gradient: (groups of LANES, tiles, LANES) and the padding."""
    return (-(-channels // LANES) * tiles + 1) * LANES


def constants(real: Any) -> tuple[Any, ...]:
    """P, Q, P², Q², P³, Q³, P²Q², P² + Q², converted by ``real``."""
    values = (P, Q, P**2, Q**2, P**3, Q**3, P**2 * Q**2, P**2 + Q**2)
    return tuple(real(v) for v in values)


def input_transform(d0: Any, d1: Any, d2: Any, d3: Any, d4: Any, d5: Any, k: Any) -> Any:
    """Bᵀ d."""
    e1, t1 = d4 - d2 * k[3], d3 - d1 * k[3]
    e2, t2 = d4 - d2 * k[2], d3 - d1 * k[2]
    o0 = d0 * k[6] + (d4 - d2 * k[7])
    o5 = d1 * k[6] + (d5 - d3 * k[7])
    return o0, e1 + t1 * k[0], e1 - t1 * k[0], e2 + t2 * k[1], e2 - t2 * k[1], o5


def output_transform(m0: Any, m1: Any, m2: Any, m3: Any, m4: Any, m5: Any, k: Any) -> Any:
    """Aᵀ m."""
    s1, d1 = m1 + m2, m1 - m2
    s2, d2 = m3 + m4, m3 - m4
    return m0 + s1 + s2, d1 * k[0] + d2 * k[1], s1 * k[2] + s2 * k[3], d1 * k[4] + d2 * k[5] + m5


def result_transform(g0: Any, g1: Any, g2: Any, g3: Any, k: Any) -> Any:
    """A g: the adjoint of ``output_transform``."""
    e1, t1 = g0 + g2 * k[2], g1 * k[0] + g3 * k[4]
    e2, t2 = g0 + g2 * k[3], g1 * k[1] + g3 * k[5]
    return g0, e1 + t1, e1 - t1, e2 + t2, e2 - t2, g3


FILTER = (
    1 / (P * P * Q * Q),
    1 / (2 * P * P * (P * P - Q * Q)),
    P / (2 * P * P * (P * P - Q * Q)),
    P * P / (2 * P * P * (P * P - Q * Q)),
    1 / (2 * Q * Q * (Q * Q - P * P)),
    Q / (2 * Q * Q * (Q * Q - P * P)),
    Q * Q / (2 * Q * Q * (Q * Q - P * P)),
)


def filter_transform(g0: Any, g1: Any, g2: Any, f: Any) -> Any:
    """G g; ``f`` holds FILTER in the type of g."""
    x, y = g0 * f[1] + g2 * f[3], g1 * f[2]
    z, w = g0 * f[4] + g2 * f[6], g1 * f[5]
    return g0 * f[0], x + y, x - y, z + w, z - w, g2


def filter_gradient(u0: Any, u1: Any, u2: Any, u3: Any, u4: Any, u5: Any, f: Any) -> Any:
    """Gᵀ u: the adjoint of ``filter_transform``."""
    s1, d1 = u1 + u2, u1 - u2
    s2, d2 = u3 + u4, u3 - u4
    return u0 * f[0] + s1 * f[1] + s2 * f[4], d1 * f[2] + d2 * f[5], s1 * f[3] + s2 * f[6] + u5
