"""Batch norm with ReLU, NCHW, and layer norm in training, forward, and forward with backward; float32 and bfloat16.

Weights are of float32 in both. Bytes are those of the fused passes: x read twice and y written going forward; x and gy
read twice and gx written going back. PyTorch's batch norm is cuDNN's or its own, as it chooses; nobody keeps running
statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.cases._numpy import EPS, batch_norm, batch_norm_backward, normal, wide
from bench.cases._torch import InPyTorch
from bench.cases.batch_norm import KINK
from bench.cases_gpu._device import DTYPES, TINY, bfloat16, placed
from bench.harness.case import Answer, Case, Inputs, Step

SHAPES = ((2, 3, 4, 5),) if TINY else ((64, 64, 56, 56), (128, 256, 14, 14), (256, 64, 112, 112))
ROWS = ((3, 8),) if TINY else ((8192, 1024), (16384, 4096))
COMPARED = 8  # channels: the answer in float64 of all would take minutes
ITEMSIZE = {"float32": 4, "bfloat16": 2}
PASSES = {False: 3, True: 8}


class Norm(InPyTorch, Case):
    """What batch norm and layer norm share: x and gy of low precision, weight and bias of float32."""

    def __init__(self, group: str, shape: tuple[int, ...], dtype: str, backward: bool) -> None:
        what = "forward_backward" if backward else "forward"
        name = f"{group}/{'x'.join(map(str, shape))}/{dtype}/{what}"
        super().__init__(name, bytes=ITEMSIZE[dtype] * math.prod(shape) * PASSES[backward])
        self.shape = shape
        self.dtype = dtype
        self.backward = backward
        terms = math.prod(shape) / shape[1] if group.startswith("batch") else shape[0]
        self.tolerance = 1e-5 + 6e-8 * math.sqrt(terms) if dtype == "float32" else 1e-2

    def takes_part(self, contender: str) -> bool:
        return super().takes_part(contender) and contender != "torch_channels_last"

    def drawn(self, rng: np.random.Generator, extent: int) -> Inputs:
        """Numbers that the dtype can hold."""
        x, gy = normal(rng, *self.shape) * 2 + 1, normal(rng, *self.shape)
        if self.dtype == "bfloat16":
            x, gy = bfloat16(x), bfloat16(gy)
        weight = rng.uniform(0.5, 1.5, extent).astype(np.float32)
        return {"x": x, "weight": weight, "bias": normal(rng, extent), "gy": gy}

    def _step(self, module: Any, inputs: Inputs, forward: Callable[..., Any], grad: Callable[..., Any]) -> Step:
        x, gy = (placed(module, inputs[name], self.dtype) for name in ("x", "gy"))
        sources = [x, *(placed(module, inputs[name]) for name in ("weight", "bias"))]
        for tensor in sources:
            tensor.requires_grad_(self.backward)

        def step() -> tuple[Any, ...]:
            y = forward(*sources)
            return (y, *grad(y, sources, gy)) if self.backward else (y,)

        return step


class BatchNormRelu(Norm):
    """y = relu(batch_norm(x)), and the gradients of x, weight and bias."""

    def __init__(self, shape: tuple[int, ...], dtype: str, backward: bool) -> None:
        super().__init__("batch_norm_relu", shape, dtype, backward)
        self.every = -(-shape[1] // COMPARED)

    def inputs(self, rng: np.random.Generator) -> Inputs:
        found = self.drawn(rng, self.shape[1])
        part = {name: self._part(a) for name, a in found.items()}
        z = batch_norm(*(wide(part[name]) for name in ("x", "weight", "bias")))[0]
        part["gy"][np.abs(z) < KINK] = 0  # a view: what is compared does not hang on rounding at the kink
        return found

    def _part(self, tensor: Any) -> Any:
        return tensor[:, :: self.every] if len(tensor.shape) > 1 else tensor[:: self.every]

    def picked(self, tensors: Sequence[Any]) -> Sequence[Any]:
        return [self._part(t) for t in tensors]

    def reference(self, inputs: Inputs) -> Answer:
        x, weight, bias, gy = (wide(self._part(inputs[name])) for name in ("x", "weight", "bias", "gy"))
        z, hat, invstd = batch_norm(x, weight, bias)
        if not self.backward:
            return {"y": np.maximum(z, 0)}
        gx, gweight, gbias = batch_norm_backward(gy * (z > 0), hat, invstd, weight)
        return {"y": np.maximum(z, 0), "gx": gx, "gweight": gweight, "gbias": gbias}

    def tinygrad_bn(self, inputs: Inputs) -> Step:
        import tinygrad_bn as tb
        from tinygrad_bn.functional import batch_norm_act

        def forward(x: Any, weight: Any, bias: Any) -> Any:
            return batch_norm_act(x, None, None, weight, bias, training=True, eps=EPS, activation="relu")

        return self._step(tb, inputs, forward, tb.grad)

    def _torch(self, inputs: Inputs, compiler: Callable[[Any], Any], channels_last: bool) -> Step:
        import torch
        from torch.nn import functional

        def forward(x: Any, weight: Any, bias: Any) -> Any:
            return functional.relu(functional.batch_norm(x, None, None, weight, bias, training=True, eps=EPS))

        return self._step(torch, inputs, compiler(forward), torch.autograd.grad)


class LayerNorm(Norm):
    """y = layer_norm(x) along rows, and the gradients of x, weight and bias."""

    def __init__(self, shape: tuple[int, ...], dtype: str, backward: bool) -> None:
        super().__init__("layer_norm", shape, dtype, backward)

    def inputs(self, rng: np.random.Generator) -> Inputs:
        return self.drawn(rng, self.shape[1])

    def reference(self, inputs: Inputs) -> Answer:
        x, weight, bias, gy = (wide(inputs[name]) for name in ("x", "weight", "bias", "gy"))
        centred = x - x.mean(1, keepdims=True)
        invstd = 1 / np.sqrt((centred * centred).mean(1, keepdims=True) + EPS)
        hat = centred * invstd
        if not self.backward:
            return {"y": hat * weight + bias}
        g = gy * weight
        gx = invstd * (g - g.mean(1, keepdims=True) - hat * (g * hat).mean(1, keepdims=True))
        return {"y": hat * weight + bias, "gx": gx, "gweight": (gy * hat).sum(0), "gbias": gy.sum(0)}

    def tinygrad_bn(self, inputs: Inputs) -> Step:
        import tinygrad_bn as tb

        layer = tb.nn.functional.layer_norm
        return self._step(tb, inputs, lambda x, w, b: layer(x, self.shape[1:], w, b, eps=EPS), tb.grad)

    def _torch(self, inputs: Inputs, compiler: Callable[[Any], Any], channels_last: bool) -> Step:
        import torch
        from torch.nn import functional

        forward = compiler(lambda x, w, b: functional.layer_norm(x, self.shape[1:], w.to(x.dtype), b.to(x.dtype), EPS))
        return self._step(torch, inputs, forward, torch.autograd.grad)


CASES = [
    kind(shape, dtype, backward)
    for kind, shapes in ((BatchNormRelu, SHAPES), (LayerNorm, ROWS))
    for shape in shapes
    for dtype in DTYPES
    for backward in (False, True)
]
