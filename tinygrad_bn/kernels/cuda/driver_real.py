"""The driver of a GPU that is there, by ``cuda.bindings``."""

from __future__ import annotations

import threading
from typing import Any

from tinygrad_bn.errors import DeviceError
from tinygrad_bn.kernels.cuda.driver import Driver
from tinygrad_bn.kernels.cuda.target import INSTALL

__all__ = ["RealDriver"]

_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
_STAGED = 1 << 16  # bytes of a copy that the driver takes along with its command


def _start() -> Any:
    try:
        from cuda.bindings import driver as api

        status, *_ = api.cuInit(0)
    except Exception as error:  # an import of one package or another, or no library of the driver's
        raise DeviceError(f"device: 'cuda' needs an NVIDIA driver: {error}\nHint: {INSTALL}.") from error
    if int(status):
        told = api.cuGetErrorName(status)[1].decode()
        raise DeviceError(f"device: 'cuda' needs an NVIDIA GPU: {told}.\nHint: {INSTALL}.")
    return api


class _Threads(threading.local):
    """What each thread of the host has told the driver."""

    ready = False
    recording = False
    stream: Any = None


class RealDriver(Driver):
    """Device 0 and its primary context; work goes to one stream of our own unless another is chosen."""

    def __init__(self) -> None:
        self._api = api = _start()
        if not self._checked(api.cuDeviceGetCount()):
            raise DeviceError(f"device: 'cuda' needs an NVIDIA GPU, and there is none.\nHint: {INSTALL}.")
        self._device = self._checked(api.cuDeviceGet(0))
        self._context = self._checked(api.cuDevicePrimaryCtxRetain(self._device))
        self._threads = _Threads()
        self._checked(api.cuCtxSetCurrent(self._context))
        self._main = self._checked(api.cuStreamCreate(int(api.CUstream_flags.CU_STREAM_NON_BLOCKING)))
        kind = api.CUdevice_attribute
        self.name = self._checked(api.cuDeviceGetName(128, self._device)).split(b"\0")[0].decode()
        self.capability = (
            self._attribute(kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
            self._attribute(kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
        )
        self.processors = self._attribute(kind.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
        self.l2_bytes = self._attribute(kind.CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)

    def _attribute(self, which: Any) -> int:
        return int(self._checked(self._api.cuDeviceGetAttribute(which, self._device)))

    def _checked(self, answer: tuple[Any, ...]) -> Any:
        """What a call returned beside its status."""
        status, *found = answer
        if int(status):
            name = self._api.cuGetErrorName(status)[1]
            text = self._api.cuGetErrorString(status)[1]
            told = ": ".join(t.decode() if isinstance(t, bytes) else str(t) for t in (name, text))
            if int(status) == _OUT_OF_MEMORY:
                raise MemoryError(told)
            raise DeviceError(f"cuda: the driver reports {told}.")
        return found[0] if len(found) == 1 else tuple(found)

    def _enter(self) -> Any:
        """The calling thread's stream, our context made its current one."""
        if not self._threads.ready:
            self._checked(self._api.cuCtxSetCurrent(self._context))
            self._threads.ready = True
            self._threads.stream = self._main
        return self._threads.stream

    def allocate(self, nbytes: int) -> int:
        """Return the address of so many bytes."""
        self._enter()
        return int(self._checked(self._api.cuMemAlloc(nbytes)))

    def free(self, address: int) -> None:
        """Give memory back; waits for the GPU."""
        self._enter()
        self._checked(self._api.cuMemFree(address))

    def memory(self) -> tuple[int, int]:
        """Return how many bytes are free, and how many there are."""
        self._enter()
        free, total = self._checked(self._api.cuMemGetInfo())
        return int(free), int(total)

    def copy_in(self, address: int, host: int, nbytes: int) -> None:
        """Copy from pageable memory of the host.

        The driver has taken up to 64 KiB over when its call returns; more is waited for, since a GPU that can read the
        host's pages may do so later.
        """
        stream = self._enter()
        if self._threads.recording:  # the graph would read the host's memory, whatever is there by then
            raise DeviceError("capture: a copy from the host's memory cannot be recorded.")
        self._checked(self._api.cuMemcpyHtoDAsync(address, host, nbytes, stream))
        if nbytes > _STAGED:
            self._checked(self._api.cuStreamSynchronize(stream))

    def copy_out(self, host: int, address: int, nbytes: int) -> None:
        """Copy to the host and wait for it."""
        stream = self._enter()
        self._checked(self._api.cuMemcpyDtoHAsync(host, address, nbytes, stream))
        self._checked(self._api.cuStreamSynchronize(stream))

    def copy(self, to: int, address: int, nbytes: int) -> None:
        """Copy within the GPU."""
        self._checked(self._api.cuMemcpyDtoDAsync(to, address, nbytes, self._enter()))

    def clear(self, address: int, nbytes: int) -> None:
        """Fill memory with zero bytes."""
        self._checked(self._api.cuMemsetD8Async(address, 0, nbytes, self._enter()))

    def synchronize(self, stream: Any = None) -> None:
        """Wait for a stream; None: for the GPU."""
        self._enter()
        api = self._api
        self._checked(api.cuCtxSynchronize() if stream is None else api.cuStreamSynchronize(stream))

    def loaded(self, cubin: bytes, name: str) -> Any:
        """Return a kernel of a piece of machine code."""
        self._enter()
        module = self._checked(self._api.cuModuleLoadData(cubin))
        return self._checked(self._api.cuModuleGetFunction(module, name.encode()))

    def launch(self, function: Any, grid: tuple[int, int, int], threads: int, arguments: int) -> None:
        """Launch a kernel in the current stream."""
        status = self._api.cuLaunchKernel(function, *grid, threads, 1, 1, 0, self._enter(), arguments, 0)
        if int(status[0]):
            self._checked(status)

    def stream(self) -> Any:
        """Make a stream."""
        self._enter()
        return self._checked(self._api.cuStreamCreate(int(self._api.CUstream_flags.CU_STREAM_NON_BLOCKING)))

    def current(self) -> Any:
        """Return the calling thread's stream."""
        return self._enter()

    def use(self, stream: Any) -> Any:
        """Make a stream the calling thread's; return the one before."""
        before = self._enter()
        self._threads.stream = stream
        return before

    def wait(self, stream: Any, for_stream: Any) -> None:
        """Let a stream wait for what another has been given by now."""
        api = self._api
        event = self._checked(api.cuEventCreate(int(api.CUevent_flags.CU_EVENT_DISABLE_TIMING)))
        self._checked(api.cuEventRecord(event, for_stream))
        self._checked(api.cuStreamWaitEvent(stream, event, 0))
        self._checked(api.cuEventDestroy(event))

    def begin(self) -> None:
        """Record what the current stream is given from now on."""
        mode = self._api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._checked(self._api.cuStreamBeginCapture(self._enter(), mode))
        self._threads.recording = True

    def end(self) -> Any:
        """End that, and return a graph that can be launched."""
        self._threads.recording = False
        graph = self._checked(self._api.cuStreamEndCapture(self._enter()))
        try:
            return self._checked(self._api.cuGraphInstantiate(graph, 0))
        finally:
            self._checked(self._api.cuGraphDestroy(graph))

    def replay(self, graph: Any) -> None:
        """Launch a graph in the current stream."""
        self._checked(self._api.cuGraphLaunch(graph, self._enter()))

    def destroy(self, graph: Any) -> None:
        """Let go of a graph."""
        self._enter()
        self._checked(self._api.cuGraphExecDestroy(graph))
