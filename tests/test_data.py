"""Data sets, loaders, the IDX format and the two collections of digits."""

from __future__ import annotations

import gzip
import os
import struct
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_bn as tb
from tinygrad_bn.data import (
    DataLoader,
    Dataset,
    Subset,
    TensorDataset,
    default_collate,
    digits,
    mnist,
    random_split,
    read_idx,
)
from tinygrad_bn.data import digits as digits_function
from tinygrad_bn.errors import ArgumentError, DataError, DTypeError, ShapeError

pytestmark = [pytest.mark.jit_off]


def numbered(n: int) -> TensorDataset:
    """Samples that can be told apart: row i holds i, i + 0.5; the class is i."""
    rows = np.arange(n, dtype=np.float32)[:, None] + np.array([0, 0.5], np.float32)
    return TensorDataset(tb.from_numpy(rows), tb.from_numpy(np.arange(n)))


class Squares(Dataset[tuple[float, int]]):
    """A data set without tensors."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __getitem__(self, index: int) -> tuple[float, int]:
        return float(index * index), index

    def __len__(self) -> int:
        return self.n


class Negated(TensorDataset):
    """A sample is more than the tensors' entries: loaders must ask for it."""

    def __getitem__(self, index: Any) -> tuple[tb.Tensor, ...]:
        x, y = super().__getitem__(index)
        return -x, y


# -------------------------------------------------------------------------------------------------------- data sets


