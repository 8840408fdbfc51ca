"""Parameter: a tensor that a module owns and an optimiser changes."""

from __future__ import annotations

from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.core.device import Device
from tinygrad_bn.core.dtype import DType
from tinygrad_bn.core.printing import describe
from tinygrad_bn.core.tensor import Tensor, set_requires_grad
from tinygrad_bn.ops._common import is_tensor


class Parameter(Tensor):
    """A leaf that a ``Module`` registers when it is assigned to one of its attributes.

    Parameters
    ----------
    data : Tensor
        The elements, whose memory is shared.
    requires_grad : bool
    """

    __slots__ = ()

    def __init__(self, data: Tensor, requires_grad: bool = True) -> None:
        source = is_tensor("Parameter", "data", data)
        super().__init__(source.array, source.dtype, source.device)
        self.contiguous_array = source.contiguous_array
        self.storage = source.shared_storage()
        if requires_grad:
            set_requires_grad(self, True)

    def __repr__(self) -> str:
        return f"Parameter containing:\n{describe(self)}"


def retarget(tensor: Tensor, dtype: DType | None, device: Device | None) -> None:
    """Convert a tensor's elements, and its gradient's, to a dtype and device, keeping the tensor itself.

    Integer and boolean tensors keep their dtype.
    """
    wanted = dtype if tensor.dtype.is_floating_point else None
    moved = ops.to(tensor.alias(), dtype=wanted, device=device)
    if moved.array is tensor.array:
        return
    tensor.array, tensor.contiguous_array = moved.array, moved.contiguous_array
    tensor.dtype, tensor.device = moved.dtype, moved.device
    tensor.bump()
    if tensor._grad is not None:
        tensor._grad = ops.to(tensor._grad.alias(), dtype=wanted, device=device)


def make(shape: tuple[int, ...], dtype: Any, device: Any, what: str = "empty") -> Parameter:
    """Return a new parameter made by ``ops.empty``, ``ops.zeros`` or ``ops.ones``."""
    return Parameter(getattr(ops, what)(shape, dtype=dtype, device=device))
