"""Elements by index along an axis, and back: gather and scatter.

Indices are checked and copied by one kernel; what then takes and adds elements is in ``ops.indexing``, where taking
and adding are each the other's gradient.
"""

from __future__ import annotations

from tinygrad_bn.core.dtype import int64
from tinygrad_bn.core.launch import launch, launch_checked
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, Node, record
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError, expected, wrong
from tinygrad_bn.ops import arithmetic, indexing, movement, sums
from tinygrad_bn.ops._broadcast import broadcast_shape
from tinygrad_bn.ops._common import Scalar, axis, cast, is_tensor, new, operand, plain, same_device
from tinygrad_bn.ops._layout import Shape, product
from tinygrad_bn.ops.joining import narrow, widen


def is_index(op: str, name: str, value: object, like: Tensor | None = None) -> Tensor:
    """Return the value if it is an int64 or int32 Tensor on the device of ``like``, else raise."""
    index = is_tensor(op, name, value)
    if index.dtype.name not in ("int64", "int32"):
        raise DTypeError(wrong(op, name, "an int64 or int32 tensor", index.dtype.name, "convert it with .long()"))
    if like is not None:
        same_device(op, like, name, index)
    return index


def checked(op: str, index: Tensor, limit: int, wrap: bool = False) -> Tensor:
    """Return a copy of an index, int64, whose elements are all at least 0 and below ``limit``.

    Parameters
    ----------
    wrap : bool
        Take negative ones from the end.

    Raises
    ------
    IndexRangeError
    """
    flat = plain(cast(index, int64)).reshape(-1)
    out = new(index.array.shape, int64, index.device)
    launch_checked(index.device, op, index.device.kernels.check_index, flat, limit, wrap, out.array.reshape(-1))
    return out


def _with_axis(x: Tensor) -> Tensor:
    """The tensor, one axis given to it if it has none."""
    return x if x.array.ndim else movement.reshape(x, (1,))


def _cropped(op: str, name: str, x: Tensor, index: Tensor, dim: int | None) -> Tensor:
    """The first elements of every axis but ``dim``, as many as the index has."""
    if x.array.ndim != index.array.ndim:
        raise ShapeError(expected(op, "index", f"the number of axes of '{name}', {x.array.ndim}", index.array.ndim))
    for d, (n, m) in enumerate(zip(x.array.shape, index.array.shape, strict=True)):
        if d == dim:
            continue
        if m > n:
            want = f"extents of at most those of '{name}' {x.array.shape}" + ("" if dim is None else f" but for {dim}")
            raise ShapeError(expected(op, "index", want, index.array.shape))
        x = x if m == n else narrow(x, d, 0, m)
    return x


def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """Return the elements along an axis at an index: out[i, j, k] = input[i, index[i, j, k], k] for ``dim=1``.

    Parameters
    ----------
    input : Tensor
    dim : int
    index : Tensor, int64 or int32, of as many axes as the input
        From 0 to below the axis's extent; no larger than the input along the others.
    sparse_grad : bool
        PyTorch's; gradients are dense here.

    Returns
    -------
    Tensor, of the index's shape

    Raises
    ------
    IndexRangeError
        If an index is out of range.
    ShapeError, DTypeError, DeviceError
    """
    x = is_tensor("gather", "input", input)
    at = is_index("gather", "index", index, x)
    d = axis("gather", dim, x.array.ndim)
    shape = at.array.shape
    x, at = _with_axis(x), _with_axis(at)
    x = _cropped("gather", "input", x, at, d)
    taken = indexing.take_along(x, checked("gather", at, x.array.shape[d]), d)
    return movement.reshape(taken, shape) if taken.array.shape != shape else taken


def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """Return the elements along an axis at indices, as NumPy's ``take_along_axis``; the other axes broadcast.

    Parameters
    ----------
    input : Tensor
    indices : Tensor, int64 or int32
        Negative ones count from the end.
    dim : int, optional
        None takes both as flattened.

    Raises
    ------
    IndexRangeError
        If an index is out of range.
    ShapeError, DTypeError, DeviceError
    """
    op = "take_along_dim"
    x = is_tensor(op, "input", input)
    at = is_index(op, "indices", indices, x)
    if dim is None:
        return take_along_dim(movement.reshape(x, (x.array.size,)), movement.reshape(at, (at.array.size,)), 0)
    if x.array.ndim != at.array.ndim:
        raise ShapeError(expected(op, "indices", f"the input's number of axes, {x.array.ndim}", at.array.ndim))
    d = axis(op, dim, x.array.ndim)
    x, at = _with_axis(x), _with_axis(at)
    n, m = x.array.shape[d], at.array.shape[d]
    outer = [(*s[:d], 1, *s[d + 1 :]) for s in (x.array.shape, at.array.shape)]
    shape = broadcast_shape(op, outer)
    wide = sums.expand(x, (*shape[:d], n, *shape[d + 1 :]))
    positions = sums.expand(checked(op, at, n, wrap=True), (*shape[:d], m, *shape[d + 1 :]))
    taken = indexing.take_along(wide, positions, d)
    return taken if input.array.ndim else movement.reshape(taken, ())


