"""Layers that look rows up in a table."""

from __future__ import annotations

from typing import Any, Self

from tinygrad_bn import functional as F
from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, ShapeError, expected, wrong
from tinygrad_bn.nn import init
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.parameter import Parameter, make
from tinygrad_bn.ops._common import is_tensor


class Embedding(Module):
    """A table of vectors, one a word (or whatever the indices stand for): y = weight[x].

    Parameters
    ----------
    num_embeddings : int
        S, the number of rows.
    embedding_dim : int
        R, their length.
    padding_idx : int, optional
        A row that starts at 0 and gets no gradient; a negative one counts from the end.
    max_norm : float, optional
        Rows that are looked up and whose norm is larger are first scaled, in place, to this norm.
    norm_type : float
    scale_grad_by_freq : bool
        Divide each row's gradient by how often it is among the indices.
    sparse : bool
        Must be False: gradients are dense.
    _weight : Tensor, shape (S, R), optional
        The table to start from.
    _freeze : bool
        Whether the table gets no gradient at all.
    device : Device or str, optional
    dtype : DType, optional

    Attributes
    ----------
    weight : Parameter, shape (S, R)
        Starts normal, of mean 0 and variance 1.

    Notes
    -----
    Input of any shape, int64 or int32; output (*input.shape, R).
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if sparse:
            raise ArgumentError(wrong("Embedding", "sparse", "False: gradients are dense", sparse))
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = _padding(padding_idx, num_embeddings)
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        if _weight is None:
            self.weight = make((num_embeddings, embedding_dim), dtype, device)
            self.reset_parameters()
        else:
            shape = (num_embeddings, embedding_dim)
            if is_tensor("Embedding", "_weight", _weight).array.shape != shape:
                raise ShapeError(expected("Embedding", "_weight", f"shape {shape}", _weight.array.shape))
            self.weight = Parameter(_weight)
        self.weight.requires_grad = not _freeze

    def reset_parameters(self) -> None:
        """Draw the table anew."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with no_grad():
                self.weight[self.padding_idx] = 0.0

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Self:
        """Return a layer on a given table of shape (S, R), whose memory is shared; ``freeze`` keeps it as it is."""
        table = is_tensor("Embedding.from_pretrained", "embeddings", embeddings)
        if table.array.ndim != 2:
            raise ShapeError(expected("Embedding.from_pretrained", "embeddings", "shape (S, R)", table.array.shape))
        size, width = table.array.shape
        return cls(size, width, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, table, freeze)

    def forward(self, input: Tensor) -> Tensor:
        """Return the rows at the indices."""
        options = (self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq)
        return F.embedding(input, self.weight, *options)

    def extra_repr(self) -> str:
        parts = [f"{self.num_embeddings}, {self.embedding_dim}"]
        if self.padding_idx is not None:
            parts.append(f"padding_idx={self.padding_idx}")
        if self.max_norm is not None:
            parts.append(f"max_norm={self.max_norm}")
        if self.norm_type != 2.0:
            parts.append(f"norm_type={self.norm_type}")
        if self.scale_grad_by_freq:
            parts.append("scale_grad_by_freq=True")
        return ", ".join(parts)


def _padding(index: int | None, size: int) -> int | None:
    """The padded row, counted from 0."""
    if index is None:
        return None
    if not -size <= index < size:
        raise ArgumentError(wrong("Embedding", "padding_idx", f"from {-size} to {size - 1}", index))
    return index % size
