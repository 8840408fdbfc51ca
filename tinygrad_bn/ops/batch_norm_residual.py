"""Batch normalisation to which a residual is added ahead of the activation: y = act(bn(x) + r), as one operation.

He et al. 2016 (arXiv:1512.03385), figure 2: the end of a block of two branches. Beside what batch normalisation alone
saves, one thing is kept, from which the activation's slope is found: the output, of which whoever takes it next mostly
keeps the same memory; of SiLU and GELU, whose outputs do not tell it, the residual.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, MultiNode, Node, gradient_buffer, mode, nodes_of, record
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import DTypeError, ShapeError, expected
from tinygrad_bn.ops import arithmetic, functions, movement, sums
from tinygrad_bn.ops._activations import ACTIVATIONS, activation_code, slope_of, through, through_output, told_by_output
from tinygrad_bn.ops._channels import check, empty_as, in_layout, new_rows, own_type, paired, scratch
from tinygrad_bn.ops._common import is_tensor, plain, same_device
from tinygrad_bn.ops._norm_gradients import axes_of, gradients_of
from tinygrad_bn.ops.batch_norm import (
    Statistics,
    batch_norm_backward,
    batch_norm_eval_backward,
    clear,
    or_nothing,
    single_value,
)
from tinygrad_bn.ops.composite import through_composite
from tinygrad_bn.ops.creation import zeros_like

Four = tuple[Tensor, Tensor, Tensor, Tensor]


def check_residual(x: Tensor, residual: Tensor) -> None:
    """Raise unless a residual can be added to the input, element by element."""
    op = "batch_norm"
    is_tensor(op, "residual", residual)
    if residual.array.shape != x.array.shape:
        raise ShapeError(expected(op, "residual", f"the input's shape {x.array.shape}", residual.array.shape))
    if residual.dtype is not x.dtype:
        raise DTypeError(expected(op, "residual", f"dtype {x.dtype.name}, as input has", residual.dtype.name))
    same_device(op, x, "residual", residual)


class BatchNormResidual(Node):
    """gx, gresidual, gweight, gbias by ``batch_norm_residual_backward``; x̂ is recomputed."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        x, weight, bias, *residual = self.unpack()
        statistics, eps, activation = self.constants
        homes = self.inputs[2:]
        if activation == "none":
            gx, *rest = batch_norm_backward(gy, x, weight, bias, statistics, eps, activation, homes)
            return gx, gy, *rest
        kept = residual[0] if residual else self.unpack_output()
        return batch_norm_residual_backward(gy, x, kept, weight, bias, statistics, eps, activation, homes)


@operation(BatchNormResidual)
def batch_norm_residual(
    input: Tensor,
    residual: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    activation: str = "relu",
) -> tuple[Tensor, Statistics]:
    """Normalise each channel by the statistics of this batch, add a residual, apply an activation.

    y = act((x - mean) / √(var + eps) · weight + bias + residual), with the biased variance.

    Parameters
    ----------
    input : Tensor, shape (N, C, …), float32 or float64
        Any strides.
    residual : Tensor, of the input's shape and dtype
        Best of the input's strides, too: others are brought into them.
    weight, bias : Tensor, shape (C,), optional
    eps : float
        Inside the square root.
    activation : str
        As for ``batch_norm_train``.

    Returns
    -------
    y : Tensor, shape (N, C, …)
    statistics : Statistics
        Mean and biased variance, as the kernel left them, and m.

    Raises
    ------
    ShapeError, DTypeError, DeviceError
    ArgumentError
        If a channel has one value: it would normalise to bias whatever it is.
    """
    x = input
    check(x, ("weight", weight), ("bias", bias))
    check_residual(x, residual)
    act = activation_code("batch_norm", activation)
    channels = x.array.shape[1]
    count = x.array.size // max(channels, 1)
    if count == 1:
        raise single_value(x)
    w, b = or_nothing(weight, x), or_nothing(bias, x)
    view, y, out, innermost = paired(x)
    statistics = Statistics(new_rows(x), count)
    if view.size:
        launch(
            x.device.kernels.batch_norm_residual, view, in_layout(residual, innermost), plain(w), plain(b), eps, act,
            slope_of(activation), out, statistics.rows, scratch(x, view),
        )  # fmt: skip
    return on_tape(BatchNormResidual, y, (x, residual, w, b), (x, w, b), (statistics, eps, activation)), statistics


