"""Softmax along rows and the cross-entropy of class indices, forward and backward.

Scores are of unit variance; a row's classes lie side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.cases._numpy import normal, wide
from bench.harness.case import Answer, Array, Case, Inputs, Step

SHAPES = ((60, 10), (128, 10), (128, 1000), (4096, 1000))


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(1, keepdims=True))
    result: Array = e / e.sum(1, keepdims=True)
    return result


class CrossEntropy(Case):
    """The mean loss, and the gradient of the scores."""

    def __init__(self, rows: int, classes: int) -> None:
        size = rows * classes
        super().__init__(f"cross_entropy/{rows}x{classes}", bytes=4 * 2 * size + 8 * rows)
        self.rows = rows
        self.classes = classes

    def inputs(self, rng: np.random.Generator) -> Inputs:
        return {"x": normal(rng, self.rows, self.classes), "target": rng.integers(0, self.classes, self.rows)}

    def reference(self, inputs: Inputs) -> Answer:
        x, target = wide(inputs["x"]), inputs["target"]
        p, rows = _softmax(x), np.arange(self.rows)
        loss = -np.log(p[rows, target]).mean()
        p[rows, target] -= 1
        return {"loss": np.asarray(loss), "gx": p / self.rows}

    def tinygrad_bn(self, inputs: Inputs) -> Step:
        import tinygrad_bn as tb

        x, target = tb.tensor(inputs["x"]).requires_grad_(), tb.tensor(inputs["target"])

        def step() -> tuple[Any, ...]:
            loss = tb.nn.functional.cross_entropy(x, target)
            return (loss, *tb.grad(loss, (x,)))

        return step

    def torch(self, inputs: Inputs) -> Step:
        import torch

        x, target = torch.from_numpy(inputs["x"]).requires_grad_(), torch.from_numpy(inputs["target"])

        def step() -> tuple[Any, ...]:
            loss = torch.nn.functional.cross_entropy(x, target)
            return (loss, *torch.autograd.grad(loss, (x,)))

        return step

    def jax(self, inputs: Inputs) -> Step:
        import jax

        x, target = jax.numpy.asarray(inputs["x"]), jax.numpy.asarray(inputs["target"])

        def loss(x: Any, target: Any) -> Any:
            picked = jax.numpy.take_along_axis(jax.nn.log_softmax(x, 1), target[:, None], 1)
            return -picked.mean()

        compiled = jax.jit(jax.value_and_grad(loss))
        return lambda: jax.block_until_ready(compiled(x, target))


class Softmax(Case):
    """y, and the gradient of x."""

    def __init__(self, rows: int, classes: int) -> None:
        size = rows * classes
        super().__init__(f"softmax/{rows}x{classes}", bytes=4 * 5 * size)
        self.rows = rows
        self.classes = classes

    def inputs(self, rng: np.random.Generator) -> Inputs:
        return {name: normal(rng, self.rows, self.classes) for name in ("x", "gy")}

    def reference(self, inputs: Inputs) -> Answer:
        y, gy = _softmax(wide(inputs["x"])), wide(inputs["gy"])
        return {"y": y, "gx": y * (gy - (gy * y).sum(1, keepdims=True))}

    def tinygrad_bn(self, inputs: Inputs) -> Step:
        import tinygrad_bn as tb

        x, gy = tb.tensor(inputs["x"]).requires_grad_(), tb.tensor(inputs["gy"])

        def step() -> tuple[Any, ...]:
            y = tb.softmax(x, 1)
            return (y, *tb.grad(y, (x,), gy))

        return step

    def torch(self, inputs: Inputs) -> Step:
        import torch

        x, gy = torch.from_numpy(inputs["x"]).requires_grad_(), torch.from_numpy(inputs["gy"])

        def step() -> tuple[Any, ...]:
            y = torch.softmax(x, 1)
            return (y, *torch.autograd.grad(y, (x,), gy))

        return step

    def jax(self, inputs: Inputs) -> Step:
        import jax

        x, gy = jax.numpy.asarray(inputs["x"]), jax.numpy.asarray(inputs["gy"])

        def both(x: Any, gy: Any) -> tuple[Any, ...]:
            y, pullback = jax.vjp(lambda x: jax.nn.softmax(x, 1), x)
            return (y, *pullback(gy))

        compiled = jax.jit(both)
        return lambda: jax.block_until_ready(compiled(x, gy))


CASES = [CrossEntropy(*shape) for shape in SHAPES] + [Softmax(*shape) for shape in SHAPES]
