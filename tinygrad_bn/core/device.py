"""Devices: where arrays live, how they are allocated, which kernels run on them.

Buffers of 64 KiB and more come from a pool and return to it when the last view of them dies, NumPy's aliases
included; for fresh memory of that size the operating system maps page after page, which costs more than most kernels.
"""

from __future__ import annotations

import mmap
import threading
from collections import OrderedDict
from math import prod
from typing import Any

import numpy as np

from tinygrad_bn.core.dtype import DType
from tinygrad_bn.errors import DeviceError
from tinygrad_bn.kernels import Backend

POOLED = 1 << 16
_ROUND = 1 << 16
_BYTES = np.dtype(np.uint8)
_empty = np.empty
_new_array = np.ndarray.__new__


class Pool:
    """Page-aligned buffers by size. Idle ones are kept up to the most that was ever in use at once, 256 MiB at least;
    beyond that, those of the sizes that were longest not asked for go first."""

    def __init__(self) -> None:
        self.idle: OrderedDict[int, list[mmap.mmap]] = OrderedDict()
        self.idle_bytes = 0
        self.used_bytes = 0
        self.peak_bytes = 0
        self._lock = threading.RLock()  # a finaliser may run while this thread holds it

    def take(self, nbytes: int) -> mmap.mmap:
        """Return a buffer of at least ``nbytes``, not cleared."""
        size = -(-nbytes // _ROUND) * _ROUND
        with self._lock:
            self.used_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.used_bytes)
            bucket = self.idle.get(size)
            if bucket:
                self.idle.move_to_end(size)
                self.idle_bytes -= size
                return bucket.pop()
        return self._map(size)

    @staticmethod
    def _map(size: int) -> mmap.mmap:
        buffer = mmap.mmap(-1, size)
        if size >= 1 << 22 and hasattr(mmap, "MADV_HUGEPAGE"):
            buffer.madvise(mmap.MADV_HUGEPAGE)
        return buffer

    def give(self, buffer: Any) -> None:
        """Take a buffer back; called by the last view's finaliser, on any thread."""
        size = len(buffer)
        with self._lock:
            self.used_bytes -= size
            self.idle.setdefault(size, []).append(buffer)
            self.idle.move_to_end(size)
            self.idle_bytes += size
            while self.idle_bytes > max(1 << 28, self.peak_bytes):
                self._drop_oldest()

    def _drop_oldest(self) -> None:
        size, bucket = next(iter(self.idle.items()))
        if bucket:
            bucket.pop()
            self.idle_bytes -= size
        if not bucket:
            del self.idle[size]

    def clear(self) -> None:
        """Give all idle buffers back to the operating system."""
        with self._lock:
            self.idle.clear()
            self.idle_bytes = 0


pool = Pool()


class Lease(np.ndarray[Any, Any]):
    """The root of a pooled array's views: its finaliser gives the buffer back."""

    __slots__ = ()

    def __del__(self, give: Any = pool.give) -> None:
        give(self.base)


def pooled(shape: tuple[int, ...], storage: np.dtype[Any], nbytes: int) -> np.ndarray[Any, Any]:
    """Return an uninitialised array on a pooled buffer."""
    lease = _new_array(Lease, (nbytes,), _BYTES, pool.take(nbytes))
    return np.ndarray(shape, storage, lease)


class _Status(threading.local):
    def __init__(self) -> None:
        self.word = np.zeros(4, np.int64)


_status = _Status()


class Device:
    """A place for tensors: ``cpu`` (Numba kernels) or ``ref`` (the reference kernels, in plain NumPy).

    Attributes
    ----------
    type : str
    kernels : Backend
    """

    __slots__ = ("kernels", "type")

    def __init__(self, kind: str) -> None:
        self.type = kind
        self.kernels = Backend(kind)

    @property
    def status(self) -> np.ndarray[Any, Any]:
        """The word, int64 of shape (4,), into which a kernel launched by this thread writes what is wrong: (error?,
        position, value, limit)."""
        return _status.word

    def empty(self, shape: tuple[int, ...], dtype: DType) -> np.ndarray[Any, Any]:
        """Return an uninitialised array."""
        nbytes = prod(shape) * dtype.itemsize
        if nbytes < POOLED:
            return _empty(shape, dtype.storage)
        return pooled(shape, dtype.storage, nbytes)

    def number(self, value: float, dtype: DType) -> np.ndarray[Any, Any]:
        """Return a number as an array without axes."""
        return np.array(value, dtype.storage)

    def __repr__(self) -> str:
        return f"device(type='{self.type}')"

    def __str__(self) -> str:
        return self.type

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, str) and other == self.type)

    def __hash__(self) -> int:
        return hash(self.type)

    def __reduce__(self) -> tuple[Any, ...]:
        return (as_device, (self.type,))

    def __deepcopy__(self, memo: dict[int, Any]) -> Device:
        return self


cpu = Device("cpu")
ref = Device("ref")
_DEVICES = {"cpu": cpu, "ref": ref, "cpu:0": cpu}


def as_device(value: str | Device | None, op: str = "device") -> Device:
    """Return the device of that name; None is the CPU.

    Raises
    ------
    DeviceError
        If there is no such device here.
    """
    if value is None:
        return cpu
    if isinstance(value, Device):
        return value
    found = _DEVICES.get(value)
    if found is None:
        raise DeviceError(f"{op}: 'device' must be one of cpu, ref. Got {value!r}.")
    return found


def empty_cache() -> None:
    """Give the pool's idle buffers back to the operating system."""
    pool.clear()