def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """Return the input with elements added along an axis: out[i, index[i, j, k], k] += src[i, j, k] for ``dim=1``.

    Parameters
    ----------
    input : Tensor
    dim : int
    index : Tensor, int64 or int32, of as many axes as the input
        From 0 to below the axis's extent; no larger than ``src`` along any axis, than the input along the others.
    src : Tensor, of the input's dtype
        What lies beyond the index's extents is left out.

    Raises
    ------
    IndexRangeError
        If an index is out of range.
    ShapeError, DTypeError, DeviceError

    Notes
    -----
    Where an index occurs more than once the elements are added in their order: the result is the same in every run.
    """
    x, at, source, d = _scattered("scatter_add", input, dim, index, src)
    whole = _with_axis(x).array.shape
    added = _spread(source, checked("scatter_add", at, whole[d]), d, whole)
    return arithmetic.add(x, movement.reshape(added, x.array.shape))


def _scattered(op: str, input: Tensor, dim: int, index: Tensor, src: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """The checked arguments of a scatter: input, index, the part of the source that counts, axis."""
    x = is_tensor(op, "input", input)
    at = is_index(op, "index", index, x)
    source = is_tensor(op, "src", src)
    same_device(op, x, "src", source)
    if source.dtype is not x.dtype:
        raise DTypeError(expected(op, "src", f"dtype {x.dtype.name}, as input has", source.dtype.name))
    d = axis(op, dim, x.array.ndim)
    at = _with_axis(at)
    _cropped(op, "input", _with_axis(x.alias()), at, d)
    return x, at, _cropped(op, "src", _with_axis(source), at, None), d


def _spread(x: Tensor, positions: Tensor, dim: int, shape: Shape) -> Tensor:
    """Zeros of ``shape`` with x added along ``dim`` at positions, in the first elements of the other axes."""
    own = positions.array.shape
    out = indexing.spread(x, positions, dim, (*own[:dim], shape[dim], *own[dim + 1 :]))
    for d, n in enumerate(shape):
        if out.array.shape[d] != n:
            out = widen(out, (*out.array.shape[:d], n, *out.array.shape[d + 1 :]), d, 0)
    return out


class Scatter(Node):
    """y = x with elements replaced: the gradient of x is 0 there, that of the new ones is taken from there."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        (positions,) = self.unpack()
        (dim,) = self.constants
        gx = gsrc = None
        if self.inputs[0] is not None:
            zeros = new(positions.array.shape, gy.dtype, gy.device)
            launch(gy.device.kernels.fill, 0, zeros.array)
            gx = put_along(gy, positions, dim, zeros)
        if self.inputs[1] is not None:
            gsrc = gather(gy, dim, positions)
        return gx, gsrc


@operation(Scatter)
def put_along(input: Tensor, positions: Tensor, dim: int, src: Tensor) -> Tensor:
    """Return the input with elements along ``dim`` at valid positions replaced by ``src``, of the positions' shape."""
    out = new(input.array.shape, input.dtype, input.device)
    launch(input.device.kernels.copy, input.array, out.array)
    shape, own = out.array.shape, positions.array.shape
    target = out.array[tuple(slice(n) if i != dim else slice(None) for i, n in enumerate(own))]
    a, m, b = product(own[:dim]), own[dim], product(own[dim + 1 :])
    part = input.device.empty(target.shape, input.dtype)
    kernels = input.device.kernels
    launch(kernels.copy, target, part)
    flat = part.reshape(a, shape[dim], b)
    launch(kernels.put_along, plain(src).reshape(a, m, b), plain(positions).reshape(a, m, b), flat)
    launch(kernels.copy, part, target)
    return record(Scatter, out, (input, src), (positions,), (dim,))


def scatter(
    input: Tensor, dim: int, index: Tensor, src: Tensor | Scalar | None = None, *, value: Scalar | None = None
) -> Tensor:
    """Return the input with elements replaced along an axis: out[i, index[i, j, k], k] = src[i, j, k] for ``dim=1``.

    Parameters
    ----------
    input : Tensor
    dim : int
    index : Tensor, int64 or int32, of as many axes as the input
        As for ``scatter_add``.
    src : Tensor of the input's dtype, or a number
    value : number
        Another name for a source that is a number.

    Raises
    ------
    IndexRangeError
        If an index is out of range.
    ShapeError, DTypeError, DeviceError, ArgumentError

    Notes
    -----
    Where an index occurs more than once the last element counts; the gradients are right only where none does, as in
    PyTorch.
    """
    given = value if src is None else src
    if given is None or (src is not None and value is not None):
        raise ArgumentError("scatter: exactly one of 'src' and 'value' must be given.")
    x = is_tensor("scatter", "input", input)
    if not isinstance(given, Tensor):
        at = is_index("scatter", "index", index, x)
        number = cast(operand("scatter", "value", given, x), x.dtype)
        given = sums.expand(number, at.array.shape)
    x, at, source, d = _scattered("scatter", x, dim, index, given)
    whole = _with_axis(x)
    out = put_along(whole, checked("scatter", at, whole.array.shape[d]), d, source)
    return out if x.array.ndim else movement.reshape(out, ())
