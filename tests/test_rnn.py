"""Recurrent layers and cells: PyTorch's values, gradients, names and shapes from the same weights."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError
from tinygrad_bn.testing import assert_close, check_vjp

LAYERS: list[tuple[str, dict[str, Any]]] = [
    ("RNN", {}),
    ("RNN", {"nonlinearity": "relu", "num_layers": 2}),
    ("LSTM", {}),
    ("LSTM", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    ("LSTM", {"bias": False, "num_layers": 3}),
    ("GRU", {"num_layers": 2, "bidirectional": True}),
    ("GRU", {"bias": False, "batch_first": True}),
    ("LSTM", {"num_layers": 2, "dropout": 1.0}),
]


def _pair(name: str, args: tuple[int, ...], options: dict[str, Any], device: str = "cpu") -> tuple[Any, Any, Any]:
    """The layer here and in PyTorch, float64, with the same parameters."""
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn, name)(*args, **options).double()
    ours = getattr(tb.nn, name)(*args, **options, dtype=tb.float64, device=device)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({k: v.detach().numpy() for k, v in theirs.state_dict().items()})
    return torch, theirs, ours


def _flat(result: Any) -> list[Any]:
    return [t for r in result for t in _flat(r)] if isinstance(result, tuple) else [result]


def _compare(torch: Any, theirs: Any, ours: Any, arrays: list[Any], call: Any, device: str) -> None:
    """Outputs and all gradients, under random cotangents."""
    rng = np.random.default_rng(7)
    xs = [torch.tensor(a, requires_grad=True) for a in arrays]
    ys = [tb.tensor(a, device=device, requires_grad=True) for a in arrays]
    want, got = _flat(call(theirs, *xs)), _flat(call(ours, *ys))
    assert len(want) == len(got)
    cotangents = [rng.standard_normal(tuple(w.shape)) for w in want]
    for w, g in zip(want, got, strict=True):
        assert_close(g.detach().numpy(), w.detach().numpy(), 1e-12)
    torch.autograd.backward(want, [torch.tensor(c) for c in cotangents])
    loss = sum((g * tb.tensor(c, device=device)).sum() for g, c in zip(got, cotangents, strict=True))
    loss.backward()  # type: ignore[union-attr]
    pairs = [*zip(xs, ys, strict=True), *zip(theirs.parameters(), ours.parameters(), strict=True)]
    for t, o in pairs:
        if t.grad is not None:
            assert o.grad is not None
            assert_close(o.grad.numpy(), t.grad.numpy(), 1e-10)


@pytest.mark.peers
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(("name", "options"), LAYERS, ids=str)
def test_layers_are_those_of_pytorch(name: str, options: dict[str, Any], batched: bool, device: str) -> None:
    torch, theirs, ours = _pair(name, (3, 4), options, device)
    rng = np.random.default_rng(0)
    steps, n = 5, 2
    shape: tuple[int, ...] = (n, steps, 3) if options.get("batch_first") else (steps, n, 3)
    count = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    state = (count, n, 4) if batched else (count, 4)
    x = rng.standard_normal(shape if batched else (steps, 3))
    h = [rng.standard_normal(state) for _ in range(2 if name == "LSTM" else 1)]

    def call(layer: Any, x: Any, *states: Any) -> Any:
        return layer(x, states if name == "LSTM" else states[0])

    _compare(torch, theirs, ours, [x, *h], call, device)


@pytest.mark.peers
@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_layers_start_from_zeros(name: str, device: str) -> None:
    torch, theirs, ours = _pair(name, (3, 4), {"num_layers": 2}, device)
    x = np.random.default_rng(0).standard_normal((6, 2, 3))
    _compare(torch, theirs, ours, [x], lambda layer, x: layer(x), device)


@pytest.mark.peers
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("RNNCell", {}),
        ("RNNCell", {"nonlinearity": "relu"}),
        ("LSTMCell", {}),
        ("LSTMCell", {"bias": False}),
        ("GRUCell", {}),
        ("GRUCell", {"bias": False}),
    ],
    ids=str,
)
def test_cells_are_those_of_pytorch(name: str, options: dict[str, Any], batched: bool, device: str) -> None:
    """Three steps by hand: the state goes round."""
    torch, theirs, ours = _pair(name, (3, 4), options, device)
    assert repr(ours) == repr(theirs)
    x = np.random.default_rng(0).standard_normal((3, 2, 3) if batched else (3, 3))

    def call(cell: Any, x: Any) -> Any:
        state = None
        outs = []
        for t in range(3):
            state = cell(x[t], state)
            outs.append(state)
        return tuple(outs)

    _compare(torch, theirs, ours, [x], call, device)


@pytest.mark.peers
@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_double_backward_is_that_of_pytorch(name: str, device: str) -> None:
    """A gradient penalty: the norm of the input's gradient, differentiated with respect to the weights."""
    torch, theirs, ours = _pair(name, (3, 2), {"num_layers": 2}, device)
    x = np.random.default_rng(0).standard_normal((3, 2, 3))

    def penalty(lib: Any, grad: Any, layer: Any, x: Any) -> Any:
        (g,) = grad((layer(x)[0] ** 2).sum(), x, create_graph=True)
        return (g**2).sum()

    w = penalty(torch, torch.autograd.grad, theirs, torch.tensor(x, requires_grad=True))
    o = penalty(tb, tb.grad, ours, tb.tensor(x, device=device, requires_grad=True))
    assert_close(o.detach().numpy(), w.detach().numpy(), 1e-11)
    w.backward()
    o.backward()
    for t, p in zip(theirs.parameters(), ours.parameters(), strict=True):
        if t.grad is not None:
            assert p.grad is not None
            assert_close(p.grad.numpy(), t.grad.numpy(), 1e-10)


