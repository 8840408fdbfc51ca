"""The device ``cuda``: memory from a pool on the GPU, copies to and fro, reports of kernels read when somebody waits.

Launches return at once. What a kernel has to report (an index out of range) is known when the host next waits for the
GPU: at ``synchronize``, at a copy to the host, behind a replay that is looked at. It is then raised in the name of the
op that launched the kernel.
"""

from __future__ import annotations

import threading
from math import prod
from typing import Any

import numpy as np

from tinygrad_bn.core.cuda_memory import leased, usage
from tinygrad_bn.core.device import Device, report
from tinygrad_bn.core.dtype import DType, stored
from tinygrad_bn.core.memory import lenders
from tinygrad_bn.kernels.cuda.array import CudaArray
from tinygrad_bn.kernels.cuda.driver import driver
from tinygrad_bn.kernels.spec import Kernel

_SLOTS = 64


def address(array: np.ndarray[Any, Any]) -> int:
    """Return where an array's first element lies."""
    found: int = array.__array_interface__["data"][0]
    return found


class Reports(threading.local):
    """Status words on the GPU, a slot for each launch since the thread last looked."""

    def __init__(self) -> None:
        self._words: CudaArray | None = None
        self._waiting: list[tuple[str, Kernel]] = []
        self._expected: dict[int, tuple[str, Kernel, CudaArray]] = {}

    def slot(self) -> CudaArray:
        """Return the word for the next launch."""
        if len(self._waiting) >= _SLOTS:
            self.look()
        if self._words is None:
            self._words = leased((_SLOTS, 4), np.dtype(np.int64), _SLOTS * 32)
            driver().clear(address(self._words), self._words.nbytes)
        return self._words[len(self._waiting)]

    def note(self, op: str, kernel: Kernel) -> None:
        """Remember who was given the slot."""
        self._waiting.append((op, kernel))

    def expect(self, words: list[tuple[str, Kernel, CudaArray]]) -> None:
        """Look, next time, at what kernels of a replay have reported, each in a word of its own."""
        self._expected.update((address(word), (op, kernel, word)) for op, kernel, word in words)

    def look(self) -> None:
        """Wait for the kernels that may have something to report, and raise the first report.

        Raises
        ------
        IndexRangeError
        """
        expected, self._expected = list(self._expected.values()), {}
        for op, kernel, word in expected:
            told = np.empty(4, np.int64)
            driver().copy_out(address(told), address(word), told.nbytes)
            if told[0]:
                driver().clear(address(word), word.nbytes)
                raise report(op, kernel, told)
        waiting, self._waiting = self._waiting, []
        if not waiting or self._words is None:
            return
        if len(usage.pools) > 1:
            driver().synchronize()  # some may be on another stream
        found = np.empty((_SLOTS, 4), np.int64)
        driver().copy_out(address(found), address(self._words), found.nbytes)
        if not found[:, 0].any():
            return
        driver().clear(address(self._words), self._words.nbytes)
        for (op, kernel), (error, position, value, limit) in zip(waiting, found.tolist()):
            if error:
                raise report(op, kernel, np.array([error, position, value, limit]))


class CudaDevice(Device):
    """The GPU."""

    __slots__ = ("reports",)

    def __init__(self) -> None:
        driver()
        super().__init__("cuda")
        self.memory = usage
        self.reports = Reports()

    @property
    def status(self) -> np.ndarray[Any, Any]:
        """The word into which the next kernel writes what is wrong: (error?, position, value, limit)."""
        return self.reports.slot()

    def reported(self, op: str, kernel: Kernel, status: Any) -> None:
        """Remember to look at what a kernel reports."""
        self.reports.note(op, kernel)

    def empty(self, shape: tuple[int, ...], dtype: DType) -> CudaArray:
        """Return an uninitialised array.

        Raises
        ------
        OutOfMemoryError
            If the GPU has not as much memory left.
        """
        nbytes = prod(shape) * dtype.itemsize
        if lenders:
            lend = lenders.get(threading.get_ident())
            if lend is not None:
                return lend(shape, dtype.storage, nbytes, True)  # type: ignore[return-value]  # the GPU's memory
        return leased(shape, dtype.storage, nbytes)

    def number(self, value: float, dtype: DType) -> np.ndarray[Any, Any]:
        """Return a number as an array without axes."""
        return self.array(np.array(stored(value, dtype) if dtype.low else value, dtype.storage))

    def array(self, host: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Copy an array of the host's to the GPU; one that is there is returned as it is."""
        if isinstance(host, CudaArray):
            return host
        out = leased(host.shape, host.dtype, host.nbytes)
        self.write(out, host)
        return out

    def kept(self, host: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Copy an array to the GPU, and wait until it is there: for all streams."""
        out = self.array(host)
        driver().synchronize(driver().current())
        return out

    def write(self, array: np.ndarray[Any, Any], host: Any) -> None:
        """Overwrite a contiguous array with elements of the host's."""
        plain = np.ascontiguousarray(host, array.dtype).reshape(array.shape)
        if plain.nbytes:
            driver().copy_in(address(array), address(plain), plain.nbytes)

    def to_host(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Copy an array to the host, behind all that computes it; what kernels reported meanwhile is raised."""
        plain = array
        if not array.flags.c_contiguous:
            plain = leased(array.shape, array.dtype, array.nbytes)
            self.kernels.copy.serial(array, plain)
        out = np.empty(array.shape, array.dtype)
        if out.nbytes:
            driver().copy_out(address(out), address(plain), out.nbytes)
        self.reports.look()
        return out

    def copied(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return a copy, its axes in memory in the order that they have."""
        order = sorted(range(array.ndim), key=lambda i: -abs(array.strides[i]))
        out = leased(tuple(array.shape[i] for i in order), array.dtype, array.nbytes)
        out = out.transpose(sorted(range(array.ndim), key=order.__getitem__))
        self.kernels.copy.serial(array, out)
        return out

    def synchronize(self) -> None:
        """Wait for all kernels, and raise what they report."""
        driver().synchronize()
        self.reports.look()


cuda = CudaDevice()
