"""The 1,797 small pictures of handwritten digits that come with the package."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygrad_bn.data.dataset import TensorDataset
from tinygrad_bn.errors import DataError
from tinygrad_bn.ops import from_numpy

FILE = Path(__file__).with_name("digits.npz")


class Split(NamedTuple):
    """A data set in its two parts; each sample is a picture, float32 of [0, 1], and its class, int64."""

    train: TensorDataset
    test: TensorDataset


def digits() -> Split:
    """Return the handwritten digits, 8 by 8 pixels, that scikit-learn calls ``load_digits``.

    Returns
    -------
    Split
        ``train`` with 1,438 and ``test`` with 359 samples: picture of shape (1, 8, 8), float32 of [0, 1] (the file's 0
        … 16 divided by 16); class from 0 to 9, int64. Test pictures are numbers 4, 9, 14, … in scikit-learn's order;
        the others are for training.

    Raises
    ------
    DataError
        If the package's file is missing or corrupt.

    References
    ----------
    E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998,
    doi:10.24432/C50P49 (CC BY 4.0; see ``digits.LICENSE.txt``).
    """
    images, labels = _stored(FILE)
    pixels = np.divide(images[:, None], 16, dtype=np.float32)
    classes = labels.astype(np.int64)
    test = np.arange(len(classes)) % 5 == 4
    return Split(*(TensorDataset(from_numpy(pixels[part]), from_numpy(classes[part])) for part in (~test, test)))


def _stored(file: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return archive["images"], archive["labels"]
    except FileNotFoundError:
        raise DataError(f"digits: '{file}' does not exist.\nHint: the package is not installed in full.") from None
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"digits: '{file}' is corrupt: {error}.") from None