def test_derivatives_of_a_layer(device: str, dtype: str) -> None:
    """Without PyTorch, and in float32 too."""
    layer = tb.nn.GRU(2, 3, num_layers=2, bidirectional=True, dtype=tb.float64, device=device)
    weights = copy.deepcopy(layer)

    def call(x: tb.Tensor) -> tb.Tensor:
        net = layer if x.dtype is tb.float64 else weights.float()
        out: tb.Tensor = net(x)[0]
        return out

    rng = np.random.default_rng(0)
    check_vjp(call, [tb.tensor(rng.standard_normal((3, 2, 2)), device=device)], dtype=dtype)


def test_a_state_changed_in_place_is_caught(device: str) -> None:
    """Backward needs the states that it returned."""
    layer = tb.nn.RNN(2, 3, device=device)
    y, _ = layer(tb.randn(4, 1, 2, device=device))
    y.mul_(2.0)
    with pytest.raises(tb.errors.SavedTensorError):
        y.sum().backward()


def test_the_last_state_can_be_changed_in_place(device: str) -> None:
    """It is a copy: truncated backpropagation may reset it."""
    layer = tb.nn.LSTM(2, 3, device=device)
    y, (h, c) = layer(tb.randn(4, 1, 2, device=device))
    h.detach_().zero_()
    c.detach_().zero_()
    y.sum().backward()
    assert layer.weight_hh_l0.grad is not None


def test_initial_values() -> None:
    layer = tb.nn.LSTM(30, 100)
    for p in layer.parameters():
        v = p.detach().numpy()
        assert np.abs(v).max() <= 0.1
        assert abs(v.std() - 0.1 / np.sqrt(3)) < 0.006
    assert [p.shape for p in layer.all_weights[0]] == [(400, 30), (400, 100), (400,), (400,)]


def test_dropout_between_layers_only(device: str) -> None:
    """At p = 1 the second layer sees zeros in training, and the first one's states in evaluation."""
    layer = tb.nn.RNN(2, 3, num_layers=2, dropout=1.0, device=device)
    x = tb.randn(4, 1, 2, device=device)
    y, h = layer(x)
    other, _ = layer(x * 2)
    assert np.array_equal(y.detach().numpy(), other.detach().numpy())
    assert np.abs(h[0].detach().numpy()).max() > 0
    layer.eval()
    assert not np.array_equal(layer(x)[0].detach().numpy(), layer(x * 2)[0].detach().numpy())