def test_tensor_dataset_pairs_entries() -> None:
    data = numbered(5)
    x, y = data[3]
    assert len(data) == 5
    assert x.tolist() == [3.0, 3.5]
    assert y.item() == 3


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        ((), ArgumentError, "'tensors' must be at least one tensor. Got none."),
        ((np.zeros(3),), DTypeError, r"'tensors\[0\]' must be a Tensor. Got ndarray."),
        ((tb.zeros(3, 2), tb.zeros(4)), ShapeError, r"shape \(N, ...\) with N = 3. Got \(4,\)."),
        ((tb.tensor(1.0),), ShapeError, r"'tensors\[0\]' must have shape \(N, ...\)"),
    ],
)
def test_tensor_dataset_refuses(tensors: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TensorDataset(*tensors)


def test_a_data_set_must_define_its_samples() -> None:
    with pytest.raises(TypeError, match="__getitem__"):
        Dataset()  # type: ignore[abstract]


def test_subset_of_subset() -> None:
    inner = Subset(numbered(10), [9, 8, 7, 6])
    outer = Subset(inner, [3, 0])
    assert [int(outer[i][1]) for i in range(len(outer))] == [6, 9]
    (batch,) = DataLoader(outer, batch_size=2)
    assert batch[1].tolist() == [6, 9]
    assert batch[0].tolist() == [[6.0, 6.5], [9.0, 9.5]]


def test_random_split_covers_without_overlap() -> None:
    parts = random_split(Squares(10), [7, 3], generator=tb.Generator().manual_seed(4))
    again = random_split(Squares(10), [7, 3], generator=tb.Generator().manual_seed(4))
    assert [len(p) for p in parts] == [7, 3]
    assert sorted([*parts[0].indices, *parts[1].indices]) == list(range(10))
    assert [list(p.indices) for p in parts] == [list(p.indices) for p in again]
    assert list(parts[0].indices) != list(range(7))


def test_random_split_by_fractions_gives_the_rest_to_the_first_parts() -> None:
    assert [len(p) for p in random_split(Squares(11), [0.25, 0.25, 0.5])] == [3, 3, 5]


@pytest.mark.parametrize("lengths", [[5, 6], [-1, 11], [0.5, 0.6]])
def test_random_split_refuses_lengths_that_do_not_add_up(lengths: list[float]) -> None:
    with pytest.raises(ArgumentError, match="random_split: 'lengths' must"):
        random_split(Squares(10), lengths)


# ---------------------------------------------------------------------------------------------------------- loaders


@given(n=st.integers(0, 23), batch=st.integers(1, 7), drop_last=st.booleans(), shuffle=st.booleans())
def test_batches_hold_every_sample_once(n: int, batch: int, drop_last: bool, shuffle: bool) -> None:
    loader = DataLoader(numbered(n), batch, shuffle=shuffle, drop_last=drop_last, seed=1)
    batches = list(loader)
    assert len(batches) == len(loader) == (n // batch if drop_last else -(-n // batch))
    assert all(len(y) == batch for _, y in batches[:-1])
    seen = [int(i) for _, y in batches for i in y]
    assert len(seen) == (n - n % batch if drop_last else n)
    assert len(set(seen)) == len(seen)
    for x, y in batches:
        np.testing.assert_array_equal(x.numpy()[:, 0], y.numpy())
    if not shuffle:
        assert seen == list(range(len(seen)))


def orders(loader: DataLoader, epochs: int = 2) -> list[list[int]]:
    return [[int(i) for _, y in loader for i in y] for _ in range(epochs)]


def test_shuffled_orders_belong_to_the_seed() -> None:
    first = orders(DataLoader(numbered(50), 8, shuffle=True, seed=3))
    assert first == orders(DataLoader(numbered(50), 8, shuffle=True, seed=3))
    assert first == orders(DataLoader(numbered(50), 8, shuffle=True, generator=tb.Generator().manual_seed(3)))
    assert first != orders(DataLoader(numbered(50), 8, shuffle=True, seed=4))
    assert first[0] != first[1]


def test_shuffling_without_a_seed_draws_from_the_default_generator() -> None:
    tb.manual_seed(11)
    first = orders(DataLoader(numbered(50), 8, shuffle=True))
    tb.manual_seed(11)
    assert first == orders(DataLoader(numbered(50), 8, shuffle=True))


def test_a_loader_with_a_seed_leaves_the_default_generator_alone() -> None:
    tb.manual_seed(5)
    expected = tb.rand(3).tolist()
    tb.manual_seed(5)
    orders(DataLoader(numbered(9), 2, shuffle=True, seed=3))
    assert tb.rand(3).tolist() == expected


@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_share_no_memory_with_the_data_set(shuffle: bool) -> None:
    data = numbered(6)
    for x, y in DataLoader(data, 3, shuffle=shuffle):
        x.zero_()
        y.zero_()
    assert data.tensors[1].tolist() == [0, 1, 2, 3, 4, 5]
    assert data.tensors[0][5].tolist() == [5.0, 5.5]


def test_an_overridden_getitem_is_used() -> None:
    data = Negated(*numbered(4).tensors)
    (x, y), _ = DataLoader(data, 2)
    assert x.tolist() == [[0.0, -0.5], [-1.0, -1.5]]
    assert y.tolist() == [0, 1]
    ((x, _),) = DataLoader(Subset(data, [2]), 1)
    assert x.tolist() == [[-2.0, -2.5]]


def test_generic_data_sets_are_collated() -> None:
    (values, numbers), rest = DataLoader(Squares(3), 2)
    assert values.dtype is tb.float64
    assert values.tolist() == [0.0, 1.0]
    assert numbers.tolist() == [0, 1]
    assert rest[0].tolist() == [4.0]


def test_collate_fn_gets_the_samples() -> None:
    data = numbered(3)
    batches = list(DataLoader(data, 2, collate_fn=len))
    assert batches == [2, 1]


def test_without_batch_size_samples_come_as_they_are() -> None:
    loader = DataLoader(Squares(3), batch_size=None)
    assert list(loader) == [(0.0, 0), (1.0, 1), (4.0, 2)]
    assert len(loader) == 3


def test_samplers() -> None:
    loader = DataLoader(numbered(9), 2, sampler=[8, 0, 4])
    assert [y.tolist() for _, y in loader] == [[8, 0], [4]]
    assert len(loader) == 2
    loader = DataLoader(numbered(9), batch_sampler=[[1], [2, 3, 4]])
    assert [y.tolist() for _, y in loader] == [[1], [2, 3, 4]]
    assert len(loader) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "'batch_size' must be an int of at least 1, or None. Got 0."),
        ({"batch_size": 2.0}, "'batch_size' must be an int"),
        ({"num_workers": -1}, "'num_workers' must be an int of at least 0. Got -1."),
        ({"sampler": [0], "shuffle": True}, "'sampler' and 'shuffle' exclude each other"),
        ({"batch_sampler": [[0]], "drop_last": True}, "'batch_sampler' excludes"),
        ({"batch_size": None, "drop_last": True}, "'drop_last' needs a 'batch_size'"),
        ({"seed": 1, "generator": tb.Generator()}, "'generator' and 'seed' exclude each other"),
    ],
)
def test_loader_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        DataLoader(numbered(3), **arguments)


def test_default_collate_keeps_structure() -> None:
    Point = namedtuple("Point", "x y")
    samples = [{"a": np.float32([i, 2]), "p": Point(i, "s"), "n": np.int32(i)} for i in range(2)]
    batch = default_collate(samples)
    assert batch["a"].tolist() == [[0.0, 2.0], [1.0, 2.0]]
    assert batch["a"].dtype is tb.float32
    assert isinstance(batch["p"], Point)
    assert batch["p"].x.tolist() == [0, 1]
    assert batch["p"].y == ["s", "s"]
    assert batch["n"].dtype is tb.int32


