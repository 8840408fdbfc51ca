"""The main job: train on pictures, continue what was stopped; evaluate what was kept."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from tinygrad_bn.core.device import as_device
from tinygrad_bn.core.launch import get_num_threads
from tinygrad_bn.data import DataLoader
from tinygrad_bn.errors import DataError, ShapeError, TinygradError, expected, wrong
from tinygrad_bn.train.build import build, describe, evaluation_loader, network, title
from tinygrad_bn.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tinygrad_bn.train.config import PICTURES, PREFETCH, Config, load_data
from tinygrad_bn.train.figure import draw
from tinygrad_bn.train.history import EpochDone, History
from tinygrad_bn.train.info import versions
from tinygrad_bn.train.loop import Callback, Scores, StepDone, evaluate, fit
from tinygrad_bn.train.progress import GracefulInterrupt, ProgressBar
from tinygrad_bn.train.state import Training

CHECKPOINT = "checkpoint.safetensors"
HISTORY = "history.json"
FIGURE = "figure.png"
INTERRUPTED = 130


class Keeper:
    """A callback of ``fit``: writes checkpoint and history after each epoch, or after the step that was the last."""

    def __init__(self, training: Training, config: Config, folder: Path) -> None:
        self.training = training
        self.config = config
        self.folder = folder

    def __call__(self, event: StepDone | EpochDone) -> None:
        if isinstance(event, EpochDone):
            self.keep(asdict(event))

    def keep(self, results: dict[str, object]) -> None:
        """Write both files, each by atomic rename."""
        state = self.training.model.state_dict(), asdict(self.config), results, self.training.state_dict()
        save_checkpoint(Checkpoint(*state), self.folder / CHECKPOINT)
        self.keep_history()

    def keep_history(self) -> None:
        """Write the history alone."""
        about = {"config": asdict(self.config), "versions": versions(), "threads": get_num_threads()}
        self.training.history.save(self.folder / HISTORY, **about)


def train(config: Config, folder: Path, prefetch: int = 0, resumed: Checkpoint | None = None) -> int:
    """Train as configured and leave checkpoint, history and figure in a folder; return the exit code.

    Parameters
    ----------
    config : Config
    folder : Path
        An existing folder; files of an earlier run are overwritten.
    prefetch : int
        How many batches a thread makes ahead.
    resumed : Checkpoint, optional
        Continue the run that wrote it.

    Raises
    ------
    DataError
        If the data cannot be read or have no training pictures, or the checkpoint cannot be continued.
    """
    with GracefulInterrupt() as interrupt:
        split = load_data(config.data, config.data_dir)
        if not len(split.train):
            raise DataError(expected("train", "data", "training pictures", f"none for {config.data}"))
        training, test = build(config, split, prefetch)
        keeper = Keeper(training, config, folder)
        if resumed is None:
            keeper.keep({})
        else:
            _restore(training, resumed)
        print(describe(config, split, training.model), flush=True)
        try:
            _fit(training, config, test if len(split.test) else None, (keeper, interrupt))
        except KeyboardInterrupt:
            training.history.interrupted = True
            keeper.keep_history()
    report(training.history, config, folder)
    if not training.history.interrupted:
        return 0
    print(f"interrupted: {folder / CHECKPOINT} holds the network {_reached(training.history)}", file=sys.stderr)
    print("Hint: the same command with --resume continues", file=sys.stderr)
    return INTERRUPTED


def _restore(training: Training, resumed: Checkpoint) -> None:
    if resumed.training is None:
        want = "the state of a run, not of its network alone"
        raise DataError(expected("train", "checkpoint", want, "a checkpoint of an earlier version"))
    training.load_state_dict(resumed.model, resumed.training)


def _fit(training: Training, config: Config, test: DataLoader | None, callbacks: tuple[Callback, ...]) -> None:
    """What is left of the run."""
    history, steps = training.history, len(training.loader)
    begun = history.unfinished
    done = len(history.epochs) - (begun is not None)
    if done >= config.epochs:
        print(f"nothing is left of its {config.epochs} epochs")
        return
    taken = done * steps + (begun.steps if begun is not None else 0)
    with ProgressBar(config.epochs, steps, taken) as bar:
        fit(
            training.model,
            training.loader,
            training.optimizer,
            epochs=config.epochs - done,
            test=test,
            scheduler=training.scheduler,
            callbacks=(bar, *callbacks),
            history=history,
            unfinished=begun,
        )


def _reached(history: History) -> str:
    if not history.epochs:
        return "as it was before the first step"
    last = history.epochs[-1]
    return f"of epoch {last.epoch} after step {last.steps} of {last.steps_planned}"


def report(history: History, config: Config, folder: Path) -> None:
    """Print the table, draw the figure where matplotlib is installed, and say which files there are."""
    print(history.table())
    files = [CHECKPOINT, HISTORY]
    if history.epochs:
        try:
            draw(history, folder / FIGURE, f"{config.data}, {title(config)}")
            files.append(FIGURE)
        except TinygradError as error:
            print(f"no figure: {error}", file=sys.stderr)
    print(f"written to {folder}: {', '.join(files)}")


def evaluate_checkpoint(path: Path, data: str | None, folder: str | None, device: str = "cpu") -> Scores:
    """Print and return what a checkpoint's network reaches on the test part of a data set.

    Parameters
    ----------
    path : Path
        A checkpoint, or the folder of a run.
    data : str, optional
        Default: the data set it was trained on.
    folder : str, optional
        Where the data set's files are; default: where they were in training.
    device : str
        Where to evaluate it, wherever it was trained.

    Raises
    ------
    DataError
        If the checkpoint or the data cannot be read.
    DeviceError
        If there is no such device here.
    ShapeError
        If the network takes inputs of another size.
    """
    stored = load_checkpoint(path / CHECKPOINT if path.is_dir() else path)
    config = Config.of_dict(stored.config)
    name = config.data if data is None else data
    if PICTURES[name] != PICTURES[config.data]:
        want = f"a data set of pictures like those of {config.data}, which the network was trained on"
        raise ShapeError(wrong("evaluate", "data", want, f"{name}, whose are {PICTURES[name]}"))
    split = load_data(name, config.data_dir if folder is None else folder)
    model = network(config)
    try:
        model.load_state_dict(stored.model)
    except (ValueError, KeyError, RuntimeError) as error:
        raise DataError(wrong("evaluate", "checkpoint", f"of the network {title(config)}", error)) from None
    model.to(as_device(device, "evaluate"))
    scores = evaluate(model, evaluation_loader(config, split, PREFETCH[name]))
    found = f"{100 * scores.accuracy:.2f} % ({scores.correct} of {scores.count})"
    print(f"{name}: test accuracy {found}, loss {scores.loss:.4f}")
    recorded = stored.results.get("test_accuracy")
    if recorded is not None and name == config.data:
        print(f"recorded when it was written, in epoch {stored.results['epoch']}: {100 * recorded:.2f} %")
    return scores
