"""The data of experiments: folders, the digits in their place, downloads from a mirror on this machine."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import pytest
from toy_experiment import changed

import tinygrad_bn as tb
from tinygrad_bn.errors import ArgumentError, DataError
from tinygrad_bn.experiments.runner import download
from tinygrad_bn.experiments.runner.cli import main
from tinygrad_bn.experiments.runner.experiment import Numbers, Task
from tinygrad_bn.experiments.runner.pictures import pictures

RNG = np.random.default_rng(0)


def idx(array: np.ndarray) -> bytes:
    return gzip.compress(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


def mnist_files() -> dict[str, bytes]:
    found = {}
    for part, count in (("train", 6), ("t10k", 4)):
        found[f"{part}-images-idx3-ubyte.gz"] = idx(RNG.integers(0, 256, (count, 28, 28), np.uint8))
        found[f"{part}-labels-idx1-ubyte.gz"] = idx(np.arange(count, dtype=np.uint8))
    return found


def cifar_batch(count: int = 3) -> bytes:
    return np.c_[np.arange(count), RNG.integers(0, 256, (count, 3072))].astype(np.uint8).tobytes()


def put(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.fixture(autouse=True)
def no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINYGRAD_BN_DATA", raising=False)


def test_without_data_the_digits_stand_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = pictures("mnist")
    assert found.name == "digits"
    assert found.train_x.shape == (1438, 1, 8, 8)
    assert found.test_y.shape == (359,)
    assert (found.train_x.dtype, found.train_y.dtype) == (np.float32, np.int64)
    assert found.train_x.max() == 1.0
    outcome = tb.experiments.run(changed(data="mnist"), "standard", seeds=2, out=tmp_path)
    assert "toy: no mnist given (--data-dir): the digits stand in\n" in capsys.readouterr().err
    assert {v.verdict for v in outcome.verdicts} == {"not judged"}
    assert outcome.facts["data"]["name"] == "digits"


@pytest.mark.parametrize("layout", ["", "mnist", "MNIST/raw"])
def test_mnist_from_a_folder(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / layout, mnist_files())
    found = pictures("mnist", tmp_path)
    assert (found.name, found.train_x.shape, len(found.test_y)) == ("mnist", (6, 1, 28, 28), 4)
    monkeypatch.setenv("TINYGRAD_BN_DATA", str(tmp_path))
    again = pictures("mnist")
    assert again.digest == found.digest
    assert again.facts() == {"name": "mnist", "train": 6, "test": 4, "shape": [1, 28, 28], "digest": found.digest}


def test_a_part_of_cifar(tmp_path: Path) -> None:
    files = {"data_batch_1.bin": cifar_batch(), "test_batch.bin": cifar_batch(2)}
    put(tmp_path / "cifar-10-batches-bin", files)
    with pytest.warns(UserWarning, match="holds a part of CIFAR-10"):
        found = pictures("cifar10", tmp_path)
    assert (found.name, found.train_x.shape, len(found.test_y)) == ("cifar10", (3, 3, 32, 32), 2)
    (tmp_path / "cifar-10-batches-bin/test_batch.bin").unlink()
    with (
        pytest.warns(UserWarning, match="holds a part"),
        pytest.raises(DataError, match="must have training and test pictures. Got no test pictures"),
    ):
        pictures("cifar10", tmp_path)


def test_a_folder_without_the_data_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mnist", "cifar10"):
        with pytest.raises(DataError, match=str(tmp_path)):
            pictures(name, tmp_path)
        with pytest.raises(DataError, match="is not a folder"):
            pictures(name, tmp_path / "none")
    monkeypatch.setenv("TINYGRAD_BN_DATA", str(tmp_path))
    with pytest.raises(DataError, match=str(tmp_path)):
        pictures("mnist")
    with pytest.raises(ArgumentError, match="'data' must be one of mnist, cifar10. Got 'imagenet'"):
        pictures("imagenet")


def test_other_data_make_other_runs(tmp_path: Path) -> None:
    put(tmp_path / "a", mnist_files())
    put(tmp_path / "b", mnist_files())
    assert pictures("mnist", tmp_path / "a").digest != pictures("mnist", tmp_path / "b").digest
    made: list[str] = []

    def run(task: Task) -> Numbers:
        made.append(task.data.digest)
        return {"end": 1.0}

    experiment = changed(run, data="mnist", claims=(), published=(), draw=lambda results, figure: None)
    for folder in ("a", "b", "b"):
        tb.experiments.run(experiment, data_dir=tmp_path / folder, out=tmp_path / "out")
    assert len(made) == 4
    assert len(set(made)) == 2


# ------------------------------------------------------------------------------------------------------------ download


class Mirror:
    """A server on this machine, whose requests are counted."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *arguments: Any) -> None:
                asked.append(self.path)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """A mirror of small files in the place of the real ones, and an empty cache folder."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    files = mnist_files()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for batch in download.BATCHES:
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{batch}")
            content = cifar_batch()
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    put(tmp_path / "site", {**files, "cifar-10-binary.tar.gz": packed.getvalue()})
    served = Mirror(tmp_path / "site")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    for name in ("MNIST", "CIFAR"):
        sums: dict[str, str] = getattr(download, f"{name}_SUMS")
        changed_sums = {f: hashlib.md5((tmp_path / "site" / f).read_bytes()).hexdigest() for f in sums}
        monkeypatch.setattr(download, f"{name}_SUMS", changed_sums)
        monkeypatch.setattr(download, f"{name}_URL", served.url)
    yield served
    served.stop()


def test_mnist_is_fetched_once(mirror: Mirror, tmp_path: Path) -> None:
    found = pictures("mnist", download=True)
    assert (found.name, found.train_x.shape) == ("mnist", (6, 1, 28, 28))
    assert len(mirror.asked) == 4
    assert pictures("mnist", download=True).digest == found.digest
    assert len(mirror.asked) == 4
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_cifar_is_fetched_and_unpacked_once(mirror: Mirror, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.warns(UserWarning, match="holds a part"):
            found = pictures("cifar10", download=True)
        assert (found.name, found.train_x.shape, len(found.test_y)) == ("cifar10", (15, 3, 32, 32), 3)
        assert len(mirror.asked) == 1
    (folder,) = (path for path in (tmp_path / "cache").rglob("cifar-10-batches-bin"))
    assert sorted(path.name for path in folder.iterdir()) == sorted(download.BATCHES)
    (folder / "data_batch_3.bin").unlink()  # as after an interruption
    with pytest.warns(UserWarning, match="holds a part"):
        assert len(pictures("cifar10", download=True).train_y) == 15
    assert len(mirror.asked) == 1


def test_a_folder_that_is_given_comes_first(mirror: Mirror, tmp_path: Path) -> None:
    put(tmp_path / "own", mnist_files())
    pictures("mnist", tmp_path / "own", download=True)
    assert mirror.asked == []


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_wrong_checksum(mirror: Mirror, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attribute = "MNIST_SUMS" if name == "mnist" else "CIFAR_SUMS"
    sums = dict.fromkeys(getattr(download, attribute), "0" * 32)
    monkeypatch.setattr(download, attribute, sums)
    with pytest.raises(DataError, match=rf"{next(iter(sums))}' cannot be fetched: (MD5|md5|.*)hash.*does not match"):
        pictures(name, download=True)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_files_that_cannot_be_had(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site/t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte.gz' cannot be fetched: 404"):
        pictures("mnist", download=True)
    broken = b"no archive"
    (tmp_path / "site/cifar-10-binary.tar.gz").write_bytes(broken)
    monkeypatch.setattr(download, "CIFAR_SUMS", {"cifar-10-binary.tar.gz": hashlib.md5(broken).hexdigest()})
    with pytest.raises(DataError, match="cannot be unpacked"):
        pictures("cifar10", download=True)
    monkeypatch.setattr(download, "MNIST_URL", "http://127.0.0.1:9/")
    with pytest.raises(DataError, match="cannot be fetched"):
        pictures("mnist", download=True)


def test_an_archive_that_lacks_a_batch(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "site/cifar-10-binary.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(tmp_path / "site/t10k-labels-idx1-ubyte.gz", "cifar-10-batches-bin/data_batch_1.bin")
    monkeypatch.setattr(download, "CIFAR_SUMS", {packed.name: hashlib.md5(packed.read_bytes()).hexdigest()})
    with pytest.raises(DataError, match=r"cannot be unpacked: .*data_batch_2\.bin"):
        pictures("cifar10", download=True)


def test_without_pooch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert main(["mnist_sigmoid", "--download"]) == 1
    said = "'--download' needs pooch, which is not installed.\nHint: pip install 'tinygrad_bn[experiments]'\n"
    assert capsys.readouterr().err.endswith(said)
