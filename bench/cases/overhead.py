"""What an eager operation costs beside its arithmetic: operations on 4 × 4 elements.

``forward`` records nothing, ``recorded`` puts the operation on the tape, ``backward`` goes back through a chain of such
operations, ``replayed`` is a launch of a captured step of them, beside the peers' eager forward; each number is for one
operation. Python, checks and the launch are nearly all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.cases._numpy import batch_norm, batch_norm_backward, normal, sigmoid, wide
from bench.harness.case import Answer, Array, Case, Inputs, Step

SIDE = 4
WHAT = ("forward", "recorded", "backward", "replayed")
REPLAYED = 256  # operations of a captured step


def _batch_norm_gradient(x: Array, y: Array, t: Mapping[str, Array], g: Array) -> Array:
    _, hat, invstd = batch_norm(x, t["scale"], t["shift"])
    return batch_norm_backward(g, hat, invstd, t["scale"])[0]


@dataclass(frozen=True)
class Operation:
    """One operation: of a framework's functions, and in NumPy.

    Attributes
    ----------
    call : callable
        Of (framework, its functional module, x, the other tensors by name).
    value : callable
        Of (x, the other arrays).
    gradient : callable
        Of (x, y, the other arrays, gy).
    """

    call: Callable[[Any, Any, Any, Mapping[str, Any]], Any]
    value: Callable[[Array, Mapping[str, Array]], Array]
    gradient: Callable[[Array, Array, Mapping[str, Array], Array], Array]


OPERATIONS = {
    "sigmoid": Operation(
        lambda m, f, x, t: m.sigmoid(x), lambda x, t: sigmoid(x), lambda x, y, t, g: g * y * (1 - y)
    ),
    "add": Operation(lambda m, f, x, t: x + t["other"], lambda x, t: x + t["other"], lambda x, y, t, g: g),
    "linear": Operation(
        lambda m, f, x, t: f.linear(x, t["weight"]), lambda x, t: x @ t["weight"].T, lambda x, y, t, g: g @ t["weight"]
    ),
    "batch_norm": Operation(
        lambda m, f, x, t: f.batch_norm(x, None, None, t["scale"], t["shift"], True),
        lambda x, t: batch_norm(x, t["scale"], t["shift"])[0],
        _batch_norm_gradient,
    ),
}  # fmt: skip


class Overhead(Case):
    """One operation, many times a step."""

    calls = 16
    tolerance = 1e-4

    def __init__(self, name: str, operation: Operation, what: str) -> None:
        super().__init__(f"overhead/{name}/{what}")
        self.operation = operation
        self.what = what
        if what == "replayed":
            self.calls = REPLAYED

    def inputs(self, rng: np.random.Generator) -> Inputs:
        inputs = {name: normal(rng, SIDE, SIDE) for name in ("x", "other", "weight", "gy")}
        inputs["weight"] *= np.float32(0.5)
        return inputs | {"scale": rng.uniform(0.5, 1.5, SIDE).astype(np.float32), "shift": normal(rng, SIDE)}

    def reference(self, inputs: Inputs) -> Answer:
        t = {name: wide(a) for name, a in inputs.items()}
        if self.what != "backward":
            return {"y": self.operation.value(t["x"], t)}
        chain = [t["x"]]
        for _ in range(self.calls):
            chain.append(self.operation.value(chain[-1], t))
        g = t["gy"]
        for x, y in zip(chain[-2::-1], chain[:0:-1], strict=True):
            g = self.operation.gradient(x, y, t, g)
        return {"gx": g}

    def tinygrad_bn(self, inputs: Inputs) -> Step:
        import tinygrad_bn as tb
        from tinygrad_bn import functional

        step = self._step(tb, functional, tb.grad, {name: tb.tensor(a) for name, a in inputs.items()})
        return tb.capture(step) if self.what == "replayed" else step

    def torch(self, inputs: Inputs) -> Step:
        import torch
        from torch.nn import functional

        tensors = {name: torch.from_numpy(a) for name, a in inputs.items()}
        return self._step(torch, functional, torch.autograd.grad, tensors)

    def _step(self, module: Any, functional: Any, grad: Callable[..., Any], tensors: dict[str, Any]) -> Step:
        call, calls, x = self.operation.call, self.calls, tensors["x"]
        x.requires_grad_(self.what in ("recorded", "backward"))
        if self.what == "backward":
            y = x
            for _ in range(calls):
                y = call(module, functional, y, tensors)
            return lambda: grad(y, (x,), tensors["gy"], retain_graph=True)

        def repeated() -> tuple[Any]:
            for _ in range(calls):
                out = call(module, functional, x, tensors)
            return (out,)

        return repeated


CASES = [Overhead(name, operation, what) for name, operation in OPERATIONS.items() for what in WHAT]
