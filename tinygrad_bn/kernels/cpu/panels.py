"""Convolution by panels, and its gradient with respect to the input:

    out[n, r, i p + a, j p' + b] = bias[r] + Σ_c Σ_taps of (a, b)  w[r, c, tap] x[n, c, i s + dy, j s' + dx]

See ``kernels/panels.py``. The filters are laid out once, tile after tile of outputs; then, panel after panel of points,
what the taps see is laid out and met by all outputs (``panel_tiles.py``). A tile's results go to the output at once
where its points lie there side by side, else by way of a piece of workspace.

Goto & van de Geijn 2008 (ACM TOMS 34, 12) lay out both factors of a product so; Chetlur et al. 2014 (arXiv:1410.0759)
make the columns of a convolution as they are needed.
"""

from __future__ import annotations

from typing import Any

from numba import prange

from tinygrad_bn.kernels.cpu._jit import jit, parallel
from tinygrad_bn.kernels.cpu.bn_rows import LARGE
from tinygrad_bn.kernels.cpu.choices import evens
from tinygrad_bn.kernels.cpu.direct import GRAIN, _work, last_of_phase, move, spread_row
from tinygrad_bn.kernels.cpu.direct_lines import columns_inside
from tinygrad_bn.kernels.cpu.panel_tiles import panel_tiles
from tinygrad_bn.kernels.cpu.shuffles import load_between
from tinygrad_bn.kernels.cpu.simd import lanes, load, pointer_to, prefetch, store, store_between, zeros
from tinygrad_bn.kernels.cpu.streams import misaligned, settle
from tinygrad_bn.kernels.cpu.tiles import REGISTERS, ROWS
from tinygrad_bn.kernels.direct import LINE

_tiles = panel_tiles()
first_tile, next_tile, only_tile = _tiles.first_tile, _tiles.next_tile, _tiles.only_tile
CHAIN = 512  # terms that are added in a row: longer sums are made of such, lest rounding accumulates


@jit()
def lay_filters(
    w: Any,
    pw: Any,
    row_step: Any,
    channel_step: Any,
    rows: Any,
    taps: Any,
    count: Any,
    channels: Any,
    out: Any,
    to: Any,
) -> None:
    """out[to + (t C + c) ROWS + i] = w[row i, channel c, tap t], 0 for i >= rows."""
    for c in range(channels):
        for t in range(count):
            at, into = pw + c * channel_step + taps[6 * t + 4], to + (t * channels + c) * ROWS
            for i in range(ROWS):
                out[into + i] = w[at + i * row_step] if i < rows else 0


@jit()
def list_runs(begin: Any, end: Any, down: Any, across: Any, runs: Any) -> Any:
    """Cut points into pieces of rows: sample, row, first column, place in the panel, length of each; their number."""
    count, at = 0, begin
    while at < end:
        j = at % across
        length = min(across - j, end - at)
        runs[5 * count] = at // (down * across)
        runs[5 * count + 1] = at // across % down
        runs[5 * count + 2] = j
        runs[5 * count + 3] = at - begin
        runs[5 * count + 4] = length
        at += length
        count += 1
    return count


@jit()
def list_pieces(runs: Any, count: Any, offset: Any, stride: Any, extents: Any, sample_step: Any, pieces: Any) -> Any:
    """What a tap sees: place in the input, place in the panel and length of each piece that is inside; their number."""
    found = 0
    for r in range(count):
        y = runs[5 * r + 1] * stride[0] + offset[0]
        x0 = runs[5 * r + 2] * stride[1] + offset[1]
        lo, hi = columns_inside(x0, stride[1], extents[1], runs[5 * r + 4])
        if 0 <= y < extents[0] and lo < hi:
            pieces[3 * found] = runs[5 * r] * sample_step + y * extents[1] + x0 + lo * stride[1]
            pieces[3 * found + 1] = runs[5 * r + 3] + lo
            pieces[3 * found + 2] = hi - lo
            found += 1
    return found


@jit()
def lay_lanes(
    x: Any, at: Any, plane: Any, step: Any, channels: Any, lo: Any, hi: Any, begins: Any, out: Any, to: Any
) -> None:
    """Lanes lo … hi - 1 of a register of each channel, lane l from x[at + l step]; 0 in the others if it ``begins``."""
    size, last = lanes(x), 2 * hi - 1
    for _ in range(channels):
        if step == 1:
            v = load_between(x, at, lo, hi)
        elif step == 2:
            v = evens(load_between(x, at, 2 * lo, last), load_between(x, at + size, 2 * lo - size, last - size))
        else:
            v = zeros(x)
        if begins:
            store(out, to, v)
        else:
            store_between(out, to, v, lo, hi)
        if step > 2:
            for k in range(lo, hi):
                out[to + k] = x[at + k * step]
        at += plane
        to += REGISTERS * size