def test_an_empty_batch(device: str) -> None:
    layer = tb.nn.LSTM(2, 3, device=device)
    y, (h, _) = layer(tb.zeros(4, 0, 2, device=device))
    assert (y.shape, h.shape) == ((4, 0, 3), (1, 0, 3))
    y.sum().backward()
    assert layer.weight_hh_l0.grad is not None
    assert not layer.weight_hh_l0.grad.numpy().any()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: tb.nn.LSTM(2, 3, proj_size=2),
            ArgumentError,
            r"^LSTM: 'proj_size' must be 0: projections are not supported\. Got 2\.$",
        ),
        (lambda: tb.nn.GRU(2, 0), ArgumentError, r"^GRU: 'hidden_size' must be an int of at least 1\. Got 0\.$"),
        (lambda: tb.nn.GRU(2, 3, num_layers=0), ArgumentError, r"^GRU: 'num_layers' must be an int of at least 1"),
        (lambda: tb.nn.GRU(2, 3, 2, dropout=1.5), ArgumentError, r"^GRU: 'dropout' must be from 0 to 1\. Got 1\.5\.$"),
        (
            lambda: tb.nn.RNN(2, 3, nonlinearity="selu"),
            ArgumentError,
            r"^RNN: 'nonlinearity' must be 'tanh' or 'relu'\. Got 'selu'\.$",
        ),
        (lambda: tb.nn.RNNCell(2, 3, nonlinearity="selu"), ArgumentError, r"^RNNCell: 'nonlinearity' must be"),
        (
            lambda: tb.nn.GRU(2, 3)(tb.zeros(4, 1, 5)),
            ShapeError,
            r"^GRU: 'input' must have shape \(T, N, I\) or \(T, I\) with I = 2\. Got \(4, 1, 5\)\.$",
        ),
        (lambda: tb.nn.GRU(2, 3)(tb.zeros(0, 1, 2)), ShapeError, r"^GRU: 'input' must have at least one time step"),
        (
            lambda: tb.nn.GRU(2, 3)(tb.zeros(4, 1, 2), tb.zeros(2, 1, 3)),
            ShapeError,
            r"^GRU: 'hx' must have shape \(1, 1, 3\)\. Got \(2, 1, 3\)\.$",
        ),
        (
            lambda: tb.nn.GRU(2, 3)(tb.zeros(4, 1, 2), tb.zeros(1, 1, 3, dtype=tb.float64)),
            DTypeError,
            r"^GRU: 'hx' must have dtype float32, as input has\. Got float64\.$",
        ),
        (
            lambda: tb.nn.LSTM(2, 3)(tb.zeros(4, 1, 2), tb.zeros(1, 1, 3)),
            DTypeError,
            r"^LSTM: 'hx' must be a pair \(h, c\)\. Got Tensor\.$",
        ),
        (
            lambda: tb.nn.LSTMCell(2, 3)(tb.zeros(1, 2), (tb.zeros(1, 3), tb.zeros(1, 4))),
            ShapeError,
            r"^LSTMCell: 'hx\[1\]' must have shape \(1, 3\)\. Got \(1, 4\)\.$",
        ),
        (
            lambda: tb.nn.GRUCell(2, 3)(tb.zeros(1, 3)),
            ShapeError,
            r"^GRUCell: 'input' must have shape \(N, I\) or \(I,\) with I = 2\. Got \(1, 3\)\.$",
        ),
        (lambda: tb.nn.GRU(2, 3)(tb.zeros(4, 1, 2, dtype=tb.int64)), DTypeError, r"^GRU: 'input' must be a floating"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_dropout_of_one_layer_is_pointed_out() -> None:
    with pytest.warns(UserWarning, match="'dropout' works between layers only and there is one layer"):
        tb.nn.LSTM(2, 3, dropout=0.5)
