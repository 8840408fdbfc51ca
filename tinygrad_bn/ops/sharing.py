"""Tensors as other libraries take them, and where they live: methods of Tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinygrad_bn.core.device import as_device
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import DeviceError, DTypeError, GradientError, wrong
from tinygrad_bn.ops.movement import to


def cuda(self: Tensor, device: Any = None, non_blocking: bool = False) -> Tensor:
    """Return the tensor on the GPU; itself, if it is there.

    Raises
    ------
    DeviceError
        If there is no GPU: with what to install.
    """
    place = as_device("cuda" if device in (None, 0) else device, "cuda")
    if place.type != "cuda":
        raise DeviceError(wrong("cuda", "device", "the GPU", str(place)))
    return to(self, device=place)


def _off_the_tape(op: str, x: Tensor) -> None:
    if x.node is not None:
        raise GradientError(f"{op}: the tensor requires grad.\nHint: share x.detach().")


def __dlpack__(
    self: Tensor, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: bool | None = None
) -> Any:
    if self.device.type != "cuda":
        return self.numpy().__dlpack__(stream=stream, max_version=max_version, dl_device=dl_device, copy=copy)
    from tinygrad_bn.core.exchange import CUDA, to_dlpack

    _off_the_tape("__dlpack__", self)
    if dl_device is not None and tuple(map(int, dl_device)) != CUDA:
        raise DeviceError(wrong("__dlpack__", "dl_device", f"{CUDA}, where the tensor is", dl_device, "copy it first"))
    return to_dlpack(self, stream, max_version, copy)


def __dlpack_device__(self: Tensor) -> tuple[int, int]:
    if self.device.type == "cuda":
        from tinygrad_bn.core.exchange import CUDA

        return CUDA
    return self.array.__dlpack_device__()


def _interface(self: Tensor) -> dict[str, Any]:
    if self.device.type != "cuda":
        raise AttributeError("__cuda_array_interface__: the tensor is not on the GPU")
    from tinygrad_bn.core.exchange import interface_of

    _off_the_tape("__cuda_array_interface__", self)
    return interface_of(self)


def record_stream(self: Tensor, stream: Any) -> None:
    """Note that a stream other than the tensor's own uses its memory: see ``tinygrad_bn.cuda``.

    Once the tensor is gone, its memory is handed out again only behind what that stream was given until then.

    Raises
    ------
    DTypeError, DeviceError
        If that is no stream, or the tensor is not on the GPU.
    """
    handle = getattr(stream, "_handle", None)
    if handle is None:
        raise DTypeError(wrong("record_stream", "stream", "a Stream", type(stream).__name__))
    if self.device.type != "cuda":
        raise DeviceError(wrong("record_stream", "input", "on the GPU", f"one on {self.device}"))
    from tinygrad_bn.core.cuda_memory import record_stream

    record_stream(self.array, handle)


METHODS: dict[str, Callable[..., Any]] = {
    "cuda": cuda,
    "record_stream": record_stream,
    "__dlpack__": __dlpack__,
    "__dlpack_device__": __dlpack_device__,
}
PROPERTIES = {
    "is_cuda": property(lambda self: self.device.type == "cuda", doc="Whether the tensor lives on a GPU."),
    "__cuda_array_interface__": property(_interface, doc="How other libraries find the tensor's memory on the GPU."),
}
