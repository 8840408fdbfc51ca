"""The one-cycle schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tinygrad_bn.errors import ArgumentError, DTypeError, expected, wrong
from tinygrad_bn.optim.optimizer import Group, Optimizer
from tinygrad_bn.optim.schedule import LRScheduler

Phase = tuple[float, tuple[str, str], tuple[str, str]]
"""Its last step; which entries of a group the rate goes from and to; and the momentum."""
UP: tuple[tuple[str, str], tuple[str, str]] = (("initial_lr", "max_lr"), ("max_momentum", "base_momentum"))


class OneCycleLR(LRScheduler):
    """The rates rise to ``max_lr`` and fall to next to nothing, momentum the other way; a step a batch.

    Parameters
    ----------
    optimizer : Optimizer
    max_lr : float or sequence of float
        For all groups, or for each.
    total_steps : int, optional
        Default: ``epochs`` times ``steps_per_epoch``.
    epochs, steps_per_epoch : int, optional
    pct_start : float
        The fraction of all steps in which the rates rise.
    anneal_strategy : {"cos", "linear"}
    cycle_momentum : bool
        Move the momentum as well: ``momentum``, or the first of ``betas``.
    base_momentum, max_momentum : float or sequence of float
        Its least and its largest value.
    div_factor : float
        The first rate is ``max_lr`` divided by it.
    final_div_factor : float
        The last rate is the first one divided by it.
    three_phase : bool
        Fall to the first rate as long as it took to rise, and only then to the last one.
    last_epoch : int
        Steps taken, less 1.

    Raises
    ------
    ArgumentError, DTypeError

    References
    ----------
    Smith & Topin 2018 (arXiv:1708.07120), in PyTorch's form.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.85,
        max_momentum: float | Sequence[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise DTypeError(wrong("OneCycleLR", "optimizer", "an Optimizer", type(optimizer).__name__))
        if not 0 <= pct_start <= 1:
            raise ArgumentError(wrong("OneCycleLR", "pct_start", "from 0 to 1", pct_start))
        if anneal_strategy not in ("cos", "linear"):
            raise ArgumentError(wrong("OneCycleLR", "anneal_strategy", "'cos' or 'linear'", repr(anneal_strategy)))
        self.optimizer = optimizer
        self.total_steps = _total(total_steps, epochs, steps_per_epoch)
        self.anneal_strategy = anneal_strategy
        self.cycle_momentum = cycle_momentum
        self.phases = _phases(self.total_steps, pct_start, three_phase)
        rates = self._listed("max_lr", max_lr)
        momenta = self._listed("base_momentum", base_momentum), self._listed("max_momentum", max_momentum)
        if last_epoch == -1:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                first = rate / div_factor
                group.update(initial_lr=first, max_lr=rate, min_lr=first / final_div_factor)
        if cycle_momentum:
            self._begin_momentum(*momenta, begins=last_epoch == -1)
        super().__init__(optimizer, last_epoch)

    def _listed(self, name: str, value: float | Sequence[float]) -> list[float]:
        groups = len(self.optimizer.param_groups)
        values = list(value) if isinstance(value, Sequence) else [value] * groups
        if len(values) != groups:
            raise ArgumentError(expected("OneCycleLR", name, f"one number a group, {groups}", len(values)))
        return values

    def _begin_momentum(self, least: list[float], most: list[float], begins: bool) -> None:
        if not {"momentum", "betas"} & set(self.optimizer.defaults):
            want = "an optimiser with momentum or betas, for cycle_momentum=True"
            raise ArgumentError(wrong("OneCycleLR", "optimizer", want, type(self.optimizer).__name__))
        for group, low, high in zip(self.optimizer.param_groups, least, most, strict=True):
            if begins:
                _set_momentum(group, high)
                group.update(max_momentum=high, base_momentum=low)

    def get_lr(self) -> list[float]:
        """Return the rates of this step; momentum is set as well.

        Raises
        ------
        ArgumentError
            After more than ``total_steps`` steps.
        """
        if self.last_epoch > self.total_steps:
            want = f"called for {self.total_steps} steps at most"
            raise ArgumentError(wrong("OneCycleLR", "step", want, self.last_epoch))
        done, rate, momentum = self._place()
        for group in self.optimizer.param_groups if self.cycle_momentum else ():
            _set_momentum(group, self._between(group[momentum[0]], group[momentum[1]], done))
        return [self._between(group[rate[0]], group[rate[1]], done) for group in self.optimizer.param_groups]

    def _place(self) -> tuple[float, tuple[str, str], tuple[str, str]]:
        """How far the present phase has come, from 0 to 1; what its rate and its momentum go from and to."""
        at = next((i for i, phase in enumerate(self.phases) if self.last_epoch <= phase[0]), len(self.phases) - 1)
        end, rate, momentum = self.phases[at]
        start = self.phases[at - 1][0] if at else 0.0
        return ((self.last_epoch - start) / (end - start) if end > start else 1.0), rate, momentum

    def _between(self, first: float, last: float, done: float) -> float:
        if self.anneal_strategy == "cos":
            return last + (first - last) / 2.0 * (math.cos(math.pi * done) + 1)
        return (last - first) * done + first


def _total(total_steps: Any, epochs: Any, steps_per_epoch: Any) -> int:
    given = [total_steps] if total_steps is not None else [epochs, steps_per_epoch]
    if not all(isinstance(n, int) and n > 0 for n in given):
        want = "an int above 0, or 'epochs' and 'steps_per_epoch' must both be"
        raise ArgumentError(wrong("OneCycleLR", "total_steps", want, f"{total_steps}, {epochs}, {steps_per_epoch}"))
    return math.prod(given)


def _phases(total: int, rising: float, three: bool) -> list[Phase]:
    top = float(rising * total) - 1
    if not three:
        return [(top, *UP), (total - 1, ("max_lr", "min_lr"), ("base_momentum", "max_momentum"))]
    down = (("max_lr", "initial_lr"), ("base_momentum", "max_momentum"))
    end = (("initial_lr", "min_lr"), ("max_momentum", "max_momentum"))
    return [(top, *UP), (float(2 * rising * total) - 2, *down), (total - 1, *end)]


def _set_momentum(group: Group, value: float) -> None:
    if "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value
