"""What training leaves behind: a record an epoch."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tinygrad_bn.train.files import replaced


@dataclass(frozen=True)
class EpochDone:
    """One epoch's results.

    Attributes
    ----------
    epoch : int
        From 1.
    steps : int
        Steps taken; fewer than ``steps_planned`` where training was stopped in the middle.
    steps_planned : int
    train_loss, train_accuracy : float
        Means over the epoch's samples, each taken as it was trained on; accuracy from 0 to 1.
    test_loss, test_accuracy : float or None
        In evaluation mode after the epoch; None without a test set.
    learning_rate : float
        Of the first parameter group, during the epoch.
    seconds : float
        Training and evaluation.
    """

    epoch: int
    steps: int
    steps_planned: int
    train_loss: float
    train_accuracy: float
    test_loss: float | None
    test_accuracy: float | None
    learning_rate: float
    seconds: float


@dataclass
class Sums:
    """What the steps of an epoch add up to: loss and correct answers, over ``count`` samples in ``steps`` steps."""

    loss: float = 0.0
    correct: int = 0
    count: int = 0
    steps: int = 0

    def add(self, loss: float, correct: int, count: int) -> None:
        """Add a step of that mean loss."""
        self.loss += loss * count
        self.correct += correct
        self.count += count
        self.steps += 1


@dataclass
class History:
    """The epochs of a training run.

    Attributes
    ----------
    epochs : list of EpochDone
    interrupted : bool
        Whether it was stopped before its last epoch's end.
    unfinished : Sums or None
        Of the last epoch, where that was stopped: what ``fit`` needs to continue it.
    """

    epochs: list[EpochDone] = field(default_factory=list)
    interrupted: bool = False
    unfinished: Sums | None = None

    def table(self) -> str:
        """Return the epochs as a table for people."""
        names = ("train loss", "train acc.", "test loss", "test acc.")
        head = "  ".join(["epoch", *(f"{name:>10}" for name in names), f"{'seconds':>8}"])
        return "\n".join([head, *(_row(e) for e in self.epochs)])

    def save(self, path: str | os.PathLike[str], **more: Any) -> None:
        """Write the history as JSON, by atomic rename; numbers that are not finite are written as null.

        Parameters
        ----------
        path : path-like
        **more
            Further entries: the configuration, versions.
        """
        content = {**more, "interrupted": self.interrupted, "epochs": [asdict(e) for e in self.epochs]}
        with replaced(path) as part:
            Path(part).write_text(json.dumps(_finite(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _row(e: EpochDone) -> str:
    test_loss = "-" if e.test_loss is None else f"{e.test_loss:.4f}"
    test_accuracy = "-" if e.test_accuracy is None else f"{100 * e.test_accuracy:.2f} %"
    train_accuracy = f"{100 * e.train_accuracy:.2f} %"
    row = f"{e.epoch:>5}  {e.train_loss:>10.4f}  {train_accuracy:>10}  {test_loss:>10}  {test_accuracy:>10}"
    stopped = "" if e.steps == e.steps_planned else f"  (stopped after {e.steps} of {e.steps_planned} steps)"
    return f"{row}  {e.seconds:>8.2f}{stopped}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