def test_default_collate_refuses() -> None:
    with pytest.raises(DTypeError, match="default_collate: 'batch' must be made of .*Got object"):
        default_collate([object()])
    with pytest.raises(ShapeError, match=r"samples of one length. Got lengths \[1, 2\]"):
        default_collate([[1], [1, 2]])
    with pytest.raises(ShapeError, match="at least one sample"):
        default_collate([])


@pytest.mark.peers
def test_default_collate_is_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    samples = [(1.5, 2, np.float32([i, 1]), "s", {"k": True}) for i in range(3)]
    ours = default_collate(samples)
    theirs = torch.utils.data.default_collate(samples)
    assert type(ours) is type(theirs)
    for a, b in zip(ours[:3], theirs[:3], strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
        assert a.numpy().dtype == b.numpy().dtype
    assert [list(s) for s in ours[3:4]] == [list(s) for s in theirs[3:4]]
    assert ours[4]["k"].numpy().dtype == theirs[4]["k"].numpy().dtype


@pytest.mark.peers
@pytest.mark.parametrize(("n", "lengths"), [(11, [0.25, 0.25, 0.5]), (10, [7, 3]), (7, [1 / 3, 1 / 3, 1 / 3])])
def test_random_split_has_pytorchs_lengths(n: int, lengths: list[float]) -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.utils.data.random_split(range(n), lengths)
    assert [len(p) for p in random_split(Squares(n), lengths)] == [len(p) for p in theirs]


# -------------------------------------------------------------------------------------------------------------- IDX


def idx(array: np.ndarray[Any, Any], code: int = 0x08) -> bytes:
    """An array as an IDX file, independently of the package's reader."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("code", "dtype"), [(0x08, "u1"), (0x09, "i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")]
)
def test_idx_round_trip(tmp_path: Path, code: int, dtype: str, zipped: bool) -> None:
    array = (np.arange(-3, 21).reshape(2, 3, 4) % 100).astype(dtype)
    content = idx(array, code)
    file = tmp_path / "file"
    file.write_bytes(gzip.compress(content) if zipped else content)
    found = read_idx(file)
    assert found.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(found, array)


PICTURES = idx(np.zeros((3, 28, 28), np.uint8))
ZIPPED = gzip.compress(PICTURES, mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must have the magic number of IDX.*Got an empty file"),
        (b"PK\3\4" + bytes(20), "must have the magic number of IDX.*Got 50 4b 03 04"),
        (b"\0\0\7\1" + bytes(4), "must have the magic number of IDX"),
        (b"\0\0\x08\3\0\0\0\1", r"must have extents of 3 axes. Got 4 bytes \(truncated\)"),
        (PICTURES[:-1], r"must have 2352 bytes of elements for its shape \(3, 28, 28\). Got 2351 \(truncated\)"),
        (PICTURES + b"\0", "must have 2352 bytes of elements.*Got more"),
        (b"\0\0\x08\3" + b"\xff" * 12, r"Got 0 \(truncated\)"),
        (ZIPPED[:-12], "is truncated: .*gzip"),
        (ZIPPED[:20] + bytes([ZIPPED[20] ^ 0xFF]) + ZIPPED[21:], r"is corrupt: .*\(gzip\)"),
        (ZIPPED[:-8] + b"\0\0\0\0" + ZIPPED[-4:], r"is corrupt: CRC check failed .*\(gzip\)"),
        (gzip.compress(PICTURES[:-1]), r"Got 2351 \(truncated\)"),
    ],
    ids=["empty", "zip", "type", "header", "short", "long", "huge", "gz-short", "gz-corrupt", "gz-sum", "gz-of-short"],
)
def test_idx_refuses(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "pictures"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(file)
    assert str(file) in str(caught.value)


def test_idx_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="read_idx: '.*nothing' does not exist"):
        read_idx(tmp_path / "nothing")
    with pytest.raises(DataError, match="read_idx: '.*' cannot be read: Is a directory"):
        read_idx(tmp_path)


# ------------------------------------------------------------------------------------------------------------ MNIST


def write_mnist(folder: Path, zipped: bool = False, **parts: np.ndarray[Any, Any]) -> Path:
    """The four files with 5 and 3 random pictures, or with what is given instead."""
    rng = np.random.default_rng(0)
    contents = {
        "train-images-idx3": rng.integers(0, 256, (5, 28, 28), np.uint8),
        "train-labels-idx1": np.array([0, 9, 3, 3, 1], np.uint8),
        "t10k-images-idx3": rng.integers(0, 256, (3, 28, 28), np.uint8),
        "t10k-labels-idx1": np.array([7, 8, 9], np.uint8),
    } | {name.replace("_", "-"): array for name, array in parts.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in contents.items():
        content = idx(array)
        path = folder / f"{name}-ubyte{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(content) if zipped else content)
    return folder


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("below", ["", "mnist", "MNIST/raw"])
def test_mnist_reads_its_files(tmp_path: Path, zipped: bool, below: str) -> None:
    folder = write_mnist(tmp_path / below, zipped)
    train, test = mnist(tmp_path)
    assert (len(train), len(test)) == (5, 3)
    x, y = train.tensors
    assert x.shape == (5, 1, 28, 28)
    assert (x.dtype, y.dtype) == (tb.float32, tb.int64)
    assert y.tolist() == [0, 9, 3, 3, 1]
    stored = read_idx(next(folder.glob("train-images*")))
    np.testing.assert_array_equal(x.numpy()[:, 0], (stored / 255).astype(np.float32))


def test_mnist_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path)
    monkeypatch.setenv("TINYGRAD_BN_DATA", str(tmp_path))
    assert len(mnist().train) == 5
    monkeypatch.delenv("TINYGRAD_BN_DATA")
    with pytest.raises(DataError, match="'root' must be the folder.*\nHint: .*--data-dir.*TINYGRAD_BN_DATA"):
        mnist()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train_labels_idx1": np.zeros(4, np.uint8)}, "train-labels.*must have 5 labels, one for each.*Got 4"),
        ({"t10k_labels_idx1": np.uint8([1, 10, 2])}, "t10k-labels.*labels from 0 to 9. Got 10 at position 1"),
        ({"t10k_images_idx3": np.zeros((3, 27, 28), np.uint8)}, r"t10k-images.*shape \(N, 28, 28\).*\(3, 27, 28\)"),
        ({"train_images_idx3": np.zeros((0, 28, 28), np.uint8)}, "N at least 1"),
        ({"train_labels_idx1": np.zeros((5, 1), np.uint8)}, r"train-labels.*shape \(N,\).*\(5, 1\)"),
    ],
)
def test_mnist_refuses_files_that_do_not_fit(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    write_mnist(tmp_path, **parts)
    with pytest.raises(DataError, match=message):
        mnist(tmp_path)


def test_mnist_names_what_is_missing(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="must have a file t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz"):
        mnist(tmp_path)
    with pytest.raises(DataError, match="mnist: '.*nowhere' is not a folder"):
        mnist(tmp_path / "nowhere")


@pytest.mark.skipif(not os.environ.get("TINYGRAD_BN_DATA"), reason="needs MNIST in TINYGRAD_BN_DATA")
def test_the_real_mnist() -> None:
    train, test = mnist()
    assert (len(train), len(test)) == (60_000, 10_000)
    # the counts of each class are those of the published data set
    counts = np.bincount(train.tensors[1].numpy())
    assert counts.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert train.tensors[1][:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert abs(float(train.tensors[0].mean()) - 0.1307) < 1e-4
    assert (float(test.tensors[0].min()), float(test.tensors[0].max())) == (0.0, 1.0)


# ----------------------------------------------------------------------------------------------------------- digits


def test_digits() -> None:
    train, test = digits()
    assert (len(train), len(test)) == (1438, 359)
    x, y = train.tensors
    assert x.shape == (1438, 1, 8, 8)
    assert (x.dtype, y.dtype) == (tb.float32, tb.int64)
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)
    assert np.bincount(np.concatenate([y.numpy(), test.tensors[1].numpy()])).tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180
    ]  # fmt: skip


@pytest.mark.peers
def test_digits_are_scikit_learns() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    original = datasets.load_digits()
    train, test = digits()
    number = np.arange(1797)
    for part, chosen in ((train, number % 5 != 4), (test, number % 5 == 4)):
        np.testing.assert_array_equal(part.tensors[0].numpy()[:, 0] * 16, original.images[chosen])
        np.testing.assert_array_equal(part.tensors[1].numpy(), original.target[chosen])


def test_digits_file_missing_or_corrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    module = sys.modules[digits_function.__module__]
    content = module.FILE.read_bytes()
    file = tmp_path / "digits.npz"
    monkeypatch.setattr(module, "FILE", file)
    with pytest.raises(DataError, match="does not exist.\nHint: the package is not installed in full"):
        digits()
    for wrong in (content[:1000], b"", content[:5000] + bytes(500) + content[5500:]):
        file.write_bytes(wrong)
        with pytest.raises(DataError, match="digits: '.*digits.npz' is corrupt"):
            digits()
