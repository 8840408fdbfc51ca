"""What is asked about the GPU, and of it: there is one, device 0. Names and meanings are PyTorch's.

Importing this module, or the package, loads nothing of CUDA's; asking it anything does.

Work goes to the calling thread's current stream, and launches return at once. A buffer belongs to the stream that was
current when it was made, and is handed out again in that stream's order. So whoever lets another stream read or write
a tensor makes that stream wait (``Stream.wait_stream``), and says so by ``tensor.record_stream(stream)``, or keeps the
tensor until the other stream is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tinygrad_bn.core import device as devices
from tinygrad_bn.core import random
from tinygrad_bn.errors import ArgumentError, DeviceError, DTypeError, OutOfMemoryError, nearest, wrong

__all__ = [
    "DeviceProperties",
    "OutOfMemoryError",
    "Stream",
    "current_device",
    "current_stream",
    "device_count",
    "empty_cache",
    "get_device_capability",
    "get_device_name",
    "get_device_properties",
    "get_rng_state",
    "initial_seed",
    "is_available",
    "manual_seed",
    "max_memory_allocated",
    "mem_get_info",
    "memory_allocated",
    "memory_reserved",
    "reset_peak_memory_stats",
    "set_rng_state",
    "stream",
    "synchronize",
]

_AnyDevice = int | str | devices.Device | None


class DeviceProperties(NamedTuple):
    """What is known of a GPU: its name, capability, bytes of memory, multiprocessors, bytes of second-level cache."""

    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int
    L2_cache_size: int


def _driver() -> Any:
    from tinygrad_bn.kernels.cuda.driver import driver

    return driver()


def _gpu(op: str, device: _AnyDevice) -> Any:
    """The device, if it is the GPU."""
    if device in (None, 0) and not isinstance(device, bool):
        device = "cuda"
    if isinstance(device, int):
        raise ArgumentError(wrong(op, "device", "0, the only GPU that is used", device))
    found = devices.as_device(device, op)
    if found.type != "cuda":
        raise DeviceError(wrong(op, "device", "the GPU", str(found)))
    return found


def is_available() -> bool:
    """Return whether tensors can live on a GPU."""
    try:
        _driver()
    except DeviceError:
        return False
    return True


def device_count() -> int:
    """Return how many GPUs tensors can live on: 0 or 1."""
    return int(is_available())


def current_device() -> int:
    """Return the number of the GPU in use, 0.

    Raises
    ------
    DeviceError
        If there is none.
    """
    _driver()
    return 0


def get_device_name(device: _AnyDevice = None) -> str:
    """Return the GPU's name."""
    return get_device_properties(device).name


def get_device_capability(device: _AnyDevice = None) -> tuple[int, int]:
    """Return the GPU's compute capability: (9, 0) is a Hopper."""
    found = get_device_properties(device)
    return found.major, found.minor


def get_device_properties(device: _AnyDevice = None) -> DeviceProperties:
    """Return what is known of the GPU."""
    _gpu("get_device_properties", device)
    d = _driver()
    major, minor = d.capability
    return DeviceProperties(d.name, major, minor, d.memory()[1], d.processors, d.l2_bytes)


def synchronize(device: _AnyDevice = None) -> None:
    """Wait until the GPU has done all that it was given, on all streams.

    Raises
    ------
    IndexRangeError
        What a kernel that this thread launched has found: an index, or a class, out of range.
    """
    _gpu("synchronize", device).synchronize()


# ------------------------------------------------------------------------------------------------------------- streams


