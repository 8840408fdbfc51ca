"""MNIST from its four IDX files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_bn.data.dataset import TensorDataset
from tinygrad_bn.data.digits import Split
from tinygrad_bn.data.idx import read_idx
from tinygrad_bn.errors import DataError, expected
from tinygrad_bn.ops import from_numpy

VARIABLE = "TINYGRAD_BN_DATA"
FOLDERS = ("", "mnist", "MNIST/raw")
CLASSES = 10
SIDE = 28


def mnist(root: str | os.PathLike[str] | None = None) -> Split:
    """Return the MNIST handwritten digits, 28 by 28 pixels.

    The files are ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
    ``t10k-labels-idx1-ubyte``, each gzipped (with or without ``.gz``) or not.

    Parameters
    ----------
    root : path-like, optional
        The folder of the files, or one whose ``mnist`` or ``MNIST/raw`` is; default: the environment variable
        ``TINYGRAD_BN_DATA``.

    Returns
    -------
    Split
        ``train`` (60,000 samples in the original files) and ``test`` (10,000): picture of shape (1, 28, 28), float32 of
        [0, 1] (the file's 0 … 255 divided by 255); class from 0 to 9, int64.

    Raises
    ------
    DataError
        If a file is missing, truncated or corrupt, or files do not belong together; with path and reason.

    References
    ----------
    Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-based learning applied to document recognition. Proc. IEEE 86,
    1998.
    """
    folder = _folder(root)
    return Split(_part(folder, "train"), _part(folder, "t10k"))


def _folder(root: str | os.PathLike[str] | None) -> Path:
    given = os.environ.get(VARIABLE, "") if root is None else os.fspath(root)
    if not given:
        hint = f"give its folder as 'root' (--data-dir), or in the environment variable {VARIABLE}"
        raise DataError(f"mnist: 'root' must be the folder of the four IDX files. Got none.\nHint: {hint}.")
    base = Path(given).expanduser()
    if not base.is_dir():
        raise DataError(f"mnist: '{base}' is not a folder.")
    for name in FOLDERS:
        if _found(base / name, "train-images-idx3-ubyte") is not None:
            return base / name
    return base


def _found(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.exists()), None)


def _file(folder: Path, name: str) -> Path:
    found = _found(folder, name)
    if found is None:
        raise DataError(expected("mnist", str(folder), f"a file {name} or {name}.gz", "a folder without one"))
    return found


def _part(folder: Path, part: str) -> TensorDataset:
    pictures = _file(folder, f"{part}-images-idx3-ubyte")
    classes = _file(folder, f"{part}-labels-idx1-ubyte")
    images, labels = _images(pictures), _labels(classes)
    if len(images) != len(labels):
        want = f"{len(images)} labels, one for each picture of {pictures.name}"
        raise DataError(expected("mnist", str(classes), want, len(labels)))
    pixels = np.divide(images[:, None], 255, dtype=np.float32)
    return TensorDataset(from_numpy(pixels), from_numpy(labels.astype(np.int64)))


def _images(file: Path) -> np.ndarray[Any, Any]:
    images = read_idx(file)
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (SIDE, SIDE) or not len(images):
        want = f"unsigned bytes of shape (N, {SIDE}, {SIDE}) with N at least 1"
        raise DataError(expected("mnist", str(file), want, f"{images.dtype} of shape {images.shape}"))
    return images


def _labels(file: Path) -> np.ndarray[Any, Any]:
    labels = read_idx(file)
    if labels.dtype != np.uint8 or labels.ndim != 1:
        raise DataError(
            expected("mnist", str(file), "unsigned bytes of shape (N,)", f"{labels.dtype} of shape {labels.shape}")
        )
    high = np.flatnonzero(labels >= CLASSES)
    if high.size:
        where = f"{labels[high[0]]} at position {high[0]}"
        raise DataError(expected("mnist", str(file), f"labels from 0 to {CLASSES - 1}", where))
    return labels
