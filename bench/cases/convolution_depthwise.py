"""Depthwise convolutions, one filter or more a channel: forward and both gradients, as a training step asks for them.

The shapes are those of MobileNet and EfficientNet, fewer pictures; one has two filters a channel.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bench.cases._convolution import extent, padded, places
from bench.cases._numpy import normal, wide
from bench.harness.case import Answer, Case, Inputs, Step

SHAPES = (  # N, C, H = W, kernel, stride, filters a channel
    (16, 64, 56, 3, 1, 1),
    (16, 128, 56, 3, 2, 1),
    (16, 256, 14, 5, 1, 1),
    (16, 64, 28, 3, 1, 2),
    (16, 512, 14, 3, 1, 1),
    (16, 512, 7, 3, 1, 1),
)


class Depthwise(Case):
    """y, then the gradients of x and weight."""

    def __init__(self, batch: int, channels: int, side: int, kernel: int, stride: int, each: int) -> None:
        self.stride, self.padding, self.groups = stride, kernel // 2, channels
        out = extent(side, kernel, stride, self.padding)
        self.shapes = {
            "x": (batch, channels, side, side),
            "weight": (channels * each, 1, kernel, kernel),
            "gy": (batch, channels * each, out, out),
        }
        x, weight, gy = (math.prod(shape) for shape in self.shapes.values())
        name = f"depthwise/{batch}x{channels}x{side}x{side}/k{kernel}s{stride}m{each}"
        # x is read and y written; x and gy are read and gx written
        super().__init__(name, 6 * gy * kernel**2, 4 * (3 * x + 2 * gy + 3 * weight))
        self.tolerance = 1e-5 + 6e-8 * math.sqrt(batch * out * out)

    def inputs(self, rng: np.random.Generator) -> Inputs:
        return {name: normal(rng, *shape) for name, shape in self.shapes.items()}

    def reference(self, inputs: Inputs) -> Answer:
        x, weight, gy = (wide(inputs[name]) for name in ("x", "weight", "gy"))
        kernel, each, pad = weight.shape[2], len(weight) // self.groups, self.padding
        many, gx = padded(x, pad).repeat(each, 1), padded(np.zeros(x.shape), pad)
        y, gweight = np.zeros(gy.shape), np.empty(weight.shape)
        for i, j, seen in places(kernel, self.stride, *gy.shape[2:]):
            factor = weight[:, 0, i, j, None, None]
            y += factor * many[seen]
            gx[seen] += (factor * gy).reshape(len(gy), self.groups, each, *gy.shape[2:]).sum(2)
            gweight[:, 0, i, j] = (many[seen] * gy).sum((0, 2, 3))
        return {"y": y, "gx": gx[:, :, pad : pad + x.shape[2], pad : pad + x.shape[3]], "gweight": gweight}

    def _step(self, functional: Any, grad: Any, t: dict[str, Any]) -> Step:
        x, weight, gy = t["x"].requires_grad_(), t["weight"].requires_grad_(), t["gy"]

        def step() -> tuple[Any, ...]:
            y = functional.conv2d(x, weight, None, self.stride, self.padding, 1, self.groups)
            return (y, *grad(y, (x, weight), gy))

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


CASES = [Depthwise(*shape) for shape in SHAPES]
