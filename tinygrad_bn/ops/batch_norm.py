"""Batch normalisation: train and eval mode as pure operations, each optionally fused with an activation.

Ioffe & Szegedy 2015 (arXiv:1502.03167). m, the number of values of one channel in the batch, is N for an input (N, C)
and N·H·W for (N, C, H, W). Running statistics are no business of these: a layer commits what they return.
"""

from __future__ import annotations

import numpy as np

from tinygrad_bn.core.dtype import float32, float64
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, MultiNode, Node, gradient_buffer, mode, nodes_of, record
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.errors import ArgumentError
from tinygrad_bn.ops import arithmetic, functions, movement, sums
from tinygrad_bn.ops._activations import ACTIVATIONS, LEAKY, RELU, activation_code, slope_of
from tinygrad_bn.ops._channels import ONE_BLOCK, check, in_layout, new_rows, own_type, paired, scratch
from tinygrad_bn.ops._common import new, plain
from tinygrad_bn.ops._norm_gradients import axes_of, gradients_of
from tinygrad_bn.ops.composite import through_composite
from tinygrad_bn.ops.creation import zeros_like

NOTHING = {d.name: Tensor(np.empty(0, d.storage), d) for d in (float32, float64)}  # an absent weight or bias


class Statistics:
    """What a training batch's normalisation leaves behind.

    Attributes
    ----------
    rows : numpy.ndarray, shape (4, C)
        As the kernel wrote them: the mean as two numbers, hi + lo; the biased variance; 1 / √(var + eps).
    count : int
        m, the number of values of one channel.
    """

    __slots__ = ("count", "rows")

    def __init__(self, rows: Array, count: int) -> None:
        self.rows = rows
        self.count = count

    @property
    def mean(self) -> Array:
        """The batch's mean, shape (C,), rounded to the input's dtype."""
        mean: Array = self.rows[0]
        return mean

    @property
    def var(self) -> Array:
        """The batch's biased variance, shape (C,)."""
        var: Array = self.rows[2]
        return var


def or_nothing(t: Tensor | None, x: Tensor) -> Tensor:
    """A weight or bias, or what stands for its absence."""
    return NOTHING[own_type(x.dtype).name] if t is None else t


def single_value(x: Tensor) -> ArgumentError:
    """The error of an input that has one value a channel."""
    return ArgumentError(
        f"batch_norm: 'input' must have more than one value a channel in training. Got shape {x.array.shape}.\n"
        "Hint: use larger batches (drop_last=True), or eval mode."
    )


