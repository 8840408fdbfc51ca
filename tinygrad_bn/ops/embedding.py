"""Slices of an axis and rows of a table by index; classes as rows of zeros and a one."""

from __future__ import annotations

from tinygrad_bn.core.dtype import int64
from tinygrad_bn.core.launch import launch, reads_values
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, Node, record
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, ShapeError, expected, wrong
from tinygrad_bn.ops import arithmetic, comparison, indexing, movement
from tinygrad_bn.ops._common import axis, is_tensor, new, number, plain, raw
from tinygrad_bn.ops._layout import product
from tinygrad_bn.ops.creation import arange, ones
from tinygrad_bn.ops.gathering import checked, is_index
from tinygrad_bn.ops.reduction import max as max_


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """Return the slices of an axis at an index: out[:, m] = input[:, index[m]] for ``dim=1``.

    Parameters
    ----------
    input : Tensor
    dim : int
    index : Tensor, shape (M,) or (), int64 or int32
        From 0 to below the axis's extent.

    Raises
    ------
    IndexRangeError
        If an index is out of range.
    ShapeError, DTypeError, DeviceError
    """
    op = "index_select"
    x = is_tensor(op, "input", input)
    at = is_index(op, "index", index, x)
    if at.array.ndim > 1:
        raise ShapeError(expected(op, "index", "one axis or none", f"shape {at.array.shape}"))
    d = axis(op, dim, x.array.ndim)
    whole = x if x.array.ndim else movement.reshape(x, (1,))
    shape = whole.array.shape
    positions = movement.reshape(checked(op, at, shape[d]), (at.array.size,))
    outer, m = product(shape[:d]), at.array.size
    if outer != 1:
        first = movement.reshape(arange(0, outer, device=x.device), (outer, 1))
        positions = movement.reshape(arithmetic.add(arithmetic.mul(first, shape[d]), positions), (outer * m,))
    rows = movement.reshape(whole, (outer * shape[d], product(shape[d + 1 :])))
    taken = indexing.take_rows(rows, positions)
    return movement.reshape(taken, (*shape[:d], m, *shape[d + 1 :]) if x.array.ndim else ())


class Embedding(Node):
    """y_m = W[index_m]; the gradients of a row's uses are added in their order, none to the row of padding."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (positions,) = self.unpack()
        shape, padding_idx, by_frequency = self.constants
        if by_frequency:
            once = ones((positions.array.shape[0], 1), dtype=gy.dtype, device=gy.device)
            counts = indexing.add_rows(once, positions, (shape[0], 1))
            gy = arithmetic.div(gy, indexing.take_rows(counts, positions))
        if padding_idx is not None:
            real = comparison.ne(movement.reshape(positions, (-1, 1)), padding_idx)
            gy = comparison.where(real, gy, 0.0)
        return (indexing.add_rows(gy, positions, shape),)


@operation(Embedding)
def embedding(
    weight: Tensor, indices: Tensor, padding_idx: int | None = None, scale_grad_by_freq: bool = False
) -> Tensor:
    """Return rows of a table.

    Parameters
    ----------
    weight : Tensor, shape (S, R)
    indices : Tensor, any shape, int64 or int32
        From 0 to S - 1.
    padding_idx : int, optional
        A row that gets no gradient; a negative one counts from the end.
    scale_grad_by_freq : bool
        Divide each row's gradient by how often it is among the indices.

    Returns
    -------
    Tensor, shape (*indices.shape, R)

    Raises
    ------
    IndexRangeError
        If an index is out of range.
    ShapeError, DTypeError, DeviceError, ArgumentError
    """
    table = is_tensor("embedding", "weight", weight)
    at = is_index("embedding", "input", indices, table)
    if table.array.ndim != 2:
        raise ShapeError(expected("embedding", "weight", "shape (S, R)", table.array.shape))
    size, width = table.array.shape
    if padding_idx is not None:
        if not -size <= padding_idx < size:
            raise ArgumentError(wrong("embedding", "padding_idx", f"from {-size} to {size - 1}", padding_idx))
        padding_idx %= size
    positions = checked("embedding", at, size)
    flat = positions.alias(positions.array.reshape(-1))
    out = new((at.array.size, width), table.dtype, table.device)
    dtype = table.dtype
    launch(table.device.kernels.take_rows, raw(plain(table), dtype), flat.array, raw(out.array, dtype))
    constants = ((size, width), padding_idx, scale_grad_by_freq)
    return movement.reshape(record(Embedding, out, (table,), (flat,), constants), (*at.array.shape, width))


@operation(capturable=False)
def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """Return, for each index, a row of zeros with a one at the index.

    Parameters
    ----------
    tensor : Tensor, any shape, int64 or int32
        Classes, at least 0.
    num_classes : int
        -1: one more than the largest class.

    Returns
    -------
    Tensor, shape (*tensor.shape, num_classes), int64

    Raises
    ------
    IndexRangeError
        If a class is negative or not below ``num_classes``.
    ArgumentError
        If there is nothing to infer ``num_classes`` from.
    DTypeError
    """
    op = "one_hot"
    classes = is_index(op, "tensor", tensor)
    if num_classes == -1:
        if not classes.array.size:
            raise ArgumentError(wrong(op, "num_classes", "given for an empty tensor", num_classes))
        reads_values("one_hot without num_classes")
        num_classes = max(int(number(max_(classes))) + 1, 1)
    elif num_classes < 1:
        raise ArgumentError(wrong(op, "num_classes", "at least 1, or -1", num_classes))
    column = movement.unsqueeze(checked(op, classes, num_classes), -1)
    return movement.to(comparison.eq(column, arange(0, num_classes, device=classes.device)), int64)