class Stream:
    """Work that the GPU does in order, beside other streams' work.

    Attributes
    ----------
    cuda_stream : int
        The driver's handle, for other libraries.
    """

    __slots__ = ("_handle",)

    def __init__(self, device: _AnyDevice = None) -> None:
        _gpu("Stream", device)
        self._handle: Any = _driver().stream()

    @classmethod
    def _of(cls, handle: Any) -> Stream:
        found = object.__new__(cls)
        found._handle = handle
        return found

    @property
    def cuda_stream(self) -> int:
        """The driver's handle."""
        from tinygrad_bn.core.cuda_memory import number_of

        return number_of(self._handle)

    def synchronize(self) -> None:
        """Wait until the stream has done all that it was given."""
        _driver().synchronize(self._handle)

    def wait_stream(self, stream: Stream) -> None:
        """Let what this stream is given from now on wait for what another was given so far."""
        _driver().wait(_handle("wait_stream", self), _handle("wait_stream", stream))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.cuda_stream == self.cuda_stream

    def __hash__(self) -> int:
        return hash(self.cuda_stream)

    def __repr__(self) -> str:
        return f"Stream(device='cuda', cuda_stream={self.cuda_stream:#x})"


def _handle(op: str, stream: object) -> Any:
    if not isinstance(stream, Stream):
        raise DTypeError(wrong(op, "stream", "a Stream", type(stream).__name__))
    return stream._handle


def current_stream(device: _AnyDevice = None) -> Stream:
    """Return the calling thread's stream."""
    _gpu("current_stream", device)
    return Stream._of(_driver().current())


@contextmanager
def stream(stream: Stream | None) -> Iterator[None]:
    """Give what this thread launches within a block to a stream; None changes nothing.

    Neither at the beginning of the block nor at its end is anything waited for: see ``Stream.wait_stream``.
    """
    if stream is None:
        yield
        return
    from tinygrad_bn.core.cuda_memory import using

    with using(_handle("stream", stream)):
        yield


# -------------------------------------------------------------------------------------------------------------- memory


def memory_allocated(device: _AnyDevice = None) -> int:
    """Return how many bytes of the GPU's memory tensors hold, in units of 512."""
    return devices.memory_allocated(_gpu("memory_allocated", device))


def max_memory_allocated(device: _AnyDevice = None) -> int:
    """Return the most that ``memory_allocated`` has been since the start, or since ``reset_peak_memory_stats``."""
    return devices.max_memory_allocated(_gpu("max_memory_allocated", device))


def reset_peak_memory_stats(device: _AnyDevice = None) -> None:
    """Let ``max_memory_allocated`` begin anew, from what is in use now."""
    devices.reset_peak_memory_stats(_gpu("reset_peak_memory_stats", device))


def memory_reserved(device: _AnyDevice = None) -> int:
    """Return how many bytes were taken from the GPU, for tensors or to be used again."""
    return int(_gpu("memory_reserved", device).memory.reserved_bytes)


def mem_get_info(device: _AnyDevice = None) -> tuple[int, int]:
    """Return how many bytes of the GPU's memory nobody has taken, and how many there are."""
    _gpu("mem_get_info", device)
    free, total = _driver().memory()
    return free, total


def empty_cache() -> None:
    """Give memory that is kept to be used again back to the GPU. Where none is in use, nothing happens."""
    found = devices.in_use("cuda")
    if found is not None:
        found.memory.clear()


# ------------------------------------------------------------------------------------------------------ random numbers


def manual_seed(seed: int) -> None:
    """Seed the GPU's default generator alone; ``tb.manual_seed`` seeds all."""
    random.default_of(_gpu("manual_seed", None)).manual_seed(seed)


def initial_seed() -> int:
    """Return the seed of the GPU's default generator."""
    return random.default_of(_gpu("initial_seed", None)).initial_seed()


def get_rng_state(device: _AnyDevice = None) -> Any:
    """Return the state of the GPU's default generator, a tensor on the CPU."""
    return random.default_of(_gpu("get_rng_state", device)).get_state()


def set_rng_state(new_state: Any, device: _AnyDevice = None) -> None:
    """Continue the GPU's default generator from a state."""
    random.default_of(_gpu("set_rng_state", device)).set_state(new_state)


def __getattr__(name: str) -> Any:
    raise AttributeError(nearest("tinygrad_bn.cuda", name, __all__))
