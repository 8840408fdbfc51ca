"""A convolution of what is normalised: conv(relu(batch_norm(x))), in training, forward and all gradients.

Ours is one function that normalises on the way in; the peers do the same work by the calls that their users write. The
gradient of x is not compared where the ReLU's input is near its kink, whichever way it falls.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bench.cases._convolution import conv, conv_input, conv_weight
from bench.cases._numpy import EPS, batch_norm, batch_norm_backward, normal, wide
from bench.cases.batch_norm import BACKWARD_FLOPS, FORWARD_FLOPS, KINK
from bench.harness.case import Answer, Case, Inputs, Step

SHAPES = ((128, 16, 32, 16), (128, 32, 16, 32), (128, 64, 8, 64), (16, 64, 56, 64))  # N, C, H = W, O


class NormConvolution(Case):
    """z = w ⋆ relu(batch_norm(x)), 3×3 of padding 1, and the gradients of x, w, weight and bias."""

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        n, c, side, o = shape
        size, results = n * c * side * side, n * o * side * side
        flops = 6 * results * c * 9 + size * (FORWARD_FLOPS + BACKWARD_FLOPS)
        # forward x → z; backward z's gradient and x → gx, the gradient of what is normalised in between
        super().__init__(f"norm_conv/{'x'.join(map(str, shape))}/forward_backward", flops, 4 * (5 * size + 3 * results))
        self.tolerance = 1e-5 + 6e-8 * math.sqrt(n * side * side * 9)
        self.shape = shape

    def inputs(self, rng: np.random.Generator) -> Inputs:
        n, c, side, o = self.shape
        x, filters = normal(rng, n, c, side, side) * 2 + 1, normal(rng, o, c, 3, 3) / np.float32(math.sqrt(9 * c))
        weight, bias = rng.uniform(0.5, 1.5, c).astype(np.float32), normal(rng, c)
        for _ in range(2):  # off the kink, where rounding would decide
            z = batch_norm(wide(x), wide(weight), wide(bias))[0]
            x = np.where(np.abs(z) < KINK, x + np.float32(20 * KINK), x).astype(np.float32)
        return {"x": x, "filters": filters, "weight": weight, "bias": bias, "gz": normal(rng, n, o, side, side)}

    def reference(self, inputs: Inputs) -> Answer:
        x, filters, weight, bias, gz = (wide(inputs[k]) for k in ("x", "filters", "weight", "bias", "gz"))
        y, hat, invstd = batch_norm(x, weight, bias)
        g = conv_input(gz, filters, x.shape, 1, 1) * (y > 0)
        gx, gweight, gbias = batch_norm_backward(g, hat, invstd, weight)
        y = np.maximum(y, 0)
        gfilters = conv_weight(y, gz, 3, 1, 1)
        return {"z": conv(y, filters, 1, 1), "gx": gx, "gfilters": gfilters, "gweight": gweight, "gbias": gbias}

    def tinygrad_bn(self, inputs: Inputs) -> Step:
        import tinygrad_bn as tb
        from tinygrad_bn.functional import batch_norm_act_conv2d

        names = ("x", "filters", "weight", "bias")
        x, filters, weight, bias = (tb.tensor(inputs[name], requires_grad=True) for name in names)
        gz = tb.tensor(inputs["gz"])

        def step() -> tuple[Any, ...]:
            z = batch_norm_act_conv2d(x, None, None, weight, bias, filters, training=True, eps=EPS, padding=1)
            return (z, *tb.grad(z, (x, filters, weight, bias), gz))

        return step

    def torch(self, inputs: Inputs) -> Step:
        return _torch(inputs, False)

    def torch_channels_last(self, inputs: Inputs) -> Step:
        return _torch(inputs, True)


def _torch(inputs: Inputs, channels_last: bool) -> Step:
    import torch
    from torch.nn import functional

    t = {name: torch.from_numpy(a) for name, a in inputs.items()}
    if channels_last:
        t = {n: a.contiguous(memory_format=torch.channels_last) if a.ndim == 4 else a for n, a in t.items()}
    x, filters, weight, bias = (t[name].requires_grad_() for name in ("x", "filters", "weight", "bias"))

    def step() -> tuple[Any, ...]:
        y = functional.relu(functional.batch_norm(x, None, None, weight, bias, training=True, eps=EPS))
        z = functional.conv2d(y, filters, None, 1, 1)
        return (z, *torch.autograd.grad(z, (x, filters, weight, bias), t["gz"]))

    return step


CASES = [NormConvolution(shape) for shape in SHAPES]
"""The rows."""
