"""A schedule that watches a number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tinygrad_bn.core.launch import reads_values
from tinygrad_bn.errors import ArgumentError, DTypeError, expected, wrong
from tinygrad_bn.optim.optimizer import Optimizer
from tinygrad_bn.optim.schedule import LRScheduler


class ReduceLROnPlateau(LRScheduler):
    """The rates are multiplied by ``factor`` when a number has not improved for more than ``patience`` epochs.

    Parameters
    ----------
    optimizer : Optimizer
    mode : {"min", "max"}
        Whether less is better, or more.
    factor : float
        Below 1.
    patience : int
    threshold : float
        By how much a number must beat the best one to count as better …
    threshold_mode : {"rel", "abs"}
        … as a fraction of the best, or by itself.
    cooldown : int
        Epochs after a reduction in which nothing is counted.
    min_lr : float or sequence of float
        The least rate, of all groups or of each.
    eps : float
        A reduction by no more than this is left out.

    Raises
    ------
    ArgumentError, DTypeError
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0,
        eps: float = 1e-8,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise DTypeError(wrong("ReduceLROnPlateau", "optimizer", "an Optimizer", type(optimizer).__name__))
        if not factor < 1:
            raise ArgumentError(wrong("ReduceLROnPlateau", "factor", "below 1", factor))
        if mode not in ("min", "max"):
            raise ArgumentError(wrong("ReduceLROnPlateau", "mode", "'min' or 'max'", repr(mode)))
        if threshold_mode not in ("rel", "abs"):
            raise ArgumentError(wrong("ReduceLROnPlateau", "threshold_mode", "'rel' or 'abs'", repr(threshold_mode)))
        self.optimizer = optimizer
        self.mode, self.factor, self.patience = mode, factor, patience
        self.threshold, self.threshold_mode = threshold, threshold_mode
        self.cooldown, self.eps = cooldown, eps
        self.min_lrs = self._floors(min_lr)
        self.base_lrs = self._present()
        self.last_epoch = 0
        self.best = math.inf if mode == "min" else -math.inf
        self.cooldown_counter = 0
        self.num_bad_epochs = 0
        self._last_lr = self._present()

    def _floors(self, min_lr: float | Sequence[float]) -> list[float]:
        groups = len(self.optimizer.param_groups)
        floors = list(min_lr) if isinstance(min_lr, Sequence) else [min_lr] * groups
        if len(floors) != groups:
            raise ArgumentError(expected("ReduceLROnPlateau", "min_lr", f"one rate a group, {groups}", len(floors)))
        return floors

    def step(self, metrics: Any = None) -> None:
        """Look at the epoch's number, and reduce the rates if it is time.

        Parameters
        ----------
        metrics : float, or Tensor of one element

        Raises
        ------
        ArgumentError
            Without a number.
        """
        reads_values("a learning-rate schedule's step()")
        if metrics is None:
            raise ArgumentError(wrong("ReduceLROnPlateau", "metrics", "the number that is to improve", None))
        current = float(metrics)
        self.last_epoch += 1
        if self._is_better(current):
            self.best, self.num_bad_epochs = current, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce()
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._last_lr = self._present()

    def _is_better(self, current: float) -> bool:
        sign = -1.0 if self.mode == "min" else 1.0
        if self.threshold_mode == "rel":
            return sign * current > sign * (self.best * (1.0 + sign * self.threshold))
        return sign * current > sign * (self.best + sign * self.threshold)

    def _reduce(self) -> None:
        for group, floor in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
            rate = max(group["lr"] * self.factor, floor)
            if group["lr"] - rate > self.eps:
                group["lr"] = rate
