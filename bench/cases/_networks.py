"""Convolutional networks for everybody, from one description: in float64 NumPy, in PyTorch and in JAX.

A layer draws its parameters and states what it is in each of the three. In NumPy it returns its output and the
function that takes the output's gradient back to the input and leaves the parameters' gradients; that is the answer
which all are held against. Parameters are in the order in which PyTorch lists them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.cases._convolution import conv, conv_input, conv_weight, max_pool, max_pool_input
from bench.cases._numpy import EPS, batch_norm, batch_norm_backward, normal
from bench.harness.case import Array

Shape = tuple[int, ...]
Back = Callable[[Array], Array]
NEW = 0.1  # the weight of a batch in the running statistics


def he_normal(rng: np.random.Generator, *shape: int) -> Array:
    """Return a weight drawn from N(0, 2 / fan_in); arXiv:1502.01852."""
    return normal(rng, *shape) * np.float32(math.sqrt(2 / math.prod(shape[1:])))


@dataclass
class Parameters:
    """The parameters of a pass in their order, and room for their gradients."""

    arrays: Sequence[Array]
    gradients: dict[int, Array] = field(default_factory=dict)
    used: int = 0

    def take(self, count: int) -> tuple[range, Sequence[Array]]:
        """Return the numbers of the next parameters, and the parameters."""
        numbers = range(self.used, self.used + count)
        self.used += count
        return numbers, self.arrays[numbers.start : numbers.stop]


@dataclass
class Flow:
    """What passes through a network in JAX beside the pictures: parameters, running statistics before and after."""

    parameters: Iterator[Any]
    running: Iterator[Any]
    after: list[Any] = field(default_factory=list)


class Layer:
    """A layer without parameters, unless it says otherwise."""

    def start(self, rng: np.random.Generator) -> list[Array]:
        """Draw the parameters, in float32."""
        return []

    def norms(self) -> list[int]:
        """Return the channels of each batch norm in it."""
        return []

    def size(self, shape: Shape) -> tuple[Shape, float]:
        """Return the shape that leaves it, and how often it multiplies and adds, for one picture's shape."""
        return shape, 0.0

    def numpy(self, x: Array, p: Parameters) -> tuple[Array, Back]:
        """Return the output and the way back."""
        raise NotImplementedError  # abstract: every layer has an answer

    def torch(self, nn: Any) -> Any:
        """Return PyTorch's module."""
        raise NotImplementedError  # abstract

    def jax(self, x: Any, flow: Flow) -> Any:
        """Return the output."""
        raise NotImplementedError  # abstract


