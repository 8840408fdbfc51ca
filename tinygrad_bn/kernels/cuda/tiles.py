"""Products of matrices by tiles, as source: what all kernels here that multiply matrices have in common.

C = A B. A block computes a tile of C and goes along K in slices: it reads a slice of A and of B into shared memory,
both as (K, extent of the tile), while it multiplies the one before, which lies in the other half. A thread holds
``high`` × ``wide`` sums in registers, of rows and columns in runs of four: each run of an operand is one access of 16
bytes, and with 8 × 8 sums 64 multiply-adds take four of these. Every sum is added up by one thread, along K from the
beginning: the same in each run.

The source is written out, since sums in registers need names. A kernel brings its own lines for what lies where:
``begin`` sets ``steps``, the number of slices, the same for all threads of a block; ``fetch`` reads slice ``step``
into a0, a1, … and b0, b1, …; ``stash`` puts them into ``sa`` and ``sb`` from ``into_a`` and ``into_b`` on; ``end``
writes the sums c0_0, c0_1, … where they belong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from tinygrad_bn.kernels.cuda.array import address
from tinygrad_bn.kernels.cuda.driver import driver
from tinygrad_bn.kernels.cuda.entry import Entry, entry
from tinygrad_bn.kernels.cuda.target import SIMULATED

__all__ = ["Panel", "Tile", "aligned", "choose", "column", "made", "row", "spread"]


class Tile(NamedTuple):
    """The part of a product that a block computes: extents of its tile, of a slice along K, of a thread's sums.

    All are powers of two, the last two multiples of 4; ``speed`` is about what of the multiply-adds it reaches.
    """

    rows: int
    columns: int
    depth: int
    high: int
    wide: int
    speed: float = 1.0

    @property
    def across(self) -> int:
        """How many threads share a row of the tile."""
        return self.columns // self.wide

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.rows // self.high * self.across

    @property
    def pitches(self) -> tuple[int, int]:
        """How far apart the slices' lines lie in shared memory: off a multiple of 32 words, or transposing stores
        would meet in a few banks."""
        return self.rows + 4, self.columns + 4


FLOATS: tuple[Tile, ...]
DOUBLES: tuple[Tile, ...]
if SIMULATED:  # a block of four threads, so that small problems have edges, and several blocks
    FLOATS = (Tile(16, 16, 4, 8, 8), Tile(8, 16, 4, 4, 8, 0.9), Tile(8, 8, 4, 4, 4, 0.8))
    DOUBLES = (Tile(8, 8, 4, 4, 4),)
else:
    FLOATS = (Tile(128, 128, 8, 8, 8), Tile(64, 128, 8, 8, 8, 0.9), Tile(64, 64, 16, 4, 4, 0.7))
    DOUBLES = (Tile(64, 64, 8, 4, 4), Tile(32, 32, 8, 4, 4, 0.7))


def choose(rows: int, columns: int, times: int, dtype: Any) -> Tile:
    """Return the tile with which so many products take the least time: blocks run in waves, one a multiprocessor."""
    tiles = FLOATS if np.dtype(dtype) == np.float32 else DOUBLES
    processors = driver().processors

    def cost(tile: Tile) -> float:
        blocks = times * -(-rows // tile.rows) * -(-columns // tile.columns)
        return -(-blocks // processors) * tile.rows * tile.columns / tile.speed

    return min(tiles, key=cost)


def aligned(array: np.ndarray[Any, Any], *extents: int) -> bool:
    """Whether an array may be read four elements at a time along lines of these extents."""
    return address(array) % (4 * array.itemsize) == 0 and not any(n % 4 for n in extents)


def spread(count: int, inner: int, threads: int) -> Iterator[tuple[int, int, int]]:
    """How ``count`` items a thread lie: its number, and its place beside the first along the inner and outer axis."""
    for e in range(count):
        yield e, e * threads % inner, e * threads // inner


class Panel(NamedTuple):
    """An operand that lies in memory as (extent, K), ``along`` K, or as (K, extent).

    Attributes
    ----------
    name : str
        "a" or "b": of the pointer, and of what is named after it.
    along : bool
    fours : bool
        Whether it is read four elements at a time: it begins at a multiple of four, as its lines do.
    extent : str
        The name of its extent; ``first`` that of where the block's tile begins, ``base`` that of the first element.
    first, base : str
    """

    name: str
    along: bool
    fours: bool
    extent: str
    first: str
    base: str = "0"

    def _sizes(self, tile: Tile) -> tuple[int, int, int, int]:
        """The operand's extent of the tile; items along the inner axis, how long each is, how many a thread has."""
        side = tile.rows if self.name == "a" else tile.columns
        size = 4 if self.fours else 1
        return side, (tile.depth if self.along else side) // size, size, side * tile.depth // (size * tile.threads)

    def begin(self, tile: Tile) -> list[str]:
        """Find where the thread reads first: ``ad`` along K, ``ar`` along the other axis, the element ``ap``."""
        _, inner, size, _ = self._sizes(tile)
        n, line = self.name, "k" if self.along else self.extent
        near, far = (f"{n}d", f"{n}r") if self.along else (f"{n}r", f"{n}d")
        return [
            f"{near} = np.int32((t & {inner - 1}) * {size})",
            f"{far} = np.int32(t >> {inner.bit_length() - 1})",
            f"{n}r = np.int32({n}r + {self.first})",
            f"{n}p = {self.base} + {far} * {line} + {near}",
        ]

    def fetch(self, tile: Tile) -> list[str]:
        """Read the thread's items of a slice; what lies off the operand's edges is 0."""
        _, inner, size, count = self._sizes(tile)
        n = self.name
        move = "" if self.along else f" * {self.extent}"
        lines = [f"{n}at = {n}p + step * {tile.depth}{move}", f"{n}k = np.int32(step * {tile.depth} + {n}d)"]
        for e, i, o in spread(count, inner, tile.threads):
            i *= size
            deep, side = (i, o) if self.along else (o, i)
            names = [f"{n}{e * size + q}" for q in range(size)]
            place = f"{n}at + {i} + {o} * {'k' if self.along else self.extent}"
            lines += [f"{name} = 0.0" for name in names]
            lines.append(f"if np.int32({n}r + {side}) < {self.extent} and np.int32({n}k + {deep}) < k:")
            lines.append(f"    {', '.join(names)} = " + (f"load4({n}, {place})" if self.fours else f"{n}[{place}]"))
        return lines

    def stash(self, tile: Tile) -> list[str]:
        """Put them into shared memory, transposed where they lie along K."""
        _, inner, size, count = self._sizes(tile)
        n, pitch = self.name, tile.pitches[self.name == "b"]
        lines = [f"place = into_{n} + {n}d * {pitch} + {n}r - {self.first}"]
        for e, i, o in spread(count, inner, tile.threads):
            i *= size
            names = [f"{n}{e * size + q}" for q in range(size)]
            if self.along:
                lines += [f"s{n}[np.uint32(place + {(i + q) * pitch + o})] = {name}" for q, name in enumerate(names)]
            elif self.fours:
                lines.append(f"store4(s{n}, np.uint32(place + {o * pitch + i}), {', '.join(names)})")
            else:
                lines.append(f"s{n}[np.uint32(place + {o * pitch + i})] = {names[0]}")
        return lines


