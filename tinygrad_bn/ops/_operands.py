"""Operands of elementwise operations: promotion on the way in, summing over broadcast axes on the way back."""

from __future__ import annotations

import numpy as np

from tinygrad_bn.core.dtype import DType, float32, get_default_dtype
from tinygrad_bn.core.tape import record
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.ops._broadcast import unbroadcast_axes
from tinygrad_bn.ops._common import Scalar, cast, is_tensor, operand, result_type, same_device
from tinygrad_bn.ops.movement import Cast, reshape
from tinygrad_bn.ops.sums import sum as sum_

Operand = Tensor | Scalar
NOTHING = Tensor(np.empty(0, np.float32), float32)  # stands for a saved tensor that no wanted gradient needs


def fit(gradient: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum a gradient over the axes along which an operand of ``shape`` was broadcast."""
    if gradient.array.shape == shape:
        return gradient
    over = unbroadcast_axes(gradient.array.shape, shape)
    return reshape(sum_(gradient, over), shape) if over else reshape(gradient, shape)


def convert(x: Tensor, dtype: DType) -> Tensor:
    """Convert an operand, on the tape where it is tracked."""
    return x if x.dtype is dtype else record(Cast, cast(x, dtype), (x,), constants=(x.dtype,))


def floating(op: str, value: object, name: str = "input") -> Tensor:
    """Return a tensor, integers converted to the default floating-point type, as PyTorch's float functions do."""
    if isinstance(value, Tensor) and value.dtype.is_floating_point:
        return value
    return cast(is_tensor(op, name, value), get_default_dtype())


def pair(op: str, input: object, other: object) -> tuple[Tensor, Tensor]:
    """Return two operands of one dtype and device."""
    if (
        isinstance(input, Tensor)
        and isinstance(other, Tensor)
        and input.dtype is other.dtype
        and input.device is other.device
    ):
        return input, other
    if isinstance(input, Tensor):
        x, y = input, operand(op, "other", other, input)
    else:
        y = is_tensor(op, "other", other)
        x = operand(op, "input", input, y)
    if x.device is not y.device:
        same_device(op, x, "other", y)
    if x.dtype is not y.dtype:
        dtype = result_type(x, y)
        x, y = convert(x, dtype), convert(y, dtype)
    return x, y
