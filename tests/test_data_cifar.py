"""CIFAR-10 from binary and from pickled batches: what is read, what is missing, what is corrupt, what is hostile."""

from __future__ import annotations

import codecs
import pickle
import pickletools
import re
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.data import CIFAR10_CLASSES, CIFAR10_MEAN, CIFAR10_STD, cifar10, read_cifar
from tinygrad_bn.errors import DataError, DTypeError

Array = np.ndarray[Any, Any]
pytestmark = pytest.mark.jit_off


def drawn(n: int, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 3, 32, 32), np.uint8), rng.integers(0, 10, n)


def write_binary(path: Path, images: Array, labels: Array) -> None:
    """Record by record, as the data set's page describes them."""
    with path.open("wb") as stream:
        for image, label in zip(images, labels, strict=True):
            stream.write(bytes([int(label)]))
            for channel in image:
                for row in channel:
                    stream.write(row.tobytes())


def batch(images: Array, labels: Array) -> dict[str, Any]:
    return {
        "batch_label": "training batch 1 of 5",
        "labels": labels.tolist(),
        "data": images.reshape(len(images), 3072),
        "filenames": [f"{i}.png" for i in range(len(images))],
    }


def write_python(path: Path, images: Array, labels: Array, protocol: int = 2) -> None:
    path.write_bytes(pickle.dumps(batch(images, labels), protocol))


