"""Memory of the GPU: a pool for each stream, and what is owed where streams share a buffer.

A buffer that comes back is handed out again at once: its stream does what it was given before, then what it is given
now. That holds on one stream, so each has a pool of its own, and a buffer belongs to the stream that was current when
it was made. Who lets another stream use it says so (``record_stream``, as in PyTorch): before it is handed out again,
its own stream is made to wait for all that the other was given by then.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygrad_bn.core.memory import Place, Pool
from tinygrad_bn.errors import OutOfMemoryError
from tinygrad_bn.kernels.cuda.array import CudaArray
from tinygrad_bn.kernels.cuda.driver import driver

_UNIT = 512
_SEGMENT = 1 << 26
_BYTES = np.dtype(np.uint8)
_new_array = np.ndarray.__new__


class Usage:
    """What tensors of all streams hold.

    Attributes
    ----------
    used_bytes, peak_bytes : int
        In use now, and the most of it since ``reset_peak``; rounded up to units of 512.
    pools : dict
        By stream; the driver's main stream has the first.
    lock : RLock
        Of all pools: one that runs out of memory asks the others for theirs.
    """

    def __init__(self) -> None:
        self.used_bytes = 0
        self.peak_bytes = 0
        self.pools: dict[int, CudaPool] = {}
        self.lock = threading.RLock()

    @property
    def reserved_bytes(self) -> int:
        """What was taken from the GPU, in use or idle."""
        with self.lock:
            return sum(pool.reserved_bytes for pool in self.pools.values())

    def reset_peak(self) -> None:
        """Begin the peak anew, from what is in use."""
        with self.lock:
            self.peak_bytes = self.used_bytes

    def clear(self) -> None:
        """Give idle memory back to the GPU."""
        with self.lock:
            for pool in self.pools.values():
                pool.clear()

    def of(self, stream: Any) -> CudaPool:
        """Return a stream's pool."""
        with self.lock:
            found = self.pools.get(number_of(stream))
            if found is None:
                found = self.pools[number_of(stream)] = CudaPool(stream)
            return found


class CudaPool(Pool):
    """Buffers cut from segments of the GPU's memory, for one stream.

    Attributes
    ----------
    shared : list
        Buffers that have come back, and the other streams that may still use them.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(unit=_UNIT, segment=_SEGMENT, freely=1 << 30)
        self.stream = stream
        self.shared: list[tuple[Place, list[Any]]] = []
        self._lock = usage.lock
        self._usage = usage  # by a name that is there to the end of the process

    @property
    def reserved_bytes(self) -> int:
        """What was taken from the GPU."""
        return sum(map(len, self._segments.values()))

    def take(self, nbytes: int) -> Place:
        """Return a buffer of at least ``nbytes``, not cleared.

        Raises
        ------
        OutOfMemoryError
            If the GPU has not as much left.
        """
        with self._lock:
            if self.shared:
                self.collect()
            place = super().take(nbytes)
            total = self._usage
            total.used_bytes += place[3]
            if total.used_bytes > total.peak_bytes:
                total.peak_bytes = total.used_bytes
            return place

    def give(self, place: Place) -> None:
        """Take a buffer back."""
        with self._lock:
            self._usage.used_bytes -= place[3]
            super().give(place)

    def give_later(self, place: Place, streams: list[Any]) -> None:
        """Take a buffer back that other streams may still use."""
        with self._lock:
            self._usage.used_bytes -= place[3]
            self.shared.append((place, streams))

    def collect(self) -> None:
        """Let this stream wait for the others that may use buffers which have come back; then they are idle."""
        while self.shared:
            place, streams = self.shared.pop()
            for stream in streams:
                driver().wait(self.stream, stream)
            super().give(place)

    def clear(self) -> None:
        """Give idle memory back to the GPU."""
        with self._lock:
            self.collect()
            super().clear()

    def map(self, size: int) -> Any:
        """Return a segment: a buffer of ctypes' at the GPU's address, which nobody reads."""
        return (ctypes.c_char * size).from_address(driver().allocate(size))

    def map_or_raise(self, size: int) -> Any:
        """The same as a last resort, once all that lies idle has been given back."""
        usage.clear()
        try:
            return self.map(size)
        except MemoryError as error:
            free, total = driver().memory()
            raise OutOfMemoryError(
                f"empty: {size} bytes of the GPU's memory were asked for, {free} of {total} are free; tensors hold "
                f"{usage.used_bytes}.\nHint: a smaller batch; or let go of tensors, and of captured steps by reset()."
            ) from error

    def unmap(self, segment: Any) -> None:
        """Give a segment back to the GPU."""
        driver().free(ctypes.addressof(segment))

    def discard(self, segment: Any, offset: int, size: int) -> None:
        """Pages of the GPU are given back by whole segments only."""


class Lease(CudaArray):
    """The root of a buffer's views: its finaliser gives the buffer back.

    Attributes
    ----------
    place : Place
    pool : CudaPool
    streams : list, or None
        Other streams that use the buffer.
    """

    __slots__ = ("pool", "streams")
    pool: CudaPool
    streams: list[Any] | None

    def __del__(self) -> None:
        if self.streams:
            self.pool.give_later(self.place, self.streams)
        else:
            self.pool.give(self.place)


def number_of(stream: Any) -> int:
    """Return a stream as other libraries know it: the driver's handle; in the simulator, a number of its own."""
    return int(stream) if hasattr(stream, "__int__") else 16 + int(stream.split()[-1])


usage = Usage()


class _Here(threading.local):
    """The pool of the calling thread's stream, once it was asked for."""

    pool: CudaPool | None = None


here = _Here()


def current_pool() -> CudaPool:
    """Return the pool of the calling thread's stream."""
    found = here.pool
    if found is None:
        found = here.pool = usage.of(driver().current())
    return found


@contextmanager
def using(stream: Any) -> Iterator[None]:
    """Make a stream, and its pool, the calling thread's for a block."""
    pool = current_pool()
    before = driver().use(stream)
    here.pool = usage.of(stream)
    try:
        yield
    finally:
        here.pool = pool
        driver().use(before)


def leased(shape: tuple[int, ...], storage: np.dtype[Any], nbytes: int) -> CudaArray:
    """Return an uninitialised array on a pooled buffer of the current stream."""
    pool = here.pool or current_pool()
    place = pool.take(nbytes or 1)
    lease = _new_array(Lease, (nbytes or 1,), _BYTES, place[0], place[1])
    lease.place = place
    lease.pool = pool
    lease.streams = None
    return _new_array(CudaArray, shape, storage, lease)


def lease_of(array: np.ndarray[Any, Any]) -> Lease | None:
    """Return the root of an array's memory, where that is of a pool."""
    root: Any = array
    while root is not None and not isinstance(root, Lease):
        root = getattr(root, "base", None) if isinstance(root, np.ndarray) else getattr(root, "obj", None)
    return root


def record_stream(array: np.ndarray[Any, Any], stream: Any) -> None:
    """Note that a stream uses an array's memory: it is handed out again only behind what that was given meanwhile."""
    lease = lease_of(array)
    if lease is None or number_of(stream) == number_of(lease.pool.stream):
        return
    if lease.streams is None:
        lease.streams = []
    if all(number_of(s) != number_of(stream) for s in lease.streams):
        lease.streams.append(stream)