class BatchNormTrain(Node):
    """gx, gweight, gbias by ``batch_norm_backward``; x̂ is recomputed."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        x, weight, bias = self.unpack()
        statistics, eps, activation = self.constants
        return batch_norm_backward(gy, x, weight, bias, statistics, eps, activation, self.inputs[1:])


@operation(BatchNormTrain)
def batch_norm_train(
    input: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    activation: str = "none",
) -> tuple[Tensor, Statistics]:
    """Normalise each channel by the statistics of this batch.

    y = act((x - mean) / √(var + eps) · weight + bias), with the biased variance.

    Parameters
    ----------
    input : Tensor, shape (N, C, …), float32 or float64
        Any strides: channels_last is normalised as it lies.
    weight, bias : Tensor, shape (C,), optional
    eps : float
        Inside the square root.
    activation : str
        One of "none", "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh".

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

    Notes
    -----
    Statistics of float32 are accumulated in blocks, each in two passes, merged in float64; see
    ``kernels/cpu/bn_rows.py``. A constant channel gives exactly ``bias``.
    """
    check(input, ("weight", weight), ("bias", bias))
    return train_unchecked(input, weight, bias, eps, activation)


def train_unchecked(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, activation: str
) -> tuple[Tensor, Statistics]:
    """``batch_norm_train`` of tensors that have been found to fit."""
    act = ACTIVATIONS.get(activation)
    if act is None:
        act = activation_code("batch_norm", activation)
    slope = 0 if act <= RELU else 0.0 if act != LEAKY else slope_of(activation)
    array, dtype, device = x.array, x.dtype, x.device
    shape = array.shape
    channels = shape[1]
    count = array.size // channels if channels else 0
    if count == 1:
        raise single_value(x)
    own = own_type(dtype)
    w = NOTHING[own.name] if weight is None else weight
    b = NOTHING[own.name] if bias is None else bias
    gain = w.array if w.contiguous_array else plain(w)
    beta = b.array if b.contiguous_array else plain(b)
    rows = device.empty((4, channels), own)
    if len(shape) == 2 and shape[0] <= ONE_BLOCK and x.contiguous_array and device.type != "cuda":
        out = device.empty(shape, dtype)
        y = Tensor(out, dtype, device)
        if count:
            launch(device.kernels.batch_norm_block, array, gain, beta, eps, act, slope, out, rows)
    else:
        view, y, out, _ = paired(x)
        if count:
            launch(device.kernels.batch_norm_train, view, gain, beta, eps, act, slope, out, rows, scratch(x, view))
    statistics = Statistics(rows, count)
    if mode.grad and (x.node is not None or w.node is not None or b.node is not None):
        nodes = nodes_of(BatchNormTrain, x, w, b)
        if nodes is not None:
            y.node = BatchNormTrain(nodes, (x, w, b), (statistics, eps, activation))
    return y, statistics


class BatchNormBackward(MultiNode):
    """The derivatives of the gradients, through their composite."""

    __slots__ = ()

    def backward_all(self, *gradients: Tensor | None) -> Gradients:
        _, eps, activation = self.constants
        inputs = self.unpack()
        if not inputs[1].array.size:  # an empty batch has no mean
            return tuple(zeros_like(t) for t in inputs)

        def composite(gy: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            dims, _, m = axes_of(x)
            centred = arithmetic.sub(x, sums.mean(x, dims, True))
            var = sums.mean(arithmetic.mul(centred, centred), dims, True)
            invstd = functions.pow(arithmetic.add(var, eps), -0.5)
            hat = arithmetic.mul(centred, invstd)
            return gradients_of(gy, hat, invstd, weight, bias, activation, m)

        return through_composite(composite, inputs, gradients)


@operation(BatchNormBackward)
def batch_norm_backward(
    gy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    statistics: Statistics,
    eps: float,
    activation: str,
    homes: tuple[Node | None, ...] = (None, None),
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``batch_norm_train`` with respect to x, weight and bias.

    gx = weight invstd (g - mean(g) - x̂ mean(g x̂)), gweight = Σ g x̂, gbias = Σ g, with g = gy act'(z): section 3 of the
    paper, simplified. A weight or bias of no elements counts as absent. ``homes``: where the gradients of weight and
    bias go (``gradient_buffer``).
    """
    array, dtype, device = x.array, x.dtype, x.device
    shape = array.shape
    size = shape[1:2]
    own = own_type(dtype)
    gweight = gradient_buffer(homes[0], size, own, device)
    gbias = gradient_buffer(homes[1], size, own, device)
    gain = weight.array if weight.contiguous_array else plain(weight)
    beta = bias.array if bias.contiguous_array else plain(bias)
    rows, act, kernels = statistics.rows, ACTIVATIONS[activation], device.kernels
    slope = 0 if act <= RELU else 0.0 if act != LEAKY else slope_of(activation)
    if len(shape) == 2 and shape[0] <= ONE_BLOCK and x.contiguous_array and device.type != "cuda":
        out = device.empty(shape, dtype)
        gx = Tensor(out, dtype, device)
        g = gy.array if gy.contiguous_array else plain(gy)
        if array.size:
            launch(
                kernels.batch_norm_block_backward, g, array, gain, beta, rows, act, slope,
                out, gweight.array, gbias.array,
            )  # fmt: skip
    else:
        view, gx, out, innermost = paired(x)
        if array.size:
            launch(
                kernels.batch_norm_backward, in_layout(gy, innermost), view, gain, beta, rows, act, slope,
                out, gweight.array, gbias.array, scratch(x, view),
            )  # fmt: skip
    gradients = (gx, gweight, gbias)
    if not array.size:
        clear(gweight, gbias)
    if mode.grad:
        _record_gradients(BatchNormBackward, gradients, (gy, x, weight, bias), (3, eps, activation))
    return gradients


