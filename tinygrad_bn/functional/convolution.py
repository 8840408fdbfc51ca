"""Convolutions over one and two axes, and their transposes, with PyTorch's arguments."""

from __future__ import annotations

from collections.abc import Sequence

from tinygrad_bn.core.mixed import mixed
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError, expected, wrong
from tinygrad_bn.ops._common import is_floating, is_tensor, same_device
from tinygrad_bn.ops._geometry import Geometry, check_axes, numbers, paddings, spread_windows, windows
from tinygrad_bn.ops.convolution import convolution, convolution_input
from tinygrad_bn.ops.movement import reshape

Extents = int | Sequence[int]


@mixed(autocast="low")
def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Extents = 1,
    padding: Extents | str = 0,
    dilation: Extents = 1,
    groups: int = 1,
) -> Tensor:
    """Return the correlation of a signal with filters: ``conv2d`` over one axis.

    Parameters
    ----------
    input : Tensor, shape (N, C, L) or (C, L), float32 or float64
    weight : Tensor, shape (O, C / groups, K)
    bias : Tensor, shape (O,), optional
    stride, dilation : int or (int,)
    padding : int, (int,), "valid" or "same"
    groups : int

    Returns
    -------
    Tensor, shape (N, O, OL) or (O, OL)

    Raises
    ------
    ShapeError, DTypeError, DeviceError, ArgumentError
    """
    return _convolve("conv1d", 1, input, weight, bias, stride, padding, dilation, groups)


@mixed(autocast="low")
def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Extents = 1,
    padding: Extents | str = 0,
    dilation: Extents = 1,
    groups: int = 1,
) -> Tensor:
    """Return the correlation of pictures with filters.

    y[n, o, i, j] = b[o] + Σ_{c, p, q} w[o, c, p, q] x[n, c, i s - padding + p d, j s - padding + q d], x being 0
    outside; with groups, c runs over the channels of o's group.

    Parameters
    ----------
    input : Tensor, shape (N, C, H, W) or (C, H, W), float32 or float64
    weight : Tensor, shape (O, C / groups, KH, KW)
    bias : Tensor, shape (O,), optional
    stride, dilation : int or (int, int)
        Between windows, and between the elements of a window.
    padding : int, (int, int), "valid" or "same"
        Zeros around the input. "same" keeps the extents and needs a stride of 1; of an odd number of zeros the larger
        half is put after.
    groups : int
        Input and output channels are cut into so many parts, each seeing its own.

    Returns
    -------
    Tensor, shape (N, O, OH, OW) or (O, OH, OW)
        OH = ⌊(H + 2 padding - d (KH - 1) - 1) / stride⌋ + 1.

    Raises
    ------
    ShapeError, DTypeError, DeviceError, ArgumentError

    References
    ----------
    Chellapilla, Puri & Simard 2006, High performance convolutional neural networks for document processing.
    """
    return _convolve("conv2d", 2, input, weight, bias, stride, padding, dilation, groups)


@mixed(autocast="low")
def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Extents = 1,
    padding: Extents = 0,
    output_padding: Extents = 0,
    groups: int = 1,
    dilation: Extents = 1,
) -> Tensor:
    """Return the transposed convolution of a signal: ``conv_transpose2d`` over one axis.

    Parameters
    ----------
    input : Tensor, shape (N, C, L) or (C, L), float32 or float64
    weight : Tensor, shape (C, O / groups, K)
    bias : Tensor, shape (O,), optional
    stride, padding, output_padding, dilation : int or (int,)
    groups : int

    Returns
    -------
    Tensor, shape (N, O, OL) or (O, OL)

    Raises
    ------
    ShapeError, DTypeError, DeviceError, ArgumentError
    """
    return _transposed("conv_transpose1d", 1, input, weight, bias, stride, padding, output_padding, groups, dilation)


@mixed(autocast="low")
def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Extents = 1,
    padding: Extents = 0,
    output_padding: Extents = 0,
    groups: int = 1,
    dilation: Extents = 1,
) -> Tensor:
    """Return the transposed convolution of pictures: what ``conv2d``'s gradient with respect to its input computes.

    Every element of the input adds its filters, scaled by it, to a window of the output.

    Parameters
    ----------
    input : Tensor, shape (N, C, H, W) or (C, H, W), float32 or float64
    weight : Tensor, shape (C, O / groups, KH, KW)
    bias : Tensor, shape (O,), optional
    stride, dilation : int or (int, int)
        Between the output's windows, and between the elements of a window.
    padding : int or (int, int)
        How much of the output is cut off at every side.
    output_padding : int or (int, int)
        How much longer the output is at the end of each axis; smaller than the stride or the dilation.
    groups : int

    Returns
    -------
    Tensor, shape (N, O, OH, OW) or (O, OH, OW)
        OH = (H - 1) stride - 2 padding + d (KH - 1) + output_padding + 1.

    Raises
    ------
    ShapeError, DTypeError, DeviceError, ArgumentError

    References
    ----------
    Zeiler, Krishnan, Taylor & Fergus 2010, Deconvolutional networks; Dumoulin & Visin 2016 (arXiv:1603.07285).
    """
    return _transposed("conv_transpose2d", 2, input, weight, bias, stride, padding, output_padding, groups, dilation)


