"""Convolutions of 3×3, stride 1, padding 1, no bias: forward, and the gradients of input and weight, each by itself.

The shapes are those of networks for CIFAR and ImageNet, and a first layer of 3 channels. Each gradient is asked for
alone, from a forward pass done before: nothing else requires one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bench.cases._convolution import conv, conv_input, conv_weight
from bench.cases._numpy import normal, wide
from bench.harness.case import Answer, Case, Inputs, Step

SHAPES = (  # N, C, H = W, O
    (32, 32, 32, 32),
    (32, 64, 16, 64),
    (128, 16, 32, 16),
    (128, 64, 8, 64),
    (16, 64, 56, 64),
    (16, 256, 14, 256),
    (32, 3, 32, 32),
)
KERNEL, STRIDE, PADDING = 3, 1, 1
WHAT = ("forward", "backward_data", "backward_weight")


class Convolution(Case):
    """One of the three passes."""

    def __init__(self, shape: tuple[int, int, int, int], what: str) -> None:
        batch, channels, side, outputs = shape
        kernel = outputs * channels * KERNEL**2
        pictures = batch * side * side * (channels + outputs)
        name = f"conv/{'x'.join(map(str, shape))}/{what}"
        super().__init__(name, 2 * batch * side * side * kernel, 4 * (pictures + kernel))
        # sums of so many terms of random signs in float32, whatever their order
        terms = {"forward": channels * 9, "backward_data": outputs * 9, "backward_weight": batch * side * side}[what]
        self.tolerance = 1e-5 + 6e-8 * math.sqrt(terms)
        self.shape = shape
        self.what = what

    def inputs(self, rng: np.random.Generator) -> Inputs:
        batch, channels, side, outputs = self.shape
        weight = normal(rng, outputs, channels, KERNEL, KERNEL) / np.float32(math.sqrt(channels * 9))
        return {
            "x": normal(rng, batch, channels, side, side),
            "weight": weight,
            "gy": normal(rng, batch, outputs, side, side),
        }

    def reference(self, inputs: Inputs) -> Answer:
        x, weight, gy = (wide(inputs[name]) for name in ("x", "weight", "gy"))
        if self.what == "forward":
            return {"y": conv(x, weight, STRIDE, PADDING)}
        if self.what == "backward_data":
            return {"gx": conv_input(gy, weight, x.shape, STRIDE, PADDING)}
        return {"gweight": conv_weight(x, gy, KERNEL, STRIDE, PADDING)}

    def _step(self, functional: Any, grad: Any, t: dict[str, Any]) -> Step:
        """The step in PyTorch's names, ours as well as theirs."""
        x, weight, gy = t["x"], t["weight"], t["gy"]
        if self.what == "forward":
            return lambda: (functional.conv2d(x, weight, None, STRIDE, PADDING),)
        source = x if self.what == "backward_data" else weight
        source.requires_grad_()
        y = functional.conv2d(x, weight, None, STRIDE, PADDING)
        step: Step = lambda: grad(y, (source,), gy, retain_graph=True)  # noqa: E731  # named for its type
        return step

    def tinygrad_bn(self, inputs: Inputs) -> Step:
        import tinygrad_bn as tb

        return self._step(tb.functional, tb.grad, {name: tb.tensor(a) for name, a in inputs.items()})

    def torch(self, inputs: Inputs) -> Step:
        import torch

        tensors = {name: torch.from_numpy(a) for name, a in inputs.items()}
        return self._step(torch.nn.functional, torch.autograd.grad, tensors)

    def torch_channels_last(self, inputs: Inputs) -> Step:
        import torch

        layout = torch.channels_last
        tensors = {name: torch.from_numpy(a).contiguous(memory_format=layout) for name, a in inputs.items()}
        return self._step(torch.nn.functional, torch.autograd.grad, tensors)

    def jax(self, inputs: Inputs) -> Step:
        import jax

        x, weight, gy = (jax.numpy.asarray(inputs[name]) for name in ("x", "weight", "gy"))

        def layer(x: Any, weight: Any) -> Any:
            return jax.lax.conv_general_dilated(x, weight, (STRIDE, STRIDE), [(PADDING, PADDING)] * 2)

        passes = {
            "forward": layer,
            "backward_data": lambda weight, gy: jax.vjp(lambda x: layer(x, weight), x)[1](gy)[0],
            "backward_weight": lambda x, gy: jax.vjp(lambda weight: layer(x, weight), weight)[1](gy)[0],
        }
        given = {"forward": (x, weight), "backward_data": (weight, gy), "backward_weight": (x, gy)}[self.what]
        compiled = jax.jit(passes[self.what])
        return lambda: (jax.block_until_ready(compiled(*given)),)


CASES = [Convolution(shape, what) for shape in SHAPES for what in WHAT]