def row(tile: Tile, i: int) -> str:
    """The row of a thread's sums of number i, within the tile."""
    return f"ty * 4 + {i // 4 * 4 * (tile.rows // tile.high) + i % 4}"


def column(tile: Tile, j: int) -> str:
    """The column of a thread's sums of number j, within the tile."""
    return f"tx * 4 + {j // 4 * 4 * tile.across + j % 4}"


def _multiply(tile: Tile) -> list[str]:
    """Multiply a slice: runs of four of each operand, then all products of theirs; two steps along K at a time."""
    pa, pb = tile.pitches
    lines = [f"for q in range(0, {tile.depth}, 2):"]
    for ahead in range(2):
        for count, x, shared, place, pitch, step in (
            (tile.high, "x", "a", "ty", pa, 4 * (tile.rows // tile.high)),
            (tile.wide, "y", "b", "tx", pb, 4 * tile.across),
        ):
            for h in range(count // 4):
                names = ", ".join(f"{x}{4 * h + q}" for q in range(4))
                start = f"from_{shared} + q * {pitch} + {place} * 4 + {ahead * pitch + h * step}"
                lines.append(f"    {names} = load4(s{shared}, np.uint32({start}))")
        lines += [f"    c{i}_{j} += x{i} * y{j}" for i in range(tile.high) for j in range(tile.wide)]
    return lines


def _source(name: str, parameters: str, tile: Tile, parts: dict[str, Iterable[str]]) -> str:
    (pa, pb), depth = tile.pitches, tile.depth
    begin, fetch, stash, end = (list(parts[part]) for part in ("begin", "fetch", "stash", "end"))
    sums = [f"c{i}_{j} = 0.0" for i in range(tile.high) for j in range(tile.wide)]

    def inner(lines: list[str], by: int = 1) -> list[str]:
        return ["    " * by + line for line in lines]

    first = [
        f"sa = cuda.shared.array({2 * depth * pa}, real, 16)",
        f"sb = cuda.shared.array({2 * depth * pb}, real, 16)",
        "t = cuda.threadIdx.x",
        f"tx = t & {tile.across - 1}",
        f"ty = t >> {tile.across.bit_length() - 1}",
        *begin, *sums,
        "steps = np.int32(steps)", "step = np.int32(0)", "into_a = np.int32(0)", "into_b = np.int32(0)",
        *fetch, *stash,
        "from_a = np.int32(0)", "from_b = np.int32(0)",
        "cuda.syncthreads()",
        "while step < steps:",
        "    step = np.int32(step + 1)",
        "    if step < steps:",
        *inner(fetch, 2),
    ]  # fmt: skip
    loop = [
        *_multiply(tile),
        f"into_a = np.int32({depth * pa} - from_a)",
        f"into_b = np.int32({depth * pb} - from_b)",
        "if step < steps:",
        *inner(stash),
        "from_a = into_a",
        "from_b = into_b",
        "cuda.syncthreads()",
    ]
    return "\n".join([f"def {name}({parameters}):", *inner(first), *inner(loop, 2), *inner(end), ""])


def made(
    name: str, parameters: str, tile: Tile, scope: dict[str, Any], warps: int = 12, **parts: Iterable[str]
) -> Entry:
    """Return a kernel of a module's, whose names its lines may use.

    Parameters
    ----------
    name, parameters : str
    tile : Tile
    scope : dict
        The module's names.
    warps : int
        Of a multiprocessor, that there should be registers for: more where the kernel's addresses leave room.
    **parts : lines
        ``begin``, ``fetch``, ``stash`` and ``end``.
    """
    text = _source(name, parameters, tile, parts)
    found: dict[str, Any] = {}
    exec(compile(text, scope["__file__"], "exec"), dict(scope), found)
    function: FunctionType = found[name]
    return entry(threads=tile.threads, text=text, resident=-(-32 * warps // tile.threads))(function)
