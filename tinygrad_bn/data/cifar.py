"""CIFAR-10 from its batches: binary ones, or pickled ones for Python.

A binary batch is records of 3,073 bytes: the class, then 1,024 values each of red, green and blue, row by row. A Python
batch is a pickled dict of ``data``, uint8 of shape (N, 3072) in the same order, and ``labels``.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygrad_bn.core.dtype import DType, as_dtype, float32, uint8
from tinygrad_bn.data.cifar_pickle import read_pickle
from tinygrad_bn.data.dataset import TensorDataset
from tinygrad_bn.data.digits import Split
from tinygrad_bn.errors import DataError, DTypeError, expected, wrong
from tinygrad_bn.ops import from_numpy

Array = np.ndarray[Any, Any]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
"""Of each channel over the 50,000 training pictures, values from 0 to 1."""
CIFAR10_STD = (0.2470, 0.2435, 0.2616)

VARIABLE = "TINYGRAD_BN_DATA"
FOLDERS = ("", "cifar-10-batches-bin", "cifar-10-batches-py")
SUFFIXES = (".bin", "")
TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST = ("test_batch",)
SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
A_BATCH = 10_000


class _Batches(NamedTuple):
    """Those of one kind that a folder holds."""

    folder: Path
    train: list[Path]
    test: list[Path]


def cifar10(root: str | os.PathLike[str] | None = None, dtype: DType | str = float32) -> Split:
    """Return the CIFAR-10 pictures, 32 by 32 pixels in colour, of ten classes (``CIFAR10_CLASSES``).

    The files are ``data_batch_1.bin`` … ``data_batch_5.bin`` and ``test_batch.bin``; or those of the Python version,
    whose names have no ending. Python's are unpickled without running anything that they name.

    Parameters
    ----------
    root : path-like, optional
        The folder of the files, or one whose ``cifar-10-batches-bin`` or ``cifar-10-batches-py`` is; default: the
        environment variable ``TINYGRAD_BN_DATA``. Where there are both kinds, the one with more batches is taken.
    dtype : {float32, uint8}
        float32: values of [0, 1], the file's divided by 255. uint8: the file's, in a quarter of the memory.

    Returns
    -------
    Split
        ``train`` (50,000 samples in the original files) and ``test`` (10,000): picture of shape (3, 32, 32), red,
        green, blue; class from 0 to 9, int64.

    Raises
    ------
    DataError
        If there is no batch at all, or one is truncated or corrupt; with path and reason.

    Warns
    -----
    UserWarning
        Once, with counts, if batches are missing or hold fewer pictures than the original ones.

    References
    ----------
    A. Krizhevsky: Learning multiple layers of features from tiny images. University of Toronto, 2009.
    """
    kind = as_dtype(dtype, "cifar10")
    if kind not in (float32, uint8):
        raise DTypeError(wrong("cifar10", "dtype", "float32 or uint8", kind.name))
    found = _found(root)
    train, test = (_joined(paths) for paths in (found.train, found.test))
    _warn_of_missing(found, len(train[1]), len(test[1]))
    return Split(*(_data_set(images, labels, kind) for images, labels in (train, test)))


def read_cifar(path: str | os.PathLike[str]) -> tuple[Array, Array]:
    """Return the pictures and classes of a batch of CIFAR-10.

    Parameters
    ----------
    path : path-like
        A binary batch if its name ends in ``.bin``, else a pickled one.

    Returns
    -------
    images : numpy.ndarray, uint8, shape (N, 3, 32, 32)
    labels : numpy.ndarray, int64, shape (N,)

    Raises
    ------
    DataError
        If the file is missing, cannot be read, is truncated or corrupt.
    """
    file = Path(path)
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise DataError(f"read_cifar: '{file}' does not exist.") from None
    except OSError as error:
        raise DataError(f"read_cifar: '{file}' cannot be read: {error.strerror or error}.") from None
    pixels, labels = _records(content, file) if file.suffix == ".bin" else read_pickle(content, file, PIXELS)
    if not len(labels):
        raise DataError(expected("read_cifar", str(file), "at least one picture", "none (truncated)"))
    wrong_ones = np.flatnonzero((labels < 0) | (labels >= len(CIFAR10_CLASSES)))
    if wrong_ones.size:
        where = f"{labels[wrong_ones[0]]} at picture {wrong_ones[0]}"
        raise DataError(expected("read_cifar", str(file), f"labels from 0 to {len(CIFAR10_CLASSES) - 1}", where))
    return pixels.reshape(-1, *SHAPE), labels


def _records(content: bytes, file: Path) -> tuple[Array, Array]:
    size = 1 + PIXELS
    if len(content) % size:
        got = f"{len(content)} bytes, {len(content) // size} records and {len(content) % size} bytes (truncated)"
        raise DataError(expected("read_cifar", str(file), f"records of {size} bytes", got))
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _found(root: str | os.PathLike[str] | None) -> _Batches:
    given = os.environ.get(VARIABLE, "") if root is None else os.fspath(root)
    if not given:
        hint = f"give its folder as 'root' (--data-dir), or in the environment variable {VARIABLE}"
        raise DataError(f"cifar10: 'root' must be the folder of the batches. Got none.\nHint: {hint}.")
    base = Path(given).expanduser()
    if not base.is_dir():
        raise DataError(f"cifar10: '{base}' is not a folder.")
    kinds = [_batches(base / name, suffix) for name in FOLDERS for suffix in SUFFIXES]
    best = max(kinds, key=lambda b: len(b.train) + len(b.test))  # of equal ones the first
    if not best.train and not best.test:
        names = "data_batch_1.bin … data_batch_5.bin and test_batch.bin, or the same without .bin"
        below = " or ".join(FOLDERS[1:])
        raise DataError(expected("cifar10", str(base), f"some of {names}, in it or in {below}", "none of them"))
    return best


def _batches(folder: Path, suffix: str) -> _Batches:
    train, test = ([p for n in names if (p := folder / f"{n}{suffix}").is_file()] for names in (TRAIN, TEST))
    return _Batches(folder, train, test)


def _joined(paths: list[Path]) -> tuple[Array, Array]:
    parts = [read_cifar(path) for path in paths]
    if not parts:
        return np.empty((0, *SHAPE), np.uint8), np.empty(0, np.int64)
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def _warn_of_missing(found: _Batches, train: int, test: int) -> None:
    wanted = A_BATCH * len(TRAIN), A_BATCH * len(TEST)
    if train < wanted[0] or test < wanted[1]:
        warnings.warn(
            f"cifar10: '{found.folder}' holds a part of CIFAR-10: {len(found.train)} of {len(TRAIN)} training batches, "
            f"{train:,} of {wanted[0]:,} pictures; {len(found.test)} of {len(TEST)} test batches, "
            f"{test:,} of {wanted[1]:,} pictures.",
            UserWarning,
            stacklevel=3,
        )


def _data_set(images: Array, labels: Array, kind: DType) -> TensorDataset:
    pixels = images if kind is uint8 else np.divide(images, 255, dtype=np.float32)
    return TensorDataset(from_numpy(pixels), from_numpy(labels))
