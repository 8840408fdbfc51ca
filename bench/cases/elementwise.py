"""Elementwise operations, sums and softmax, forward, on squares of 10⁴ and 10⁶ elements of float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.cases._numpy import normal, sigmoid, wide
from bench.harness.case import Answer, Array, Case, Inputs, Step

SIDES = (100, 1000)


@dataclass(frozen=True)
class Operation:
    """One operation of all contenders.

    Attributes
    ----------
    flops : float
        An element; 0 where a transcendental function makes counting idle.
    traffic : callable
        Elements read and written, as a function of the square's side.
    reference : callable
        On arrays x, other (same shape) and bias (a row).
    by : mapping of callable
        For each framework: the function of (module, x, other, bias).
    """

    flops: float
    traffic: Callable[[int], int]
    reference: Callable[[Array, Array, Array], Array]
    by: Mapping[str, Callable[[Any, Any, Any, Any], Any]]


def _two(side: int) -> int:
    return 2 * side * side


def _everywhere(function: Callable[[Any, Any, Any, Any], Any]) -> dict[str, Callable[[Any, Any, Any, Any], Any]]:
    return dict.fromkeys(("tinygrad_bn", "torch", "jax"), function)


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(1, keepdims=True))
    result: Array = e / e.sum(1, keepdims=True)
    return result


def _named(name: str, jax: Callable[[Any, Any], Any]) -> dict[str, Callable[[Any, Any, Any, Any], Any]]:
    """A function of the frameworks' top level; JAX keeps it elsewhere."""
    return {**_everywhere(lambda m, x, o, b: getattr(m, name)(x)), "jax": lambda m, x, o, b: jax(m, x)}


OPERATIONS = {
    "add": Operation(1, lambda n: 3 * n * n, lambda x, o, b: x + o, _everywhere(lambda m, x, o, b: x + o)),
    "mul_scalar": Operation(1, _two, lambda x, o, b: x * 1.5, _everywhere(lambda m, x, o, b: x * 1.5)),
    "bias_add": Operation(1, lambda n: 2 * n * n + n, lambda x, o, b: x + b, _everywhere(lambda m, x, o, b: x + b)),
    "relu": Operation(0, _two, lambda x, o, b: np.maximum(x, 0), _named("relu", lambda m, x: m.nn.relu(x))),
    "exp": Operation(0, _two, lambda x, o, b: np.exp(x), _named("exp", lambda m, x: m.numpy.exp(x))),
    "sigmoid": Operation(0, _two, lambda x, o, b: sigmoid(x), _named("sigmoid", lambda m, x: m.nn.sigmoid(x))),
    "sum": Operation(1, lambda n: n * n, lambda x, o, b: x.sum(), _everywhere(lambda m, x, o, b: x.sum())),
    "sum_rows": Operation(1, lambda n: n * n + n, lambda x, o, b: x.sum(1), _everywhere(lambda m, x, o, b: x.sum(1))),
    "softmax_rows": Operation(
        0, _two, lambda x, o, b: _softmax(x),
        {**_everywhere(lambda m, x, o, b: m.softmax(x, 1)), "jax": lambda m, x, o, b: m.nn.softmax(x, 1)},
    ),
}  # fmt: skip


class Elementwise(Case):
    """One operation at one size."""

    def __init__(self, name: str, operation: Operation, side: int) -> None:
        size = side * side
        label = f"elementwise/{name}/{size:.0e}".replace("+0", "")
        super().__init__(label, operation.flops * size, 4 * operation.traffic(side))
        self.operation = operation
        self.side = side

    def inputs(self, rng: np.random.Generator) -> Inputs:
        n = self.side
        return {"x": normal(rng, n, n) + np.float32(0.5), "other": normal(rng, n, n), "bias": normal(rng, n)}

    def reference(self, inputs: Inputs) -> Answer:
        return {"y": np.asarray(self.operation.reference(*(wide(inputs[n]) for n in ("x", "other", "bias"))))}

    def tinygrad_bn(self, inputs: Inputs) -> Step:
        import tinygrad_bn as tb

        x, other, bias = (tb.tensor(inputs[name]) for name in ("x", "other", "bias"))
        function = self.operation.by["tinygrad_bn"]
        return lambda: (function(tb, x, other, bias),)

    def torch(self, inputs: Inputs) -> Step:
        import torch

        x, other, bias = (torch.from_numpy(inputs[name]) for name in ("x", "other", "bias"))
        function = self.operation.by["torch"]
        return lambda: (function(torch, x, other, bias),)

    def jax(self, inputs: Inputs) -> Step:
        import jax

        x, other, bias = (jax.numpy.asarray(inputs[name]) for name in ("x", "other", "bias"))
        compiled = jax.jit(lambda x, other, bias: self.operation.by["jax"](jax, x, other, bias))
        return lambda: (jax.block_until_ready(compiled(x, other, bias)),)


CASES = [Elementwise(name, operation, side) for name, operation in OPERATIONS.items() for side in SIDES]
