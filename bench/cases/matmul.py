"""Matrix products: the layers of the network for MNIST, forward and with both gradients, and squares."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.cases._numpy import normal, wide
from bench.harness.case import Answer, Case, Inputs, Step

LAYERS = ((60, 784, 100), (60, 100, 100))  # batch, inputs, outputs
SQUARES = (512, 1024)


class LinearLayer(Case):
    """y = x Wᵀ, and the gradients of x and W."""

    def __init__(self, batch: int, inputs: int, outputs: int, backward: bool) -> None:
        what = "forward_backward" if backward else "forward"
        passes = 3 if backward else 1
        traffic = batch * inputs + inputs * outputs + batch * outputs
        name = f"linear/{batch}x{inputs}x{outputs}/{what}"
        super().__init__(name, 2 * passes * batch * inputs * outputs, 4 * traffic * (2 if backward else 1))
        self.sizes = batch, inputs, outputs
        self.backward = backward

    def inputs(self, rng: np.random.Generator) -> Inputs:
        batch, features, outputs = self.sizes
        x, weight = normal(rng, batch, features), normal(rng, outputs, features)
        return {"x": x, "weight": weight, "gy": normal(rng, batch, outputs)}

    def reference(self, inputs: Inputs) -> Answer:
        x, weight, gy = (wide(inputs[name]) for name in ("x", "weight", "gy"))
        y = {"y": x @ weight.T}
        return y | {"gx": gy @ weight, "gweight": gy.T @ x} if self.backward else y

    def tinygrad_bn(self, inputs: Inputs) -> Step:
        import tinygrad_bn as tb
        from tinygrad_bn.functional import linear

        x, weight = (tb.tensor(inputs[name], requires_grad=True) for name in ("x", "weight"))
        gy = tb.tensor(inputs["gy"])

        def both() -> tuple[Any, ...]:
            y = linear(x, weight)
            return (y, *tb.grad(y, (x, weight), gy))

        return both if self.backward else lambda: (linear(x, weight),)

    def torch(self, inputs: Inputs) -> Step:
        import torch
        from torch.nn.functional import linear

        x, weight = (torch.from_numpy(inputs[name]).requires_grad_() for name in ("x", "weight"))
        gy = torch.from_numpy(inputs["gy"])

        def both() -> tuple[Any, ...]:
            y = linear(x, weight)
            return (y, *torch.autograd.grad(y, (x, weight), gy))

        return both if self.backward else lambda: (linear(x, weight),)

    def jax(self, inputs: Inputs) -> Step:
        import jax

        x, weight, gy = (jax.numpy.asarray(inputs[name]) for name in ("x", "weight", "gy"))

        def layer(x: Any, weight: Any) -> Any:
            return x @ weight.T

        def both(x: Any, weight: Any, gy: Any) -> tuple[Any, ...]:
            y, pullback = jax.vjp(layer, x, weight)
            return (y, *pullback(gy))

        compiled, alone = jax.jit(both), jax.jit(layer)
        if self.backward:
            return lambda: jax.block_until_ready(compiled(x, weight, gy))
        return lambda: (jax.block_until_ready(alone(x, weight)),)


class Square(Case):
    """C = A B."""

    def __init__(self, side: int) -> None:
        super().__init__(f"matmul/{side}x{side}x{side}/forward", 2 * side**3, 12 * side * side)
        self.side = side

    def inputs(self, rng: np.random.Generator) -> Inputs:
        return {"a": normal(rng, self.side, self.side), "b": normal(rng, self.side, self.side)}

    def reference(self, inputs: Inputs) -> Answer:
        return {"c": wide(inputs["a"]) @ wide(inputs["b"])}

    def tinygrad_bn(self, inputs: Inputs) -> Step:
        import tinygrad_bn as tb

        a, b = tb.tensor(inputs["a"]), tb.tensor(inputs["b"])
        return lambda: (tb.matmul(a, b),)

    def torch(self, inputs: Inputs) -> Step:
        import torch

        a, b = torch.from_numpy(inputs["a"]), torch.from_numpy(inputs["b"])
        return lambda: (torch.matmul(a, b),)

    def jax(self, inputs: Inputs) -> Step:
        import jax

        a, b = jax.numpy.asarray(inputs["a"]), jax.numpy.asarray(inputs["b"])
        compiled = jax.jit(jax.numpy.matmul)
        return lambda: (jax.block_until_ready(compiled(a, b)),)


CASES: list[Case] = [LinearLayer(*sizes, backward) for sizes in LAYERS for backward in (False, True)]
CASES += [Square(side) for side in SQUARES]
