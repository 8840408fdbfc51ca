"""``tb.save`` and ``tb.load``: round trips, files of other programs, damaged files, interruption."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import tinygrad_bn as tb
from tinygrad_bn.errors import ArgumentError, DataError, DTypeError
from tinygrad_bn.interop import safetensors as implementation

DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float32", "float64"]
SHAPES = [(), (1,), (0,), (3, 0, 2), (2, 3), (2, 1, 3)]


def same(one: Any, two: Any) -> bool:
    """Whether two nested objects are equal: types, order of keys, dtypes and bits of tensors."""
    if isinstance(one, tb.Tensor | np.ndarray):
        a = one.detach().numpy() if isinstance(one, tb.Tensor) else one
        b = two.numpy()
        return type(two) is tb.Tensor and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(one, dict):
        return type(two) is dict and list(one) == list(two) and all(same(one[k], two[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(two) and len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and (one == two or (one != one and two != two))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", DTYPES)
def test_every_dtype_and_shape(kind: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    a = np.asarray(np.random.default_rng(0).normal(size=shape) * 50, dtype=np.float64).astype(kind)
    tb.save({"x": tb.tensor(a)}, tmp_path / "f.safetensors")
    found = tb.load(tmp_path / "f.safetensors")
    assert same({"x": a}, found)
    assert found["x"].dtype is getattr(tb, kind)
    found["x"].zero_()  # its memory is its own, and writable


CHECKPOINT = {
    "model": {"0.weight": tb.ones(2, 3), "0.bias": tb.zeros(2)},
    "optimizer": {"state": {0: {"step": tb.ones(())}, 1: {}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
    "epoch": 3,
    "name": 'ein "Größter" \n',
    "best": None,
    "done": False,
    "numbers": [1, -2.5, math.inf, -math.inf, math.nan, 1e-300, 2**62],
    1.5: "a float key",
    True: "a boolean key",
    "nothing": [[], (), {}],
    "array": np.arange(6, dtype=np.int32).reshape(2, 3),
}


def test_nested_objects(tmp_path: Path) -> None:
    tb.save(CHECKPOINT, str(tmp_path / "c"))
    assert same(CHECKPOINT, tb.load(str(tmp_path / "c")))


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.builds(lambda n, k: tb.tensor(np.arange(n).astype(k)), st.integers(0, 5), st.sampled_from(DTYPES)),
)
keys = st.one_of(st.text().filter(lambda t: "/" not in t), st.integers())
objects = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3).filter(lambda d: len({str(k) for k in d}) == len(d)),
    ),
    max_leaves=8,
)


@given(objects)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_anything_comes_back(tmp_path: Path, value: Any) -> None:
    tb.save(value, tmp_path / "f")
    assert same(value, tb.load(tmp_path / "f"))


def test_training_continues(tmp_path: Path) -> None:
    def build() -> tuple[tb.nn.Sequential, tb.optim.Adam]:
        net = tb.nn.Sequential(tb.nn.Linear(3, 4), tb.nn.BatchNorm1d(4), tb.nn.Tanh(), tb.nn.Linear(4, 2))
        return net, tb.optim.Adam(net.parameters(), lr=0.1)

    def train(net: tb.nn.Sequential, optimiser: tb.optim.Adam, steps: int) -> None:
        for i in range(steps):
            x = tb.tensor(np.random.default_rng(i).normal(size=(6, 3)).astype("f4"))
            optimiser.zero_grad()
            net(x).pow(2).mean().backward()
            optimiser.step()

    one, two = build(), build()
    train(*one, 3)
    tb.save({"model": one[0].state_dict(), "optimiser": one[1].state_dict()}, tmp_path / "c")
    checkpoint = tb.load(tmp_path / "c")
    two[0].load_state_dict(checkpoint["model"])
    two[1].load_state_dict(checkpoint["optimiser"])
    train(*one, 2)
    train(*two, 2)
    assert same(dict(one[0].state_dict()), dict(two[0].state_dict()))


def test_strided_tracked_and_foreign_tensors(tmp_path: Path, device: str) -> None:
    x = tb.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], device=device, requires_grad=True)
    tb.save({"t": x.T, "p": tb.nn.Parameter(tb.ones(2)), "big": np.arange(3, dtype=">f8")}, tmp_path / "f")
    found = tb.load(tmp_path / "f", map_location=device)
    assert found["t"].tolist() == [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]
    assert found["t"].device.type == device
    assert not found["t"].requires_grad
    assert type(found["p"]) is tb.Tensor
    assert found["big"].tolist() == [0.0, 1.0, 2.0]


def test_a_state_dict_keeps_its_names_for_other_programs(tmp_path: Path) -> None:
    layer = tb.nn.Linear(3, 2)
    tb.save(layer.state_dict(), tmp_path / "f.safetensors")
    arrays = load_file(tmp_path / "f.safetensors")
    assert set(arrays) == {"weight", "bias"}
    np.testing.assert_array_equal(arrays["weight"], layer.weight.detach().numpy())


def test_a_file_of_another_program(tmp_path: Path) -> None:
    arrays = {"a/b": np.ones((2, 3), np.float32), "c": np.arange(4)}
    save_file(arrays, tmp_path / "f", {"format": "pt"})
    found = tb.load(tmp_path / "f")
    assert set(found) == {"a/b", "c"}
    assert found["c"].tolist() == [0, 1, 2, 3]


# ---------------------------------------------------------------------------------------------- errors


def written(path: Path) -> bytes:
    tb.save({"x": tb.arange(100), "n": 3}, path)
    return path.read_bytes()


def replace_metadata(path: Path, text: str) -> None:
    save_file({"x": np.arange(3)}, path, {"tinygrad_bn": text})


DAMAGES: list[tuple[str, Callable[[Path], object], str]] = [
    ("missing", lambda p: None, "no such file"),
    ("directory", lambda p: p.mkdir(), "is a directory"),
    ("empty", lambda p: p.write_bytes(b""), "truncated, corrupt or no safetensors file"),
    ("truncated", lambda p: p.write_bytes(written(p)[:-10]), "truncated, corrupt or no safetensors file"),
    ("no header", lambda p: p.write_bytes(written(p)[:20]), "truncated, corrupt or no safetensors file"),
    ("too long", lambda p: p.write_bytes(written(p) + b"more"), "truncated, corrupt or no safetensors file"),
    ("another format", lambda p: p.write_bytes(b"PK\3\4" * 100), "truncated, corrupt or no safetensors file"),
    ("no JSON", lambda p: replace_metadata(p, "{"), "its metadata does not describe its tensors"),
    ("no tensor", lambda p: replace_metadata(p, '{"tensor": "y"}'), "its metadata does not describe its tensors"),
    ("no form", lambda p: replace_metadata(p, '{"object": "y"}'), "its metadata does not describe its tensors"),
    ("two forms", lambda p: replace_metadata(p, '{"tensor": "x", "dict": []}'), "its metadata does not describe"),
    ("no pairs", lambda p: replace_metadata(p, '{"dict": [1]}'), "its metadata does not describe its tensors"),
    ("dtype", lambda p: save_file({"x": np.ones(3, np.uint16)}, p), "elements of type uint16 have no dtype here"),
]


@pytest.mark.parametrize(("damage", "reason"), [d[1:] for d in DAMAGES], ids=[d[0] for d in DAMAGES])
def test_damaged_files(damage: Callable[[Path], object], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    damage(path)
    with pytest.raises(DataError) as caught:
        tb.load(path)
    assert str(caught.value).startswith(f"load: {path}: ")
    assert reason in str(caught.value)
    assert isinstance(caught.value, OSError)


REFUSED: list[tuple[str, Any, type[Exception], str]] = [
    ("object", {"a": [1, {"b": object()}]}, DTypeError, "save: 'obj' must be tensors, dicts, lists, tuples, numbers, "
     "strings and None only. Got object at a/1/b."),
    ("module", {"net": tb.nn.Linear(2, 2)}, DTypeError, "Got Linear at net.\nHint: save its state_dict()"),
    ("top", {1, 2}, DTypeError, "Got set at its top."),
    ("key", {"a": {(1, 2): 3}}, DTypeError, "free of keys but strings and numbers. Got (1, 2) at a."),
    ("separator", {"a/b": 1}, ArgumentError, "save: 'obj' must be free of keys with '/'. Got 'a/b' at its top."),
    ("alike", {1: tb.ones(2), "1": tb.ones(2)}, ArgumentError, "save: 'obj' must be free of keys that read alike"),
    ("reserved", {"__metadata__": tb.ones(2)}, ArgumentError, "and of '__metadata__'. Got __metadata__."),
    ("complex", {"a": np.ones(2, complex)}, DTypeError, "save: elements of type complex128 have no dtype here"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "kind", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_cannot_be_saved(value: Any, kind: type[Exception], message: str, tmp_path: Path) -> None:
    path = tmp_path / "f"
    before = written(path)
    with pytest.raises(kind) as caught:
        tb.save(value, path)
    assert message in str(caught.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["f"]


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "no" / "f"
    with pytest.raises(DataError, match="save: .*f: cannot be written: No such file or directory"):
        tb.save({}, path)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_an_interruption_leaves_the_old_file(
    interruption: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    before = written(path)

    def interrupted(*args: object) -> None:
        raise interruption

    monkeypatch.setattr(implementation.os, "replace", interrupted)
    with pytest.raises(DataError if interruption is OSError else interruption):
        tb.save({"x": tb.zeros(5)}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["f"]


def test_permissions_are_those_of_an_ordinary_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    tb.save({}, tmp_path / "f")
    assert (tmp_path / "f").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_file_is_readable_json_and_bytes(tmp_path: Path) -> None:
    tb.save({"x": tb.ones(2), "n": (1,)}, tmp_path / "f")
    raw = (tmp_path / "f").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    skeleton = json.loads(header["__metadata__"]["tinygrad_bn"])
    assert skeleton == {"dict": [["x", {"tensor": "x"}], ["n", {"tuple": [1]}]]}
