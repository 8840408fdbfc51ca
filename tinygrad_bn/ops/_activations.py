"""The activations that a normalisation is fused with: their names, as kernels take them, and as other operations."""

from __future__ import annotations

import math

from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.ops import functions, smooth
from tinygrad_bn.ops.activation import leaky_relu, leaky_relu_backward

ACTIVATIONS = {
    "none": 0, "relu": 1, "sigmoid": 2, "leaky_relu": 3, "tanh": 4, "silu": 5, "gelu": 6, "gelu_tanh": 7,
}  # fmt: skip
"""As the kernels take them."""
RELU, LEAKY, TANH = ACTIVATIONS["relu"], ACTIVATIONS["leaky_relu"], ACTIVATIONS["tanh"]
SLOPE = 0.01


class Leaky(str):
    """The name "leaky_relu" that brings its slope with it, where that is not the usual one."""

    negative_slope: float = SLOPE


def named(op: str, activation: str | None, negative_slope: float = SLOPE) -> str:
    """Return the name of an activation, None standing for none; that of a leaky ReLU brings its slope with it.

    Raises
    ------
    ArgumentError
        If it is none of ``ACTIVATIONS``, or the slope is not finite.
    """
    name = "none" if activation is None else activation
    activation_code(op, name)
    if isinstance(negative_slope, bool) or not isinstance(negative_slope, int | float):
        raise ArgumentError(wrong(op, "negative_slope", "a number", repr(negative_slope)))
    if not math.isfinite(negative_slope):
        raise ArgumentError(wrong(op, "negative_slope", "finite", repr(negative_slope)))
    if name != "leaky_relu" or negative_slope == SLOPE:
        return name
    leaky = Leaky(name)
    leaky.negative_slope = float(negative_slope)
    return leaky


def activation_code(op: str, name: str) -> int:
    """Return an activation as the kernels take it."""
    code = ACTIVATIONS.get(name) if isinstance(name, str) else None
    if code is None:
        raise ArgumentError(wrong(op, "activation", f"one of {', '.join(ACTIVATIONS)}", repr(name)))
    return code


def slope_of(name: str) -> float:
    """Return the slope below 0 of a leaky ReLU; as kernels take it: 0 of none and ReLU, 0.0 of others."""
    code = ACTIVATIONS[name]
    if code <= RELU:
        return 0
    return getattr(name, "negative_slope", SLOPE) if code == LEAKY else 0.0


def told_by_output(name: str) -> bool:
    """Whether the output tells the slope; else what went in is needed."""
    return ACTIVATIONS[name] <= TANH and slope_of(name) >= 0


def activated(z: Tensor, name: str) -> Tensor:
    """Return an activation of z."""
    match name:
        case "none":
            return z
        case "leaky_relu":
            return leaky_relu(z, slope_of(name))
        case "silu":
            return smooth.silu(z)
        case "gelu":
            return smooth.gelu(z)
        case "gelu_tanh":
            return smooth.gelu(z, "tanh")
        case _:
            function = {"relu": functions.relu, "sigmoid": functions.sigmoid, "tanh": functions.tanh}[name]
            return function(z)


def through(gy: Tensor, z: Tensor, name: str) -> Tensor:
    """Return gy act'(z)."""
    match name:
        case "none":
            return gy
        case "silu":
            return smooth.silu_backward(gy, z)
        case "gelu":
            return smooth.gelu_backward(gy, z, "none")
        case "gelu_tanh":
            return smooth.gelu_backward(gy, z, "tanh")
        case "relu":
            return functions.relu_backward(gy, z.alias())
        case "leaky_relu":
            return leaky_relu_backward(gy, z, slope_of(name))
        case _:
            return through_output(gy, activated(z, name), name)


def through_output(gy: Tensor, y: Tensor, name: str) -> Tensor:
    """Return gy act' by y = act(z), which tells the slope."""
    match name:
        case "sigmoid":
            return functions.sigmoid_backward(gy, y)
        case "tanh":
            return functions.tanh_backward(gy, y)
        case _:
            return through(gy, y, name)
