"""Layers that pad, resize and normalise images and sequences; none has parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tinygrad_bn import functional as F
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.nn.module import Module

# -------------------------------------------------------------------------------------------------------------- padding


class _Pad(Module):
    """The layers' common part: how much is put on each end of the last axes.

    Parameters
    ----------
    padding : int or sequence of int
        Before and behind the last axis, and then the last but one; one number for all. Negative ones cut off.
    """

    axes: ClassVar[int]
    mode: ClassVar[str]
    value: float | None = None

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__()
        count = 2 * self.axes
        self.padding: tuple[Any, ...] = tuple(padding) if isinstance(padding, tuple | list) else (padding,) * count
        if len(self.padding) != count:
            raise ArgumentError(wrong(type(self).__name__, "padding", f"an int or {count} of them", repr(padding)))

    def forward(self, input: Tensor) -> Tensor:
        """Return the padded input."""
        return F.pad(input, self.padding, self.mode, self.value)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ConstantPad1d(_Pad):
    """A constant put on the ends of the last axis.

    Parameters
    ----------
    padding : int or tuple of two ints
    value : float
    """

    axes = 1
    mode = "constant"

    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ConstantPad2d(ConstantPad1d):
    """A constant put on the ends of the last two axes.

    Parameters
    ----------
    padding : int or tuple of four ints
        Left, right, top, bottom.
    value : float
    """

    axes = 2


class ZeroPad1d(_Pad):
    """Zeros put on the ends of the last axis."""

    axes = 1
    mode = "constant"
    value = 0.0


class ZeroPad2d(ZeroPad1d):
    """Zeros put on the ends of the last two axes."""

    axes = 2


class ReflectionPad1d(_Pad):
    """The last axis mirrored at its first and last elements."""

    axes = 1
    mode = "reflect"


class ReflectionPad2d(ReflectionPad1d):
    """The last two axes mirrored at their first and last elements."""

    axes = 2


class ReplicationPad1d(_Pad):
    """The first and last elements of the last axis repeated."""

    axes = 1
    mode = "replicate"


class ReplicationPad2d(ReplicationPad1d):
    """The first and last elements of the last two axes repeated."""

    axes = 2


# ------------------------------------------------------------------------------------------------------------- resizing


class Upsample(Module):
    """The input resized, each element a copy of the nearest; see ``functional.interpolate``.

    Parameters
    ----------
    size : int or tuple of int, optional
    scale_factor : float or tuple of float, optional
    mode : {"nearest"}
    align_corners : None
    recompute_scale_factor : bool, optional
    """

    def __init__(
        self,
        size: int | tuple[int, ...] | None = None,
        scale_factor: float | tuple[float, ...] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        super().__init__()
        self.size = size
        self.scale_factor: Any = scale_factor
        if isinstance(scale_factor, tuple):
            self.scale_factor = tuple(float(f) for f in scale_factor)
        elif scale_factor is not None:
            self.scale_factor = float(scale_factor)
        self.mode = mode
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, input: Tensor) -> Tensor:
        """Return the resized input."""
        return F.interpolate(
            input, self.size, self.scale_factor, self.mode, self.align_corners, self.recompute_scale_factor
        )

    def extra_repr(self) -> str:
        first = f"size={self.size}" if self.scale_factor is None else f"scale_factor={self.scale_factor}"
        return f"{first}, mode={self.mode!r}"


class UpsamplingNearest2d(Upsample):
    """Images resized, each element a copy of the nearest: PyTorch's older name.

    Parameters
    ----------
    size : int or tuple of two ints, optional
    scale_factor : float or tuple of two floats, optional
    """

    def __init__(
        self,
        size: int | tuple[int, int] | None = None,
        scale_factor: float | tuple[float, float] | None = None,
    ) -> None:
        super().__init__(size, scale_factor)


# ---------------------------------------------------------------------------------------------------------- normalising


class LocalResponseNorm(Module):
    """The input divided by a power of the mean square of neighbouring channels; see ``functional.local_response_norm``.

    Parameters
    ----------
    size : int
        How many channels are averaged over.
    alpha, beta, k : float

    References
    ----------
    Krizhevsky, Sutskever, Hinton 2012 (NeurIPS 25), section 3.3.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input."""
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
