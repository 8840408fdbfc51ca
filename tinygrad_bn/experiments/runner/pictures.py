"""The data of experiments: MNIST or CIFAR-10 where they are at hand, the handwritten digits elsewhere."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_bn.data import Split, cifar10, digits, mnist
from tinygrad_bn.errors import ArgumentError, DataError, expected, wrong

READERS = {"mnist": mnist, "cifar10": cifar10}
STAND_IN = "digits"
VARIABLE = "TINYGRAD_BN_DATA"


@dataclass(frozen=True)
class Pictures:
    """Pictures with their classes.

    Attributes
    ----------
    name : str
        "mnist", "cifar10" or "digits".
    train_x, test_x : ndarray, shape (N, C, H, W), float32 of [0, 1]
    train_y, test_y : ndarray, shape (N,), int64
    classes : int
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    classes: int = 10

    @cached_property
    def digest(self) -> str:
        """What tells data of the same name apart: the first 16 digits of their SHA-256."""
        found = hashlib.sha256()
        for array in (self.train_x, self.train_y, self.test_x, self.test_y):
            found.update(str(array.shape).encode())
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()[:16]

    def facts(self) -> dict[str, Any]:
        """Return name, sizes and digest, as they are recorded."""
        shape = list(self.train_x.shape[1:])
        return {
            "name": self.name,
            "train": len(self.train_y),
            "test": len(self.test_y),
            "shape": shape,
            "digest": self.digest,
        }


def pictures(name: str, data_dir: str | os.PathLike[str] | None = None, download: bool = False) -> Pictures:
    """Return a data set, or the handwritten digits where it is not at hand.

    Parameters
    ----------
    name : {"mnist", "cifar10"}
    data_dir : path-like, optional
        The folder of its files, or one that holds ``mnist`` or ``cifar-10-batches-bin``; default: the environment
        variable ``TINYGRAD_BN_DATA``.
    download : bool
        Where no folder is given: fetch it into the user's cache folder, if it is not there.

    Raises
    ------
    ArgumentError
        If there is no data set of that name.
    DataError
        If a folder is given that does not hold the data, or the data cannot be fetched.
    """
    if name not in READERS:
        raise ArgumentError(wrong("experiments", "data", f"one of {', '.join(READERS)}", repr(name)))
    if data_dir is None and download:
        from tinygrad_bn.experiments.runner.download import fetched

        data_dir = fetched(name)
    given = os.environ.get(VARIABLE, "") if data_dir is None else os.fspath(data_dir)
    if not given:
        return _of_split(STAND_IN, digits())
    return _of_split(name, READERS[name](Path(given)))


def _of_split(name: str, split: Split) -> Pictures:
    train_x, train_y, test_x, test_y = (tensor.numpy() for part in split for tensor in part.tensors)
    if not len(train_y) or not len(test_y):
        missing = "training" if not len(train_y) else "test"
        raise DataError(expected("experiments", name, "training and test pictures", f"no {missing} pictures"))
    return Pictures(name, train_x, train_y, test_x, test_y)
