"""Dictionaries of modules, lists and dictionaries of parameters."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import tinygrad_bn as tb
from tinygrad_bn.errors import ArgumentError, DTypeError, IndexRangeError


def test_a_dictionary_of_modules() -> None:
    d = tb.nn.ModuleDict({"a": tb.nn.Linear(2, 3), "b": tb.nn.ReLU()})
    d["c"] = tb.nn.Linear(3, 1)
    assert list(d) == list(d.keys()) == ["a", "b", "c"]
    assert [type(m).__name__ for m in d.values()] == ["Linear", "ReLU", "Linear"]
    assert "b" in d
    assert len(d) == 3
    assert list(d.state_dict()) == ["a.weight", "a.bias", "c.weight", "c.bias"]
    first = d["a"]
    d["a"] = tb.nn.Identity()
    assert list(d) == ["a", "b", "c"]
    assert d["a"] is not first
    gone = d.pop("c")
    assert [name for name, _ in d.items()] == ["a", "b"]
    assert list(gone.state_dict()) == ["weight", "bias"]
    del d["a"]
    d.update([("z", tb.nn.Tanh())])
    d.update(tb.nn.ModuleDict({"y": tb.nn.Tanh()}))
    assert list(d) == ["b", "z", "y"]
    d.clear()
    assert len(d) == 0
    with pytest.raises(KeyError):
        d["a"]
    with pytest.raises(KeyError):
        del d["a"]


def test_parameters_of_a_dictionary_of_modules_are_trained() -> None:
    class Net(tb.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = tb.nn.ModuleDict({"in": tb.nn.Linear(2, 3)})

        def forward(self, x: tb.Tensor) -> tb.Tensor:
            out: tb.Tensor = self.layers["in"](x)
            return out

    net = Net()
    net(tb.ones(1, 2)).sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is not None] == ["layers.in.weight", "layers.in.bias"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tb.nn.ModuleDict({"forward": tb.nn.ReLU()}), ArgumentError, "'name' must be free. Got 'forward'"),
        (lambda: tb.nn.ModuleDict({"a.b": tb.nn.ReLU()}), ArgumentError, "'name' must be a string that is not empty"),
        (lambda: tb.nn.ModuleDict({"a": 3}), DTypeError, "'module' must be a Module or None. Got int"),
        (lambda: tb.nn.ModuleDict(3), DTypeError, "'contents' must be a mapping, or an iterable of pairs. Got int"),
        (lambda: tb.nn.ParameterDict({"keys": tb.ones(1)}), ArgumentError, "'key' must be free. Got 'keys'"),
        (lambda: tb.nn.ParameterDict({"": tb.ones(1)}), ArgumentError, "'key' must be a string that is not empty"),
        (lambda: tb.nn.ParameterDict(3), DTypeError, "'contents' must be a mapping, or an iterable of pairs"),
        (lambda: tb.nn.ParameterList([tb.ones(1)])[1], IndexRangeError, "'index' must be from -1 to 0. Got 1"),
        (lambda: tb.nn.ParameterList(tb.ones(2)), DTypeError, "'values' must be an iterable of tensors. Got a Tensor"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_list_of_parameters() -> None:
    tensors = [tb.ones(2), tb.zeros(3)]
    p = tb.nn.ParameterList(tensors)
    assert all(isinstance(t, tb.nn.Parameter) and t.requires_grad for t in p)
    assert list(p.state_dict()) == ["0", "1"]
    own = tb.nn.Parameter(tb.ones(4), requires_grad=False)
    p.append(own).extend([tb.ones(1), "a word"])
    assert p[2] is own
    assert p[-1] == "a word"
    assert len(p) == 5
    assert list(p.state_dict()) == ["0", "1", "2", "3"]
    p[0] = tb.full((2,), 7.0)
    assert p[0].tolist() == [7.0, 7.0]
    assert [t.shape for t in p[1:3]] == [(3,), (4,)]
    p += [tb.ones(2, 2)]
    assert p[5].shape == (2, 2)
    assert [n for n, _ in p.named_parameters()] == ["0", "1", "2", "3", "5"]
    assert repr(tb.nn.ParameterList([tb.ones(2)])) == (
        "ParameterList((0): Parameter containing: [float32 of shape (2,)])"
    )


def test_a_dictionary_of_parameters() -> None:
    d = tb.nn.ParameterDict({"left": tb.ones(2), "right": tb.nn.Parameter(tb.zeros(3)), "note": 5})
    assert list(d.state_dict()) == ["left", "right"]
    assert d["note"] == 5
    assert "right" in d
    assert d.get("up", 1) == 1
    assert d.setdefault("up", tb.ones(1)).shape == (1,)
    d["left"] = tb.full((2,), 3.0)
    assert d.left.tolist() == [3.0, 3.0]
    assert [k for k, _ in d.items()] == ["left", "right", "note", "up"]
    assert d.copy()["right"] is d["right"]
    merged = d | {"down": tb.ones(1)}
    assert (len(merged), len(d)) == (5, 4)
    assert d.popitem()[0] == "up"
    assert d.pop("note") == 5
    assert list(d.fromkeys(["x", "y"], 1.0).values()) == [1.0, 1.0]
    d |= [("other", tb.ones(2))]
    del d["left"]
    assert list(d.keys()) == ["right", "other"]
    assert [n for n, _ in d.named_parameters()] == ["right", "other"]
    with pytest.raises(KeyError):
        d["left"]
    with pytest.raises(KeyError):
        del d["left"]
    d.clear()
    assert len(d) == 0


@pytest.mark.parametrize("make", [tb.nn.ParameterList, lambda ts: tb.nn.ParameterDict(zip("ab", ts, strict=True))])
def test_copies_and_conversions(make: Any) -> None:
    p = make([tb.ones(2), tb.zeros(3)])
    other = copy.deepcopy(p).double()
    assert [t.dtype.name for t in other.parameters()] == ["float64", "float64"]
    assert [t.dtype.name for t in p.parameters()] == ["float32", "float32"]
    p.load_state_dict({k: v + 1 for k, v in p.state_dict().items()})
    assert [t.tolist() for t in p.parameters()] == [[2.0, 2.0], [1.0, 1.0, 1.0]]


@pytest.mark.peers
def test_state_dicts_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    keys = []
    for lib in (torch, tb):
        net = lib.nn.Module()
        net.d = lib.nn.ModuleDict({"x": lib.nn.Linear(2, 2)})
        net.p = lib.nn.ParameterDict({"v": lib.nn.Parameter(lib.ones(2))})
        net.q = lib.nn.ParameterList([lib.nn.Parameter(lib.ones(2)), lib.nn.Parameter(lib.ones(1))])
        keys.append(list(net.state_dict()))
    assert keys[0] == keys[1]
