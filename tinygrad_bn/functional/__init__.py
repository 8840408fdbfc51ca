"""The stateless functions, with PyTorch's signatures: ``F.batch_norm``, ``F.cross_entropy`` and the rest.

Composites of the operations, and the operations themselves, which carry the one docstring each.
"""

from __future__ import annotations

from typing import Any

from tinygrad_bn.errors import nearest
from tinygrad_bn.functional.activation import dropout, log_softmax, relu, sigmoid, softmax, tanh
from tinygrad_bn.functional.loss import cross_entropy, l1_loss, mse_loss, nll_loss
from tinygrad_bn.functional.normalisation import batch_norm, batch_norm_act
from tinygrad_bn.ops.matmul import linear
from tinygrad_bn.ops.movement import flatten

__all__ = [
    "batch_norm",
    "batch_norm_act",
    "cross_entropy",
    "dropout",
    "flatten",
    "l1_loss",
    "linear",
    "log_softmax",
    "mse_loss",
    "nll_loss",
    "relu",
    "sigmoid",
    "softmax",
    "tanh",
]


def __getattr__(name: str) -> Any:
    raise AttributeError(nearest("tinygrad_bn.functional", name, __all__))
