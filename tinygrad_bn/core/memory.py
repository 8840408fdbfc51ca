"""Memory of arrays of 64 KiB and more: buffers that return when the last view of them dies, NumPy's aliases included.

For fresh memory of that size the operating system maps page after page, which costs more than most kernels. So buffers
are cut from a few large segments, and used again: one of the very size is found at once; else the smallest hole that is
large enough is cut; and before a page is touched for the first time, what lies idle is joined with its neighbours. So
a process holds little more than the most that was ever in use.
"""

from __future__ import annotations

import mmap
import threading
from bisect import bisect_left, insort
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

POOLED = 1 << 16
_ROUND = 1 << 16
_SEGMENT = 1 << 28
_SPAN = 1 << 48  # a position is segment · _SPAN + offset: ranges of two segments never adjoin
_FREELY = 1 << 26  # bytes that are touched without a look at what could be joined
_BYTES = np.dtype(np.uint8)
_new_array = np.ndarray.__new__

Place = tuple[Any, int, int, int]  # a buffer: its segment, offset, position and size
Lender = Callable[..., np.ndarray[Any, Any]]  # of a shape, a dtype, a number of bytes; whether of the GPU
lenders: dict[int, Lender] = {}
"""By thread, who gives it memory instead of the pool: a recording, which keeps what its kernels work on."""


