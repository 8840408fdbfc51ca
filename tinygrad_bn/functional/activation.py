"""Activations and dropout. Those that PyTorch offers in place are offered so here."""

from __future__ import annotations

from typing import Any

from tinygrad_bn import ops
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