def geometry_of(
    op: str,
    axes: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Extents,
    padding: Extents | str,
    dilation: Extents,
    groups: int,
) -> Geometry:
    """How the windows of a convolution lie, of arguments that have been found to fit."""
    _check(op, axes, x, weight, bias, groups)
    shape, wshape = x.array.shape, weight.array.shape
    channels, filters = shape[-axes - 1], wshape[0]
    if channels % groups or wshape[1] != channels // groups:
        want = f"C / groups = {channels} / {groups} channels, as input has, on its second axis"
        raise ShapeError(expected(op, "weight", want, f"shape {wshape}"))
    if filters % groups:
        raise ShapeError(expected(op, "weight", f"a multiple of groups = {groups} filters", f"shape {wshape}"))
    _check_bias(op, bias, filters)
    strides, dilations = numbers(op, "stride", stride, axes, 1), numbers(op, "dilation", dilation, axes, 1)
    kernel = wshape[2:]
    around = paddings(op, padding, axes, kernel, strides, dilations)
    return windows(op, shape[-axes:], kernel, strides, around, dilations, groups)


def _convolve(
    op: str,
    axes: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Extents,
    padding: Extents | str,
    dilation: Extents,
    groups: int,
) -> Tensor:
    geometry = geometry_of(op, axes, x, weight, bias, stride, padding, dilation, groups)
    y = convolution(_as_pictures(x, axes), _as_filters(weight, axes), bias, geometry)
    return _in_axes_of(x, y, axes)


def _transposed(
    op: str,
    axes: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Extents,
    padding: Extents,
    output_padding: Extents,
    groups: int,
    dilation: Extents,
) -> Tensor:
    _check(op, axes, x, weight, bias, groups)
    shape, wshape = x.array.shape, weight.array.shape
    channels = shape[-axes - 1]
    if wshape[0] != channels:
        want = f"C = {channels} filters, as input has channels, on its first axis"
        raise ShapeError(expected(op, "weight", want, f"shape {wshape}"))
    if channels % groups:
        raise ShapeError(expected(op, "input", f"a multiple of groups = {groups} channels", f"shape {shape}"))
    _check_bias(op, bias, wshape[1] * groups)
    geometry = spread_windows(
        op,
        shape[-axes:],
        wshape[2:],
        numbers(op, "stride", stride, axes, 1),
        numbers(op, "padding", padding, axes, 0),
        numbers(op, "output_padding", output_padding, axes, 0),
        numbers(op, "dilation", dilation, axes, 1),
        groups,
    )
    y = convolution_input(_as_pictures(x, axes), _as_filters(weight, axes), bias, geometry)
    return _in_axes_of(x, y, axes)


def _as_pictures(x: Tensor, axes: int) -> Tensor:
    """(N, C, H, W), of a batch or one sample, of one axis or two."""
    shape = x.array.shape
    if len(shape) == 4:
        return x
    batch = shape[:-3] if axes == 2 else shape[:-2]
    return reshape(x, (*(batch or (1,)), shape[-axes - 1], *((1,) if axes == 1 else ()), *shape[-axes:]))


def _as_filters(weight: Tensor, axes: int) -> Tensor:
    shape = weight.array.shape
    return weight if axes == 2 else reshape(weight, (*shape[:2], 1, shape[2]))


def _in_axes_of(x: Tensor, y: Tensor, axes: int) -> Tensor:
    """Take away the axes that ``_as_pictures`` has added."""
    shape = y.array.shape
    if x.array.ndim == 4:
        return y
    return reshape(y, (*(shape[:1] if x.array.ndim == axes + 2 else ()), shape[1], *shape[-axes:]))


def _check(op: str, axes: int, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> None:
    """Raise for operands that are no tensors of one floating dtype and one device, or have other axes."""
    is_floating(op, "input", x)
    check_axes(op, x.array.shape, axes)
    for name, value in (("weight", weight), ("bias", bias)):
        if value is None and name == "bias":
            continue
        t = is_tensor(op, name, value)
        if t.dtype is not x.dtype:
            raise DTypeError(expected(op, name, f"dtype {x.dtype.name}, as input has", t.dtype.name))
        if t.device is not x.device:
            same_device(op, x, name, t)
    if weight.array.ndim != axes + 2:
        raise ShapeError(expected(op, "weight", f"{axes + 2} axes, of input's {axes} and two", weight.array.shape))
    if 0 in weight.array.shape[2:]:
        raise ShapeError(expected(op, "weight", "a kernel of at least one element", f"shape {weight.array.shape}"))
    if type(groups) is not int or groups < 1:
        raise ArgumentError(wrong(op, "groups", "an int of at least 1", repr(groups)))


def _check_bias(op: str, bias: Tensor | None, filters: int) -> None:
    if bias is not None and bias.array.shape != (filters,):
        raise ShapeError(expected(op, "bias", f"shape (O,) = ({filters},)", bias.array.shape))
