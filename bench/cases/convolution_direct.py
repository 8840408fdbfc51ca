"""Convolutions that are not 3×3 of stride 1, forward and both gradients: pointwise, strided, large and dilated windows,
first layers, groups, one axis, transposed; shapes of networks (ResNet, Inception, MobileNet, ResNeXt, WaveNet, DCGAN).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from bench.cases._numpy import normal, wide
from bench.harness.case import Answer, Array, Case, Inputs, Step

Pair = tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """A convolution; a transposed one leads from ``outputs`` channels of its windows' places back to the input."""

    input: tuple[int, ...]
    outputs: int
    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    transposed: bool = False

    @property
    def axes(self) -> int:
        """1 or 2."""
        return len(self.input) - 2

    @property
    def op(self) -> str:
        """Its name in PyTorch."""
        return f"conv{'_transpose' * self.transposed}{self.axes}d"

    @property
    def options(self) -> dict[str, int]:
        """The arguments behind the tensors."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    @property
    def weight(self) -> tuple[int, ...]:
        """The shape of its filters."""
        inputs, kernel = self.input[1], (self.kernel,) * self.axes
        if self.transposed:
            return (inputs, self.outputs // self.groups, *kernel)
        return (self.outputs, inputs // self.groups, *kernel)

    @property
    def output(self) -> tuple[int, ...]:
        """The shape of its result."""
        span = self.dilation * (self.kernel - 1) + 1
        if self.transposed:
            sides = [(n - 1) * self.stride - 2 * self.padding + span for n in self.input[2:]]
        else:
            sides = [(n + 2 * self.padding - span) // self.stride + 1 for n in self.input[2:]]
        return (self.input[0], self.outputs, *sides)


LAYERS = {
    "1x1_64_256": Layer((16, 64, 56, 56), 256, 1),
    "1x1_512_128": Layer((16, 512, 28, 28), 128, 1),
    "1x1_256_1024": Layer((16, 256, 14, 14), 1024, 1),
    "1x1_stride_2_16_32": Layer((128, 16, 32, 32), 32, 1, stride=2),
    "1x1_stride_2_256_512": Layer((16, 256, 56, 56), 512, 1, stride=2),
    "3x3_stride_2_16_32": Layer((128, 16, 32, 32), 32, 3, stride=2, padding=1),
    "3x3_stride_2_64_128": Layer((16, 64, 56, 56), 128, 3, stride=2, padding=1),
    "3x3_stride_2_256_512": Layer((16, 256, 14, 14), 512, 3, stride=2, padding=1),
    "5x5_32_64": Layer((16, 32, 28, 28), 64, 5, padding=2),
    "stem_7x7_112": Layer((16, 3, 112, 112), 64, 7, stride=2, padding=3),
    "stem_7x7_224": Layer((16, 3, 224, 224), 64, 7, stride=2, padding=3),
    "dilated_64_64": Layer((16, 64, 28, 28), 64, 3, padding=2, dilation=2),
    "depthwise_128": Layer((16, 128, 28, 28), 128, 3, padding=1, groups=128),
    "depthwise_stride_2_64": Layer((16, 64, 56, 56), 64, 3, stride=2, padding=1, groups=64),
    "groups_32_of_4": Layer((16, 128, 28, 28), 128, 3, padding=1, groups=32),
    "groups_4_of_32": Layer((16, 128, 28, 28), 128, 3, padding=1, groups=4),
    "conv1d_64_64": Layer((16, 64, 1000), 64, 5, padding=2),
    "conv1d_dilated_32_32": Layer((8, 32, 4000), 32, 3, padding=8, dilation=8),
    "transposed_64_32": Layer((16, 64, 32, 32), 32, 4, stride=2, padding=1, transposed=True),
    "transposed_256_128": Layer((32, 256, 8, 8), 128, 4, stride=2, padding=1, transposed=True),
}


def _seen(layer: Layer, sides: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """The places of a window, and the part of a padded picture that each sees of as many windows as ``sides`` says."""
    for place in product(range(layer.kernel), repeat=layer.axes):
        cuts = (
            slice(p * layer.dilation, p * layer.dilation + layer.stride * (n - 1) + 1, layer.stride)
            for p, n in zip(place, sides, strict=True)
        )
        yield (slice(None),) * 3 + place, (slice(None),) * 3 + tuple(cuts)  # type: ignore[operator]


def correlation(layer: Layer, x: Array, weight: Array, y: Array) -> Answer:
    """Of a picture x, filters (O, C / groups, …) and a cotangent y: the result, and the gradients of x and weight."""
    g, pad = layer.groups, [(0, 0)] * 2 + [(layer.padding,) * 2] * layer.axes
    padded = np.pad(x, pad).reshape(len(x), g, -1, *(n + 2 * layer.padding for n in x.shape[2:]))
    filters = weight.reshape(g, -1, *weight.shape[1:])
    rows = y.reshape(len(y), g, -1, math.prod(y.shape[2:]))
    out, gx, gweight = np.zeros_like(rows), np.zeros_like(padded), np.zeros_like(filters)
    for place, seen in _seen(layer, y.shape[2:]):
        part = padded[seen].reshape(*padded.shape[:3], -1)
        out += filters[place] @ part
        gx[seen] += (filters[place].swapaxes(1, 2) @ rows).reshape(gx[seen].shape)
        gweight[place] = (rows @ part.swapaxes(2, 3)).sum(0)
    inside = tuple(slice(layer.padding, layer.padding + n) for n in x.shape[2:])
    gx = gx.reshape(*x.shape[:2], *padded.shape[3:])[(slice(None), slice(None), *inside)]
    return {"y": out.reshape(y.shape), "gx": gx, "gweight": gweight.reshape(weight.shape)}


class DirectConvolution(Case):
    """A layer's forward pass and both gradients."""

    def __init__(self, name: str, layer: Layer) -> None:
        taps = layer.kernel**layer.axes
        windows = math.prod((layer.input if layer.transposed else layer.output)[2:])
        products = layer.input[0] * windows * layer.input[1] * layer.outputs // layer.groups * taps
        touched = 2 * (math.prod(layer.input) + math.prod(layer.output) + math.prod(layer.weight))
        super().__init__(f"conv_direct/{name}", 6 * products, 4 * touched)
        self.layer = layer
        # sums of so many terms of random signs in float32, whatever their order
        self.tolerance = 1e-5 + 6e-8 * math.sqrt(max(layer.input[0] * windows, layer.input[1] * taps))

    def inputs(self, rng: np.random.Generator) -> Inputs:
        layer = self.layer
        weight = normal(rng, *layer.weight) / np.float32(math.sqrt(math.prod(layer.weight[1:])))
        return {"x": normal(rng, *layer.input), "weight": weight, "gy": normal(rng, *layer.output)}

    def reference(self, inputs: Inputs) -> Answer:
        x, weight, gy = (wide(inputs[name]) for name in ("x", "weight", "gy"))
        if not self.layer.transposed:
            return correlation(self.layer, x, weight, gy)
        found = correlation(self.layer, gy, weight, x)  # each of the three is another one's gradient
        return {"y": found["gx"], "gx": found["y"], "gweight": found["gweight"]}

    def _step(self, functional: Any, grad: Any, t: dict[str, Any]) -> Step:
        """The step in PyTorch's names, ours as well as theirs."""
        x, weight, gy = t["x"].requires_grad_(), t["weight"].requires_grad_(), t["gy"]
        op, options = getattr(functional, self.layer.op), self.layer.options

        def step() -> tuple[Any, ...]:
            y = op(x, weight, None, **options)
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

        if self.layer.axes == 1:  # the layout is one of pictures
            return self.torch(inputs)
        layout = torch.channels_last
        tensors = {name: torch.from_numpy(a).contiguous(memory_format=layout) for name, a in inputs.items()}
        return self._step(torch.nn.functional, torch.autograd.grad, tensors)


CASES = [DirectConvolution(name, layer) for name, layer in LAYERS.items()]
