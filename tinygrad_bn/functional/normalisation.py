"""Batch normalisation with running statistics: the pure operations, and the commit of what they return.

    running_mean += momentum (mean - running_mean)
    running_var  += momentum (var m / (m - 1) - running_var)

Ioffe & Szegedy 2015 (arXiv:1502.03167), section 3.1; m values of a channel went into the batch's mean and variance. The
commit is a kernel: it skips a batch with a statistic that is not finite, and nothing of it is recorded.
"""

from __future__ import annotations

from tinygrad_bn.core.dtype import int64
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.mixed import mixed
from tinygrad_bn.core.table import dense, write_back
from tinygrad_bn.core.tally import Tally
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.functional.masked import Axis, Form
from tinygrad_bn.ops._activations import named
from tinygrad_bn.ops._channels import check_channels
from tinygrad_bn.ops._common import is_floating, is_tensor
from tinygrad_bn.ops.batch_norm import Statistics, batch_norm_eval, batch_norm_train, train_unchecked
from tinygrad_bn.ops.batch_norm_residual import batch_norm_residual, batch_norm_residual_eval


@mixed("first", direct=True)
def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    axis: Axis = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Normalise each channel: by the batch's statistics in training, by the running ones otherwise.

    Parameters
    ----------
    input : Tensor, shape (N, C, …), float32 or float64
        Any strides.
    running_mean, running_var : Tensor, shape (C,), or None
        In training they move towards the batch's statistics, in place; None: they are not kept.
    weight, bias : Tensor, shape (C,), optional
    training : bool
    momentum : float
        The weight of the new batch, from 0 to 1.
    eps : float
        Inside the square root.
    axis : int or tuple of int
        The axes that are kept, as in Keras and Flax: statistics, weight and bias have their extents, in the input's
        order, and are taken over all other axes. -1 for (N, L, C); (1, 2) for a statistic of each index of both.
    mask : Tensor of bool, optional
        True for the values that count, such as those of padded sequences that are no padding: of the shape of the axes
        that are not kept, (N, L) for (N, C, L), or with extent 1 where they are kept, (N, 1, L). Elsewhere the output
        and the gradient are 0, whatever stands there.

    Returns
    -------
    Tensor, shape (N, C, …)

    Raises
    ------
    ShapeError, DTypeError, DeviceError
    ArgumentError
        If, in training, a channel has one value; if there are no running statistics to use; if momentum is out of
        range.

    Warns
    -----
    RuntimeWarning
        If the mask leaves nothing: the batch counts as empty.

    Notes
    -----
    y = (x - mean) / √(var + eps) · weight + bias with the biased variance; ``running_var`` keeps the unbiased one. An
    empty batch, and one with a statistic that is not finite, leave the running statistics as they are.

    References
    ----------
    Ioffe & Szegedy 2015 (arXiv:1502.03167).
    """
    if mask is not None or axis != 1:
        form = Form("batch_norm", input, axis, mask)
        given = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
        mean, var, gain, beta = (form.flat(name, t) for name, t in given.items())
        if training:
            form.check_count()
        return form.outward(batch_norm(form.inward(input), mean, var, gain, beta, training, momentum, eps))
    if training and running_mean is None is running_var:
        return checked_train(input, weight, bias, None, None, checked_eps(eps), "none")[0]
    return batch_norm_act(input, running_mean, running_var, weight, bias, training, momentum, eps, "none")


@mixed("first", direct=True)
def batch_norm_act(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str | None = "relu",
    residual: Tensor | None = None,
    negative_slope: float = 0.01,
) -> Tensor:
    """Normalise each channel as ``batch_norm`` does, add a residual and apply an activation, in one pass over memory.

    Nothing is saved for backward beyond what plain batch normalisation saves: what went into the activation is found
    once more. With a residual the output is saved, of SiLU and GELU the residual.

    Parameters
    ----------
    input, running_mean, running_var, weight, bias, training, momentum, eps
        As for ``batch_norm``.
    activation : str or None
        One of "none", "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu" and its approximation "gelu_tanh".
    residual : Tensor, of the input's shape and dtype, optional
        y = act(batch_norm(input) + residual), as a block of two branches ends.
    negative_slope : float
        Of "leaky_relu".

    Returns
    -------
    Tensor, shape (N, C, …)

    Raises
    ------
    ShapeError, DTypeError, DeviceError, ArgumentError

    References
    ----------
    Ioffe & Szegedy 2015 (arXiv:1502.03167); He et al. 2016 (arXiv:1512.03385), figure 2.
    """
    if activation != "relu" and activation != "none":
        activation = named("batch_norm", activation, negative_slope)
    if training:
        y, statistics = checked_train(
            input, weight, bias, running_mean, running_var, checked_eps(eps), activation, residual
        )
        if running_mean is not None and running_var is not None:
            commit(statistics, running_mean, running_var, checked_momentum(momentum))
        return y
    if running_mean is None or running_var is None:
        hint = "pass training=True to normalise by the batch's statistics"
        raise ArgumentError(
            wrong("batch_norm", "running_mean", "given, and 'running_var', outside training", None, hint)
        )
    return evaluated(input, residual, running_mean, running_var, weight, bias, checked_eps(eps), activation)


def evaluated(
    x: Tensor,
    residual: Tensor | None,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str,
) -> Tensor:
    """``ops.batch_norm_eval``, to which a residual may be added ahead of the activation."""
    if residual is None:
        return batch_norm_eval(x, mean, var, weight, bias, eps, activation)
    return batch_norm_residual_eval(x, residual, mean, var, weight, bias, eps, activation)


def checked_momentum(momentum: object, op: str = "batch_norm") -> float:
    """Return the momentum as a float.

    Raises
    ------
    ArgumentError
        If it is no number from 0 to 1.
    """
    if not isinstance(momentum, (int, float)) or not 0 <= momentum <= 1:  # the tuple is a third of int | float's cost
        hint = "Keras and Flax count the weight of the old: nn.utils.momentum_from_keras(m)"
        raise ArgumentError(wrong(op, "momentum", "from 0 to 1, the weight of the new batch", repr(momentum), hint))
    return float(momentum)


def checked_eps(eps: object, op: str = "batch_norm") -> float:
    """Return eps as a float.

    Raises
    ------
    ArgumentError
        If it is no number of at least 0.
    """
    if not isinstance(eps, (int, float)) or not eps >= 0:
        raise ArgumentError(wrong(op, "eps", "at least 0", repr(eps), "it goes inside the square root: 1e-5, say"))
    return float(eps)


def _rate(momentum: float | None) -> float:
    """The momentum as the kernel takes it."""
    if type(momentum) is float and 0.0 <= momentum <= 1.0:
        return momentum
    return -1.0 if momentum is None else checked_momentum(momentum)


def checked_train(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    eps: float,
    activation: str,
    residual: Tensor | None = None,
) -> tuple[Tensor, Statistics]:
    """``ops.batch_norm_train`` after all tensors, running statistics included, have been found to fit; with a residual,
    ``ops.batch_norm_residual``."""
    if residual is not None:
        check_running(x, running_mean, running_var)
        return batch_norm_residual(x, residual, weight, bias, eps, activation)
    try:  # the common case at once; what has no array, or is missing, goes the long way
        dtype, device, shape = x.dtype, x.device, weight.array.shape  # type: ignore[union-attr]
        fit = (
            x.array.shape[1:2] == shape == bias.array.shape != ()  # type: ignore[union-attr]
            and weight.dtype is dtype is bias.dtype  # type: ignore[union-attr]
            and weight.device is device is bias.device  # type: ignore[union-attr]
            and dtype.is_floating_point
            and (
                running_mean is None is running_var
                or (
                    running_mean.array.shape == shape == running_var.array.shape  # type: ignore[union-attr]
                    and running_mean.dtype is dtype is running_var.dtype  # type: ignore[union-attr]
                    and running_mean.device is device is running_var.device  # type: ignore[union-attr]
                )
            )
        )
    except AttributeError:
        fit = False
    if fit:
        return train_unchecked(x, weight, bias, eps, activation)
    check_running(x, running_mean, running_var)
    return batch_norm_train(x, weight, bias, eps, activation)


def check_running(x: Tensor, running_mean: Tensor | None, running_var: Tensor | None) -> None:
    """Raise unless both running statistics fit the input, or there are none."""
    op = "batch_norm"
    is_floating(op, "input", x)
    if (running_mean is None) != (running_var is None):
        missing = "running_mean" if running_mean is None else "running_var"
        raise ArgumentError(wrong(op, missing, "given where the other running statistic is", None))
    for name, t in (("running_mean", running_mean), ("running_var", running_var)):
        if t is None:
            continue
        is_tensor(op, name, t)
        if x.array.ndim > 1:
            check_channels(op, x, name, t)


@mixed()
def commit(
    statistics: Statistics,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float | None,
    unbiased: bool = True,
    tracked: Tensor | None = None,
    skipped: Tally | None = None,
) -> None:
    """Move running statistics towards a batch's, in place and off the tape, unless the batch was empty.

    Parameters
    ----------
    statistics : Statistics
        As ``ops.batch_norm_train`` returns them.
    running_mean, running_var : Tensor, shape (C,)
    momentum : float or None
        None: the average over all batches so far, each counted alike.
    unbiased : bool
        Whether the running variance takes Bessel's factor m / (m - 1).
    tracked : Tensor, shape (), int64, optional
        Counts the batches that were taken in.
    skipped : Tally, optional
        Counts the batches that were not, because a statistic was not finite.
    """
    if not statistics.count:
        return
    device = running_mean.device
    mean = running_mean.array if running_mean.contiguous_array else dense(running_mean)
    var = running_var.array if running_var.contiguous_array else dense(running_var)
    launch(
        device.kernels.batch_norm_update,
        statistics.rows,
        statistics.count,
        _rate(momentum),
        unbiased,
        mean,
        var,
        device.number(0, int64) if tracked is None else tracked.array,
        device.number(0, int64) if skipped is None else skipped.on(device),
    )
    if mean is not running_mean.array:
        write_back(running_mean, mean)
    if var is not running_var.array:
        write_back(running_var, var)
    running_mean.bump()
    running_var.bump()
    if tracked is not None:
        tracked.bump()
