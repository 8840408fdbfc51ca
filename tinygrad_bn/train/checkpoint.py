"""Checkpoints: a model's state with what is needed to build the model again, in one safetensors file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import DataError
from tinygrad_bn.interop.safetensors import load, save

FORMAT = "tinygrad_bn checkpoint 1"


@dataclass
class Checkpoint:
    """What a checkpoint holds.

    Attributes
    ----------
    model : mapping of str to Tensor
        The model's ``state_dict``.
    config : dict
        How the run was set up: numbers, strings, and lists and tuples of them.
    results : dict
        Of the epoch after which it was written; empty before the first.
    training : dict or None
        What continuing the run needs besides (``Training.state_dict``); None where there is nothing to continue.
    """

    model: Mapping[str, Tensor]
    config: dict[str, Any]
    results: dict[str, Any]
    training: dict[str, Any] | None = None


def save_checkpoint(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> None:
    """Write a checkpoint by atomic rename: a file of that name is complete, whenever the process ends.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    content: dict[str, Any] = {"model": checkpoint.model, "config": checkpoint.config, "results": checkpoint.results}
    if checkpoint.training is not None:
        content["training"] = checkpoint.training
    save({"format": FORMAT, **content}, path)


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    DataError
        If the file is missing, truncated, corrupt or no checkpoint.
    """
    content = load(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"load_checkpoint: {os.fspath(path)}: no checkpoint: it lacks the entry '{FORMAT}'.")
    return Checkpoint(content["model"], content["config"], content["results"], content.get("training"))
