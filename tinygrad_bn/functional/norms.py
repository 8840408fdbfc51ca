"""Instance normalisation, with running statistics or without, and RMS normalisation.

    running_mean += momentum (mean - running_mean)
    running_var  += momentum (var m / (m - 1) - running_var)

mean and var are those of a channel of a sample, of m values, averaged over the samples. Ulyanov, Vedaldi & Lempitsky
2016 (arXiv:1607.08022); Zhang & Sennrich 2019 (arXiv:1910.07467).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinygrad_bn.core.mixed import mixed
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, ShapeError, expected, wrong
from tinygrad_bn.functional.normalisation import checked_momentum, commit
from tinygrad_bn.ops import arithmetic, functions, sums
from tinygrad_bn.ops._channels import check_channels
from tinygrad_bn.ops._common import is_floating
from tinygrad_bn.ops.batch_norm import batch_norm_eval
from tinygrad_bn.ops.group_norm import check_inner, instance_norm_rows


@mixed("first")
def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel of each sample: by its own statistics, or by running ones.

    Parameters
    ----------
    input : Tensor, shape (N, C, …), float32 or float64
        Any strides.
    running_mean, running_var : Tensor, shape (C,), or None
        With ``use_input_stats`` they move, in place, towards the statistics of the channels averaged over the samples.
    weight, bias : Tensor, shape (C,), optional
    use_input_stats : bool
    momentum : float
        The weight of the new batch, from 0 to 1.
    eps : float
        Inside the square root.

    Returns
    -------
    Tensor, shape (N, C, …)

    Raises
    ------
    ShapeError, DTypeError, DeviceError
    ArgumentError
        If, with ``use_input_stats``, a channel of a sample has one value; without, if there are no running statistics;
        if momentum is out of range.

    Notes
    -----
    y = (x - mean) / √(var + eps) · weight + bias with the biased variance; ``running_var`` keeps the unbiased one. An
    empty batch, and one with an averaged statistic that is not finite, leave the running statistics as they are.

    References
    ----------
    Ulyanov, Vedaldi & Lempitsky 2016 (arXiv:1607.08022).
    """
    given = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    _check_instances(input, given, use_input_stats)
    weight_of_new = checked_momentum(momentum, "instance_norm")
    if not use_input_stats and running_mean is not None and running_var is not None:
        return batch_norm_eval(input, running_mean, running_var, weight, bias, float(eps))
    y, statistics = instance_norm_rows(input, weight, bias, float(eps))
    if statistics is not None and running_mean is not None and running_var is not None:
        commit(statistics, running_mean, running_var, weight_of_new)
    return y


def _check_instances(x: Tensor, given: dict[str, Tensor | None], use_input_stats: bool) -> None:
    op = "instance_norm"
    is_floating(op, "input", x)
    shape = x.array.shape
    if len(shape) < 2:
        raise ShapeError(expected(op, "input", "at least 2 axes, (N, C, …)", f"shape {shape}"))
    for name, t in given.items():
        if t is not None:
            check_channels(op, x, name, t)
    for name, other in (("running_mean", "running_var"), ("running_var", "running_mean")):
        if given[name] is None and given[other] is not None:
            raise ArgumentError(wrong(op, name, f"given where '{other}' is", None))
        if given[name] is None and not use_input_stats:
            raise ArgumentError(wrong(op, name, "given where 'use_input_stats' is False", None))
    if use_input_stats and all(n == 1 for n in shape[2:]):
        raise ArgumentError(expected(op, "input", "more than one value a channel of a sample", f"shape {shape}"))


@mixed("first")
def rms_norm(
    input: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """Divide by the root of the mean square over the last axes: y = x / √(mean(x²) + eps) · weight.

    Parameters
    ----------
    input : Tensor, shape (…, *normalized_shape), floating point
    normalized_shape : int or sequence of int
        The extents of the axes that the mean is taken over.
    weight : Tensor, shape normalized_shape, optional
    eps : float, optional
        Inside the square root; None: the distance from 1 to the next number of the dtype.

    Returns
    -------
    Tensor, of the input's shape

    Raises
    ------
    ShapeError, DTypeError, DeviceError, ArgumentError

    References
    ----------
    Zhang & Sennrich 2019 (arXiv:1910.07467).
    """
    inner = check_inner("rms_norm", input, normalized_shape, ("weight", weight))
    if eps is None:
        eps = float(np.finfo(input.dtype.storage).eps)
    square = sums.mean(arithmetic.mul(input, input), tuple(range(-len(inner), 0)), True)
    y = arithmetic.mul(input, functions.pow(arithmetic.add(square, float(eps)), -0.5))
    return y if weight is None else arithmetic.mul(y, weight)
