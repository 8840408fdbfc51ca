"""The command line: ``python -m tinygrad_bn``."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tinygrad_bn.core.launch import pool, set_num_threads
from tinygrad_bn.errors import ArgumentError, TinygradError
from tinygrad_bn.train.checkpoint import load_checkpoint
from tinygrad_bn.train.config import (
    AUGMENT,
    BATCH_SIZE,
    DATA,
    DEVICES,
    EPOCHS,
    LEARNING_RATE,
    MODEL,
    MODELS,
    PREFETCH,
    SCHEDULES,
    WEIGHT_DECAY,
    Config,
)
from tinygrad_bn.train.flags import at_least, fraction, listed, not_negative, positive, whole_numbers
from tinygrad_bn.train.info import info
from tinygrad_bn.train.job import CHECKPOINT, INTERRUPTED, evaluate_checkpoint, train
from tinygrad_bn.train.models import ACTIVATIONS, NORMS
from tinygrad_bn.train.settle import FlagError, continued, settle
from tinygrad_bn.train.warmup import DTYPES, warmup


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
        with _short_warnings(given.command):
            code: int = given.run(given, command)
    except TinygradError as error:
        print(f"tinygrad_bn {given.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"tinygrad_bn {given.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return code


@contextmanager
def _short_warnings(command: str) -> Iterator[None]:
    """Let warnings look as the command's errors do: what is wrong, not where in the package it was noticed."""
    before = warnings.formatwarning

    def short(message: Warning | str, *where: Any, **more: Any) -> str:
        return f"tinygrad_bn {command}: warning: {message}\n"

    warnings.formatwarning = short
    try:
        yield
    finally:
        warnings.formatwarning = before


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser("tinygrad_bn", description="Train batch-norm networks on digits and pictures.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    job = commands.add_parser("train", help="train a network; keep checkpoint, history, figure")
    _train_flags(job)
    check = commands.add_parser("evaluate", help="test accuracy of a checkpoint")
    check.add_argument("checkpoint", type=Path, help="a checkpoint, or the folder of a run")
    check.add_argument("--data", choices=DATA, help="default: what it was trained on")
    check.add_argument("--data-dir", help="folder of the data; default: that of the training run")
    check.add_argument("--device", choices=DEVICES, default="cpu", help="default: cpu")
    _threads_flag(check)
    check.set_defaults(run=_evaluate)
    about = commands.add_parser("info", help="versions, processor, threads, BLAS, devices, cache")
    about.set_defaults(run=_info)
    ahead = commands.add_parser("warmup", help="compile the kernels of usual work ahead, into the cache folder")
    ahead.add_argument("--dtype", choices=list(DTYPES), default="float32", help="default: float32")
    ahead.set_defaults(run=_warmup)
    return parser, {"train": job, "evaluate": check, "info": about, "warmup": ahead}


def _train_flags(job: argparse.ArgumentParser) -> None:
    job.add_argument("--data", choices=DATA, help="default: digits, which come with the package")
    job.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder of MNIST's IDX files or CIFAR-10's batches; default: the environment's TINYGRAD_BN_DATA",
    )
    job.add_argument("--model", choices=MODELS, help=f"default: {listed(MODEL)}; all but mlp are for cifar10")
    job.add_argument("--hidden", type=whole_numbers, metavar="N,N,...", help="layers of mlp; default: 100,100,100")
    job.add_argument("--norm", choices=NORMS, help="of mlp; default: batch")
    job.add_argument("--activation", choices=list(ACTIVATIONS), help="of mlp; default: sigmoid")
    job.add_argument(
        "--augment",
        nargs="?",
        choices=AUGMENT,
        const="standard",
        help="change training pictures at random, of cifar10: crops and flips (standard, when no name follows), or "
        "those and colours (photometric); default: none",
    )
    job.add_argument("--epochs", type=at_least(1), metavar="N", help=f"default: {listed(EPOCHS)}")
    job.add_argument("--batch-size", type=at_least(1), metavar="N", help=f"default: {listed(BATCH_SIZE)}")
    job.add_argument("--seed", type=at_least(0), metavar="N", help="of weights, order and changes; default: 0")
    job.add_argument("--device", choices=DEVICES, help="default: cpu")
    _optimiser_flags(job)
    job.add_argument(
        "--prefetch",
        type=at_least(0),
        metavar="N",
        help=f"batches that a thread makes ahead, which changes no result; default: {listed(PREFETCH)}",
    )
    _threads_flag(job)
    job.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the results; default: runs/ and the data's name"
    )
    job.add_argument("--resume", action="store_true", help="continue the run that was stopped in that folder")
    job.set_defaults(run=_train)


def _optimiser_flags(job: argparse.ArgumentParser) -> None:
    job.add_argument("--optimizer", choices=list(LEARNING_RATE), help="default: sgd")
    job.add_argument("--lr", type=positive, metavar="X", help=f"learning rate; default: {listed(LEARNING_RATE)}")
    job.add_argument("--momentum", type=fraction, metavar="X", help="of sgd; default: 0.9")
    job.add_argument("--weight-decay", type=not_negative, metavar="X", help=f"default: {listed(WEIGHT_DECAY)}")
    job.add_argument("--lr-schedule", choices=SCHEDULES, help="by epochs; default: constant; cosine ends at 0")
    job.add_argument("--step-size", type=at_least(1), metavar="N", help="epochs between the steps of step")
    job.add_argument(
        "--milestones", type=whole_numbers, metavar="N,N,...", help="of multistep; default: 1/2 and 3/4 of the epochs"
    )
    job.add_argument(
        "--gamma", type=positive, metavar="X", help="factor of step, multistep (default: 0.1) and exponential"
    )
    job.add_argument(
        "--warmup-epochs", type=at_least(0), metavar="N", help="the rate rises in so many epochs; default: 0"
    )


def _threads_flag(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--threads", type=at_least(1), metavar="N", help="default: all processors that this process may use"
    )


def _train(given: argparse.Namespace, command: argparse.ArgumentParser) -> int:
    settings = {name: getattr(given, name) for name in asdict(Config())}
    folder: Path = Path("runs") / (given.data or "digits") if given.out is None else given.out
    resumed = load_checkpoint(folder / CHECKPOINT) if given.resume else None
    try:
        config = settle(settings) if resumed is None else continued(settings, resumed.config, folder)
    except FlagError as error:
        command.error(str(error))
    _set_threads(given, command)
    _make(folder, command)
    prefetch = PREFETCH[config.data] if given.prefetch is None else given.prefetch
    return train(config, folder, prefetch, resumed)


def _evaluate(given: argparse.Namespace, command: argparse.ArgumentParser) -> int:
    _set_threads(given, command)
    evaluate_checkpoint(given.checkpoint, given.data, given.data_dir, given.device)
    return 0


def _info(given: argparse.Namespace, command: argparse.ArgumentParser) -> int:
    print(info())
    return 0


def _warmup(given: argparse.Namespace, command: argparse.ArgumentParser) -> int:
    print(warmup(given.dtype))
    return 0


def _set_threads(given: argparse.Namespace, command: argparse.ArgumentParser) -> None:
    if given.threads is not None:
        try:
            set_num_threads(given.threads)
        except ArgumentError:
            command.error(f"argument --threads: must be from 1 to {pool.limit}. Got {given.threads}.")


def _make(folder: Path, command: argparse.ArgumentParser) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        command.error(f"argument --out: cannot make the folder {folder}: {error.strerror}")
