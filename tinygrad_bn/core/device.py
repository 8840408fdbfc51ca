"""Devices: where arrays live, how they are allocated, which kernels run on them."""

from __future__ import annotations

import threading
from math import prod
from typing import Any

import numpy as np

from tinygrad_bn.core.dtype import DType, stored
from tinygrad_bn.core.memory import POOLED, lenders, pool, pooled
from tinygrad_bn.errors import DeviceError, IndexRangeError
from tinygrad_bn.kernels import Backend
from tinygrad_bn.kernels.spec import Kernel

_empty = np.empty


class _Status(threading.local):
    def __init__(self) -> None:
        self.word = np.zeros(4, np.int64)


_status = _Status()


class Device:
    """A place for tensors: ``cpu`` (Numba kernels), ``cuda`` (a GPU) or ``ref`` (reference kernels, in plain NumPy).

    Attributes
    ----------
    type : str
    kernels : Backend
    memory : Pool or Usage
        What is in use, and was at most.
    """

    __slots__ = ("kernels", "memory", "type")
    memory: Any

    def __init__(self, kind: str) -> None:
        self.type = kind
        self.kernels = Backend(kind)
        self.memory = pool

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
        return np.array(stored(value, dtype) if dtype.low else value, dtype.storage)

    def array(self, host: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return an array of the host's as one that kernels of this device take: itself, where both have one memory."""
        return host

    def kept(self, host: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the same of an array that all threads and streams will read, and nobody will change."""
        return host

    def write(self, array: np.ndarray[Any, Any], host: Any) -> None:
        """Overwrite an array with elements of the host's."""
        array[...] = host

    def to_host(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the elements as an array of the host's: itself, where both have one memory."""
        return array

    def copied(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return a copy, its axes in memory in the order that they have."""
        return array.copy(order="K")

    def synchronize(self) -> None:
        """Wait for all kernels, and raise what they report; here, none is ever under way."""

    def reported(self, op: str, kernel: Kernel, status: Any) -> None:
        """Look at what a kernel has reported, and raise it.

        Raises
        ------
        IndexRangeError
            With the op's name and the kernel's message.
        """
        if status[0]:
            raise report(op, kernel, status)

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


def report(op: str, kernel: Kernel, status: Any) -> IndexRangeError:
    """Clear a status word and return the error that it tells of."""
    position, value, limit = (int(v) for v in status[1:])
    status[:] = 0
    return IndexRangeError(f"{op}: " + kernel.spec.status.format(position=position, value=value, limit=limit))


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
        if value not in ("cuda", "cuda:0"):
            raise DeviceError(f"{op}: 'device' must be one of cpu, cuda, ref. Got {value!r}.")
        from tinygrad_bn.core.cuda_device import cuda

        found = _DEVICES["cuda"] = _DEVICES["cuda:0"] = cuda
    return found


def in_use(kind: str) -> Device | None:
    """Return the device of a type, where something has asked for it."""
    return _DEVICES.get(kind)


def empty_cache() -> None:
    """Give the memory that is kept to be used again back to the operating system, and to the GPU; tensors stay as they
    are."""
    for memory in {id(d.memory): d.memory for d in _DEVICES.values()}.values():
        memory.clear()


def synchronize(device: str | Device | None = None) -> None:
    """Wait until a device has done all that it was given.

    Parameters
    ----------
    device : str or Device, optional
        Default: every device in use.

    Raises
    ------
    IndexRangeError
        What a kernel has found: an index, or a class, out of range.
    """
    for place in dict.fromkeys(_DEVICES.values()) if device is None else (as_device(device, "synchronize"),):
        place.synchronize()


def memory_allocated(device: str | Device | None = None) -> int:
    """Return how many bytes are in use on a device: on ``cpu``, in buffers of 64 KiB and more.

    Parameters
    ----------
    device : str or Device, optional
        Default: the CPU, whose memory ``ref`` shares.

    Returns
    -------
    int

    Notes
    -----
    A buffer is in use as long as a tensor, a NumPy array or the tape looks at it. The CPU's smaller ones, and arrays
    of the user's own (``from_numpy``), are not counted.
    """
    used: int = as_device(device, "memory_allocated").memory.used_bytes
    return used


def max_memory_allocated(device: str | Device | None = None) -> int:
    """Return the most that ``memory_allocated`` has been since the start, or since ``reset_peak_memory_stats``."""
    most: int = as_device(device, "max_memory_allocated").memory.peak_bytes
    return most


def reset_peak_memory_stats(device: str | Device | None = None) -> None:
    """Let ``max_memory_allocated`` begin anew, from what is in use now."""
    as_device(device, "reset_peak_memory_stats").memory.reset_peak()
