"""The command line: ``python -m tinygrad_bn``."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tinygrad_bn.core.launch import pool, set_num_threads
from tinygrad_bn.errors import ArgumentError, TinygradError
from tinygrad_bn.train.config import DATA, EPOCHS, LEARNING_RATE, Config
from tinygrad_bn.train.info import info
from tinygrad_bn.train.job import INTERRUPTED, evaluate_checkpoint, train
from tinygrad_bn.train.models import ACTIVATIONS, NORMS

USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 for an error, 2 for wrong flags, 130 after Ctrl-C.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: the process's.
    """
    parser, commands = _parser()
    given = parser.parse_args(arguments)
    command = commands[given.command]
    try:
        code: int = given.run(given, command)
    except TinygradError as error:
        print(f"tinygrad_bn {given.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"tinygrad_bn {given.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return code


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser("tinygrad_bn", description="Train batch-norm networks on handwritten digits.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    job = commands.add_parser("train", help="train a network; keep checkpoint, history, figure")
    _train_flags(job)
    check = commands.add_parser("evaluate", help="test accuracy of a checkpoint")
    check.add_argument("checkpoint", type=Path, help="a checkpoint, or the folder of a run")
    check.add_argument("--data", choices=DATA, help="default: what it was trained on")
    check.add_argument("--data-dir", help="folder of the IDX files; default: that of the training run")
    _threads_flag(check)
    check.set_defaults(run=_evaluate)
    about = commands.add_parser("info", help="versions, processor, threads, BLAS, devices, cache")
    about.set_defaults(run=_info)
    return parser, {"train": job, "evaluate": check, "info": about}


def _train_flags(job: argparse.ArgumentParser) -> None:
    job.add_argument("--data", choices=DATA, default="digits", help="default: %(default)s, which come with the package")
    job.add_argument("--data-dir", help="folder of MNIST's four IDX files; default: the environment's TINYGRAD_BN_DATA")
    job.add_argument("--model", choices=["mlp"], default="mlp", help="default: %(default)s, fully connected")
    job.add_argument("--hidden", type=_widths, default="100,100,100", metavar="N,N,...", help="default: %(default)s")
    job.add_argument("--norm", choices=NORMS, default="batch", help="default: %(default)s")
    job.add_argument("--activation", choices=list(ACTIVATIONS), default="sigmoid", help="default: %(default)s")
    job.add_argument("--epochs", type=_at_least(1), metavar="N", help=f"default: {_listed(EPOCHS)}")
    job.add_argument("--batch-size", type=_at_least(1), default=60, metavar="N", help="default: %(default)s")
    job.add_argument("--optimizer", choices=list(LEARNING_RATE), default="sgd", help="default: %(default)s")
    job.add_argument("--lr", type=_positive, metavar="X", help=f"learning rate; default: {_listed(LEARNING_RATE)}")
    job.add_argument("--momentum", type=_fraction, metavar="X", help="of sgd; default: 0.9")
    job.add_argument(
        "--seed", type=_at_least(0), default=0, metavar="N", help="of weights and order; default: %(default)s"
    )
    _threads_flag(job)
    job.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the results; default: runs/ and the data's name"
    )
    job.set_defaults(run=_train)


def _threads_flag(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--threads", type=_at_least(1), metavar="N", help="default: all processors that this process may use"
    )


def _train(given: argparse.Namespace, command: argparse.ArgumentParser) -> int:
    if given.norm == "batch" and given.batch_size == 1:
        command.error("argument --batch-size: batch norm needs at least 2 samples (or --norm none)")
    if given.optimizer == "adam" and given.momentum is not None:
        command.error("argument --momentum: belongs to --optimizer sgd; adam has none")
    _set_threads(given, command)
    momentum = 0.9 if given.momentum is None else given.momentum
    config = Config(
        data=given.data,
        data_dir=given.data_dir,
        model=given.model,
        hidden=given.hidden,
        norm=given.norm,
        activation=given.activation,
        epochs=EPOCHS[given.data] if given.epochs is None else given.epochs,
        batch_size=given.batch_size,
        optimizer=given.optimizer,
        lr=LEARNING_RATE[given.optimizer] if given.lr is None else given.lr,
        momentum=None if given.optimizer == "adam" else momentum,
        seed=given.seed,
    )
    return train(config, _folder(given, command))


def _evaluate(given: argparse.Namespace, command: argparse.ArgumentParser) -> int:
    _set_threads(given, command)
    evaluate_checkpoint(given.checkpoint, given.data, given.data_dir)
    return 0


def _info(given: argparse.Namespace, command: argparse.ArgumentParser) -> int:
    print(info())
    return 0


def _set_threads(given: argparse.Namespace, command: argparse.ArgumentParser) -> None:
    if given.threads is not None:
        try:
            set_num_threads(given.threads)
        except ArgumentError:
            command.error(f"argument --threads: must be from 1 to {pool.limit}. Got {given.threads}.")


def _folder(given: argparse.Namespace, command: argparse.ArgumentParser) -> Path:
    folder: Path = Path("runs") / given.data if given.out is None else given.out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        command.error(f"argument --out: cannot make the folder {folder}: {error.strerror}")
    return folder


def _listed(defaults: dict[str, int] | dict[str, float]) -> str:
    return ", ".join(f"{value} for {name}" for name, value in defaults.items())


def _at_least(low: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text) if text.lstrip("+-").isdecimal() else low - 1
        if value < low:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {low}. Got {text!r}.")
        return value

    return parse


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _positive(text: str) -> float:
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number. Got {text!r}.")
    return value


def _fraction(text: str) -> float:
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to below 1. Got {text!r}.")
    return value


def _widths(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"must be whole numbers of at least 1 with commas between. Got {text!r}.")
    return tuple(int(part) for part in parts)
