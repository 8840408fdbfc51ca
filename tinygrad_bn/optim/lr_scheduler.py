"""Learning-rate schedules: each ``step()``, called after the optimiser's, sets the rates of all groups."""

from __future__ import annotations

import math
import types
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tinygrad_bn.errors import ArgumentError, expected, nearest, wrong
from tinygrad_bn.optim.one_cycle import OneCycleLR
from tinygrad_bn.optim.optimizer import Optimizer
from tinygrad_bn.optim.plateau import ReduceLROnPlateau
from tinygrad_bn.optim.schedule import LRScheduler
from tinygrad_bn.optim.sequential import SequentialLR

__all__ = [
    "CosineAnnealingLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]


class LambdaLR(LRScheduler):
    """Each group's rate is its first one times a function of the epoch.

    Parameters
    ----------
    optimizer : Optimizer
    lr_lambda : callable or sequence of callable
        Maps the epoch, from 0, to a factor; one for all groups, or one a group.
    last_epoch : int
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        groups = len(optimizer.param_groups) if isinstance(optimizer, Optimizer) else 0
        self.lr_lambdas = [lr_lambda] * groups if callable(lr_lambda) else list(lr_lambda)
        if len(self.lr_lambdas) != groups and groups:
            want = f"one function a group, {groups}"
            raise ArgumentError(expected("LambdaLR", "lr_lambda", want, len(self.lr_lambdas)))
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Return the first rates times the functions' values."""
        return [base * f(self.last_epoch) for base, f in zip(self.base_lrs, self.lr_lambdas, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the optimiser; of the functions only the attributes of callable objects."""
        state = super().state_dict()
        state["lr_lambdas"] = [
            None if isinstance(f, types.FunctionType) else dict(getattr(f, "__dict__", {})) for f in self.lr_lambdas
        ]
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned."""
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "lr_lambdas"})
        for f, attributes in zip(self.lr_lambdas, state_dict["lr_lambdas"], strict=True):
            if attributes is not None:
                f.__dict__.update(attributes)


class StepLR(LRScheduler):
    """Every ``step_size`` epochs the rates are multiplied by ``gamma``.

    Parameters
    ----------
    optimizer : Optimizer
    step_size : int
    gamma : float
    last_epoch : int
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        if not isinstance(step_size, int) or step_size < 1:
            raise ArgumentError(wrong("StepLR", "step_size", "an int of at least 1", repr(step_size)))
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Return the present rates, times ``gamma`` at every ``step_size``-th epoch."""
        if self.last_epoch == 0 or self.last_epoch % self.step_size:
            return self._present()
        return [rate * self.gamma for rate in self._present()]


class MultiStepLR(LRScheduler):
    """At each milestone the rates are multiplied by ``gamma``; as often as it occurs among them.

    Parameters
    ----------
    optimizer : Optimizer
    milestones : iterable of int
        Epochs.
    gamma : float
    last_epoch : int
    """

    milestones: Mapping[int, int]

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.milestones = Counter(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """Return the present rates, times ``gamma`` at a milestone."""
        times = self.milestones.get(self.last_epoch, 0)
        return [rate * self.gamma**times for rate in self._present()] if times else self._present()


class ExponentialLR(LRScheduler):
    """Every epoch the rates are multiplied by ``gamma``.

    Parameters
    ----------
    optimizer : Optimizer
    gamma : float
    last_epoch : int
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _first_lr(self) -> list[float]:
        return self._present()

    def get_lr(self) -> list[float]:
        """Return the present rates times ``gamma``."""
        return [rate * self.gamma for rate in self._present()]


class LinearLR(LRScheduler):
    """A factor of the first rates goes from ``start_factor`` to ``end_factor`` in equal steps, and stays there.

    Parameters
    ----------
    optimizer : Optimizer
    start_factor : float
        Above 0, at most 1.
    end_factor : float
        From 0 to 1.
    total_iters : int
        The number of steps.
    last_epoch : int
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not 0 < start_factor <= 1:
            raise ArgumentError(wrong("LinearLR", "start_factor", "above 0 and at most 1", start_factor))
        if not 0 <= end_factor <= 1:
            raise ArgumentError(wrong("LinearLR", "end_factor", "from 0 to 1", end_factor))
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def _first_lr(self) -> list[float]:
        return self._present() if self.last_epoch else [rate * self.start_factor for rate in self._present()]

    def get_lr(self) -> list[float]:
        """Return the rates of this epoch, given those of the one before."""
        if self.last_epoch > self.total_iters:
            return self._present()
        rise = self.end_factor - self.start_factor
        factor = 1.0 + rise / (self.total_iters * self.start_factor + (self.last_epoch - 1) * rise)
        return [rate * factor for rate in self._present()]


class CosineAnnealingLR(LRScheduler):
    """The rates fall along half a cosine from the first ones to ``eta_min`` in ``T_max`` epochs, and rise again.

    Parameters
    ----------
    optimizer : Optimizer
    T_max : int
    eta_min : float
    last_epoch : int

    Notes
    -----
    η_t = eta_min + (η_0 - eta_min) (1 + cos(π t / T_max)) / 2, by recursion, so that changes to the rates from
    elsewhere are carried on.

    References
    ----------
    Loshchilov & Hutter 2017 (arXiv:1608.03983), without restarts.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        if not T_max > 0:
            raise ArgumentError(wrong("CosineAnnealingLR", "T_max", "above 0", T_max))
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def _first_lr(self) -> list[float]:
        return self._present()

    def get_lr(self) -> list[float]:
        """Return the rates of this epoch, given those of the one before."""
        t, period, low = self.last_epoch, self.T_max, self.eta_min
        if (t - 1 - period) % (2 * period) == 0:
            rise = (1 - math.cos(math.pi / period)) / 2
            return [rate + (base - low) * rise for base, rate in zip(self.base_lrs, self._present(), strict=True)]
        ratio = (1 + math.cos(math.pi * t / period)) / (1 + math.cos(math.pi * (t - 1) / period))
        return [ratio * (rate - low) + low for rate in self._present()]


def __getattr__(name: str) -> Any:
    raise AttributeError(nearest("tinygrad_bn.optim.lr_scheduler", name, __all__))
