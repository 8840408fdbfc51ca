"""Optimisers and learning-rate schedules, with PyTorch's names, arguments and state dicts."""

from __future__ import annotations

from typing import Any

from tinygrad_bn.errors import nearest
from tinygrad_bn.optim import lr_scheduler, swa_utils
from tinygrad_bn.optim.adagrad import Adagrad
from tinygrad_bn.optim.adam import Adam, AdamW
from tinygrad_bn.optim.optimizer import Optimizer
from tinygrad_bn.optim.rmsprop import RMSprop
from tinygrad_bn.optim.sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop", "lr_scheduler", "swa_utils"]


def __getattr__(name: str) -> Any:
    raise AttributeError(nearest("tinygrad_bn.optim", name, __all__))
