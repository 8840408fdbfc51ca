"""Bring a tensor into the form (A, R, B) in which reductions and softmax see it: the axes ahead, the reduced, the
rest."""

from __future__ import annotations

from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.ops._common import plain

Shape = tuple[int, ...]


def product(extents: Shape) -> int:
    out = 1
    for n in extents:
        out *= n
    return out


def split_at(x: Tensor, dims: tuple[int, ...]) -> tuple[Array, Shape]:
    """Return the elements as a C-contiguous (A, R, B), R the reduced axes together, and the shape that is kept.

    Where the reduced axes do not lie side by side, they are moved to the end by a copy.
    """
    shape = x.array.shape
    kept = tuple(n for i, n in enumerate(shape) if i not in dims)
    if not dims:
        return plain(x).reshape(product(shape), 1, 1), kept
    first, last = dims[0], dims[-1]
    if last - first + 1 == len(dims):
        r = product(shape[first : last + 1])
        return plain(x).reshape(product(shape[:first]), r, product(shape[last + 1 :])), kept
    order = tuple(i for i in range(len(shape)) if i not in dims) + dims
    out = x.device.empty(tuple(shape[i] for i in order), x.dtype)
    launch(x.device.kernels.copy, x.array.transpose(order), out)
    return out.reshape(product(kept), product(tuple(shape[i] for i in dims)), 1), kept


def with_ones(shape: Shape, dims: tuple[int, ...]) -> Shape:
    """The shape with the reduced axes kept at extent 1."""
    return tuple(1 if i in dims else n for i, n in enumerate(shape))
