"""What was seen of activations: channels that are dead, values on the flat parts."""

from __future__ import annotations

import numpy as np

from tinygrad_bn import nn
from tinygrad_bn.core.tensor import Array
from tinygrad_bn.doctor import thresholds
from tinygrad_bn.nn.bn_tools.members import by_batches
from tinygrad_bn.nn.module import Module


class Activity:
    """What an activation returned: which channels were ever other than zero, and how many values were on flat parts."""

    def __init__(self, name: str, number: int, kind: str, after: str) -> None:
        self.name = name
        self.number = number
        self.kind = kind
        self.after = after
        self.samples = 0
        self.alive: Array | None = None
        self.flat = 0
        self.values = 0
        self.last = False
        self.of_consumer = False

    def take(self, y: Array) -> None:
        """Add values of shape (N, C, …)."""
        if self.kind in DYING:
            alive = (y != 0).any(axis=tuple(i for i in range(y.ndim) if i != 1))
            self.alive = alive if self.alive is None or self.alive.shape != alive.shape else self.alive | alive
        self.samples += y.shape[0]
        self.values += y.size
        if self.kind in SLOPES:
            self.flat += int(np.count_nonzero(SLOPES[self.kind](y) < thresholds.FLAT))


DYING = ("relu", "relu6", "hardswish")
SLOPES = {
    "sigmoid": lambda y: 4 * y * (1 - y),
    "tanh": lambda y: 1 - y * y,
    "hardsigmoid": lambda y: (y > 0) & (y < 1),
    "hardtanh": lambda y: (y > -1) & (y < 1),
    "relu6": lambda y: y < 6,
}
"""The slope of an activation, of the steepest, by what it returns."""
KINDS = {
    nn.ReLU: "relu", nn.ReLU6: "relu6", nn.Hardswish: "hardswish", nn.Sigmoid: "sigmoid", nn.Tanh: "tanh",
    nn.Hardsigmoid: "hardsigmoid",
}  # fmt: skip


def activation_of(module: Module) -> str:
    """The kind of activation that a module is, or ends with; "" if it is none that dies or saturates."""
    if by_batches(module):
        kind = str(getattr(module, "activation", "none"))
        return kind if getattr(module, "axis", 1) == 1 and (kind in DYING or kind in SLOPES) else ""
    if type(module) is nn.Hardtanh and (module.min_val, module.max_val) == (-1, 1):
        return "hardtanh"
    return KINDS.get(type(module), "")
