"""Splitting, gathering and lookups: what the records cannot say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import functional as F
from tinygrad_bn.errors import ArgumentError, IndexRangeError, ShapeError
from tinygrad_bn.testing import assert_close


@pytest.mark.peers
@pytest.mark.parametrize("options", [{"padding_idx": 1}, {"padding_idx": -1}, {"scale_grad_by_freq": True}], ids=str)
def test_gradients_of_an_embedding_are_those_of_pytorch(options: dict[str, Any], device: str) -> None:
    """None to the padding, a share of each use where they are counted: no derivative of the function, but a rule."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    index, table, gy = rng.integers(0, 5, (4, 6)), rng.standard_normal((5, 3)), rng.standard_normal((4, 6, 3))
    want = torch.tensor(table, requires_grad=True)
    torch.nn.functional.embedding(torch.tensor(index), want, **options).backward(torch.tensor(gy))
    got = tb.tensor(table, device=device, requires_grad=True)
    out = F.embedding(tb.tensor(index, device=device), got, **options)
    out.backward(tb.tensor(gy, device=device))
    assert got.grad is not None
    assert_close(got.grad.numpy(), want.grad.numpy(), 1e-12)


@pytest.mark.peers
@pytest.mark.parametrize("norm_type", [2.0, 1.0])
def test_max_norm_changes_the_table_as_pytorch_does(norm_type: float, device: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    index, table = np.array([[0, 2], [2, 3]]), rng.standard_normal((5, 3))
    theirs, ours = torch.tensor(table), tb.tensor(table, device=device)
    want = torch.nn.functional.embedding(torch.tensor(index), theirs, max_norm=1.0, norm_type=norm_type)
    got = F.embedding(tb.tensor(index, device=device), ours, max_norm=1.0, norm_type=norm_type)
    assert_close(got.numpy(), want.numpy(), 1e-12)
    assert_close(ours.numpy(), theirs.numpy(), 1e-12)
    assert np.array_equal(ours.numpy()[[1, 4]], table[[1, 4]])


def test_the_embedding_layer() -> None:
    layer = tb.nn.Embedding(50, 8, padding_idx=-1)
    table = layer.weight.detach().numpy()
    assert layer.padding_idx == 49
    assert not table[49].any()
    assert 0.8 < table[:49].std() < 1.2
    assert layer(tb.tensor([[0, 49]])).tolist() == [[table[0].tolist(), [0.0] * 8]]
    assert repr(layer) == "Embedding(50, 8, padding_idx=49)"
    layer(tb.tensor([3, 49])).sum().backward()
    assert layer.weight.grad is not None
    assert np.flatnonzero(layer.weight.grad.numpy().any(1)).tolist() == [3]


def test_an_embedding_from_a_table() -> None:
    table = tb.randn(4, 3)
    frozen = tb.nn.Embedding.from_pretrained(table)
    assert not frozen.weight.requires_grad
    assert np.shares_memory(frozen.weight.detach().numpy(), table.numpy())
    assert tb.nn.Embedding.from_pretrained(table, freeze=False).weight.requires_grad
    with pytest.raises(ShapeError, match=r"'embeddings' must have shape \(S, R\)"):
        tb.nn.Embedding.from_pretrained(tb.zeros(3))
    with pytest.raises(ShapeError, match=r"'_weight' must have shape \(2, 3\)"):
        tb.nn.Embedding(2, 3, _weight=table)
    with pytest.raises(ArgumentError, match="'padding_idx' must be from -2 to 1"):
        tb.nn.Embedding(2, 3, padding_idx=2)
    with pytest.raises(ArgumentError, match="'sparse' must be False"):
        tb.nn.Embedding(2, 3, sparse=True)


def test_gradients_that_collide_are_added_in_order(device: str) -> None:
    """1 + 2⁻²⁴ + … from the left stays 1 in float32; from the right it would not."""
    weight = tb.zeros(1, 1, device=device, requires_grad=True)
    index = tb.zeros(3, dtype=tb.int64, device=device)
    F.embedding(index, weight).backward(tb.tensor([[1.0], [2.0**-24], [2.0**-24]], device=device))
    assert weight.grad is not None
    assert weight.grad.item() == 1.0


def test_changing_the_index_afterwards_does_no_harm(device: str) -> None:
    """The positions that backward uses are a copy."""
    x, index = tb.randn(3, 4, device=device, requires_grad=True), tb.tensor([[0, 1], [2, 3], [0, 0]], device=device)
    y = tb.gather(x, 1, index)
    index.fill_(3)
    y.backward(tb.ones_like(y))
    assert x.grad is not None
    assert x.grad.tolist() == [[1, 1, 0, 0], [0, 0, 1, 1], [2, 0, 0, 0]]


def test_in_place_scatter(device: str) -> None:
    index = tb.tensor([[1], [0]], device=device)
    x = tb.zeros(2, 3, device=device)
    assert x.scatter_(1, index, 1.0) is x
    assert x.tolist() == [[0, 1, 0], [1, 0, 0]]
    x.scatter_add_(1, index, tb.ones(2, 1, device=device))
    assert x.tolist() == [[0, 2, 0], [2, 0, 0]]


def test_a_bad_index_leaves_no_trace(device: str) -> None:
    """The status word is cleared: what follows is not blamed."""
    x = tb.zeros(3, device=device)
    with pytest.raises(IndexRangeError):
        tb.gather(x, 0, tb.tensor([3], device=device))
    assert tb.gather(x, 0, tb.tensor([2], device=device)).tolist() == [0.0]


def test_pieces_are_views(device: str) -> None:
    x = tb.arange(6, device=device)
    first, second = x.chunk(2)
    first[0] = 9
    assert x.tolist() == [9, 1, 2, 3, 4, 5]
    assert second.tolist() == [3, 4, 5]
    assert [t.item() for t in x[:3].unbind()] == [9, 1, 2]


def test_a_stale_piece_is_caught() -> None:
    x = tb.zeros(4, requires_grad=True) * 1
    first, _ = x.split(2)
    x.add_(1.0)
    with pytest.raises(tb.errors.SavedTensorError, match="a view of memory that was changed in place"):
        first * 2
