"""Random tensors, and dropout. All take a ``generator``; the default one is seeded by ``tb.manual_seed``."""

from __future__ import annotations

from typing import Any

from tinygrad_bn.core.device import as_device
from tinygrad_bn.core.dtype import DType, as_dtype, float32, get_default_dtype, int64
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.random import Generator, source
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, Node, record
from tinygrad_bn.core.tensor import Array, Tensor, set_requires_grad
from tinygrad_bn.errors import ArgumentError, DTypeError, wrong
from tinygrad_bn.ops._common import as_shape, cast, is_floating, is_tensor, new, plain


def _words(count: int, dtype: DType) -> int:
    return count if dtype.itemsize == 4 else 2 * count


def _draw(op: str, kernel: str, shape: tuple[int, ...], a: float, b: float, options: dict[str, Any]) -> Tensor:
    dtype = get_default_dtype() if options.get("dtype") is None else as_dtype(options["dtype"], op)
    if not dtype.is_floating_point:
        raise DTypeError(wrong(op, "dtype", "a floating-point type", dtype.name))
    out = new(shape, dtype, as_device(options.get("device"), op))
    draw_into(kernel, out, a, b, options.get("generator"))
    if options.get("requires_grad"):
        set_requires_grad(out, True)
    return out


def draw_into(kernel: str, out: Tensor, a: float, b: float, generator: Generator | None = None) -> Tensor:
    """Fill a contiguous tensor with uniform numbers of [a, b) or normal ones of mean a and deviation b.

    Those of low precision are float32's, rounded.
    """
    if out.dtype.low:
        wide = draw_into(kernel, new(out.array.shape, float32, out.device), a, b, generator)
        launch(out.device.kernels.copy, cast(wide, out.dtype).array, out.array)
        return out
    key = source(kernel, out.device, generator).take(_words(out.array.size + out.array.size % 2, out.dtype))
    target = out.array if out.contiguous_array else out.device.empty(out.array.shape, out.dtype)
    launch(getattr(out.device.kernels, kernel), key, float(a), float(b), target.reshape(-1))
    if target is not out.array:
        launch(out.device.kernels.copy, target, out.array)
    return out


def rand(
    *size: Any, generator: Generator | None = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Return uniform numbers of [0, 1)."""
    options = {"generator": generator, "dtype": dtype, "device": device, "requires_grad": requires_grad}
    return _draw("rand", "uniform", as_shape("rand", size), 0.0, 1.0, options)


def randn(
    *size: Any, generator: Generator | None = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Return normal numbers of mean 0 and variance 1."""
    options = {"generator": generator, "dtype": dtype, "device": device, "requires_grad": requires_grad}
    return _draw("randn", "normal", as_shape("randn", size), 0.0, 1.0, options)


def rand_like(
    input: Tensor,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return uniform numbers of [0, 1), of the input's shape, dtype and device unless others are given."""
    x = is_tensor("rand_like", "input", input)
    options = {
        "generator": generator,
        "dtype": dtype or x.dtype,
        "device": device or x.device,
        "requires_grad": requires_grad,
    }
    return _draw("rand_like", "uniform", x.array.shape, 0.0, 1.0, options)


def randn_like(
    input: Tensor,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return normal numbers of mean 0 and variance 1, of the input's shape, dtype and device unless others are
    given."""
    x = is_tensor("randn_like", "input", input)
    options = {
        "generator": generator,
        "dtype": dtype or x.dtype,
        "device": device or x.device,
        "requires_grad": requires_grad,
    }
    return _draw("randn_like", "normal", x.array.shape, 0.0, 1.0, options)


def randint(
    low: int,
    high: Any = None,
    size: Any = None,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
) -> Tensor:
    """Return integers of [low, high); ``randint(high, size)`` starts at 0.

    Raises
    ------
    ArgumentError
        If there is no integer to draw.
    """
    if size is None:
        low, high, size = 0, low, high
    if not isinstance(high, int) or high <= low:
        raise ArgumentError(wrong("randint", "high", f"an int above low = {low}", repr(high)))
    wanted = int64 if dtype is None else as_dtype(dtype, "randint")
    place = as_device(device, "randint")
    out = new(as_shape("randint", size if isinstance(size, tuple | list) else (size,)), int64, place)
    key = source("randint", place, generator).take(2 * out.array.size)
    launch(place.kernels.integers, key, low, high, out.array.reshape(-1))
    return cast(out, wanted)


def randperm(n: int, *, generator: Generator | None = None, device: Any = None) -> Tensor:
    """Return the integers below n in random order, int64."""
    if not isinstance(n, int) or n < 0:
        raise ArgumentError(wrong("randperm", "n", "an int of at least 0", repr(n)))
    out = new((n,), int64, as_device(device, "randperm"))
    key = source("randperm", out.device, generator).take(2 * n)
    launch(out.device.kernels.permutation, key, out.array)
    return out


def _checked_p(p: float) -> float:
    if not 0 <= p <= 1:
        raise ArgumentError(wrong("dropout", "p", "from 0 to 1", p))
    return float(p)


class Dropout(Node):
    """y = x mask / (1 - p): linear, so the gradient is the same op with the same key."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (masked_dropout(gy, *self.constants),)


@operation(Dropout)
def masked_dropout(input: Tensor, key: Array, p: float) -> Tensor:
    """Return the input with each element 0 with probability p, else divided by 1 - p; the mask belongs to the key."""
    out = new(input.array.shape, input.dtype, input.device)
    launch(input.device.kernels.dropout, plain(input).reshape(-1), key, p, out.array.reshape(-1))
    return record(Dropout, out, (input,), constants=(key, p))


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """In training, set each element to 0 with probability p and divide the others by 1 - p; else return the input.

    Srivastava et al. 2014 (JMLR 15, 1929), in the inverted form.

    Raises
    ------
    ArgumentError
        If p is not from 0 to 1.
    """
    x = is_floating("dropout", "input", input)
    p = _checked_p(p)
    if not training or p == 0:
        return x
    return masked_dropout(x, source("dropout", x.device, None).take(x.array.size), p)
