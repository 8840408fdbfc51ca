"""From the flags that were given to a configuration: defaults that depend on others; flags that do not go together.

A flag that was not given is None. Errors name the flag to change.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

from tinygrad_bn.train import config as known
from tinygrad_bn.train.config import Config

BELONGS = {
    "hidden": ("model", ("mlp",)),
    "norm": ("model", ("mlp",)),
    "activation": ("model", ("mlp",)),
    "momentum": ("optimizer", ("sgd",)),
    "step_size": ("lr_schedule", ("step",)),
    "milestones": ("lr_schedule", ("multistep",)),
    "gamma": ("lr_schedule", ("step", "multistep", "exponential")),
    "augment": ("data", ("cifar10",)),
}
"""Flags that have a meaning only with certain values of another."""
CHANGEABLE = ("data_dir", "device", "epochs")
"""What may differ when a run is resumed."""


class FlagError(Exception):
    """Flags that do not go together; says which, and why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"argument {flag(name)}: {reason}")


def flag(name: str) -> str:
    """Return a setting as it is written on the command line."""
    return f"--{name.replace('_', '-')}"


def settle(given: dict[str, Any]) -> Config:
    """Return the configuration of a new run.

    Parameters
    ----------
    given : dict
        The value of each setting, None where its flag was not given.

    Raises
    ------
    FlagError
    """
    values = {name: value for name, value in given.items() if value is not None}
    data = values.setdefault("data", "digits")
    model = values.setdefault("model", known.MODEL[data])
    optimizer = values.setdefault("optimizer", "sgd")
    schedule = values.setdefault("lr_schedule", "constant")
    _check_owners(given, values)
    if model in known.CONVOLUTIONAL and data != "cifar10":
        raise FlagError("model", f"{model} is for the pictures of --data cifar10, not of {data}")
    epochs = values.setdefault("epochs", known.EPOCHS[data])
    values.setdefault("batch_size", known.BATCH_SIZE[data])
    values.setdefault("lr", known.LEARNING_RATE[optimizer])
    values.setdefault("weight_decay", known.WEIGHT_DECAY[optimizer])
    values.setdefault("momentum", 0.9 if optimizer == "sgd" else None)
    if schedule == "multistep":
        values.setdefault("milestones", (max(epochs // 2, 1), max(3 * epochs // 4, 1)))
    if schedule in ("step", "multistep"):
        values.setdefault("gamma", 0.1)
    return checked(Config(**values))


def _check_owners(given: dict[str, Any], values: dict[str, Any]) -> None:
    for name, (owner, wanted) in BELONGS.items():
        if given.get(name) is not None and values[owner] not in wanted:
            has_none = f"; {values[owner]} has none" if owner != "data" else ""
            raise FlagError(name, f"belongs to {flag(owner)} {' or '.join(wanted)}{has_none}")


def checked(config: Config) -> Config:
    """Return a configuration whose numbers go together.

    Raises
    ------
    FlagError
    """
    if config.batch_size == 1 and (config.model != "mlp" or config.norm == "batch"):
        remedy = " (or --norm none)" if config.model == "mlp" else ""
        raise FlagError("batch_size", f"batch norm needs at least 2 samples{remedy}")
    if config.warmup_epochs >= config.epochs:
        raise FlagError("warmup_epochs", f"must be below --epochs {config.epochs}. Got {config.warmup_epochs}.")
    if config.lr_schedule == "step" and config.step_size is None:
        raise FlagError("step_size", "is needed by --lr-schedule step")
    if config.lr_schedule == "exponential" and config.gamma is None:
        raise FlagError("gamma", "is needed by --lr-schedule exponential")
    _check_milestones(config)
    return config


def _check_milestones(config: Config) -> None:
    steps = config.milestones
    if any(b < a for a, b in pairwise(steps)):
        raise FlagError("milestones", f"must not fall. Got {','.join(map(str, steps))}.")
    if steps and not config.warmup_epochs < steps[0]:
        raise FlagError("milestones", f"must be above --warmup-epochs {config.warmup_epochs}. Got {steps[0]}.")


def continued(given: dict[str, Any], kept: dict[str, Any], where: object) -> Config:
    """Return the configuration with which a run goes on: the one that its checkpoint kept, but for what may change.

    Raises
    ------
    FlagError
        If a flag was given that differs from the stored run.
    DataError
        If what was kept is no configuration.
    """
    stored = Config.of_dict(kept)
    for name, value in given.items():
        own = getattr(stored, name)
        if value is not None and value != own and name not in CHANGEABLE:
            raise FlagError(name, f"the run in {where} has {own}, and a resumed run keeps it. Got {value}.")
    changes = {name: given[name] for name in CHANGEABLE if given[name] is not None}
    epochs = changes.get("epochs", stored.epochs)
    if stored.lr_schedule == "cosine" and epochs != stored.epochs:
        raise FlagError("epochs", f"the cosine of the run in {where} is for {stored.epochs} epochs. Got {epochs}.")
    return checked(replace(stored, **changes))