def on_tape(
    kind: type[Node], y: Tensor, inputs: tuple[Tensor, ...], saved: tuple[Tensor, ...], constants: tuple[Any, ...]
) -> Tensor:
    """Record an operation whose second input is the residual, its last constant the activation: with the output, the
    residual, or neither kept."""
    activation = constants[-1]
    by_output = told_by_output(activation)
    kept = saved if by_output else (*saved, inputs[1])
    return record(kind, y, inputs, kept, constants, by_output and activation != "none")


class BatchNormResidualBackward(MultiNode):
    """The derivatives of the gradients, through their composite."""

    __slots__ = ()

    def backward_all(self, *gradients: Tensor | None) -> Gradients:
        _, eps, activation = self.constants
        inputs = self.unpack()
        if not inputs[1].array.size:  # an empty batch has no mean
            return tuple(zeros_like(t) for t in inputs)

        def hat_of(x: Tensor) -> tuple[Tensor, Tensor, int | None]:
            dims, _, m = axes_of(x)
            centred = arithmetic.sub(x, sums.mean(x, dims, True))
            var = sums.mean(arithmetic.mul(centred, centred), dims, True)
            invstd = functions.pow(arithmetic.add(var, eps), -0.5)
            return arithmetic.mul(centred, invstd), invstd, m

        return through_composite(_composite(hat_of, activation), inputs, gradients)


def _composite(hat_of: Callable[[Tensor], tuple[Tensor, Tensor, int | None]], activation: str) -> Callable[..., Four]:
    """The four gradients by other operations, given x̂, 1 / √(var + eps) and m as functions of x."""

    def composite(gy: Tensor, x: Tensor, kept: Tensor, weight: Tensor, bias: Tensor) -> Four:
        hat, invstd, m = hat_of(x)
        if told_by_output(activation):
            g = through_output(gy, kept, activation)
        else:
            shape = axes_of(x)[1]
            z = arithmetic.mul(hat, movement.reshape(weight, shape)) if weight.array.size else hat
            z = arithmetic.add(z, movement.reshape(bias, shape)) if bias.array.size else z
            g = through(gy, arithmetic.add(z, kept), activation)
        gx, gweight, gbias = gradients_of(g, hat, invstd, weight, bias, "none", m)
        return gx, g, gweight, gbias

    return composite


@operation(BatchNormResidualBackward)
def batch_norm_residual_backward(
    gy: Tensor,
    x: Tensor,
    kept: Tensor,
    weight: Tensor,
    bias: Tensor,
    statistics: Statistics,
    eps: float,
    activation: str,
    homes: tuple[Node | None, ...] = (None, None),
) -> Four:
    """Return the gradients of ``batch_norm_residual`` with respect to x, residual, weight and bias.

    gresidual = g = gy act'; the others are those of batch normalisation alone for g. ``kept`` is the output y, by which
    g = gy where y > 0, gy y (1 - y) or gy (1 - y²); or the residual, where the output does not tell the slope.
    ``homes``: where the gradients of weight and bias go (``gradient_buffer``).
    """
    view, gx, out, innermost = paired(x)
    gresidual, gout = empty_as(x, view, innermost)
    size = x.array.shape[1:2]
    gweight, gbias = (gradient_buffer(home, size, own_type(x.dtype), x.device) for home in homes)
    if view.size:
        launch(
            x.device.kernels.batch_norm_residual_backward, in_layout(gy, innermost), view, in_layout(kept, innermost),
            plain(weight), plain(bias), statistics.rows, ACTIVATIONS[activation], slope_of(activation),
            out, gout, gweight.array, gbias.array, scratch(x, view),
        )  # fmt: skip
    else:
        clear(gweight, gbias)
    gradients = (gx, gresidual, gweight, gbias)
    if mode.grad:
        nodes = nodes_of(BatchNormResidualBackward, gy, x, kept, weight, bias)
        if nodes is not None:
            BatchNormResidualBackward(nodes, (gy, x, kept, weight, bias), (4, eps, activation)).attach(gradients)
    return gradients


