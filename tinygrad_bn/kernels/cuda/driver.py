"""The driver of the GPU, as far as it is used here: memory, copies, launches, streams, graphs.

One GPU, device 0, and its primary context, which other libraries of the process share. Where kernels are simulated,
so is this: memory of the host stands for the GPU's, and a stream does at once what it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinygrad_bn.kernels.cuda.target import SIMULATED

__all__ = ["Driver", "driver", "running"]


class Driver:
    """What the package asks of a GPU. Addresses, streams, functions and graphs are ints, or objects of the driver's."""

    name = ""
    capability = (0, 0)
    processors = 1
    l2_bytes = 0

    def allocate(self, nbytes: int) -> int:
        """Return the address of so many bytes.

        Raises
        ------
        MemoryError
            If there are not as many left.
        """
        raise NotImplementedError

    def free(self, address: int) -> None:
        """Give memory back."""
        raise NotImplementedError

    def memory(self) -> tuple[int, int]:
        """Return how many bytes are free, and how many there are."""
        raise NotImplementedError

    def copy_in(self, address: int, host: int, nbytes: int) -> None:
        """Copy from the host, in the current stream's order; the host's memory may be changed at once."""
        raise NotImplementedError

    def copy_out(self, host: int, address: int, nbytes: int) -> None:
        """Copy to the host, behind what the current stream was given, and wait for it."""
        raise NotImplementedError

    def copy(self, to: int, address: int, nbytes: int) -> None:
        """Copy within the GPU, in the current stream's order."""
        raise NotImplementedError

    def clear(self, address: int, nbytes: int) -> None:
        """Fill memory with zero bytes, in the current stream's order."""
        raise NotImplementedError

    def synchronize(self, stream: Any = None) -> None:
        """Wait for all that a stream was given; None: all that the GPU was."""
        raise NotImplementedError

    def loaded(self, cubin: bytes, name: str) -> Any:
        """Return a kernel of a piece of machine code."""
        raise NotImplementedError

    def launch(self, function: Any, grid: tuple[int, int, int], threads: int, arguments: int) -> None:
        """Launch a kernel in the current stream; ``arguments`` is the address of the addresses of its arguments."""
        raise NotImplementedError

    def stream(self) -> Any:
        """Make a stream."""
        raise NotImplementedError

    def current(self) -> Any:
        """Return the calling thread's stream."""
        raise NotImplementedError

    def use(self, stream: Any) -> Any:
        """Make a stream the calling thread's; return the one before."""
        raise NotImplementedError

    def wait(self, stream: Any, for_stream: Any) -> None:
        """Let a stream wait for what another has been given by now."""
        raise NotImplementedError

    def begin(self) -> None:
        """Record what the current stream is given from now on, instead of doing it."""
        raise NotImplementedError

    def end(self) -> Any:
        """End that, and return a graph of what was recorded."""
        raise NotImplementedError

    def replay(self, graph: Any) -> None:
        """Do what a graph holds, in the current stream's order."""
        raise NotImplementedError

    def destroy(self, graph: Any) -> None:
        """Let go of a graph."""
        raise NotImplementedError

    def simulate(self, run: Callable[[], None]) -> None:
        """Launch a simulated kernel."""
        raise NotImplementedError


_running: list[Driver] = []


def running() -> bool:
    """Whether something has asked for the GPU in this process."""
    return bool(_running)


def driver() -> Driver:
    """Return the driver; at first, start it.

    Raises
    ------
    DeviceError
        If there is no GPU, or no driver: with what to install.
    """
    if not _running:
        if SIMULATED:
            from tinygrad_bn.kernels.cuda.driver_simulated import SimulatedDriver

            _running.append(SimulatedDriver())
        else:
            from tinygrad_bn.kernels.cuda.driver_real import RealDriver

            _running.append(RealDriver())
    return _running[0]
