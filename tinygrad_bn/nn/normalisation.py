"""Layers that normalise within a sample: group, layer and RMS normalisation.

    y = (x - mean) / √(var + eps) · weight + bias

over a group of channels of a sample (Wu & He 2018, arXiv:1803.08494) or the last axes (Ba et al. 2016,
arXiv:1607.06450); without a mean, Zhang & Sennrich 2019 (arXiv:1910.07467).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, ShapeError, expected, wrong
from tinygrad_bn.functional.norms import rms_norm
from tinygrad_bn.nn import init
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.parameter import Parameter, make
from tinygrad_bn.ops._common import is_tensor
from tinygrad_bn.ops.group_norm import group_norm, inner_shape, layer_norm


class Affine(Module):
    """A layer that may have a weight, which starts at 1, and a bias, which starts at 0."""

    weight: Parameter | None
    bias: Parameter | None

    def _register(self, shape: tuple[int, ...], weight: bool, bias: bool, device: Any, dtype: Any) -> None:
        self.register_parameter("weight", make(shape, dtype, device) if weight else None)
        self.register_parameter("bias", make(shape, dtype, device) if bias else None)

    def reset_parameters(self) -> None:
        """Put the weight back to 1 and the bias to 0."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)


class GroupNorm(Affine):
    """Group normalisation of inputs (N, C, …): each group of channels of each sample by its own statistics.

    Parameters
    ----------
    num_groups : int
        A divisor of ``num_channels``: 1 to normalise a sample as a whole, ``num_channels`` for each channel by itself.
    num_channels : int
        C.
    eps : float
        Inside the square root.
    affine : bool
        Whether there are a weight and a bias.
    device : Device or str, optional
    dtype : DType, optional
    bias : bool
        False: a weight only.

    Attributes
    ----------
    weight, bias : Parameter, shape (C,), or None
        Start at 1 and 0.

    Raises
    ------
    ArgumentError

    References
    ----------
    Wu & He 2018 (arXiv:1803.08494).
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        check_count("GroupNorm", "num_groups", num_groups, 1)
        check_count("GroupNorm", "num_channels", num_channels, 0)
        if num_channels % num_groups:
            raise ArgumentError(wrong("GroupNorm", "num_channels", f"a multiple of {num_groups} groups", num_channels))
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = checked_eps("GroupNorm", eps)
        self.affine = affine
        self._register((num_channels,), affine, affine and bias, device, dtype)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input, of its shape."""
        if is_tensor("GroupNorm", "input", input).array.shape[1:2] != (self.num_channels,):
            want = f"shape (N, C, …) with C = {self.num_channels}"
            raise ShapeError(expected("GroupNorm", "input", want, input.array.shape))
        return group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        head = f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"
        return f"{head}, bias={self.bias is not None}"


class LayerNorm(Affine):
    """Layer normalisation of inputs (…, *normalized_shape), over the last axes.

    Parameters
    ----------
    normalized_shape : int or sequence of int
        The extents of the axes that are normalised over.
    eps : float
        Inside the square root.
    elementwise_affine : bool
        Whether there are a weight and a bias, a number for each element.
    bias : bool
        False: a weight only.
    device : Device or str, optional
    dtype : DType, optional

    Attributes
    ----------
    weight, bias : Parameter, shape normalized_shape, or None
        Start at 1 and 0.

    Raises
    ------
    ArgumentError

    References
    ----------
    Ba, Kiros & Hinton 2016 (arXiv:1607.06450).
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = inner_shape("LayerNorm", normalized_shape)
        self.eps = checked_eps("LayerNorm", eps)
        self.elementwise_affine = elementwise_affine
        self._register(self.normalized_shape, elementwise_affine, elementwise_affine and bias, device, dtype)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input, of its shape."""
        return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        head = f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
        return f"{head}, bias={self.bias is not None}"


class RMSNorm(Affine):
    """Division by the root of the mean square over the last axes: y = x / √(mean(x²) + eps) · weight.

    Parameters
    ----------
    normalized_shape : int or sequence of int
        The extents of the axes that the mean is taken over.
    eps : float, optional
        Inside the square root; None: the distance from 1 to the next number of the input's dtype.
    elementwise_affine : bool
        Whether there is a weight, a number for each element.
    device : Device or str, optional
    dtype : DType, optional

    Attributes
    ----------
    weight : Parameter, shape normalized_shape, or None
        Starts at 1.

    Raises
    ------
    ArgumentError

    References
    ----------
    Zhang & Sennrich 2019 (arXiv:1910.07467).
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = inner_shape("RMSNorm", normalized_shape)
        self.eps = None if eps is None else checked_eps("RMSNorm", eps)
        self.elementwise_affine = elementwise_affine
        self.bias = None
        self.register_parameter("weight", make(self.normalized_shape, dtype, device) if elementwise_affine else None)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """Return the input divided by its root mean square, times the weight."""
        return rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


def check_count(op: str, name: str, value: object, least: int) -> None:
    """Raise unless a value is an int of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ArgumentError(wrong(op, name, f"an int of at least {least}", repr(value)))


def checked_eps(op: str, eps: object) -> float:
    """Return eps as a float; raise unless it is at least 0."""
    if not isinstance(eps, int | float) or not eps >= 0:
        raise ArgumentError(wrong(op, "eps", "at least 0", repr(eps)))
    return float(eps)
