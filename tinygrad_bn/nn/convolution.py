"""Convolution layers."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from tinygrad_bn import functional as F
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, ShapeError, wrong
from tinygrad_bn.nn import init
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.parameter import Parameter, make
from tinygrad_bn.ops._common import as_shape, is_tensor
from tinygrad_bn.ops._geometry import Numbers, check_same, numbers, paddings

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _Convolution(Module):
    """The layers' common part: see ``Conv2d``."""

    axes: ClassVar[int]
    transposed: ClassVar[bool] = False
    bias: Parameter | None
    padding: Numbers | str

    def _set_up(
        self,
        channels: tuple[int, int],
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        output_padding: Any,
        groups: int,
        bias: bool,
        padding_mode: str,
        device: Any,
        dtype: Any,
    ) -> None:
        op, n = type(self).__name__, self.axes
        self._check(*channels, groups, padding_mode)
        self.in_channels, self.out_channels = channels
        self.kernel_size = numbers(op, "kernel_size", kernel_size, n, 1)
        self.stride = numbers(op, "stride", stride, n, 1)
        if isinstance(padding, str) and not self.transposed:
            check_same(op, padding, self.stride)
            self.padding = padding
        else:
            self.padding = numbers(op, "padding", padding, n, 0)
        self.dilation = numbers(op, "dilation", dilation, n, 1)
        self.output_padding = numbers(op, "output_padding", output_padding, n, 0)
        self.groups = groups
        self.padding_mode = padding_mode
        first, second = channels if self.transposed else channels[::-1]
        self.weight = make((first, second // groups, *self.kernel_size), dtype, device)
        self.register_parameter("bias", make((channels[1],), dtype, device) if bias else None)
        self.reset_parameters()

    def _check(self, in_channels: int, out_channels: int, groups: int, padding_mode: str) -> None:
        """Raise for numbers of channels that do not fit, and for a padding mode that is not known."""
        op = type(self).__name__
        for name, value, least in (
            ("groups", groups, 1),
            ("in_channels", in_channels, 0),
            ("out_channels", out_channels, 0),
        ):
            if type(value) is not int or value < least:
                raise ArgumentError(wrong(op, name, f"an int of at least {least}", repr(value)))
            if value % groups:
                raise ArgumentError(wrong(op, name, f"a multiple of groups = {groups}", value))
        modes = PADDING_MODES[:1] if self.transposed else PADDING_MODES
        if padding_mode not in modes:
            raise ArgumentError(wrong(op, "padding_mode", f"one of {', '.join(modes)}", repr(padding_mode)))

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        fan_in = math.prod(self.weight.array.shape[1:])
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def _padded(self, input: Tensor) -> tuple[Tensor, Numbers | str]:
        """The input, padded unless by zeros, and the padding that is left to do."""
        if self.padding_mode == "zeros":
            return input, self.padding
        around = paddings(type(self).__name__, self.padding, self.axes, self.kernel_size, self.stride, self.dilation)
        flat = [n for pair in reversed(around) for n in pair]  # F.pad takes the last axis first
        return F.pad(input, flat, mode=self.padding_mode), (0,) * self.axes

    def extra_repr(self) -> str:
        n = self.axes
        parts = [f"{self.in_channels}, {self.out_channels}", f"kernel_size={self.kernel_size}", f"stride={self.stride}"]
        for name, default in (
            ("padding", (0,) * n),
            ("dilation", (1,) * n),
            ("output_padding", (0,) * n),
            ("groups", 1),
        ):
            if getattr(self, name) != default:
                parts.append(f"{name}={getattr(self, name)}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        return ", ".join(parts)


class _Forward(_Convolution):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self._set_up(
            (in_channels, out_channels), kernel_size, stride, padding, dilation, 0, groups, bias, padding_mode,
            device, dtype,
        )  # fmt: skip


class Conv1d(_Forward):
    """Convolution over one axis, ``F.conv1d``, of inputs (N, C, L) or (C, L); parameters as for ``Conv2d``."""

    axes = 1

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution, shape (N, O, OL) or (O, OL)."""
        x, padding = self._padded(input)
        return F.conv1d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class Conv2d(_Forward):
    """Convolution over two axes, ``F.conv2d``, of inputs (N, C, H, W) or (C, H, W).

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, dilation : int or (int, int)
    padding : int, (int, int), "valid" or "same"
    groups : int
    bias : bool
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
    device : Device or str, optional
    dtype : DType, optional

    Attributes
    ----------
    weight : Parameter, shape (out_channels, in_channels / groups, KH, KW)
    bias : Parameter, shape (out_channels,), or None

    Raises
    ------
    ArgumentError

    Notes
    -----
    Both parameters start uniform in [-1/√fan_in, 1/√fan_in), fan_in = KH KW in_channels / groups, as in PyTorch.
    """

    axes = 2

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution, shape (N, O, OH, OW) or (O, OH, OW)."""
        x, padding = self._padded(input)
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class _Transposed(_Convolution):
    transposed = True
    padding: Numbers

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self._set_up(
            (in_channels, out_channels), kernel_size, stride, padding, dilation, output_padding, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip

    def _output_padding(self, input: Tensor, output_size: Any) -> Numbers:
        """The output padding that gives ``output_size``; the layer's own where that is None."""
        if output_size is None:
            return self.output_padding
        op, n = type(self).__name__, self.axes
        size = as_shape(op, (tuple(output_size),), "output_size")[-n:]
        given = is_tensor(op, "input", input).array.shape[-n:]
        least = tuple(
            (i - 1) * s - 2 * p + d * (k - 1) + 1
            for i, s, p, d, k in zip(given, self.stride, self.padding, self.dilation, self.kernel_size)
        )
        more = tuple(a - b for a, b in zip(size, least))
        if len(size) != n or any(not 0 <= m < s for m, s in zip(more, self.stride)):
            most = tuple(b + s - 1 for b, s in zip(least, self.stride))
            raise ShapeError(wrong(op, "output_size", f"from {least} to {most} for an input of {given}", size))
        return more


class ConvTranspose1d(_Transposed):
    """Transposed convolution over one axis, ``F.conv_transpose1d``; parameters as for ``ConvTranspose2d``."""

    axes = 1

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        """Return the transposed convolution, shape (N, O, OL) or (O, OL), of extent ``output_size`` where given."""
        more = self._output_padding(input, output_size)
        return F.conv_transpose1d(
            input, self.weight, self.bias, self.stride, self.padding, more, self.groups, self.dilation
        )


class ConvTranspose2d(_Transposed):
    """Transposed convolution over two axes, ``F.conv_transpose2d``, of inputs (N, C, H, W) or (C, H, W).

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, padding, output_padding, dilation : int or (int, int)
    groups : int
    bias : bool
    padding_mode : {"zeros"}
    device : Device or str, optional
    dtype : DType, optional

    Attributes
    ----------
    weight : Parameter, shape (in_channels, out_channels / groups, KH, KW)
    bias : Parameter, shape (out_channels,), or None

    Raises
    ------
    ArgumentError

    Notes
    -----
    Both parameters start uniform in [-1/√fan, 1/√fan), fan = KH KW out_channels / groups, as in PyTorch.
    """

    axes = 2

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        """Return the transposed convolution, shape (N, O, OH, OW) or (O, OH, OW), of ``output_size`` where given."""
        more = self._output_padding(input, output_size)
        return F.conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, more, self.groups, self.dilation
        )


class Unfold(Module):
    """The windows of pictures as columns, ``F.unfold``."""

    def __init__(self, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> None:
        super().__init__()
        self.kernel_size, self.dilation, self.padding, self.stride = kernel_size, dilation, padding, stride

    def forward(self, input: Tensor) -> Tensor:
        """Return the windows, shape (N, C · KH · KW, L) or (C · KH · KW, L)."""
        return F.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, stride={self.stride}"


class Fold(Module):
    """Columns added up to pictures, ``F.fold``."""

    def __init__(
        self, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.kernel_size, self.dilation, self.padding, self.stride = kernel_size, dilation, padding, stride

    def forward(self, input: Tensor) -> Tensor:
        """Return the pictures, shape (N, C, H, W) or (C, H, W)."""
        return F.fold(input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, kernel_size={self.kernel_size}, dilation={self.dilation}, "
            f"padding={self.padding}, stride={self.stride}"
        )
