"""The fit loop, and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from tinygrad_bn import nn
from tinygrad_bn.core.device import Device, cpu
from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.data import DataLoader
from tinygrad_bn.errors import ArgumentError, expected, wrong
from tinygrad_bn.optim import Optimizer
from tinygrad_bn.optim.lr_scheduler import ReduceLROnPlateau
from tinygrad_bn.train.history import EpochDone, History, Sums

Criterion = Callable[[Tensor, Tensor], Tensor]


class StopTraining(Exception):  # not an error: a callback's way to end training after a step
    """Raised by a callback on a ``StepDone``: training ends here, with the epoch so far evaluated and recorded."""


@dataclass(frozen=True)
class StepDone:
    """What is known after a training step.

    Attributes
    ----------
    epoch, step : int
        From 1.
    steps : int
        Steps of the epoch.
    loss, accuracy : float
        Means over the epoch's samples so far; accuracy from 0 to 1.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    accuracy: float


Callback = Callable[[StepDone | EpochDone], None]


@dataclass(frozen=True)
class Scores:
    """The mean loss over ``count`` samples, and how many of them the model classifies as they are labelled."""

    loss: float
    correct: int
    count: int

    @property
    def accuracy(self) -> float:
        """The fraction that is correct, from 0 to 1."""
        return self.correct / self.count


def fit(
    model: nn.Module,
    loader: DataLoader,
    optimizer: Optimizer,
    *,
    epochs: int,
    criterion: Criterion | None = None,
    test: DataLoader | None = None,
    scheduler: Any = None,
    callbacks: Sequence[Callback] = (),
    history: History | None = None,
    unfinished: Sums | None = None,
) -> History:
    """Train a classifier.

    Parameters
    ----------
    model : Module
        Maps a batch of inputs to logits of shape (N, classes).
    loader : DataLoader
        Gives pairs of inputs and class indices (N,), which are brought to the model's device.
    optimizer : Optimizer
    epochs : int
        How many; one that is continued counts as well.
    criterion : callable, optional
        Maps logits and class indices to the mean loss; default: ``CrossEntropyLoss``.
    test : DataLoader, optional
        Evaluated after every epoch.
    scheduler : learning-rate schedule, optional
        Its ``step`` is called after every epoch; that of a ``ReduceLROnPlateau`` with the test loss, or the training
        loss where there is no test.
    callbacks : sequence of callables
        Each is called with a ``StepDone`` after every step and an ``EpochDone`` after every epoch; ``StopTraining``
        raised on a ``StepDone`` ends training after that step.
    history : History, optional
        The one to add to; default: a new one.
    unfinished : Sums, optional
        Continue the history's last epoch, which was stopped after a step: its sums so far, ``history.unfinished``. The
        loader must give what is left of it (``DataLoader.load_state_dict``).

    Returns
    -------
    History

    Raises
    ------
    ArgumentError
        If ``epochs`` is not at least 0, or the loader has no batches.
    """
    if not isinstance(epochs, int) or epochs < 0:
        raise ArgumentError(wrong("fit", "epochs", "an int of at least 0", repr(epochs)))
    if not len(loader):
        raise ArgumentError(expected("fit", "loader", "at least one batch", "none"))
    record = History() if history is None else history
    measure = nn.CrossEntropyLoss() if criterion is None else criterion
    first = len(record.epochs) + (unfinished is None)
    for number in range(first, first + epochs):
        started = perf_counter()
        running = Sums() if unfinished is None or number > first else replace(unfinished)
        record.interrupted = _train(model, loader, optimizer, measure, number, running, callbacks)
        record.unfinished = running if record.interrupted else None
        scores = None if test is None else evaluate(model, test, measure)
        record.epochs[number - 1 :] = [
            _results(number, running, len(loader), scores, optimizer, perf_counter() - started)
        ]
        if scheduler is not None and not record.interrupted:
            _step(scheduler, record.epochs[-1])
        for callback in callbacks:
            callback(record.epochs[-1])
        if record.interrupted:
            break
    return record


def _step(scheduler: Any, done: EpochDone) -> None:
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(done.train_loss if done.test_loss is None else done.test_loss)
    else:
        scheduler.step()


def _place(model: nn.Module) -> Device:
    """Where a model is, and batches are brought."""
    first = next(model.parameters(), None)
    return cpu if first is None else first.device


def _correct(logits: Tensor, labels: Tensor) -> int:
    return int((logits.detach().argmax(1) == labels).sum())


def _results(
    number: int, running: Sums, planned: int, test: Scores | None, optimizer: Optimizer, seconds: float
) -> EpochDone:
    return EpochDone(
        epoch=number,
        steps=running.steps,
        steps_planned=planned,
        train_loss=running.loss / running.count,
        train_accuracy=running.correct / running.count,
        test_loss=None if test is None else test.loss,
        test_accuracy=None if test is None else test.accuracy,
        learning_rate=float(optimizer.param_groups[0]["lr"]),
        seconds=seconds,
    )


def _train(
    model: nn.Module,
    loader: DataLoader,
    optimizer: Optimizer,
    criterion: Criterion,
    epoch: int,
    running: Sums,
    callbacks: Sequence[Callback],
) -> bool:
    """Train for an epoch; return whether a callback stopped it."""
    model.train()
    place = _place(model)
    steps = len(loader)
    try:
        for inputs, labels in loader:
            inputs, labels = inputs.to(place), labels.to(place)
            optimizer.zero_grad()
            logits = model(inputs)
            loss = criterion(logits, labels)
            loss.backward()
            optimizer.step()
            running.add(loss.item(), _correct(logits, labels), logits.shape[0])
            done = StepDone(epoch, running.steps, steps, running.loss / running.count, running.correct / running.count)
            for callback in callbacks:
                callback(done)
    except StopTraining:
        return True
    return False


def evaluate(model: nn.Module, loader: DataLoader, criterion: Criterion | None = None) -> Scores:
    """Return a classifier's mean loss and accuracy, in evaluation mode; the model's mode is put back afterwards.

    Parameters
    ----------
    model : Module
    loader : DataLoader
        Gives pairs of inputs and class indices (N,).
    criterion : callable, optional
        Default: ``CrossEntropyLoss``.

    Raises
    ------
    ArgumentError
        If the loader has no batches.
    """
    measure = nn.CrossEntropyLoss() if criterion is None else criterion
    running = Sums()
    place = _place(model)
    training = model.training
    model.eval()
    try:
        with no_grad():
            for inputs, labels in loader:
                inputs, labels = inputs.to(place), labels.to(place)
                logits = model(inputs)
                running.add(measure(logits, labels).item(), _correct(logits, labels), logits.shape[0])
    finally:
        model.train(training)
    if not running.count:
        raise ArgumentError(expected("evaluate", "loader", "at least one sample", "none"))
    return Scores(running.loss / running.count, running.correct, running.count)
