"""Data from where their authors keep them, into the user's cache folder, each file checked by its MD5 sum.

The sums are those that PyTorch's vision library publishes for MNIST, and the authors of CIFAR-10 on their page.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path
from types import ModuleType

from tinygrad_bn.errors import DataError
from tinygrad_bn.experiments.runner.extras import HINT
from tinygrad_bn.train.files import replaced

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_SUMS = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
CIFAR_SUMS = {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"}
CIFAR_FOLDER = "cifar-10-batches-bin"
BATCHES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")


def fetched(name: str) -> Path:
    """Return the folder of a data set, fetched if it was not there.

    Parameters
    ----------
    name : {"mnist", "cifar10"}

    Raises
    ------
    DataError
        If pooch is not installed, a file cannot be fetched, or is not what it should be.
    """
    try:
        import pooch
    except ImportError:
        raise DataError(f"experiments: '--download' needs pooch, which is not installed.\nHint: {HINT}") from None
    root = Path(os.fspath(pooch.os_cache("tinygrad_bn_data")))
    if name == "mnist":
        _fetch(pooch, MNIST_URL, MNIST_SUMS, root / "mnist")
    elif not all((root / CIFAR_FOLDER / batch).exists() for batch in BATCHES):
        _fetch(pooch, CIFAR_URL, CIFAR_SUMS, root)
        _unpack(root / next(iter(CIFAR_SUMS)), root / CIFAR_FOLDER)
    return root


def _fetch(pooch: ModuleType, url: str, sums: dict[str, str], folder: Path) -> None:
    for name, md5 in sums.items():
        try:
            download = pooch.HTTPDownloader(progressbar=True)
            pooch.retrieve(url + name, f"md5:{md5}", fname=name, path=folder, downloader=download)
        except (OSError, ValueError) as error:  # of the network, of the disk; of the sum
            raise DataError(f"experiments: '{url}{name}' cannot be fetched: {error}") from None


def _unpack(archive: Path, folder: Path) -> None:
    """Write the batches of an archive, each complete or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive) as content:
            for batch in BATCHES:
                stream = content.extractfile(f"{CIFAR_FOLDER}/{batch}")
                if stream is None:
                    raise KeyError(f"{batch} is no file")
                with stream, replaced(folder / batch) as part, part.open("wb") as target:
                    shutil.copyfileobj(stream, target)
    except (tarfile.TarError, KeyError, EOFError, OSError) as error:
        raise DataError(f"experiments: '{archive}' cannot be unpacked: {error}") from None
