"""The end of a residual block, relu(batch_norm(x) + residual), in training; and batch norm with ReLU in evaluation.

Ours are the fused operations; the peers do the same work by the calls that their users write. Nobody keeps running
statistics. The gradient that comes from above is 0 where the ReLU's input is near its kink.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.cases._numpy import EPS, batch_norm, batch_norm_backward, normal, per_channel, wide
from bench.cases.batch_norm import BACKWARD_FLOPS, FORWARD_FLOPS, KINK
from bench.harness.case import Answer, Case, Inputs, Step

RESNET = ((128, 16, 32, 32), (128, 32, 16, 16), (128, 64, 8, 8))
EVALUATED = ((128, 16, 32, 32), (64, 64, 56, 56))


class BatchNormAddRelu(Case):
    """y = relu(batch_norm(x) + r), and the gradients of x, r, weight and bias."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        size = math.prod(shape)
        flops = size * (FORWARD_FLOPS + BACKWARD_FLOPS + 1)
        # forward x, r → y; backward x, y, gy → gx, gr
        super().__init__(f"batch_norm_add_relu/{'x'.join(map(str, shape))}/forward_backward", flops, 4 * size * 8)
        self.tolerance = 1e-5 + 6e-8 * math.sqrt(size / shape[1])
        self.shape = shape

    def inputs(self, rng: np.random.Generator) -> Inputs:
        channels = self.shape[1]
        x, r, gy = normal(rng, *self.shape) * 2 + 1, normal(rng, *self.shape), normal(rng, *self.shape)
        weight, bias = rng.uniform(0.5, 1.5, channels).astype(np.float32), normal(rng, channels)
        gy[np.abs(batch_norm(wide(x), wide(weight), wide(bias))[0] + r) < KINK] = 0
        return {"x": x, "r": r, "weight": weight, "bias": bias, "gy": gy}

    def reference(self, inputs: Inputs) -> Answer:
        x, r, weight, bias, gy = (wide(inputs[name]) for name in ("x", "r", "weight", "bias", "gy"))
        z, hat, invstd = batch_norm(x, weight, bias)
        z += r
        g = gy * (z > 0)
        gx, gweight, gbias = batch_norm_backward(g, hat, invstd, weight)
        return {"y": np.maximum(z, 0), "gx": gx, "gr": g, "gweight": gweight, "gbias": gbias}

    def tinygrad_bn(self, inputs: Inputs) -> Step:
        import tinygrad_bn as tb
        from tinygrad_bn.functional import batch_norm_act

        x, r, weight, bias = (tb.tensor(inputs[name], requires_grad=True) for name in ("x", "r", "weight", "bias"))
        gy = tb.tensor(inputs["gy"])

        def step() -> tuple[Any, ...]:
            y = batch_norm_act(x, None, None, weight, bias, training=True, eps=EPS, residual=r)
            return (y, *tb.grad(y, (x, r, weight, bias), gy))

        return step

    def torch(self, inputs: Inputs) -> Step:
        return _torch(inputs, lambda function: function, False)

    def torch_channels_last(self, inputs: Inputs) -> Step:
        return _torch(inputs, lambda function: function, True)

    def torch_compile(self, inputs: Inputs) -> Step:
        import torch

        return _torch(inputs, torch.compile, False)


def _torch(inputs: Inputs, compiler: Callable[[Any], Any], channels_last: bool) -> Step:
    import torch
    from torch.nn import functional

    t = {name: torch.from_numpy(a) for name, a in inputs.items()}
    if channels_last:
        t = {n: a.contiguous(memory_format=torch.channels_last) if a.ndim == 4 else a for n, a in t.items()}
    x, r, weight, bias = (t[name].requires_grad_() for name in ("x", "r", "weight", "bias"))

    def layer(x: Any, r: Any, weight: Any, bias: Any) -> Any:
        return functional.relu(functional.batch_norm(x, None, None, weight, bias, training=True, eps=EPS) + r)

    forward = compiler(layer)

    def step() -> tuple[Any, ...]:
        y = forward(x, r, weight, bias)
        return (y, *torch.autograd.grad(y, (x, r, weight, bias), t["gy"]))

    return step


class BatchNormReluEvaluated(Case):
    """y = relu((x - mean) / √(var + eps) weight + bias), the statistics given."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        size = math.prod(shape)
        super().__init__(f"batch_norm_relu_eval/{'x'.join(map(str, shape))}/forward", 3 * size, 8 * size)
        self.shape = shape

    def inputs(self, rng: np.random.Generator) -> Inputs:
        channels = self.shape[1]
        mean, var = normal(rng, channels), rng.uniform(0.5, 2, channels).astype(np.float32)
        weight, bias = rng.uniform(0.5, 1.5, channels).astype(np.float32), normal(rng, channels)
        return {"x": normal(rng, *self.shape), "mean": mean, "var": var, "weight": weight, "bias": bias}

    def reference(self, inputs: Inputs) -> Answer:
        x = wide(inputs["x"])
        mean, var, weight, bias = (per_channel(wide(inputs[n]), x.ndim) for n in ("mean", "var", "weight", "bias"))
        return {"y": np.maximum((x - mean) / np.sqrt(var + EPS) * weight + bias, 0)}

    def tinygrad_bn(self, inputs: Inputs) -> Step:
        import tinygrad_bn as tb
        from tinygrad_bn.functional import batch_norm_act

        t = {name: tb.tensor(a) for name, a in inputs.items()}
        return lambda: (batch_norm_act(t["x"], t["mean"], t["var"], t["weight"], t["bias"], eps=EPS),)

    def torch(self, inputs: Inputs) -> Step:
        return self._torch(inputs, False)

    def torch_channels_last(self, inputs: Inputs) -> Step:
        return self._torch(inputs, True)

    def _torch(self, inputs: Inputs, channels_last: bool) -> Step:
        import torch
        from torch.nn import functional

        t = {name: torch.from_numpy(a) for name, a in inputs.items()}
        if channels_last:
            t["x"] = t["x"].contiguous(memory_format=torch.channels_last)

        def step() -> tuple[Any, ...]:
            with torch.no_grad():
                y = functional.batch_norm(t["x"], t["mean"], t["var"], t["weight"], t["bias"], eps=EPS)
                return (functional.relu(y),)

        return step


CASES = [*(BatchNormAddRelu(shape) for shape in RESNET), *(BatchNormReluEvaluated(shape) for shape in EVALUATED)]