class Ranges:
    """Ranges of positions; two that adjoin become one."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []  # (size, position), sorted
        self._begins: dict[int, int] = {}  # position: size
        self._ends: dict[int, int] = {}  # the position behind: position

    def insert(self, size: int, position: int) -> None:
        """Add a range."""
        end = position + size
        after = self._begins.get(end)
        if after is not None:
            self.remove(after, end)
            size += after
            end += after
        before = self._ends.get(position)
        if before is not None:
            self.remove(position - before, before)
            size += position - before
            position = before
        insort(self.sizes, (size, position))
        self._begins[position] = size
        self._ends[end] = position

    def remove(self, size: int, position: int) -> None:
        """Take a whole range out."""
        del self.sizes[bisect_left(self.sizes, (size, position))]
        del self._begins[position], self._ends[position + size]

    def cut(self, size: int) -> int | None:
        """Take ``size`` from the smallest range that has as much and return the position; None if there is none."""
        at = bisect_left(self.sizes, (size, 0))
        if at == len(self.sizes):
            return None
        length, position = self.sizes[at]
        self.remove(length, position)
        if length > size:
            self.insert(length - size, position + size)
        return position


class Pool:
    """Page-aligned buffers. A finaliser may run at any line of ``take``, so ``give`` only appends to a list.

    Attributes
    ----------
    idle : dict of list
        By size, the buffers that came back and have not been joined.
    holes : Ranges
        Idle memory that has been joined with its neighbours.
    fresh : Ranges
        Memory that no page was touched of: it costs nothing.
    used_bytes, peak_bytes : int
        In use now, and the most of it since ``reset_peak``.
    touched_bytes : int
        In use or idle.
    """

    def __init__(self, unit: int = _ROUND, segment: int = _SEGMENT, freely: int = _FREELY) -> None:
        self._unit = unit
        self._segment = segment
        self._freely = freely
        self.idle: dict[int, list[Place]] = {}
        self.holes = Ranges()
        self.fresh = Ranges()
        self.used_bytes = 0
        self.peak_bytes = 0
        self.touched_bytes = 0
        self._segments: dict[int, Any] = {}
        self._lock = threading.RLock()

    @property
    def idle_bytes(self) -> int:
        """What is kept to be used again."""
        return self.touched_bytes - self.used_bytes

    def take(self, nbytes: int) -> Place:
        """Return a buffer of at least ``nbytes``, not cleared.

        Raises
        ------
        MemoryError
            If the operating system has none.
        """
        size = max(-(-nbytes // self._unit), 1) * self._unit
        with self._lock:
            bucket = self.idle.get(size)
            place = bucket.pop() if bucket else self._find(size)
            self.used_bytes += size
            if self.used_bytes > self.peak_bytes:
                self.peak_bytes = self.used_bytes
            return place

    def give(self, place: Place) -> None:
        """Take a buffer back; called by the last view's finaliser, on any thread."""
        size = place[3]
        with self._lock:
            self.used_bytes -= size
            bucket = self.idle.get(size)
            if bucket is None:
                self.idle[size] = [place]
            else:
                bucket.append(place)

    def _find(self, size: int) -> Place:
        position = self.holes.cut(size)
        if position is None and self.idle and self.touched_bytes + size > self._freely:
            self._join()
            position = self.holes.cut(size)
        if position is None:
            position = self._touch(size)
        return self._segments[position // _SPAN], position % _SPAN, position, size

    def _touch(self, size: int) -> int:
        position = self.fresh.cut(size)
        if position is None:
            self._grow(size)
            return self._touch(size)
        self.touched_bytes += size
        return position

    def _grow(self, size: int) -> None:
        """Map a further segment, as large as all before together."""
        number = 1 + max(self._segments, default=0)
        try:
            segment = self.map(max(self._segment, size, self.touched_bytes))
        except (OSError, MemoryError):
            self.clear()
            segment = self.map_or_raise(-(-size // self._unit) * self._unit)
        self._segments[number] = segment
        self.fresh.insert(len(segment), number * _SPAN)

    def _join(self) -> None:
        idle, self.idle = self.idle, {}
        for bucket in idle.values():
            for _, _, position, size in bucket:
                self.holes.insert(size, position)

    def clear(self) -> None:
        """Give all idle memory back to the operating system."""
        with self._lock:
            self._join()
            for size, position in list(self.holes.sizes):
                self.holes.remove(size, position)
                self.fresh.insert(size, position)
                self.touched_bytes -= size
                self.discard(self._segments[position // _SPAN], position % _SPAN, size)
            for size, position in list(self.fresh.sizes):
                if size == len(self._segments[position // _SPAN]):
                    self.fresh.remove(size, position)
                    self.unmap(self._segments.pop(position // _SPAN))

    def count(self, nbytes: int) -> None:
        """Count memory that somebody holds beside the pool as in use, or no longer so."""
        with self._lock:
            self.used_bytes += nbytes
            self.touched_bytes += nbytes
            self.peak_bytes = max(self.peak_bytes, self.used_bytes)

    def reset_peak(self) -> None:
        """Begin the peak anew, from what is in use."""
        with self._lock:
            self.peak_bytes = self.used_bytes

    # ------------------------------------------------------------------- where segments come from: the host's memory

    def map(self, size: int) -> Any:
        """Map memory of this process alone: a forked child's writes are its own."""
        if not hasattr(mmap, "MAP_PRIVATE"):
            return mmap.mmap(-1, size)
        segment = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a system without large pages
                segment.madvise(mmap.MADV_HUGEPAGE)
        return segment

    def map_or_raise(self, size: int) -> Any:
        """Map memory as a last resort.

        Raises
        ------
        MemoryError
        """
        try:
            return self.map(size)
        except OSError as error:
            raise MemoryError(f"empty: the system has no {size} bytes of memory left: {error.strerror}.") from error

    def unmap(self, segment: Any) -> None:
        """Let go of a segment; a map goes with its last reference."""

    def discard(self, segment: Any, offset: int, size: int) -> None:
        """Give the pages of a range back, and keep the range."""
        if hasattr(mmap, "MADV_DONTNEED"):
            segment.madvise(mmap.MADV_DONTNEED, offset, size)


pool = Pool()


class Lease(np.ndarray[Any, Any]):
    """The root of a buffer's views: its finaliser gives the buffer back."""

    __slots__ = ("place",)
    place: Place

    def __del__(self, give: Any = pool.give) -> None:
        give(self.place)


def pooled(shape: tuple[int, ...], storage: np.dtype[Any], nbytes: int) -> np.ndarray[Any, Any]:
    """Return an uninitialised array on a pooled buffer."""
    place = pool.take(nbytes)
    lease = _new_array(Lease, (nbytes,), _BYTES, place[0], place[1])
    lease.place = place
    return np.ndarray(shape, storage, lease)
