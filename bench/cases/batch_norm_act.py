"""Batch norm with SiLU or GELU in training: forward with backward, without and with a residual.

Ours is the fused op; the peers do the same work by the calls that their users write. Nobody keeps running statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.cases._numpy import EPS, batch_norm, batch_norm_backward, normal, sigmoid, wide
from bench.cases._torch import InPyTorch
from bench.cases.batch_norm import BACKWARD_FLOPS, FORWARD_FLOPS
from bench.harness.case import Answer, Array, Case, Inputs, Step

SHAPE = (128, 16, 32, 32)
CURVE_FLOPS = {"silu": 40, "gelu": 80}  # an element, forward and backward: an exponential each way 12, GELU's tail 20
_erf = np.vectorize(math.erf, otypes=[np.float64])


def curve(name: str, z: Array) -> tuple[Array, Array]:
    """Return the activation of z and its slope."""
    if name == "silu":
        s = sigmoid(z)
        return z * s, s * (1 + z * (1 - s))
    below = (1 + _erf(z / math.sqrt(2))) / 2
    return z * below, below + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


class BatchNormAct(InPyTorch, Case):
    """y = act(batch_norm(x) + r), and the gradients of x, weight, bias and r."""

    def __init__(self, activation: str, residual: bool) -> None:
        size = math.prod(SHAPE)
        flops = size * (FORWARD_FLOPS + BACKWARD_FLOPS + CURVE_FLOPS[activation] + residual)
        # forward x → y; backward x, gy → gx; r is read twice and its gradient written
        what = f"batch_norm_{'add_' if residual else ''}{activation}"
        super().__init__(
            f"{what}/{'x'.join(map(str, SHAPE))}/forward_backward", flops, 4 * size * (8 if residual else 5)
        )
        self.tolerance = 1e-5 + 6e-8 * math.sqrt(size / SHAPE[1])
        self.activation = activation
        self.residual = residual

    def inputs(self, rng: np.random.Generator) -> Inputs:
        channels = SHAPE[1]
        found = {"x": normal(rng, *SHAPE) * 2 + 1, "weight": rng.uniform(0.5, 1.5, channels).astype(np.float32)}
        found |= {"bias": normal(rng, channels), "gy": normal(rng, *SHAPE)}
        return found | ({"r": normal(rng, *SHAPE)} if self.residual else {})

    def reference(self, inputs: Inputs) -> Answer:
        x, weight, bias, gy = (wide(inputs[name]) for name in ("x", "weight", "bias", "gy"))
        z, hat, invstd = batch_norm(x, weight, bias)
        y, slope = curve(self.activation, z + wide(inputs["r"]) if self.residual else z)
        g = gy * slope
        gx, gweight, gbias = batch_norm_backward(g, hat, invstd, weight)
        return {"y": y, "gx": gx, "gweight": gweight, "gbias": gbias} | ({"gr": g} if self.residual else {})

    def tinygrad_bn(self, inputs: Inputs) -> Step:
        import tinygrad_bn as tb
        from tinygrad_bn.functional import batch_norm_act

        t = {name: tb.tensor(a, requires_grad=name != "gy") for name, a in inputs.items()}
        sources = [t[name] for name in ("x", "weight", "bias", "r") if name in t]

        def step() -> tuple[Any, ...]:
            y = batch_norm_act(
                t["x"], None, None, t["weight"], t["bias"], True, eps=EPS, activation=self.activation,
                residual=t.get("r"),
            )  # fmt: skip
            return (y, *tb.grad(y, sources, t["gy"]))

        return step

    def _torch(self, inputs: Inputs, compiler: Callable[[Any], Any], channels_last: bool) -> Step:
        import torch
        from torch.nn import functional

        t = {name: torch.from_numpy(a) for name, a in inputs.items()}
        if channels_last:
            t = {n: a.contiguous(memory_format=torch.channels_last) if a.ndim == 4 else a for n, a in t.items()}
        sources = [t[name].requires_grad_() for name in ("x", "weight", "bias", "r") if name in t]
        bend = getattr(functional, self.activation)

        def layer(x: Any, weight: Any, bias: Any, r: Any = None) -> Any:
            z = functional.batch_norm(x, None, None, weight, bias, training=True, eps=EPS)
            return bend(z if r is None else z + r)

        forward = compiler(layer)

        def step() -> tuple[Any, ...]:
            y = forward(*sources)
            return (y, *torch.autograd.grad(y, sources, t["gy"]))

        return step


CASES = [BatchNormAct(activation, residual) for activation in CURVE_FLOPS for residual in (False, True)]