def clear(*tensors: Tensor) -> None:
    """Fill tensors with zeros."""
    for t in tensors:
        launch(t.device.kernels.fill, 0, t.array)


def _record_gradients(
    kind: type[MultiNode], outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...], constants: tuple[object, ...]
) -> None:
    nodes = nodes_of(kind, *inputs)
    if nodes is not None:
        kind(nodes, inputs, constants).attach(outputs)


class BatchNormEval(Node):
    """gx, gweight, gbias by ``batch_norm_eval_backward``: the statistics are constants."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        x, weight, bias, mean, var = self.unpack()
        eps, activation = self.constants
        return (*batch_norm_eval_backward(gy, x, weight, bias, mean, var, eps, activation), None, None)


@operation(BatchNormEval)
def batch_norm_eval(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    activation: str = "none",
) -> Tensor:
    """Normalise each channel by given statistics: y = act((x - mean) / √(var + eps) · weight + bias).

    Parameters
    ----------
    input : Tensor, shape (N, C, …)
    mean, var : Tensor, shape (C,)
        Constants: no gradient goes to them.
    weight, bias : Tensor, shape (C,), optional
    eps : float
    activation : str
        One of "none", "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh".

    Raises
    ------
    ShapeError, DTypeError, DeviceError
    """
    x = input
    check(x, ("running_mean", mean), ("running_var", var), ("weight", weight), ("bias", bias))
    act = activation_code("batch_norm", activation)
    w, b = or_nothing(weight, x), or_nothing(bias, x)
    view, y, out, _ = paired(x)
    if view.size:
        arrays = (view, plain(w), plain(b), plain(mean), plain(var))
        launch(x.device.kernels.batch_norm_eval, *arrays, eps, act, slope_of(activation), out, new_rows(x))
    return record(BatchNormEval, y, (x, w, b, mean.alias(), var.alias()), (x, w, b, mean, var), (eps, activation))


class BatchNormEvalBackward(MultiNode):
    """The derivatives of the gradients, through their composite."""

    __slots__ = ()

    def backward_all(self, *gradients: Tensor | None) -> Gradients:
        _, eps, activation, mean, var = self.constants
        inputs = self.unpack()

        def composite(gy: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            _, shape, _ = axes_of(x)
            invstd = functions.pow(arithmetic.add(movement.reshape(var, shape), eps), -0.5)
            hat = arithmetic.mul(arithmetic.sub(x, movement.reshape(mean, shape)), invstd)
            return gradients_of(gy, hat, invstd, weight, bias, activation, None)

        return through_composite(composite, inputs, gradients)


@operation(BatchNormEvalBackward)
def batch_norm_eval_backward(
    gy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``batch_norm_eval`` with respect to x, weight and bias."""
    view, gx, out, innermost = paired(x)
    size, own = x.array.shape[1:2], own_type(x.dtype)
    gweight, gbias = new(size, own, x.device), new(size, own, x.device)
    if view.size:
        launch(
            x.device.kernels.batch_norm_eval_backward, in_layout(gy, innermost), view, plain(weight), plain(bias),
            plain(mean), plain(var), eps, ACTIVATIONS[activation], slope_of(activation),
            out, gweight.array, gbias.array, new_rows(x), scratch(x, view),
        )  # fmt: skip
    else:
        clear(gweight, gbias)
    constants = (3, eps, activation, mean.alias(), var.alias())
    _record_gradients(BatchNormEvalBackward, (gx, gweight, gbias), (gy, x, weight, bias), constants)
    return gx, gweight, gbias
