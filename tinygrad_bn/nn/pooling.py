"""Pooling layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from tinygrad_bn import functional as F
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.functional.adaptive_pooling import Size
from tinygrad_bn.functional.pooling import Ints
from tinygrad_bn.nn.module import Module


class _MaxPool(Module):
    """The layers' common part: the arguments of ``max_pool1d`` and ``max_pool2d``."""

    pool: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        dilation: Ints = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def forward(self, input: Tensor) -> Any:
        """Return the maxima over the windows; with ``return_indices`` their places too."""
        return type(self).pool(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPool):
    """The maxima over a window that moves along the last axis; see ``functional.max_pool1d``.

    Parameters
    ----------
    kernel_size : int or tuple of one int
    stride : int or tuple of one int, optional
        The kernel's size by default.
    padding, dilation : int or tuple of one int
    return_indices, ceil_mode : bool
    """

    pool = staticmethod(F.max_pool1d)


class MaxPool2d(_MaxPool):
    """The maxima over a window that moves along the last two axes; see ``functional.max_pool2d``.

    Parameters
    ----------
    kernel_size : int or tuple of two ints
    stride : int or tuple of two ints, optional
        The kernel's size by default.
    padding, dilation : int or tuple of two ints
    return_indices, ceil_mode : bool
    """

    pool = staticmethod(F.max_pool2d)


class AvgPool1d(Module):
    """The averages over a window that moves along the last axis; see ``functional.avg_pool1d``.

    Parameters
    ----------
    kernel_size : int or tuple of one int
    stride : int or tuple of one int, optional
        The kernel's size by default.
    padding : int or tuple of one int
    ceil_mode, count_include_pad : bool
    """

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad

    def forward(self, input: Tensor) -> Tensor:
        """Return the averages over the windows."""
        return F.avg_pool1d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool2d(AvgPool1d):
    """The averages over a window that moves along the last two axes; see ``functional.avg_pool2d``.

    Parameters
    ----------
    kernel_size : int or tuple of two ints
    stride : int or tuple of two ints, optional
        The kernel's size by default.
    padding : int or tuple of two ints
    ceil_mode, count_include_pad : bool
    divisor_override : int, optional
    """

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)
        self.divisor_override = divisor_override

    def forward(self, input: Tensor) -> Tensor:
        """Return the averages over the windows."""
        return F.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class _Adaptive(Module):
    """The layers' common part: ``output_size``."""

    def __init__(self, output_size: Size) -> None:
        super().__init__()
        self.output_size = output_size

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_Adaptive):
    """Averages over the last axis cut into ``output_size`` windows; see ``functional.adaptive_avg_pool1d``."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the averages over the windows."""
        return F.adaptive_avg_pool1d(input, self.output_size)


class AdaptiveAvgPool2d(_Adaptive):
    """Averages over the last two axes cut into ``output_size`` windows; see ``functional.adaptive_avg_pool2d``."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the averages over the windows."""
        return F.adaptive_avg_pool2d(input, self.output_size)


class AdaptiveMaxPool1d(_Adaptive):
    """Maxima over the last axis cut into ``output_size`` windows; see ``functional.adaptive_max_pool1d``."""

    def __init__(self, output_size: Size, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = return_indices

    def forward(self, input: Tensor) -> Any:
        """Return the maxima over the windows; with ``return_indices`` their places too."""
        return F.adaptive_max_pool1d(input, self.output_size, return_indices=self.return_indices)


class AdaptiveMaxPool2d(AdaptiveMaxPool1d):
    """Maxima over the last two axes cut into ``output_size`` windows; see ``functional.adaptive_max_pool2d``."""

    def forward(self, input: Tensor) -> Any:
        """Return the maxima over the windows; with ``return_indices`` their places too."""
        return F.adaptive_max_pool2d(input, self.output_size, return_indices=self.return_indices)