@dataclass(frozen=True)
class Conv(Layer):
    """A convolution without bias whose padding is half of its kernel."""

    inputs: int
    outputs: int
    kernel: int = 3
    stride: int = 1

    def start(self, rng: np.random.Generator) -> list[Array]:
        return [he_normal(rng, self.outputs, self.inputs, self.kernel, self.kernel)]

    def size(self, shape: Shape) -> tuple[Shape, float]:
        out = (self.outputs, *(-(-n // self.stride) for n in shape[1:]))
        return out, math.prod(out) * self.inputs * self.kernel**2

    def numpy(self, x: Array, p: Parameters) -> tuple[Array, Back]:
        (number,), (weight,) = p.take(1)
        how = self.stride, self.kernel // 2

        def back(g: Array) -> Array:
            p.gradients[number] = conv_weight(x, g, self.kernel, *how)
            return conv_input(g, weight, x.shape, *how)

        return conv(x, weight, *how), back

    def torch(self, nn: Any) -> Any:
        return nn.Conv2d(self.inputs, self.outputs, self.kernel, self.stride, self.kernel // 2, bias=False)

    def jax(self, x: Any, flow: Flow) -> Any:
        from jax import lax

        sides = (self.kernel // 2, self.kernel // 2)
        return lax.conv_general_dilated(x, next(flow.parameters), (self.stride, self.stride), [sides, sides])


@dataclass(frozen=True)
class Norm(Layer):
    """Batch norm of (N, C, H, W) or (N, C)."""

    channels: int
    pictures: bool = True

    def start(self, rng: np.random.Generator) -> list[Array]:
        return [np.ones(self.channels, np.float32), np.zeros(self.channels, np.float32)]

    def norms(self) -> list[int]:
        return [self.channels]

    def numpy(self, x: Array, p: Parameters) -> tuple[Array, Back]:
        (gamma, beta), (weight, bias) = p.take(2)
        y, hat, invstd = batch_norm(x, weight, bias)

        def back(g: Array) -> Array:
            gx, p.gradients[gamma], p.gradients[beta] = batch_norm_backward(g, hat, invstd, weight)
            return gx

        return y, back

    def torch(self, nn: Any) -> Any:
        return (nn.BatchNorm2d if self.pictures else nn.BatchNorm1d)(self.channels, eps=EPS)

    def jax(self, x: Any, flow: Flow) -> Any:
        from jax import lax

        axes, shape = (0, *range(2, x.ndim)), (1, -1, *[1] * (x.ndim - 2))
        weight, bias = next(flow.parameters).reshape(shape), next(flow.parameters).reshape(shape)
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        count = x.size // self.channels
        running_mean, running_var = next(flow.running)
        new_mean, new_var = mean.reshape(-1), var.reshape(-1) * (count / (count - 1))
        flow.after.append(((1 - NEW) * running_mean + NEW * new_mean, (1 - NEW) * running_var + NEW * new_var))
        return (x - mean) * lax.rsqrt(var + EPS) * weight + bias


class ReLU(Layer):
    """max(x, 0)."""

    def numpy(self, x: Array, p: Parameters) -> tuple[Array, Back]:
        return np.maximum(x, 0), lambda g: g * (x > 0)

    def torch(self, nn: Any) -> Any:
        return nn.ReLU()

    def jax(self, x: Any, flow: Flow) -> Any:
        import jax

        return jax.nn.relu(x)


class MaxPool(Layer):
    """The maximum of each 2×2."""

    def size(self, shape: Shape) -> tuple[Shape, float]:
        return (shape[0], shape[1] // 2, shape[2] // 2), 0.0

    def numpy(self, x: Array, p: Parameters) -> tuple[Array, Back]:
        y, place = max_pool(x, 2, 2, 0)
        return y, lambda g: max_pool_input(g, place, x.shape, 2, 2, 0)

    def torch(self, nn: Any) -> Any:
        return nn.MaxPool2d(2)

    def jax(self, x: Any, flow: Flow) -> Any:
        from jax import lax

        return lax.reduce_window(x, -np.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")


class Mean(Layer):
    """The mean of each channel, shape (N, C, 1, 1)."""

    def size(self, shape: Shape) -> tuple[Shape, float]:
        return (shape[0], 1, 1), 0.0

    def numpy(self, x: Array, p: Parameters) -> tuple[Array, Back]:
        area = x.shape[2] * x.shape[3]
        return x.mean((2, 3), keepdims=True), lambda g: np.broadcast_to(g / area, x.shape)

    def torch(self, nn: Any) -> Any:
        return nn.AdaptiveAvgPool2d(1)

    def jax(self, x: Any, flow: Flow) -> Any:
        return x.mean((2, 3), keepdims=True)


class Flatten(Layer):
    """All of a picture in one row."""

    def size(self, shape: Shape) -> tuple[Shape, float]:
        return (math.prod(shape),), 0.0

    def numpy(self, x: Array, p: Parameters) -> tuple[Array, Back]:
        return x.reshape(len(x), -1), lambda g: g.reshape(x.shape)

    def torch(self, nn: Any) -> Any:
        return nn.Flatten()

    def jax(self, x: Any, flow: Flow) -> Any:
        return x.reshape(len(x), -1)


@dataclass(frozen=True)
class Linear(Layer):
    """x weightᵀ + bias."""

    inputs: int
    outputs: int
    bias: bool = True

    def start(self, rng: np.random.Generator) -> list[Array]:
        bias = [np.zeros(self.outputs, np.float32)] if self.bias else []
        return [he_normal(rng, self.outputs, self.inputs), *bias]

    def size(self, shape: Shape) -> tuple[Shape, float]:
        return (self.outputs,), self.inputs * self.outputs

    def numpy(self, x: Array, p: Parameters) -> tuple[Array, Back]:
        numbers, (weight, *bias) = p.take(1 + self.bias)

        def back(g: Array) -> Array:
            p.gradients.update(zip(numbers, (g.T @ x, g.sum(0))))
            return g @ weight

        return x @ weight.T + sum(bias), back

    def torch(self, nn: Any) -> Any:
        return nn.Linear(self.inputs, self.outputs, bias=self.bias)

    def jax(self, x: Any, flow: Flow) -> Any:
        y = x @ next(flow.parameters).T
        return y + next(flow.parameters) if self.bias else y


class Chain(Layer):
    """Layers one after the other; none: the identity."""

    def __init__(self, *layers: Layer) -> None:
        self.layers = layers

    def start(self, rng: np.random.Generator) -> list[Array]:
        return [array for layer in self.layers for array in layer.start(rng)]

    def norms(self) -> list[int]:
        return [channels for layer in self.layers for channels in layer.norms()]

    def size(self, shape: Shape) -> tuple[Shape, float]:
        total = 0.0
        for layer in self.layers:
            shape, count = layer.size(shape)
            total += count
        return shape, total

    def numpy(self, x: Array, p: Parameters) -> tuple[Array, Back]:
        backs: list[Back] = []
        for layer in self.layers:
            x, back = layer.numpy(x, p)
            backs.append(back)

        def all_back(g: Array) -> Array:
            for back in reversed(backs):
                g = back(g)
            return g

        return x, all_back

    def torch(self, nn: Any) -> Any:
        return nn.Sequential(*(layer.torch(nn) for layer in self.layers))

    def jax(self, x: Any, flow: Flow) -> Any:
        for layer in self.layers:
            x = layer.jax(x, flow)
        return x


@dataclass(frozen=True)
class Sum(Layer):
    """body(x) + shortcut(x)."""

    body: Chain
    shortcut: Chain

    def start(self, rng: np.random.Generator) -> list[Array]:
        return self.body.start(rng) + self.shortcut.start(rng)

    def norms(self) -> list[int]:
        return self.body.norms() + self.shortcut.norms()

    def size(self, shape: Shape) -> tuple[Shape, float]:
        out, count = self.body.size(shape)
        return out, count + self.shortcut.size(shape)[1]

    def numpy(self, x: Array, p: Parameters) -> tuple[Array, Back]:
        (y, back), (beside, back_beside) = self.body.numpy(x, p), self.shortcut.numpy(x, p)
        return y + beside, lambda g: back(g) + back_beside(g)

    def torch(self, nn: Any) -> Any:
        class Residual(nn.Module):  # type: ignore[misc]  # PyTorch's, known when it runs
            def __init__(self, body: Any, shortcut: Any) -> None:
                super().__init__()
                self.body, self.shortcut = body, shortcut

            def forward(self, x: Any) -> Any:
                return self.body(x) + self.shortcut(x)

        return Residual(self.body.torch(nn), self.shortcut.torch(nn))

    def jax(self, x: Any, flow: Flow) -> Any:
        return self.body.jax(x, flow) + self.shortcut.jax(x, flow)