@jit()
def lay_panel(
    x: Any, at: Any, plane: Any, step: Any, channels: Any, pieces: Any, count: Any, out: Any, to: Any
) -> None:
    """The pieces of all channels, 0 between them: register after register, each through all channels."""
    size = lanes(x)
    if count == 1 and step == 1 and pieces[2] == REGISTERS * size:
        at += pieces[0]
        for _ in range(channels):
            for j in range(REGISTERS):
                store(out, to + j * size, load(x, at + j * size))
            at += plane
            to += REGISTERS * size
        return
    for j in range(REGISTERS):
        begins = True
        for r in range(count):
            place = pieces[3 * r + 1] - j * size
            lo, hi = max(0, place), min(size, place + pieces[3 * r + 2])
            if lo < hi:
                from_ = at + pieces[3 * r] - place * step
                lay_lanes(x, from_, plane, step, channels, lo, hi, begins, out, to + j * size)
                begins = False
        if begins:
            lay_lanes(x, at, 0, 1, channels, 0, 0, True, out, to + j * size)


@jit()
def spread_tile(
    kept: Any, at: Any, pairs: Any, rows: Any, runs: Any, count: Any, spread: Any, out: Any, to: Any, extents: Any,
    sample_step: Any,
) -> None:  # fmt: skip
    """Put a tile's results where they belong: output after output, run after run, phase after phase."""
    width, plane = REGISTERS * lanes(out), extents[0] * extents[1]
    for r in range(count):
        n, i, j, place, length = runs[5 * r], runs[5 * r + 1], runs[5 * r + 2], runs[5 * r + 3], runs[5 * r + 4]
        base = to + n * sample_step + j * spread[1]
        for o in range(rows):
            if spread[0] == 1 and spread[1] == 1:
                move(kept, at + o * width + place, out, base + o * plane + i * extents[1], length, False)
                continue
            for a in range(min(spread[0], extents[0] - i * spread[0])):
                spread_row(
                    kept, at + (a * spread[1] * ROWS + o) * width + place, ROWS * width, pairs, out,
                    base + o * plane + (i * spread[0] + a) * extents[1], spread[1], length,
                    extents[1] - j * spread[1], False,
                )  # fmt: skip


@jit()
def passes(out: Any) -> Any:
    """Whether tiles go past the caches: LARGE results, aligned as registers are."""
    return out.nbytes > LARGE and misaligned(out) == 0


@jit(inline=True)
def ask_tile(out: Any, at: Any, plane: Any, rows: Any, n: Any) -> None:
    """Prefetch n elements from ``at`` on of each output of a tile: they will be written, which reads them first."""
    for o in range(rows):
        for j in range(0, n, LINE):
            prefetch(out, at + o * plane + j)


