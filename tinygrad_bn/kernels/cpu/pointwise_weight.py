"""The gradient of a convolution's 1×1 filters, without padding.

    gw[o, c] = Σ_{n,i,j} gy[n, o, i, j] x[n, c, i s_h, j s_w]

The registers lie along the channels of one factor, which is transposed, block by block, a few registers at a time; the
elements of the other are broadcast, read where they are, strides and all. What is transposed should be the smaller of
the two (``turned``: x), as each of its elements meets all channels of the other.

The sum is cut into parts of neighbouring blocks, the channels along registers into ranges: what is added to what, and
in which order, follows from the shapes, for any number of threads.
"""

from __future__ import annotations

from typing import Any

from numba import prange

from tinygrad_bn.kernels import direct_weight as sizes
from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu.direct_weight import GRAIN, add_parts, add_products, lay_gradients
from tinygrad_bn.kernels.cpu.direct_weight import _work as amount
from tinygrad_bn.kernels.cpu.simd import lanes, load, pointer_to, store_first

REGISTERS = sizes.REGISTERS


@jit()
def sum_parts(parts: Any, at: Any, count: Any, step: Any, n: Any, gw: Any, to: Any) -> None:
    """gw[to + j] = Σ_k parts[at + k step + j] for j < n."""
    size = lanes(gw)
    for j in range(0, n, size):
        v = load(parts, at + j)
        for k in range(1, count):
            v = v + load(parts, at + k * step + j)
        store_first(gw, to + j, v, n - j)


@parallel(work=amount, grain=GRAIN)
def pointwise_weight(
    x: Any, gy: Any, stride_h: Any, stride_w: Any, turned: Any, samples: Any, rows: Any, columns: Any, registers: Any,
    places: Any, work: Any, parts: Any, gw: Any,
) -> None:  # fmt: skip
    batch, inputs, height, width = x.shape
    _, outputs, down, right = gy.shape
    depth, shares, size = gw.shape[1], len(work), lanes(x)
    count, groups, held, pitch = parts.shape
    each = outputs // groups
    # channels and pixels of what lies along registers, and of what is broadcast; steps between the latter's pixels
    long, wide, all_long, all_wide, long_plane, wide_plane = each, depth, outputs, inputs, down * right, height * width
    long_steps, wide_steps = (right, 1), (stride_h * width, stride_w)
    if turned:
        long, wide, all_long, all_wide, long_plane, wide_plane = wide, long, all_wide, all_long, wide_plane, long_plane
        long_steps, wide_steps = wide_steps, long_steps
    bands, walls = -(-down // rows), -(-right // columns)
    units, ranges = -(-batch // samples) * bands * walls, -(-long // (registers * size))
    tasks, block = count * groups * ranges, size * size
    fx, fgy, fparts, fgw = x.reshape(-1), gy.reshape(-1), parts.reshape(-1), gw.reshape(-1)
    for share in prange(shares):
        own, at = work[share], places[share]
        for k in range(at.size):
            at[k] = k * wide_plane if k < wide else 0
        for task in range(tasks * share // shares, tasks * (share + 1) // shares):
            part, group, first = task // (groups * ranges), task // ranges % groups, task % ranges * registers * size
            every = -(-min(registers * size, long - first) // size)
            turns = -(-every // REGISTERS)
            begin = units * part // count
            for unit in range(begin, units * (part + 1) // count):
                n0, i0, j0 = unit // (bands * walls) * samples, unit // walls % bands * rows, unit % walls * columns
                n1, i1, j1 = min(samples, batch - n0), min(rows, down - i0), min(columns, right - j0)
                runs, length = (1, i1 * j1) if j1 == right else (i1, j1)
                from_ = (n0 * all_long + group * long) * long_plane + i0 * long_steps[0] + j0
                for turn in range(turns):
                    lo, hi = every * turn // turns, every * (turn + 1) // turns
                    for k in range(hi - lo):
                        channel = first + (lo + k) * size
                        for n in range(n1):
                            for run in range(runs):
                                lay_gradients(
                                    pointer_to(fx) if turned else pointer_to(fgy),
                                    from_ + (n * all_long + channel) * long_plane + run * long_steps[0], long_plane,
                                    long - channel, length, pointer_to(own),
                                    block + ((n * runs + run) * length * (hi - lo) + k) * size, (hi - lo) * size, 0,
                                )  # fmt: skip
                    add_products(
                        pointer_to(fgy) if turned else pointer_to(fx),
                        (n0 * all_wide + group * wide) * wide_plane + i0 * wide_steps[0] + j0 * wide_steps[1],
                        pointer_to(at), wide, (n1, i1, j1), (all_wide * wide_plane, *wide_steps), pointer_to(own),
                        block, hi - lo, pointer_to(fparts),
                        (part * groups + group) * held * pitch + first + lo * size, pitch, unit > begin,
                    )  # fmt: skip
    for share in prange(shares):
        own = work[share]
        if turned:
            for k in range(outputs * share // shares, outputs * (share + 1) // shares):
                at = (k // each * held + k % each) * pitch
                sum_parts(pointer_to(fparts), at, count, groups * held * pitch, depth, pointer_to(fgw), k * depth)
        else:
            blocks = pitch // size
            for k in range(groups * blocks * share // shares, groups * blocks * (share + 1) // shares):
                group, o = k // blocks, k % blocks * size
                add_parts(
                    pointer_to(fparts), group * held * pitch + o, count, groups * held * pitch, pitch, depth, each - o,
                    pointer_to(own), pointer_to(fgw), (group * each + o) * depth, depth,
                )  # fmt: skip
