"""The part of a recording's memory that is the GPU's."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Any

import numpy as np

from tinygrad_bn.core.cuda_memory import CudaPool
from tinygrad_bn.kernels.cuda.array import CudaArray
from tinygrad_bn.kernels.cuda.driver import driver

__all__ = ["GpuMemory"]

_SEGMENT = 1 << 21


def _segment(size: int) -> Any:
    """Memory of the GPU that goes with the last array on it: gradients outlive a recording that is dropped."""

    def free(self: Any) -> None:
        with suppress(Exception):  # at the end of the process the driver may have gone before
            driver().free(ctypes.addressof(self))

    kind = type("Segment", (ctypes.c_char * size,), {"__del__": free})
    return kind.from_address(driver().allocate(size))  # type: ignore[attr-defined]  # a ctypes array


class GpuMemory(CudaPool):
    """A pool of the recording's own, whose segments nobody else is given."""

    def __init__(self) -> None:
        super().__init__(driver().current())
        self._segment = _SEGMENT
        self._words: list[CudaArray] = []

    def word(self) -> CudaArray:
        """Return a status word for a kernel, cleared, which is the recording's for good."""
        if not self._words:
            place = self.take(64 * 32)
            words = np.ndarray.__new__(CudaArray, (64, 4), np.int64, place[0], place[1])
            driver().clear(words.__array_interface__["data"][0], words.nbytes)
            self._words = [words[i] for i in range(64)]
        return self._words.pop()

    def map(self, size: int) -> Any:
        """Return a segment that gives itself back."""
        return _segment(size)

    def unmap(self, segment: Any) -> None:
        """It does so when the last array on it has gone."""
