"""Learning-rate schedules: each ``step()``, called after the optimiser's, sets the rates of all groups."""

from __future__ import annotations

import math
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tinygrad_bn.errors import ArgumentError, DTypeError, expected, nearest, wrong
from tinygrad_bn.optim.optimizer import Optimizer

__all__ = ["CosineAnnealingLR", "LRScheduler", "LambdaLR", "StepLR"]


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
        return self._last_lr

    def step(self) -> None:
        """Set the rates for the next epoch."""
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

    def _present(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the optimiser."""
        return {name: value for name, value in self.__dict__.items() if name != "optimizer"}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned. The rates themselves are in the optimiser's state dict."""
        self.__dict__.update(state_dict)


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
