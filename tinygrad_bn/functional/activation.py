"""Activations and dropout. Those that PyTorch offers in place are offered so here."""

from __future__ import annotations

from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.core.mixed import mixed
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.ops import inplace as changes
from tinygrad_bn.ops.functions import sigmoid as sigmoid
from tinygrad_bn.ops.functions import tanh as tanh


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """Return max(input, 0); NaN stays NaN.

    Parameters
    ----------
    input : Tensor, any shape
    inplace : bool
        Write the result into the input's memory and return the input.
    """
    return changes.relu_(input) if inplace else ops.relu(input)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """Return input where it is above 0, negative_slope · input elsewhere.

    Parameters
    ----------
    input : Tensor, any shape, floating point
    negative_slope : float
    inplace : bool
        Write the result into the input's memory and return the input.

    References
    ----------
    Maas et al. 2013 (ICML workshop on deep learning for audio, speech and language processing).
    """
    return changes.leaky_relu_(input, negative_slope) if inplace else ops.leaky_relu(input, negative_slope)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """Return input limited to [min_val, max_val]; the derivative at both is 0.

    Parameters
    ----------
    input : Tensor, any shape, floating point
    min_val, max_val : float
    inplace : bool
        Write the result into the input's memory and return the input.

    Raises
    ------
    ArgumentError
        If min_val is above max_val.
    """
    return changes.hardtanh_(input, min_val, max_val) if inplace else ops.hardtanh(input, min_val, max_val)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """Return min(max(input, 0), 6).

    Parameters
    ----------
    input : Tensor, any shape, floating point
    inplace : bool
        Write the result into the input's memory and return the input.

    References
    ----------
    Krizhevsky 2010 (Convolutional deep belief networks on CIFAR-10).
    """
    return hardtanh(input, 0.0, 6.0, inplace)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """Return input where it is above 0, alpha (e^input - 1) elsewhere.

    Parameters
    ----------
    input : Tensor, any shape, floating point
    alpha : float
    inplace : bool
        Write the result into the input's memory and return the input.

    References
    ----------
    Clevert et al. 2016 (arXiv:1511.07289).
    """
    return changes.elu_(input, alpha) if inplace else ops.elu(input, alpha)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """Return λ · elu(input, α), with λ and α such that mean 0 and variance 1 are kept from layer to layer.

    Parameters
    ----------
    input : Tensor, any shape, floating point
    inplace : bool
        Write the result into the input's memory and return the input.

    References
    ----------
    Klambauer et al. 2017 (arXiv:1706.02515).
    """
    return changes.selu_(input) if inplace else ops.selu(input)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """Return input where it is above 0, alpha (e^(input / alpha) - 1) elsewhere.

    Parameters
    ----------
    input : Tensor, any shape, floating point
    alpha : float
        Other than 0.
    inplace : bool
        Write the result into the input's memory and return the input.

    References
    ----------
    Barron 2017 (arXiv:1704.07483).
    """
    return changes.celu_(input, alpha) if inplace else ops.celu(input, alpha)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """Return input · sigmoid(input).

    Parameters
    ----------
    input : Tensor, any shape, floating point
    inplace : bool
        Write the result into the input's memory and return the input.

    References
    ----------
    Elfwing et al. 2018 (arXiv:1702.03118); Ramachandran et al. 2017 (arXiv:1710.05941).
    """
    return changes.silu_(input) if inplace else ops.silu(input)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """Return input · tanh(softplus(input)).

    Parameters
    ----------
    input : Tensor, any shape, floating point
    inplace : bool
        Write the result into the input's memory and return the input.

    References
    ----------
    Misra 2020 (arXiv:1908.08681).
    """
    return changes.mish_(input) if inplace else ops.mish(input)


@mixed()
def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """Return relu6(input + 3) / 6.

    Parameters
    ----------
    input : Tensor, any shape, floating point
    inplace : bool
        Write the result into the input's memory and return the input.
    """
    out = ops.div(relu6(ops.add(input, 3.0)), 6.0)
    return changes.copy_(input, out) if inplace else out


@mixed()
def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """Return input · relu6(input + 3) / 6.

    Parameters
    ----------
    input : Tensor, any shape, floating point
    inplace : bool
        Write the result into the input's memory and return the input.

    References
    ----------
    Howard et al. 2019 (arXiv:1905.02244).
    """
    x = ops.clone(input) if inplace else input  # the product saves its factors
    out = ops.mul(x, hardsigmoid(x))
    return changes.copy_(input, out) if inplace else out


@mixed()
def softsign(input: Tensor) -> Tensor:
    """Return input / (1 + |input|)."""
    return ops.div(input, ops.add(ops.abs(input), 1.0))


@mixed()
def tanhshrink(input: Tensor) -> Tensor:
    """Return input - tanh(input)."""
    return ops.sub(input, ops.tanh(input))


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """In training, set each element to 0 with probability p and divide the others by 1 - p; else return the input.

    Parameters
    ----------
    input : Tensor, any shape, floating point
    p : float
        From 0 to 1.
    training : bool
    inplace : bool
        Write the result into the input's memory and return the input.

    Raises
    ------
    ArgumentError
        If p is not from 0 to 1.

    References
    ----------
    Srivastava et al. 2014 (JMLR 15, 1929), in the inverted form.
    """
    out = ops.dropout(input, p, training)
    return changes.copy_(input, out) if inplace and out is not input else out


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """Return e^x / Σ e^x along an axis, computed from x - max x.

    Parameters
    ----------
    input : Tensor, any shape, floating point
    dim : int
        Must be given: which axis is meant cannot be guessed.
    dtype : DType, optional
        Convert to this dtype first.

    Raises
    ------
    ArgumentError
        If ``dim`` is None.
    """
    return ops.softmax(input, _given("softmax", dim), dtype=dtype)


def log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """Return x - logsumexp(x) along an axis: the logarithm of softmax, without its underflow.

    Parameters
    ----------
    input : Tensor, any shape, floating point
    dim : int
        Must be given.
    dtype : DType, optional
        Convert to this dtype first.

    Raises
    ------
    ArgumentError
        If ``dim`` is None.
    """
    return ops.log_softmax(input, _given("log_softmax", dim), dtype=dtype)


def _given(op: str, dim: int | None) -> int:
    if dim is None:
        raise ArgumentError(wrong(op, "dim", "an int", None, "dim=1 for scores (N, C), dim=-1 for the last axis"))
    return dim
