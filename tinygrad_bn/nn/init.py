"""Filling tensors with the initial values that networks start from, in place and off the tape.

Glorot & Bengio 2010 (AISTATS, 249) for ``xavier_*``, He et al. 2015 (arXiv:1502.01852) for ``kaiming_*``; names and
distributions are PyTorch's. All that draw take a ``generator``; the default one is seeded by ``tb.manual_seed``.
"""

from __future__ import annotations

import math

from tinygrad_bn.core.dtype import float64, stored
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.random import Generator
from tinygrad_bn.core.tensor import Tensor, wrap
from tinygrad_bn.errors import ArgumentError, ShapeError, expected, wrong
from tinygrad_bn.ops._common import cast, is_floating
from tinygrad_bn.ops.random import draw_into

_GAINS = {
    **dict.fromkeys(("linear", "identity", "conv1d", "conv2d", "conv3d", "sigmoid"), 1.0),
    "tanh": 5.0 / 3.0,
    "relu": math.sqrt(2.0),
    "selu": 0.75,
}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return by how much a weight's deviation grows so that an activation keeps the variance of what flows through it.

    Parameters
    ----------
    nonlinearity : str
        ``linear``, ``sigmoid``, ``tanh``, ``relu``, ``leaky_relu`` or ``selu``.
    param : float, optional
        The negative slope of ``leaky_relu``, 0.01 by default.

    Raises
    ------
    ArgumentError
        If the name is not known.
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else float(param)
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity not in _GAINS:
        known = ", ".join([*_GAINS, "leaky_relu"])
        raise ArgumentError(wrong("calculate_gain", "nonlinearity", f"one of {known}", repr(nonlinearity)))
    return _GAINS[nonlinearity]


def _drawn(op: str, kernel: str, tensor: Tensor, a: float, b: float, generator: Generator | None) -> Tensor:
    is_floating(op, "tensor", tensor)
    if tensor.array.size:
        draw_into(kernel, tensor, a, b, generator)
        tensor.bump()
    return tensor


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with uniform numbers of [a, b); return the tensor."""
    return _drawn("uniform_", "uniform", tensor, a, b, generator)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with normal numbers; return the tensor."""
    if not std >= 0:
        raise ArgumentError(wrong("normal_", "std", "at least 0", std))
    return _drawn("normal_", "normal", tensor, mean, std, generator)


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:
    """Fill with normal numbers limited to [a, b], drawn by the inverse of the distribution; return the tensor.

    Raises
    ------
    ArgumentError
        If std is not positive, or a is not below b.
    """
    from scipy.special import ndtr, ndtri

    is_floating("trunc_normal_", "tensor", tensor)
    if not std > 0:
        raise ArgumentError(wrong("trunc_normal_", "std", "above 0", std))
    if not a < b:
        raise ArgumentError(wrong("trunc_normal_", "a", f"below 'b' = {b}", a))
    if not tensor.array.size:
        return tensor
    low, high = (a - mean) / std, (b - mean) / std
    flip = -1.0 if low > 0 else 1.0  # in the upper tail probabilities round to 1: draw in the lower one
    first, last = (low, high) if flip > 0 else (-high, -low)
    wide = wrap(tensor.device.empty(tensor.array.shape, float64), tensor.device)
    draw_into("uniform", wide, float(ndtr(first)), float(ndtr(last)), generator)
    values = (ndtri(tensor.device.to_host(wide.array)) * flip * std + mean).clip(a, b)
    launch(tensor.device.kernels.copy, cast(wrap(values, tensor.device), tensor.dtype).array, tensor.array)
    tensor.bump()
    return tensor


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with one number; return the tensor."""
    launch(tensor.device.kernels.fill, stored(val, tensor.dtype), tensor.array)
    tensor.bump()
    return tensor


def ones_(tensor: Tensor) -> Tensor:
    """Fill with ones; return the tensor."""
    return constant_(tensor, 1)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with zeros; return the tensor."""
    return constant_(tensor, 0)


def _calculate_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    """Return how many numbers flow into and out of an element of a weight of shape (out, in, …)."""
    shape = tensor.array.shape
    if len(shape) < 2:
        raise ShapeError(expected("init", "tensor", "at least 2 axes, (out, in, …)", f"shape {shape}"))
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def _chosen_fan(op: str, tensor: Tensor, mode: str) -> int:
    if mode not in ("fan_in", "fan_out"):
        raise ArgumentError(wrong(op, "mode", "'fan_in' or 'fan_out'", repr(mode)))
    fan_in, fan_out = _calculate_fan_in_and_fan_out(tensor)
    return fan_in if mode == "fan_in" else fan_out


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with uniform numbers of variance gain² · 2 / (fan_in + fan_out); return the tensor."""
    std = _xavier(tensor, gain)
    return uniform_(tensor, -math.sqrt(3.0) * std, math.sqrt(3.0) * std, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with normal numbers of variance gain² · 2 / (fan_in + fan_out); return the tensor."""
    return normal_(tensor, 0.0, _xavier(tensor, gain), generator)


def _xavier(tensor: Tensor, gain: float) -> float:
    total = sum(_calculate_fan_in_and_fan_out(tensor))
    return gain * math.sqrt(2.0 / total) if total else 0.0


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Fill with uniform numbers of variance gain² / fan; return the tensor.

    Parameters
    ----------
    tensor : Tensor, shape (out, in, …)
    a : float
        The negative slope of the leaky ReLU that follows.
    mode : {"fan_in", "fan_out"}
        Keep the variance of activations, or of gradients.
    nonlinearity : str
        As for ``calculate_gain``.
    """
    std = _kaiming("kaiming_uniform_", tensor, a, mode, nonlinearity)
    return uniform_(tensor, -math.sqrt(3.0) * std, math.sqrt(3.0) * std, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Fill with normal numbers of variance gain² / fan; parameters as for ``kaiming_uniform_``; return the tensor."""
    return normal_(tensor, 0.0, _kaiming("kaiming_normal_", tensor, a, mode, nonlinearity), generator)


def _kaiming(op: str, tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    fan = _chosen_fan(op, tensor, mode)
    return calculate_gain(nonlinearity, a) / math.sqrt(fan) if fan else 0.0
