"""Devices: where arrays live, how they are allocated, which kernels run on them."""

from __future__ import annotations

import threading
from math import prod
from typing import Any

import numpy as np

from tinygrad_bn.core.dtype import DType
from tinygrad_bn.core.memory import POOLED, lenders, pool, pooled
from tinygrad_bn.errors import DeviceError
from tinygrad_bn.kernels import Backend

_empty = np.empty


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
        if lenders:
            lend = lenders.get(threading.get_ident())
            if lend is not None:
                return lend(shape, dtype.storage, nbytes)
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
    """Give the memory that is kept to be used again back to the operating system; tensors stay as they are."""
    pool.clear()


def memory_allocated(device: str | Device | None = None) -> int:
    """Return how many bytes are in use, in buffers of 64 KiB and more.

    Parameters
    ----------
    device : str or Device, optional
        All devices here share one memory.

    Returns
    -------
    int

    Notes
    -----
    A buffer is in use as long as a tensor, a NumPy array or the tape looks at it. Smaller ones, and arrays of the
    user's own (``from_numpy``), are not counted.
    """
    as_device(device, "memory_allocated")
    return pool.used_bytes


def max_memory_allocated(device: str | Device | None = None) -> int:
    """Return the most that ``memory_allocated`` has been since the start, or since ``reset_peak_memory_stats``."""
    as_device(device, "max_memory_allocated")
    return pool.peak_bytes


def reset_peak_memory_stats(device: str | Device | None = None) -> None:
    """Let ``max_memory_allocated`` begin anew, from what is in use now."""
    as_device(device, "reset_peak_memory_stats")
    pool.reset_peak()