def write_cifar(folder: Path, sizes: dict[str, int], python: bool = False) -> Path:
    """Batches of so many pictures, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, n) in enumerate(sizes.items()):
        if python:
            write_python(folder / name, *drawn(n, seed))
        else:
            write_binary(folder / f"{name}.bin", *drawn(n, seed))
    return folder


WHOLE = {**{f"data_batch_{i}": 2 + i for i in range(1, 6)}, "test_batch": 4}


# --------------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("python", [False, True])
@pytest.mark.parametrize("below", ["", "cifar-10-batches-bin", "cifar-10-batches-py"])
def test_batches_are_joined_in_order(tmp_path: Path, below: str, python: bool) -> None:
    write_cifar(tmp_path / below, WHOLE, python)
    with pytest.warns(UserWarning, match="a part of CIFAR-10"):
        train, test = cifar10(tmp_path)
    parts = [drawn(n, seed) for seed, n in enumerate(WHOLE.values())]
    x, y = train.tensors
    assert (x.shape, x.dtype, y.dtype) == ((25, 3, 32, 32), tb.float32, tb.int64)
    images, labels = (np.concatenate([p[i] for p in parts[:5]]) for i in (0, 1))
    np.testing.assert_array_equal(x.numpy(), (images / 255).astype(np.float32))
    np.testing.assert_array_equal(y.numpy(), labels)
    np.testing.assert_array_equal(test.tensors[1].numpy(), parts[5][1])
    assert len(test) == 4


def test_bytes_stay_bytes(tmp_path: Path) -> None:
    write_cifar(tmp_path, {"data_batch_1": 3, "test_batch": 1})
    with pytest.warns(UserWarning, match="part"):
        train, _ = cifar10(tmp_path, "uint8")
    np.testing.assert_array_equal(train.tensors[0].numpy(), drawn(3)[0])
    assert train.tensors[0].dtype is tb.uint8
    with pytest.raises(DTypeError, match="cifar10: 'dtype' must be float32 or uint8. Got float64."):
        cifar10(tmp_path, tb.float64)


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_of_python_is_read(tmp_path: Path, protocol: int) -> None:
    images, labels = drawn(5)
    write_python(tmp_path / "batch", images, labels, protocol)
    found = read_cifar(tmp_path / "batch")
    np.testing.assert_array_equal(found[0], images)
    np.testing.assert_array_equal(found[1], labels)


def as_python_2(images: Array, labels: Array) -> bytes:
    """A pickle as the published ones are: Python 2's strings, NumPy's old names."""
    n = len(images)
    short = lambda text: b"U" + bytes([len(text)]) + text  # noqa: E731
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + short(b"b") + b"tR("
        b"K\x01(J" + n.to_bytes(4, "little") + b"M\x00\x0ctcnumpy\ndtype\n(" + short(b"u1") + b"K\x00K\x01tR("
        b"K\x03" + short(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + (3072 * n).to_bytes(4, "little") + images.tobytes() + b"tb"
    )
    numbers = b"](" + b"".join(b"K" + bytes([int(label)]) for label in labels) + b"e"
    return b"\x80\x02}(" + short(b"data") + array + short(b"labels") + numbers + b"u."


def test_batches_of_python_2_are_read(tmp_path: Path) -> None:
    images, labels = drawn(3)
    content = as_python_2(images, labels)
    assert "BINSTRING" in {op.name for op, _, _ in pickletools.genops(content)}
    (tmp_path / "data_batch_1").write_bytes(content)
    found = read_cifar(tmp_path / "data_batch_1")
    np.testing.assert_array_equal(found[0], images)
    np.testing.assert_array_equal(found[1], labels)


def test_the_kind_with_more_batches_is_taken(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar-10-batches-bin", {"data_batch_1": 2, "test_batch": 2})
    write_cifar(tmp_path / "cifar-10-batches-py", WHOLE, python=True)
    with pytest.warns(UserWarning, match="cifar-10-batches-py"):
        train, _ = cifar10(tmp_path)
    assert len(train) == 25


def test_the_constants() -> None:
    assert len(CIFAR10_CLASSES) == len(set(CIFAR10_CLASSES)) == 10
    assert len(CIFAR10_MEAN) == len(CIFAR10_STD) == 3


# ------------------------------------------------------------------------------------------------------ what is missing


def test_missing_batches_are_one_warning_with_counts(tmp_path: Path) -> None:
    write_cifar(tmp_path, {"data_batch_1": 3, "data_batch_4": 2})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train, test = cifar10(tmp_path)
    (one,) = caught
    assert str(one.message) == (
        f"cifar10: '{tmp_path}' holds a part of CIFAR-10: 2 of 5 training batches, 5 of 50,000 pictures; "
        "0 of 1 test batches, 0 of 10,000 pictures."
    )
    assert one.filename == __file__
    assert (len(train), len(test)) == (5, 0)
    assert test.tensors[0].shape == (0, 3, 32, 32)


def test_all_pictures_are_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(sys.modules["tinygrad_bn.data.cifar"], "A_BATCH", 3)
    write_cifar(tmp_path, {**{f"data_batch_{i}": 3 for i in range(1, 6)}, "test_batch": 3})
    train, test = cifar10(tmp_path)  # a warning would be an error here
    assert (len(train), len(test)) == (15, 3)


def test_no_batches_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError) as caught:
        cifar10(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"cifar10: '{tmp_path}' must have some of data_batch_1.bin … data_batch_5.bin")
    assert "cifar-10-batches-bin or cifar-10-batches-py" in message
    with pytest.raises(DataError, match="cifar10: '.*nowhere' is not a folder"):
        cifar10(tmp_path / "nowhere")
    monkeypatch.delenv("TINYGRAD_BN_DATA", raising=False)
    with pytest.raises(DataError, match="'root' must be the folder of the batches. Got none.\nHint: .*TINYGRAD_BN"):
        cifar10()
    monkeypatch.setenv("TINYGRAD_BN_DATA", str(write_cifar(tmp_path, {"data_batch_2": 1})))
    with pytest.warns(UserWarning, match="1 of 5 training batches"):
        assert len(cifar10().train) == 1


# ------------------------------------------------------------------------------------------------------ what is corrupt


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must have at least one picture. Got none"),
        (bytes(3072), r"must have records of 3073 bytes. Got 3072 bytes, 0 records and 3072 bytes \(truncated\)"),
        (bytes(2 * 3073 + 1), "Got 6147 bytes, 2 records and 1 bytes"),
        (bytes(3073) + b"\x0a" + bytes(3072), "must have labels from 0 to 9. Got 10 at picture 1"),
        (b"\xff" + bytes(3072), "Got 255 at picture 0"),
    ],
)
def test_corrupt_binary_batches(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "data_batch_3.bin"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        cifar10(tmp_path)
    assert str(file) in str(caught.value)


def changed(**entries: Any) -> bytes:
    return pickle.dumps(batch(*drawn(3)) | entries, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is corrupt or no batch: .*pickle"),
        (b"no pickle at all", "is corrupt or no batch"),
        (changed()[:-100], "is corrupt or no batch"),
        (changed()[:40] + b"\xff" + changed()[41:], "is corrupt or no batch|must have"),
        (pickle.dumps([1, 2]), "must have a dict of data and labels. Got list"),
        (pickle.dumps({}), "must have unsigned bytes of shape .* as its data. Got NoneType"),
        (changed(data=drawn(3)[0]), r"must have unsigned bytes of shape \(N, 3072\) .* Got shape \(3, 3, 32, 32\)"),
        (changed(data=np.zeros((3, 3072))), "Got an array of other values than unsigned bytes"),
        (changed(data=np.zeros((3, 3072), object)), "Got an array of other values than unsigned bytes"),
        (changed(data=np.asfortranarray(drawn(3)[0].reshape(3, -1))), "an array in column order"),
        (changed(labels=[1, 2]), "must have a list of 3 whole numbers .* Got 2"),
        (changed(labels=[1, 2, 2.5]), "must have a list of 3 whole numbers .* Got other things"),
        (changed(labels=None), "must have a list of 3 whole numbers .* Got other things"),
        (changed(labels=[1, 2, 10]), "labels from 0 to 9. Got 10 at picture 2"),
        (changed(labels=[1, -1, 2]), "Got -1 at picture 1"),
        (changed(labels=[10**30, 0, 2]), "at picture 0"),
        (pickle.dumps(batch(*drawn(0)), 5), "at least one picture"),
    ],
)
def test_corrupt_python_batches(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "data_batch_3"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        cifar10(tmp_path)
    assert str(file) in str(caught.value)


def test_a_shape_that_does_not_fit_the_bytes(tmp_path: Path) -> None:
    content = as_python_2(*drawn(3)).replace((3).to_bytes(4, "little") + b"M", (4).to_bytes(4, "little") + b"M", 1)
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(DataError, match=r"an array of shape \(4, 3072\) and 9216 bytes"):
        read_cifar(tmp_path / "batch")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="read_cifar: '.*nothing' does not exist"):
        read_cifar(tmp_path / "nothing")
    with pytest.raises(DataError, match="read_cifar: '.*' cannot be read: Is a directory"):
        read_cifar(tmp_path)


# ------------------------------------------------------------------------------------------------------ what is hostile


class Call:
    """Pickled, it is a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def hostile(marker: Path) -> dict[str, bytes]:
    """Pickles that touch a file when they are loaded as usual; or name what no batch needs."""
    import os
    import subprocess

    touch = f"open({str(marker)!r}, 'w').close()"
    command = f"touch {marker}"
    calls = {
        "os.system": Call(os.system, command),
        "eval": Call(eval, f"__import__('os').system({command!r})"),
        "exec": Call(exec, touch),
        "open": Call(open, str(marker), "w"),
        "subprocess": Call(subprocess.check_call, ["touch", str(marker)]),
        "numpy": Call(np.savetxt, str(marker), [1.0]),
        "nested": {"data": drawn(1)[0].reshape(1, -1), "labels": [Call(os.system, command)]},
        "in the array": {"data": np.array([Call(os.system, command)], object), "labels": [1]},
        "getattr": Call(getattr, 1, "real"),
        "codec": Call(codecs.encode, "x", "rot13"),
        "another class": OrderedDict(data=1),
    }
    found = {f"{name} {p}": pickle.dumps(call, p) for name, call in calls.items() for p in (0, 2, 5)}
    found["instance"] = b"(S'%s'\nios\nsystem\n." % command.encode()
    found["object"] = b"(cos\nsystem\nS'%s'\no." % command.encode()
    found["dotted"] = b"\x80\x04\x8c\x05numpy\x8c\x0ff2py.os.__name__\x93."
    found["dotted below a name that is allowed"] = b"\x80\x04\x8c\x05numpy\x8c\x15ndarray.__subclasses__\x93)R."
    found["extension"] = b"\x80\x02\x82\x01."
    found["persistent"] = b"Pos\n."
    return found