class BatchNormResidualEval(Node):
    """gx, gresidual, gweight, gbias by ``batch_norm_residual_eval_backward``: the statistics are constants."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        x, weight, bias, mean, var, *residual = self.unpack()
        eps, activation = self.constants
        if activation == "none":
            gx, *rest = batch_norm_eval_backward(gy, x, weight, bias, mean, var, eps, activation)
            return gx, gy, *rest, None, None
        kept = residual[0] if residual else self.unpack_output()
        return (*batch_norm_residual_eval_backward(gy, x, kept, weight, bias, mean, var, eps, activation), None, None)


@operation(BatchNormResidualEval)
def batch_norm_residual_eval(
    input: Tensor,
    residual: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    activation: str = "relu",
) -> Tensor:
    """Normalise each channel by given statistics, add a residual, apply an activation.

    y = act((x - mean) / √(var + eps) · weight + bias + residual).

    Parameters
    ----------
    input : Tensor, shape (N, C, …)
    residual : Tensor, of the input's shape and dtype
    mean, var : Tensor, shape (C,)
        Constants: no gradient goes to them.
    weight, bias : Tensor, shape (C,), optional
    eps : float
    activation : str
        As for ``batch_norm_train``.

    Raises
    ------
    ShapeError, DTypeError, DeviceError
    """
    x = input
    check(x, ("running_mean", mean), ("running_var", var), ("weight", weight), ("bias", bias))
    check_residual(x, residual)
    act = activation_code("batch_norm", activation)
    w, b = or_nothing(weight, x), or_nothing(bias, x)
    view, y, out, innermost = paired(x)
    if view.size:
        launch(
            x.device.kernels.batch_norm_residual_eval, view, in_layout(residual, innermost), plain(w), plain(b),
            plain(mean), plain(var), eps, act, slope_of(activation), out, new_rows(x),
        )  # fmt: skip
    inputs = (x, residual, w, b, mean.alias(), var.alias())
    return on_tape(BatchNormResidualEval, y, inputs, (x, w, b, mean, var), (eps, activation))


class BatchNormResidualEvalBackward(MultiNode):
    """The derivatives of the gradients, through their composite."""

    __slots__ = ()

    def backward_all(self, *gradients: Tensor | None) -> Gradients:
        _, eps, activation, mean, var = self.constants

        def hat_of(x: Tensor) -> tuple[Tensor, Tensor, int | None]:
            _, shape, _ = axes_of(x)
            invstd = functions.pow(arithmetic.add(movement.reshape(var, shape), eps), -0.5)
            return arithmetic.mul(arithmetic.sub(x, movement.reshape(mean, shape)), invstd), invstd, None

        return through_composite(_composite(hat_of, activation), self.unpack(), gradients)


@operation(BatchNormResidualEvalBackward)
def batch_norm_residual_eval_backward(
    gy: Tensor,
    x: Tensor,
    kept: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    eps: float,
    activation: str,
) -> Four:
    """Return the gradients of ``batch_norm_residual_eval`` with respect to x, residual, weight and bias."""
    view, gx, out, innermost = paired(x)
    gresidual, gout = empty_as(x, view, innermost)
    size = x.array.shape[1:2]
    gweight, gbias = (gradient_buffer(None, size, own_type(x.dtype), x.device) for _ in range(2))
    if view.size:
        launch(
            x.device.kernels.batch_norm_residual_eval_backward,
            in_layout(gy, innermost), view, in_layout(kept, innermost), plain(weight), plain(bias),
            plain(mean), plain(var), eps, ACTIVATIONS[activation], slope_of(activation),
            out, gout, gweight.array, gbias.array, new_rows(x), scratch(x, view),
        )  # fmt: skip
    else:
        clear(gweight, gbias)
    gradients = (gx, gresidual, gweight, gbias)
    nodes = nodes_of(BatchNormResidualEvalBackward, gy, x, kept, weight, bias)
    if nodes is not None:
        constants = (4, eps, activation, mean.alias(), var.alias())
        BatchNormResidualEvalBackward(nodes, (gy, x, kept, weight, bias), constants).attach(gradients)
    return gradients
