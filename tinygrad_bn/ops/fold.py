"""Windows of pictures as columns, and columns added up to pictures: each the other's gradient."""

from __future__ import annotations

from collections.abc import Sequence

from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, Node, record
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ShapeError, expected
from tinygrad_bn.ops._common import is_floating, plain
from tinygrad_bn.ops._geometry import Geometry, check_axes, numbers, windows
from tinygrad_bn.ops._layout import product

Extents = int | Sequence[int]


class Unfold(Node):
    """y = the windows' elements; the gradient adds them up where they came from."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (_folded(gy, *self.constants),)


class Fold(Node):
    """y = the sum of what falls on an element; the gradient reads it from there."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        return (_unfolded(gy, self.constants[0]),)


@operation(Unfold)
def unfold(
    input: Tensor, kernel_size: Extents, dilation: Extents = 1, padding: Extents = 0, stride: Extents = 1
) -> Tensor:
    """Return the windows of pictures as columns.

    Parameters
    ----------
    input : Tensor, shape (N, C, H, W) or (C, H, W), float32 or float64
    kernel_size : int or (int, int)
    dilation, stride : int or (int, int)
        Between the elements of a window, and between windows.
    padding : int or (int, int)
        Zeros around the input.

    Returns
    -------
    Tensor, shape (N, C · KH · KW, L) or (C · KH · KW, L)
        L windows, row by row; in each, the channels, and in these the elements, row by row.

    Raises
    ------
    ShapeError, DTypeError, ArgumentError
    """
    x = is_floating("unfold", "input", input)
    check_axes("unfold", x.array.shape, 2)
    geometry = _geometry("unfold", x.array.shape[-2:], kernel_size, dilation, padding, stride)
    return _unfolded(x, geometry)


@operation(Fold)
def fold(
    input: Tensor,
    output_size: Extents,
    kernel_size: Extents,
    dilation: Extents = 1,
    padding: Extents = 0,
    stride: Extents = 1,
) -> Tensor:
    """Return pictures to which the columns' elements are added where ``unfold`` would have read them.

    Parameters
    ----------
    input : Tensor, shape (N, C · KH · KW, L) or (C · KH · KW, L), float32 or float64
    output_size : int or (int, int)
        (H, W); L is the number of windows that fit it.
    kernel_size, dilation, padding, stride : int or (int, int)
        As for ``unfold``.

    Returns
    -------
    Tensor, shape (N, C, H, W) or (C, H, W)

    Raises
    ------
    ShapeError, DTypeError, ArgumentError

    Notes
    -----
    Where windows overlap elements are summed: ``fold(unfold(x))`` is x times the number of windows that hold it.
    """
    x = is_floating("fold", "input", input)
    shape = x.array.shape
    if len(shape) not in (2, 3):
        raise ShapeError(expected("fold", "input", "shape (N, C · KH · KW, L) or (C · KH · KW, L)", shape))
    size = numbers("fold", "output_size", output_size, 2, 1)
    geometry = _geometry("fold", size, kernel_size, dilation, padding, stride)
    if shape[-2] % geometry.taps:
        want = f"a multiple of KH · KW = {geometry.taps} on its second-last axis"
        raise ShapeError(expected("fold", "input", want, f"shape {shape}"))
    if shape[-1] != geometry.length:
        rows, across = geometry.output
        want = f"L = {geometry.length} columns, as {rows} · {across} windows fit the output"
        raise ShapeError(expected("fold", "input", want, f"shape {shape}"))
    return _folded(x, geometry, (*shape[:-2], shape[-2] // geometry.taps, *size))


def _geometry(
    op: str, size: tuple[int, ...], kernel_size: Extents, dilation: Extents, padding: Extents, stride: Extents
) -> Geometry:
    kernel = numbers(op, "kernel_size", kernel_size, 2, 1)
    around = tuple((p, p) for p in numbers(op, "padding", padding, 2, 0))
    strides, dilations = numbers(op, "stride", stride, 2, 1), numbers(op, "dilation", dilation, 2, 1)
    return windows(op, size, kernel, strides, around, dilations)


def _unfolded(x: Tensor, g: Geometry) -> Tensor:
    """The windows; every channel of every sample counts as a channel of one sample, whose columns come first."""
    shape = x.array.shape
    out = x.device.empty((*shape[:-3], shape[-3] * g.taps, g.length), x.dtype)
    planes = product(shape[:-2])
    if x.array.size:
        pictures = plain(x).reshape(1, planes, *g.input)
        launch(x.device.kernels.im2col, pictures, *g.steps, out.reshape(planes, *g.kernel, 1, *g.output))
    else:
        launch(x.device.kernels.fill, 0, out)
    return record(Unfold, Tensor(out, x.dtype, x.device), (x,), constants=(g, shape))


def _folded(x: Tensor, g: Geometry, shape: tuple[int, ...]) -> Tensor:
    """Pictures of ``shape`` from columns."""
    out = x.device.empty(shape, x.dtype)
    planes = product(shape[:-2])
    if x.array.size:
        columns = plain(x).reshape(planes, *g.kernel, 1, *g.output)
        launch(x.device.kernels.col2im, columns, *g.steps, out.reshape(1, planes, *g.input))
    else:
        launch(x.device.kernels.fill, 0, out)
    return record(Fold, Tensor(out, x.dtype, x.device), (x,), constants=(g, shape))