@jit(inline=True)
def sum_taps(
    filters: Any, pa: Any, deep: Any, own: Any, taps: Any, first: Any, last: Any, channels: Any, x: Any, next_: Any,
    plane: Any, shift: Any, biased: Any, past: Any, c: Any, pc: Any, ldc: Any,
) -> None:  # fmt: skip
    """A tile of one phase, chain after chain. It asks for the next tile's filters, ``deep`` behind these, or for what
    lies in all channels at x[next_], which the next panel will need, unless that is negative. ``past``: the sum is one
    chain, and its results go past the caches."""
    size = REGISTERS * lanes(own)
    together = max(1, CHAIN // channels) if last - first > 1 else 1
    for t in range(first, max(last, first + 1), together):
        for k in range(0, channels, CHAIN):
            at = pa + (t * channels + k) * ROWS
            ahead, pe, step = filters, at + deep, ROWS
            if next_ >= 0:
                ahead, pe, step = x, next_ + k * plane, plane
            stop, many = min(last, t + together), min(CHAIN, channels - k)
            if past:
                only_tile(
                    filters, at, own, 0, taps, t, stop, channels, many, ahead, pe, step, filters, shift, biased, c,
                    pc, ldc,
                )  # fmt: skip
            elif t == first and k == 0:
                first_tile(
                    filters, at, own, 0, taps, t, stop, channels, many, ahead, pe, step, filters, shift, biased, c,
                    pc, ldc,
                )  # fmt: skip
            else:
                next_tile(
                    filters, at, own, k * size, taps, t, stop, channels, many, ahead, pe, step, filters, shift, False,
                    c, pc, ldc,
                )  # fmt: skip


@parallel(work=_work, grain=GRAIN)
def panel_convolution(
    x: Any, w: Any, bias: Any, turned: Any, stride_h: Any, stride_w: Any, spread_h: Any, spread_w: Any,
    taps: Any, offsets: Any, shares: Any, filters: Any, places: Any, work: Any, out: Any,
) -> None:  # fmt: skip
    samples, all_channels, height, width = x.shape
    all_rows, out_h, out_w = out.shape[1:]
    groups = (all_rows if turned else all_channels) // w.shape[1]
    channels, rows, window = all_channels // groups, all_rows // groups, w.shape[2] * w.shape[3]
    row_step, channel_step = (window, rows * window) if turned else (channels * window, window)
    grid_h, grid_w = -(-out_h // spread_h), -(-out_w // spread_w)
    phases, points, size = spread_h * spread_w, samples * grid_h * grid_w, REGISTERS * lanes(x)
    panels, tiles, deep = -(-points // size), -(-rows // ROWS), len(taps) * channels * ROWS
    plane, out_plane, shifts, workers = height * width, out_h * out_w, groups * tiles * deep, len(work)
    # lines of the next panel's input that are asked for, if one tap sees all, and how many of them a row has
    flat = stride_h == stride_w == 1
    per, asked = 4 if flat else -(-width // LINE), 0 if len(offsets) > 1 else 4 if flat else 12
    past = phases == 1 and len(taps) * channels <= CHAIN and grid_h * grid_w % lanes(x) == 0 and passes(out)
    fx, fw, fy, ftaps = x.reshape(-1), w.reshape(-1), out.reshape(-1), taps.reshape(-1)
    for worker in prange(workers):
        for tile in range(groups * tiles * worker // workers, groups * tiles * (worker + 1) // workers):
            g, r = tile // tiles, tile % tiles * ROWS
            lay_filters(
                pointer_to(fw), g * channels * rows * window + r * row_step, row_step, channel_step, rows - r,
                pointer_to(ftaps), len(taps), channels, pointer_to(filters), tile * deep,
            )  # fmt: skip
            for i in range(ROWS):
                filters[shifts + tile * ROWS + i] = bias[g * rows + r + i] if bias.size and r + i < rows else 0
    for worker in prange(workers):
        own, runs, pieces = work[worker], places[worker], places[worker][5 * size :]
        kept = (len(offsets) * channels + 1) * size
        pairs = kept + (phases * ROWS + 1) * size
        laid, count, next_ = -1, 0, 0
        own[kept : kept + phases * ROWS * size] = 0  # what phases without taps stay, unless there is a bias
        units = groups * panels * shares
        for unit in range(units * worker // workers, units * (worker + 1) // workers):
            share, panel = unit % shares, unit // shares
            g, begin = panel // panels, panel % panels * size
            end = min(points, begin + size)
            at = g * channels * plane
            if panel != laid:
                laid, count = panel, list_runs(begin, end, grid_h, grid_w, pointer_to(runs))
                near = min(end, points - 1)
                next_ = at + near // (grid_h * grid_w) * all_channels * plane
                next_ += near // grid_w % grid_h * stride_h * width + (near % grid_w if flat else 0)
                for d in range(len(offsets)):
                    found = list_pieces(
                        pointer_to(runs), count, (offsets[d, 0], offsets[d, 1]), (stride_h, stride_w), (height, width),
                        all_channels * plane, pointer_to(pieces),
                    )  # fmt: skip
                    lay_panel(
                        pointer_to(fx), at, plane, stride_w, channels, pointer_to(pieces), found, pointer_to(own),
                        d * channels * size,
                    )  # fmt: skip
            n, near = begin // (grid_h * grid_w), begin % (grid_h * grid_w)
            whole = phases == 1 and near + size <= grid_h * grid_w and end - begin == size
            for tile in range(tiles * share // shares, tiles * (share + 1) // shares):
                last, many = 0, min(ROWS, rows - tile * ROWS)
                to, from_ = (g * rows + tile * ROWS) * out_plane, g * tiles + tile
                apart = not whole or many < ROWS
                if phases > 1:
                    y, z = near // grid_w * spread_h, near % grid_w * spread_w
                    ask_tile(
                        pointer_to(fy), n * all_rows * out_plane + to + y * out_w + z, out_plane, many,
                        min(size * phases + LINE, out_plane - y * out_w - z),
                    )  # fmt: skip
                for phase in range(phases):
                    begin_tap = last
                    last = last_of_phase(taps, begin_tap, phase // spread_w, phase % spread_w)
                    if apart and last == begin_tap and bias.size == 0:
                        continue
                    target, pc, ldc = pointer_to(fy), n * all_rows * out_plane + to + near, out_plane
                    if apart:
                        target, pc, ldc = pointer_to(own), kept + phase * ROWS * size, size
                    sum_taps(
                        pointer_to(filters), from_ * deep, deep, pointer_to(own), pointer_to(ftaps), begin_tap, last,
                        channels, pointer_to(fx),
                        next_ + tile // per * stride_h * width + tile % per * LINE if tile < asked else -1,
                        plane, shifts + from_ * ROWS, bias.size > 0, past and not apart, target, pc, ldc,
                    )  # fmt: skip
                if apart:
                    spread_tile(
                        pointer_to(own), kept, pairs, many, pointer_to(runs), count, (spread_h, spread_w),
                        pointer_to(fy), to, (out_h, out_w), all_rows * out_plane,
                    )  # fmt: skip
        settle()