NAMES = list(hostile(Path("marker")))


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_pickle_does_not_run(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    file = tmp_path / "data_batch_1"
    file.write_bytes(hostile(marker)[name])
    with pytest.raises(DataError, match="is corrupt or no batch: |must have") as caught:
        read_cifar(file)
    assert not marker.exists()
    assert str(file) in str(caught.value)
    if name.startswith(("os.system", "nested", "instance")):
        assert re.search(r"asks for (os|posix|nt).system, which no batch needs", str(caught.value))


def test_the_hostile_pickles_would_run(tmp_path: Path) -> None:
    """Loaded as usual: else nothing would be shown."""
    for i, name in enumerate(
        ("os.system 2", "eval 5", "exec 2", "subprocess 0", "in the array 2", "instance", "object")
    ):
        marker = tmp_path / str(i)
        pickle.loads(hostile(marker)[name])
        assert marker.exists(), name


def test_what_stands_for_a_name_cannot_be_changed(tmp_path: Path) -> None:
    """BUILD on what a name stands for would set its attributes, for every batch to come."""
    for name in (b"numpy\ndtype", b"numpy.core.multiarray\n_reconstruct", b"_codecs\nencode"):
        (tmp_path / "batch").write_bytes(b"\x80\x02c" + name + b"\n(N}U\x05_callU\x01xstb.")
        with pytest.raises(DataError, match="it changes what it has only named"):
            read_cifar(tmp_path / "batch")
    write_python(tmp_path / "good", *drawn(2))
    assert len(read_cifar(tmp_path / "good")[1]) == 2


def test_bytes_are_decoded_by_one_codec(tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(pickle.dumps(Call(codecs.encode, "x", "utf-7"), 2))
    with pytest.raises(DataError, match="bytes in an unknown encoding"):
        read_cifar(tmp_path / "batch")
