"""Schedules one after the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from tinygrad_bn.core.launch import reads_values
from tinygrad_bn.errors import ArgumentError, DTypeError, expected, wrong
from tinygrad_bn.optim.optimizer import Optimizer
from tinygrad_bn.optim.plateau import ReduceLROnPlateau
from tinygrad_bn.optim.schedule import LRScheduler


class SequentialLR(LRScheduler):
    """One schedule after the other, each counting its epochs from the milestone where its turn comes.

    Parameters
    ----------
    optimizer : Optimizer
    schedulers : sequence of LRScheduler
        Of the same optimiser.
    milestones : sequence of int
        Where the second, third … begins: one less than there are schedules.
    last_epoch : int

    Raises
    ------
    ArgumentError
        If milestones and schedules do not fit together, or a schedule is of another optimiser or a
        ``ReduceLROnPlateau``.
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int], last_epoch: int = -1
    ) -> None:
        self._check(optimizer, schedulers, milestones)
        self.optimizer = optimizer
        self._schedulers = list(schedulers)
        self._milestones = list(milestones)
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch + 1
        self._step_count = 1
        self._begin_part()

    @staticmethod
    def _check(optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int]) -> None:
        if not schedulers or len(milestones) != len(schedulers) - 1:
            want = "one milestone less than there are schedules, of which one at least"
            got = f"{len(milestones)} for {len(schedulers)}"
            raise ArgumentError(expected("SequentialLR", "milestones", want, got))
        for i, schedule in enumerate(schedulers):
            at = f"schedulers[{i}]"
            if not isinstance(schedule, LRScheduler):
                raise DTypeError(wrong("SequentialLR", at, "an LRScheduler", type(schedule).__name__))
            if isinstance(schedule, ReduceLROnPlateau):
                raise ArgumentError(wrong("SequentialLR", at, "a schedule by epochs", type(schedule).__name__))
            if schedule.optimizer is not optimizer:
                raise ArgumentError(wrong("SequentialLR", at, "a schedule of the same optimiser", "another's"))

    def _part(self) -> LRScheduler:
        return self._schedulers[bisect_right(self._milestones, self.last_epoch)]

    def _begin_part(self) -> None:
        self._part().restart()
        self._last_lr = self._part().get_last_lr()

    def restart(self) -> None:
        """Begin anew with the first schedule."""
        self.last_epoch = 0
        self._begin_part()

    def step(self) -> None:
        """Set the rates for the next epoch."""
        reads_values("a learning-rate schedule's step()")
        self._step_count += 1
        self.last_epoch += 1
        if self.last_epoch in self._milestones:
            self._begin_part()
            return
        self._part().step()
        self._last_lr = self._part().get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the optimiser, with the schedules' state dicts in place of the schedules."""
        return {**super().state_dict(), "_schedulers": [part.state_dict() for part in self._schedulers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned."""
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "_schedulers"})
        for part, state in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            part.load_state_dict(state)
