"""All that a training run consists of, as one state: what a checkpoint keeps and a resumed run continues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tinygrad_bn import nn
from tinygrad_bn.core.random import get_rng_state, set_rng_state
from tinygrad_bn.data import DataLoader
from tinygrad_bn.errors import StateDictError, TinygradError, expected
from tinygrad_bn.optim import Optimizer
from tinygrad_bn.optim.lr_scheduler import LRScheduler
from tinygrad_bn.train.history import EpochDone, History, Sums


@dataclass
class Training:
    """A run: network, optimiser, schedule, the loader of its training pictures, and its history so far."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler | None
    loader: DataLoader
    history: History

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the network's own state: numbers, strings, lists, dicts and tensors.

        Taken after an epoch, or after a step at which training was stopped, it continues to the very same weights.
        """
        unfinished = self.history.unfinished
        return {
            "optimizer": self.optimizer.state_dict(),
            "optimizer_steps": self.optimizer.step_count,
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "loader": self.loader.state_dict(),
            "generator": get_rng_state(),
            "epochs": [asdict(epoch) for epoch in self.history.epochs],
            "unfinished": None if unfinished is None else asdict(unfinished),
        }

    def load_state_dict(self, model: Mapping[str, Any], state_dict: Mapping[str, Any]) -> None:
        """Continue from a network's state and what ``state_dict`` returned.

        Raises
        ------
        StateDictError
            If they do not fit.
        """
        try:
            self._load(model, state_dict)
        except (TinygradError, KeyError, TypeError, ValueError) as error:
            want = "the state of a run that is set up as this one"
            raise StateDictError(expected("Training", "state_dict", want, f"something else: {error!r}")) from error

    def _load(self, model: Mapping[str, Any], state_dict: Mapping[str, Any]) -> None:
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.optimizer.step_count = state_dict["optimizer_steps"]
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state_dict["scheduler"])
        self.loader.load_state_dict(state_dict["loader"])
        set_rng_state(state_dict["generator"])
        unfinished = state_dict["unfinished"]
        self.history.epochs[:] = [EpochDone(**epoch) for epoch in state_dict["epochs"]]
        self.history.unfinished = None if unfinished is None else Sums(**unfinished)
