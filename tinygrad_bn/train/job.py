"""The main job: train on handwritten digits; evaluate what was kept."""

from __future__ import annotations

import sys
from dataclasses import asdict
from math import prod
from pathlib import Path

from tinygrad_bn import nn, optim
from tinygrad_bn.core.launch import get_num_threads
from tinygrad_bn.core.random import manual_seed
from tinygrad_bn.data import DataLoader, Split
from tinygrad_bn.errors import ShapeError, TinygradError, wrong
from tinygrad_bn.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tinygrad_bn.train.config import Config, load_data
from tinygrad_bn.train.figure import draw
from tinygrad_bn.train.history import EpochDone, History
from tinygrad_bn.train.info import versions
from tinygrad_bn.train.loop import Scores, StepDone, evaluate, fit
from tinygrad_bn.train.models import mlp
from tinygrad_bn.train.progress import GracefulInterrupt, ProgressBar

CHECKPOINT = "checkpoint.safetensors"
HISTORY = "history.json"
FIGURE = "figure.png"
CLASSES = 10
EVALUATION_BATCH = 1000
INTERRUPTED = 130


class Keeper:
    """A callback of ``fit``: writes checkpoint and history before the first epoch and after each."""

    def __init__(self, model: nn.Module, config: Config, history: History, folder: Path) -> None:
        self.model = model
        self.config = config
        self.history = history
        self.folder = folder
        self.keep({})

    def __call__(self, event: StepDone | EpochDone) -> None:
        if isinstance(event, EpochDone):
            self.keep(asdict(event))

    def keep(self, results: dict[str, object]) -> None:
        """Write both files, each by atomic rename."""
        checkpoint = Checkpoint(self.model.state_dict(), asdict(self.config), results)
        save_checkpoint(checkpoint, self.folder / CHECKPOINT)
        self.keep_history()

    def keep_history(self) -> None:
        """Write the history alone."""
        about = {"config": asdict(self.config), "versions": versions(), "threads": get_num_threads()}
        self.history.save(self.folder / HISTORY, **about)


def train(config: Config, folder: Path) -> int:
    """Train as configured and leave checkpoint, history and figure in a folder; return the exit code.

    Parameters
    ----------
    config : Config
    folder : Path
        An existing folder; files of an earlier run are overwritten.
    """
    history = History()
    with GracefulInterrupt() as interrupt:
        split = load_data(config.data, config.data_dir)
        model, optimizer = build(config, split)
        loader, test = loaders(config, split)
        keeper = Keeper(model, config, history, folder)
        print(describe(config, split, model), flush=True)
        try:
            with ProgressBar(config.epochs, len(loader)) as bar:
                callbacks = (bar, keeper, interrupt)
                fit(model, loader, optimizer, epochs=config.epochs, test=test, callbacks=callbacks, history=history)
        except KeyboardInterrupt:
            history.interrupted = True
            keeper.keep_history()
    report(history, config, folder)
    if not history.interrupted:
        return 0
    print(f"interrupted: {folder / CHECKPOINT} holds the network {_reached(history)}", file=sys.stderr)
    return INTERRUPTED


def _reached(history: History) -> str:
    if not history.epochs:
        return "as it was before the first step"
    last = history.epochs[-1]
    return f"of epoch {last.epoch} after step {last.steps} of {last.steps_planned}"


def build(config: Config, split: Split) -> tuple[nn.Module, optim.Optimizer]:
    """Return the configured network, its initial values drawn from the seed, and its optimiser."""
    manual_seed(config.seed)
    model = network(config, prod(split.train[0][0].shape))
    if config.optimizer == "adam":
        return model, optim.Adam(model.parameters(), lr=config.lr)
    return model, optim.SGD(model.parameters(), lr=config.lr, momentum=config.momentum or 0.0)


def network(config: Config, inputs: int) -> nn.Sequential:
    """Return the configured network for so many input values."""
    return mlp(inputs, config.hidden, CLASSES, config.norm, config.activation)


def loaders(config: Config, split: Split) -> tuple[DataLoader, DataLoader]:
    """Return the loaders of the two parts; batch norm cannot train on a last batch of one, which is left out."""
    single = config.norm == "batch" and len(split.train) % config.batch_size == 1
    train = DataLoader(split.train, config.batch_size, shuffle=True, drop_last=single, seed=config.seed)
    return train, DataLoader(split.test, EVALUATION_BATCH)


def describe(config: Config, split: Split, model: nn.Module) -> str:
    """Return two lines on what is going to be trained."""
    widths = "-".join(str(n) for n in (prod(split.train[0][0].shape), *config.hidden, CLASSES))
    count = sum(p.numel() for p in model.parameters())
    norm = "batch norm" if config.norm == "batch" else "no batch norm"
    rate = f"learning rate {config.lr:g}" + ("" if config.momentum is None else f", momentum {config.momentum:g}")
    return (
        f"{config.data}: {len(split.train):,} training and {len(split.test):,} test pictures\n"
        f"{config.model} {widths}, {config.activation}, {norm}: {count:,} parameters; "
        f"{config.optimizer}, {rate}, batches of {config.batch_size}, seed {config.seed}"
    )


def report(history: History, config: Config, folder: Path) -> None:
    """Print the table, draw the figure where matplotlib is installed, and say which files there are."""
    print(history.table())
    files = [CHECKPOINT, HISTORY]
    if history.epochs:
        try:
            draw(history, folder / FIGURE, f"{config.data}, {config.model}, {config.activation}, norm: {config.norm}")
            files.append(FIGURE)
        except TinygradError as error:
            print(f"no figure: {error}", file=sys.stderr)
    print(f"written to {folder}: {', '.join(files)}")


def evaluate_checkpoint(path: Path, data: str | None, folder: str | None) -> Scores:
    """Print and return what a checkpoint's network reaches on the test part of a data set.

    Parameters
    ----------
    path : Path
        A checkpoint, or the folder of a run.
    data : str, optional
        Default: the data set it was trained on.
    folder : str, optional
        Where the data set's files are; default: where they were in training.

    Raises
    ------
    DataError
        If the checkpoint or the data cannot be read.
    ShapeError
        If the network takes inputs of another size.
    """
    stored = load_checkpoint(path / CHECKPOINT if path.is_dir() else path)
    config = Config.of_dict(stored.config)
    name = config.data if data is None else data
    split = load_data(name, config.data_dir if folder is None else folder)
    inputs = prod(split.test[0][0].shape)
    model = network(config, inputs)
    try:
        model.load_state_dict(stored.model)
    except (ValueError, KeyError, RuntimeError) as error:
        want = f"a data set of pictures like those of {config.data}, which the network was trained on"
        raise ShapeError(wrong("evaluate", "data", want, f"{name}, {inputs} values each: {error}")) from None
    scores = evaluate(model, DataLoader(split.test, EVALUATION_BATCH))
    found = f"{100 * scores.accuracy:.2f} % ({scores.correct} of {scores.count})"
    print(f"{name}: test accuracy {found}, loss {scores.loss:.4f}")
    recorded = stored.results.get("test_accuracy")
    if recorded is not None and name == config.data:
        print(f"recorded when it was written, in epoch {stored.results['epoch']}: {100 * recorded:.2f} %")
    return scores
