"""The simulated GPU's driver: memory of the host, and streams that do at once what they are given."""

from __future__ import annotations

import ctypes
import os
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.driver import Driver

__all__ = ["SimulatedDriver"]


class SimulatedDriver(Driver):
    """As much memory as ``TINYGRAD_BN_SIMULATED_BYTES`` says, else 1 GiB; two multiprocessors."""

    name = "simulator"
    capability = (9, 0)
    processors = 2
    l2_bytes = 1 << 20

    def __init__(self) -> None:
        self.total = int(os.environ.get("TINYGRAD_BN_SIMULATED_BYTES", str(1 << 30)))
        self._held: dict[int, Any] = {}
        self._begins: list[int] = []
        self._used = 0
        self._recorded: list[Callable[[], None]] | None = None
        self._stream: object = "stream 0"
        self._streams = 0

    def allocate(self, nbytes: int) -> int:
        """Take memory of the host, filled with ones: a NaN, or a number that leads out of every array."""
        if self._used + nbytes > self.total:
            raise MemoryError(nbytes)
        memory = np.full(nbytes + 512, 0xFF, np.uint8)
        address: int = -(-memory.ctypes.data // 256) * 256
        self._held[address] = memory
        self._begins = sorted(self._held)
        self._used += nbytes
        return address

    def free(self, address: int) -> None:
        """Give memory back."""
        self._used -= self._held.pop(address).nbytes - 512
        self._begins = sorted(self._held)

    def memory(self) -> tuple[int, int]:
        """Return how many bytes are free, and how many there are."""
        return self.total - self._used, self.total

    def holds(self, address: int) -> int:
        """Return how many bytes of one allocation lie at and behind an address; 0 if it is in none."""
        at = bisect_right(self._begins, address) - 1
        if at < 0:
            return 0
        begin = self._begins[at]
        nbytes: int = self._held[begin].nbytes
        return max(begin + nbytes - 512 - address, 0)

    def copy_in(self, address: int, host: int, nbytes: int) -> None:
        """Copy from the host."""
        assert self.holds(address) >= nbytes
        assert self._recorded is None, "a copy from the host within a graph"
        ctypes.memmove(address, host, nbytes)

    def copy_out(self, host: int, address: int, nbytes: int) -> None:
        """Copy to the host."""
        assert self.holds(address) >= nbytes
        assert self._recorded is None, "a copy to the host within a graph"
        ctypes.memmove(host, address, nbytes)

    def copy(self, to: int, address: int, nbytes: int) -> None:
        """Copy within the GPU."""
        assert min(self.holds(address), self.holds(to)) >= nbytes

        def run() -> None:
            ctypes.memmove(to, address, nbytes)

        self.simulate(run)

    def clear(self, address: int, nbytes: int) -> None:
        """Fill memory with zero bytes."""
        assert self.holds(address) >= nbytes

        def run() -> None:
            ctypes.memset(address, 0, nbytes)

        self.simulate(run)

    def synchronize(self, stream: Any = None) -> None:
        """Nothing is ever under way."""
        assert self._recorded is None, "waiting within a graph"

    def stream(self) -> Any:
        """Make a stream."""
        self._streams += 1
        return f"stream {self._streams}"

    def current(self) -> Any:
        """Return the stream."""
        return self._stream

    def use(self, stream: Any) -> Any:
        """Make a stream the current one; return the one before."""
        before, self._stream = self._stream, stream
        return before

    def wait(self, stream: Any, for_stream: Any) -> None:
        """Nothing is ever under way."""

    def begin(self) -> None:
        """Record launches and copies from now on."""
        assert self._recorded is None
        self._recorded = []

    def end(self) -> Any:
        """End that, and return them."""
        found, self._recorded = self._recorded, None
        return found

    def replay(self, graph: Any) -> None:
        """Do what was recorded."""
        for run in graph:
            run()

    def destroy(self, graph: Any) -> None:
        """Let go of a graph."""
        graph.clear()

    def simulate(self, run: Callable[[], None]) -> None:
        """Launch a simulated kernel."""
        if self._recorded is not None:
            self._recorded.append(run)
        else:
            run()
