"""A GPU that takes everything and does nothing: what is launched is noted, for ``cuda_table.py``.

Unlike in the simulator, kernels are chosen as for a real GPU: with its numbers of threads, tiles and multiprocessors.
Addresses lead nowhere, and arrays that come back to the host are zeros: shapes of any size cost nothing.
"""

from __future__ import annotations

import ctypes
from typing import Any

from tinygrad_bn.kernels.cuda import driver as drivers
from tinygrad_bn.kernels.cuda import machine_code
from tinygrad_bn.kernels.cuda.driver import Driver
from tinygrad_bn.kernels.cuda.entry import Entry

__all__ = ["Combination", "DryDriver", "begin"]

Combination = tuple[Entry, tuple[str, ...], tuple[tuple[str, Any], ...]]
"""A kernel, the types of its arguments, the values of its static parameters."""

_MOST = 2**31 - 1, 65535, 65535


class DryDriver(Driver):
    """The size of an H200.

    Attributes
    ----------
    combinations : dict
        What was launched for the first time, in its order.
    launches : int
    """

    name = "no GPU"
    capability = (9, 0)
    processors = 132
    l2_bytes = 50 << 20

    def __init__(self) -> None:
        self.combinations: dict[Combination, None] = {}
        self.launches = 0
        self._next = 1 << 40
        self._stream: Any = 1

    def allocate(self, nbytes: int) -> int:
        """Return an address of nothing."""
        address = self._next
        self._next += -(-nbytes // 4096 + 1) * 4096
        return address

    def free(self, address: int) -> None:
        """Nothing was taken."""

    def memory(self) -> tuple[int, int]:
        """Return what an H200 has."""
        return 140 << 30, 140 << 30

    def copy_in(self, address: int, host: int, nbytes: int) -> None:
        """Nothing is there to be written."""

    def copy_out(self, host: int, address: int, nbytes: int) -> None:
        """Write zeros to the host's memory."""
        ctypes.memset(host, 0, nbytes)

    copy = copy_in

    def clear(self, address: int, nbytes: int) -> None:
        """Nothing is there to be cleared."""

    def synchronize(self, stream: Any = None) -> None:
        """Nothing is under way."""

    def loaded(self, cubin: bytes, name: str) -> Any:
        """Return the name."""
        return name

    def launch(self, function: Any, grid: tuple[int, int, int], threads: int, arguments: int) -> None:
        """Check what the driver would check."""
        if not all(1 <= n <= most for n, most in zip(grid, _MOST)) or not 1 <= threads <= 1024:
            raise ValueError(f"{function}: a grid of {grid}, blocks of {threads}: at most {_MOST} and 1024")
        self.launches += 1

    def stream(self) -> Any:
        """Return another stream."""
        return 2

    def current(self) -> Any:
        """Return the stream."""
        return self._stream

    def use(self, stream: Any) -> Any:
        """Make a stream the current one; return the one before."""
        before, self._stream = self._stream, stream
        return before

    def wait(self, stream: Any, for_stream: Any) -> None:
        """Nothing is under way."""

    def begin(self) -> None:
        """Record nothing."""

    def end(self) -> Any:
        """Return no graph."""
        return "graph"

    def replay(self, graph: Any) -> None:
        """Do nothing."""

    def destroy(self, graph: Any) -> None:
        """Nothing is held."""


def begin() -> DryDriver:
    """Let this process have that GPU; nothing may have asked for one before."""
    assert not drivers.running()
    dry = DryDriver()
    drivers._running.append(dry)

    def noted(
        entry: Entry, kinds: tuple[str, ...], constants: tuple[tuple[str, Any], ...], capability: tuple[int, int]
    ) -> tuple[bytes, str]:
        dry.combinations[entry, kinds, constants] = None
        return b"", entry.name

    machine_code.of = noted
    return dry
