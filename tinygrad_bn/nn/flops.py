"""What a call of a layer computes: multiply-adds of its products, floating-point operations of all.

A multiply-add is two operations, an activation one an element. Padding counts as data; statistics of normalisations
are not counted, for in inference there are none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.nn.module import Module
from tinygrad_bn.ops.recurrent import GATES

Count = tuple[int, int]


def _with_bias(module: Any, products: int, size: int) -> Count:
    return products, 2 * products + (size if getattr(module, "bias", None) is not None else 0)


def _linear(module: Any, x: Tensor, y: Tensor) -> Count:
    """One multiply-add an input feature and output element."""
    return _with_bias(module, y.array.size * x.array.shape[-1], y.array.size)


def _convolution(module: Any, x: Tensor, y: Tensor) -> Count:
    """One multiply-add a number of the filter and output element."""
    filter_size = module.in_channels // module.groups * prod(module.kernel_size)
    return _with_bias(module, y.array.size * filter_size, y.array.size)


def _transposed(module: Any, x: Tensor, y: Tensor) -> Count:
    """One multiply-add a number of the filter and input element."""
    filter_size = module.out_channels // module.groups * prod(module.kernel_size)
    return _with_bias(module, x.array.size * filter_size, y.array.size)


def _norm(module: Any, x: Tensor, y: Tensor) -> Count:
    """Subtract the mean and divide; with parameters, multiply and add."""
    affine = getattr(module, "weight", None) is not None
    return 0, (4 if affine else 2) * y.array.size


def _window(axes: int, module: Any, x: Tensor, y: Tensor) -> Count:
    """One operation an element of the window and output element."""
    size = module.kernel_size
    return 0, y.array.size * (prod(size) if isinstance(size, tuple | list) else size**axes)


def _adaptive(module: Any, x: Tensor, y: Tensor) -> Count:
    """One operation an input element."""
    return 0, x.array.size


def _elementwise(module: Any, x: Tensor, y: Tensor) -> Count:
    return 0, y.array.size


def _recurrent(module: Any, x: Tensor, y: Tensor) -> Count:
    """The products of inputs and states of each step, and what the gates compute."""
    steps = x.array.size // max(x.array.shape[-1], 1)
    rows = GATES[module.kind] * module.hidden_size
    layers = getattr(module, "num_layers", 1)
    directions = 2 if getattr(module, "bidirectional", False) else 1
    above = rows * module.hidden_size * directions * (layers - 1)
    weights = directions * (rows * (module.input_size + module.hidden_size * layers) + above)
    per_state = {"tanh": 2, "relu": 2, "gru": 10, "lstm": 13}[module.kind] * module.hidden_size
    biases = 2 * rows if module.bias else 0
    return steps * weights, 2 * steps * weights + steps * directions * layers * (per_state + biases)


COUNTERS: dict[str, Callable[[Any, Tensor, Tensor], Count]] = {
    "Linear": _linear,
    **dict.fromkeys(("Conv1d", "Conv2d", "Conv3d"), _convolution),
    **dict.fromkeys(("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"), _transposed),
    **dict.fromkeys(("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "LayerNorm", "GroupNorm", "RMSNorm"), _norm),
    **dict.fromkeys(("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "SyncBatchNorm"), _norm),
    **dict.fromkeys(("MaxPool1d", "AvgPool1d"), partial(_window, 1)),
    **dict.fromkeys(("MaxPool2d", "AvgPool2d"), partial(_window, 2)),
    **dict.fromkeys(("AdaptiveAvgPool1d", "AdaptiveAvgPool2d"), _adaptive),
    **dict.fromkeys(("AdaptiveMaxPool1d", "AdaptiveMaxPool2d"), _adaptive),
    **dict.fromkeys(("RNNBase", "RNNCellBase"), _recurrent),
    **dict.fromkeys(("CELU", "ELU", "GELU", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU"), _elementwise),
    **dict.fromkeys(("LogSigmoid", "LogSoftmax", "Mish", "PReLU", "ReLU", "ReLU6", "SELU", "SiLU"), _elementwise),
    **dict.fromkeys(("Sigmoid", "Softmax", "Softplus", "Softsign", "Tanh", "Tanhshrink"), _elementwise),
}
"""(multiply-adds, all operations) of a call with input x and output y, by the name of the module's class or base."""


def count(module: Module, args: tuple[Any, ...], out: Any) -> Count:
    """Return the multiply-adds and all floating-point operations of a module's call; 0 for what is not known."""
    counter = next((COUNTERS[k.__name__] for k in type(module).__mro__ if k.__name__ in COUNTERS), None)
    x = next((a for a in args if isinstance(a, Tensor)), None)
    y = out[0] if isinstance(out, tuple) and out else out
    return (0, 0) if counter is None or x is None or not isinstance(y, Tensor) else counter(module, x, y)
