"""Pooling, forward and backward: maxima of 2×2 and of 3×3 with stride 2, means of 3×3, the mean of a whole channel.

The numbers that maxima are taken of are all different, so that rounding and the order of comparisons decide nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.cases._convolution import avg_pool, avg_pool_input, extent, max_pool, max_pool_input
from bench.cases._numpy import normal, wide
from bench.harness.case import Answer, Array, Case, Inputs, Step


@dataclass(frozen=True)
class Window:
    """What is pooled, over which windows."""

    kind: str
    shape: tuple[int, int, int, int]
    kernel: int
    stride: int
    padding: int

    @property
    def outputs(self) -> tuple[int, ...]:
        """The shape that is left."""
        sides = (extent(n, self.kernel, self.stride, self.padding) for n in self.shape[2:])
        return (*self.shape[:2], *sides)


WINDOWS = {
    "max_2x2": Window("max", (32, 32, 32, 32), 2, 2, 0),
    "max_3x3_stride_2": Window("max", (16, 64, 112, 112), 3, 2, 1),
    "average_3x3": Window("average", (16, 192, 28, 28), 3, 1, 1),
    "global_average": Window("global", (128, 64, 8, 8), 8, 1, 0),
}


def different(rng: np.random.Generator, *shape: int) -> Array:
    """Return numbers of [-1, 1) in float32, no two of them equal."""
    size = math.prod(shape)
    if size > 1 << 24:
        raise ValueError(f"float32 holds {1 << 24} whole numbers in a row. Got a shape of {size} elements.")
    return (rng.permutation(size).astype(np.float32) / np.float32(size / 2) - 1).reshape(shape)


class Pooling(Case):
    """y, and the gradient of x."""

    def __init__(self, name: str, window: Window) -> None:
        size, left = math.prod(window.shape), math.prod(window.outputs)
        shape = "x".join(map(str, window.shape))
        super().__init__(f"pool/{name}/{shape}", 2 * left * window.kernel**2, 4 * 2 * (size + left))
        self.window = window

    def inputs(self, rng: np.random.Generator) -> Inputs:
        return {"x": different(rng, *self.window.shape), "gy": normal(rng, *self.window.outputs)}

    def reference(self, inputs: Inputs) -> Answer:
        w, x, gy = self.window, wide(inputs["x"]), wide(inputs["gy"])
        how = w.kernel, w.stride, w.padding
        if w.kind == "max":
            y, place = max_pool(x, *how)
            return {"y": y, "gx": max_pool_input(gy, place, x.shape, *how)}
        return {"y": avg_pool(x, *how), "gx": avg_pool_input(gy, x.shape, *how)}

    def _layer(self, functional: Any) -> Any:
        """The function of x, in PyTorch's names, ours as well as theirs."""
        w = self.window
        if w.kind == "global":
            return lambda x: functional.adaptive_avg_pool2d(x, 1)
        function = functional.max_pool2d if w.kind == "max" else functional.avg_pool2d
        return lambda x: function(x, w.kernel, w.stride, w.padding)

    def tinygrad_bn(self, inputs: Inputs) -> Step:
        import tinygrad_bn as tb

        layer, x, gy = self._layer(tb.functional), tb.tensor(inputs["x"]).requires_grad_(), tb.tensor(inputs["gy"])

        def step() -> tuple[Any, ...]:
            y = layer(x)
            return (y, *tb.grad(y, (x,), gy))

        return step

    def torch(self, inputs: Inputs) -> Step:
        return self._torch(inputs, channels_last=False)

    def torch_channels_last(self, inputs: Inputs) -> Step:
        return self._torch(inputs, channels_last=True)

    def _torch(self, inputs: Inputs, channels_last: bool) -> Step:
        import torch

        layout = torch.channels_last if channels_last else torch.contiguous_format
        x, gy = (torch.from_numpy(inputs[name]).contiguous(memory_format=layout) for name in ("x", "gy"))
        layer, x = self._layer(torch.nn.functional), x.requires_grad_()

        def step() -> tuple[Any, ...]:
            y = layer(x)
            return (y, *torch.autograd.grad(y, (x,), gy))

        return step

    def jax(self, inputs: Inputs) -> Step:
        import jax
        from jax import lax

        w, x, gy = self.window, jax.numpy.asarray(inputs["x"]), jax.numpy.asarray(inputs["gy"])
        sides = (w.padding, w.padding)
        how = (1, 1, w.kernel, w.kernel), (1, 1, w.stride, w.stride), [(0, 0), (0, 0), sides, sides]

        def layer(x: Any) -> Any:
            if w.kind == "global":
                return x.mean((2, 3), keepdims=True)
            if w.kind == "max":
                return lax.reduce_window(x, -np.inf, lax.max, *how)
            return lax.reduce_window(x, 0.0, lax.add, *how) / w.kernel**2

        def both(x: Any, gy: Any) -> tuple[Any, ...]:
            y, pullback = jax.vjp(layer, x)
            return (y, *pullback(gy))

        compiled = jax.jit(both)
        return lambda: jax.block_until_ready(compiled(x, gy))


CASES = [Pooling(name, window) for name, window in WINDOWS.items()]
