"""Layers, losses and what they are made of. Names, arguments and initial values are PyTorch's."""

from __future__ import annotations

import sys
from typing import Any

from tinygrad_bn import functional
from tinygrad_bn.errors import nearest
from tinygrad_bn.nn import init, utils
from tinygrad_bn.nn.activation import Dropout, Flatten, LogSoftmax, ReLU, Sigmoid, Softmax, Tanh
from tinygrad_bn.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from tinygrad_bn.nn.containers import ModuleList, Sequential
from tinygrad_bn.nn.linear import Identity, Linear
from tinygrad_bn.nn.loss import CrossEntropyLoss, L1Loss, MSELoss, NLLLoss
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.parameter import Parameter

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "Identity",
    "L1Loss",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "Module",
    "ModuleList",
    "NLLLoss",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "functional",
    "init",
    "utils",
]

sys.modules[f"{__name__}.functional"] = functional  # so that ``import tinygrad_bn.nn.functional as F`` finds it


def __getattr__(name: str) -> Any:
    raise AttributeError(nearest("tinygrad_bn.nn", name, __all__))
