"""Lookups in tables, with PyTorch's names and arguments."""

from __future__ import annotations

from tinygrad_bn import ops
from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.ops import indexing
from tinygrad_bn.ops._common import is_tensor
from tinygrad_bn.ops.embedding import embedding as rows_of
from tinygrad_bn.ops.gathering import checked, is_index


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Return the rows of a table at indices.

    Parameters
    ----------
    input : Tensor, any shape, int64 or int32
        Indices from 0 to S - 1.
    weight : Tensor, shape (S, R)
    padding_idx : int, optional
        A row that gets no gradient; a negative one counts from the end.
    max_norm : float, optional
        Rows that are looked up and whose norm is larger are first scaled, in place, to this norm.
    norm_type : float
        The order of that norm.
    scale_grad_by_freq : bool
        Divide each row's gradient by how often it is among the indices.
    sparse : bool
        Must be False: gradients are dense.

    Returns
    -------
    Tensor, shape (*input.shape, R)

    Raises
    ------
    IndexRangeError
        If an index is out of range.
    ShapeError, DTypeError, DeviceError, ArgumentError

    Notes
    -----
    The gradients of a row's uses are added in the order of the indices: the sum is the same in every run.
    """
    if sparse:
        raise ArgumentError(wrong("embedding", "sparse", "False: gradients are dense", sparse))
    if max_norm is not None:
        _limit_norms(input, weight, float(max_norm), float(norm_type))
    return rows_of(weight, input, padding_idx, scale_grad_by_freq)


def _limit_norms(input: Tensor, weight: Tensor, max_norm: float, norm_type: float) -> None:
    """Scale the rows at indices, in place and off the tape, to at most a norm."""
    index = is_index("embedding", "input", input, is_tensor("embedding", "weight", weight))
    with no_grad():
        at = checked("embedding", index, weight.array.shape[0])
        rows = rows_of(weight, at)
        norms = ops.pow(ops.sum(ops.pow(ops.abs(rows), norm_type), -1, True), 1.0 / norm_type)
        scale = ops.where(ops.gt(norms, max_norm), ops.div(max_norm, ops.add(norms, 1e-7)), 1.0)
        indexing.write(weight, (at,), ops.mul(rows, scale))
        weight.bump()
