"""Batch norm and ReLU in training: forward, and forward with backward, at the five shapes.

The gradient that comes from above is 0 where the ReLU's input is near its kink, so that rounding decides nothing. Ours
is the fused op; the peers do the same work by the calls that their users write. Nobody keeps running statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.cases._numpy import EPS, batch_norm, batch_norm_backward, normal, wide
from bench.cases._torch import InPyTorch
from bench.harness.case import Answer, Case, Inputs, Step

SHAPES = ((32, 32, 32, 32), (128, 16, 32, 32), (64, 64, 56, 56), (128, 256, 14, 14), (60, 100))
KINK = 1e-3
FORWARD_FLOPS, BACKWARD_FLOPS = 7, 11  # an element: mean 1, variance 3, apply 3; x̂ twice 4, sums 3, gx 4


class BatchNormRelu(InPyTorch, Case):
    """y = relu(batch_norm(x)), and the gradients of x, weight and bias."""

    def __init__(self, shape: tuple[int, ...], backward: bool) -> None:
        size = math.prod(shape)
        flops = size * (FORWARD_FLOPS + (BACKWARD_FLOPS if backward else 0))
        what = "forward_backward" if backward else "forward"
        name = f"batch_norm_relu/{'x'.join(map(str, shape))}/{what}"
        super().__init__(name, flops, 4 * size * (5 if backward else 2))
        # the peers' sums over m values of a channel run in float32: the error of such a sum, of random signs
        self.tolerance = 1e-5 + 6e-8 * math.sqrt(size / shape[1])
        self.shape = shape
        self.backward = backward

    def takes_part(self, contender: str) -> bool:
        return super().takes_part(contender) and (len(self.shape) == 4 or contender != "torch_channels_last")

    def inputs(self, rng: np.random.Generator) -> Inputs:
        channels = self.shape[1]
        x = normal(rng, *self.shape) * 2 + 1
        weight = rng.uniform(0.5, 1.5, channels).astype(np.float32)
        bias = normal(rng, channels)
        gy = normal(rng, *self.shape)
        gy[np.abs(batch_norm(wide(x), wide(weight), wide(bias))[0]) < KINK] = 0
        return {"x": x, "weight": weight, "bias": bias, "gy": gy}

    def reference(self, inputs: Inputs) -> Answer:
        x, weight, bias, gy = (wide(inputs[name]) for name in ("x", "weight", "bias", "gy"))
        z, hat, invstd = batch_norm(x, weight, bias)
        y = {"y": np.maximum(z, 0)}
        if not self.backward:
            return y
        gx, gweight, gbias = batch_norm_backward(gy * (z > 0), hat, invstd, weight)
        return y | {"gx": gx, "gweight": gweight, "gbias": gbias}

    def tinygrad_bn(self, inputs: Inputs) -> Step:
        import tinygrad_bn as tb
        from tinygrad_bn.functional import batch_norm_act

        x, weight, bias = (tb.tensor(inputs[name], requires_grad=True) for name in ("x", "weight", "bias"))
        gy = tb.tensor(inputs["gy"])

        def forward() -> Any:
            return batch_norm_act(x, None, None, weight, bias, training=True, eps=EPS, activation="relu")

        def both() -> tuple[Any, ...]:
            y = forward()
            return (y, *tb.grad(y, (x, weight, bias), gy))

        return both if self.backward else lambda: (forward(),)

    def _torch(self, inputs: Inputs, compiler: Callable[[Any], Any], channels_last: bool) -> Step:
        import torch
        from torch.nn import functional

        t = {name: torch.from_numpy(a) for name, a in inputs.items()}
        if channels_last:
            t = {n: a.contiguous(memory_format=torch.channels_last) if a.ndim == 4 else a for n, a in t.items()}
        x, weight, bias = (t[name].requires_grad_() for name in ("x", "weight", "bias"))

        def layer(x: Any, weight: Any, bias: Any) -> Any:
            return functional.relu(functional.batch_norm(x, None, None, weight, bias, training=True, eps=EPS))

        forward = compiler(layer)

        def both() -> tuple[Any, ...]:
            y = forward(x, weight, bias)
            return (y, *torch.autograd.grad(y, (x, weight, bias), t["gy"]))

        return both if self.backward else lambda: (forward(x, weight, bias),)

    def jax(self, inputs: Inputs) -> Step:
        import jax
        from jax import numpy as jnp

        x, weight, bias, gy = (jnp.asarray(inputs[name]) for name in ("x", "weight", "bias", "gy"))
        axes = (0, *range(2, x.ndim))
        shape = (1, -1, *[1] * (x.ndim - 2))

        def layer(x: Any, weight: Any, bias: Any) -> Any:
            mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
            z = (x - mean) * jax.lax.rsqrt(var + EPS) * weight.reshape(shape) + bias.reshape(shape)
            return jax.nn.relu(z)

        def both(x: Any, weight: Any, bias: Any, gy: Any) -> tuple[Any, ...]:
            y, pullback = jax.vjp(layer, x, weight, bias)
            return (y, *pullback(gy))

        compiled, alone = jax.jit(both), jax.jit(layer)
        if self.backward:
            return lambda: jax.block_until_ready(compiled(x, weight, bias, gy))
        return lambda: (jax.block_until_ready(alone(x, weight, bias)),)


CASES = [BatchNormRelu(shape, backward) for shape in SHAPES for backward in (False, True)]
