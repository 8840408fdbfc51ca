"""The base of learning-rate schedules."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from tinygrad_bn.core.launch import reads_values
from tinygrad_bn.errors import ArgumentError, DTypeError, expected, wrong
from tinygrad_bn.optim.optimizer import Optimizer


class LRScheduler:
    """The base of all schedules.

    Parameters
    ----------
    optimizer : Optimizer
    last_epoch : int
        How often ``step()`` has been called before, less 1; -1 to begin.

    Attributes
    ----------
    base_lrs : list of float
        The groups' rates at the beginning.
    last_epoch : int
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise DTypeError(wrong(type(self).__name__, "optimizer", "an Optimizer", type(optimizer).__name__))
        self.optimizer = optimizer
        op = type(self).__name__
        for group in optimizer.param_groups:
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                hint = "load the optimiser's state dict first"
                raise ArgumentError(expected(op, "optimizer", "'initial_lr' in its groups", "none", hint))
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._step_count = 0
        self._last_lr: list[float] = []
        self._advance(begins=True)

    def get_lr(self) -> list[float]:
        """Return the rates of the groups after ``last_epoch`` steps, given the present ones."""
        raise NotImplementedError  # abstract: each schedule states its rule

    def get_last_lr(self) -> list[float]:
        """Return the rates that the last step set."""
        reads_values("a learning-rate schedule's get_last_lr()")
        return self._last_lr

    def step(self) -> None:
        """Set the rates for the next epoch."""
        reads_values("a learning-rate schedule's step()")
        if self._step_count == 1 and not self.optimizer.step_count:
            warnings.warn(
                f"{type(self).__name__}: step() was called before the optimiser's: the first rate is never used.",
                UserWarning,
                stacklevel=2,
            )
        self._advance(begins=False)

    def _advance(self, begins: bool) -> None:
        self._step_count += 1
        self.last_epoch += 1
        rates = self._first_lr() if begins else self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _first_lr(self) -> list[float]:
        """The rates that construction sets."""
        return self.get_lr()

    def restart(self) -> None:
        """Begin anew from the first rates, as a part of another schedule does when its turn comes."""
        for group, rate in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = rate
        self.last_epoch = -1
        self._advance(begins=True)

    def _present(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the optimiser."""
        return {name: value for name, value in self.__dict__.items() if name != "optimizer"}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned. The rates themselves are in the optimiser's state dict."""
        self.__dict__.update(state_dict)
