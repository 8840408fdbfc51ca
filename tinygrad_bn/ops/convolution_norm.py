"""Chains of convolution and batch normalisation that share trips through memory.

    convolution_moments   z = w ⋆ x, whose batch statistics are found on the way out
    batch_norm_given      y = act(bn(z) + residual) by statistics that are there already
    norm_convolution      z = w ⋆ act(bn(x)): x is normalised on the way in, and what is normalised is not kept

Jung et al. 2019 (arXiv:1807.01702) call it fission and fusion of batch normalisation. Each holds for all geometries,
devices and dtypes; trips are saved where the convolution goes by Winograd's algorithm.
"""

from __future__ import annotations

from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.mixed import mixed
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, Node, mode, record
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.ops import _winograd
from tinygrad_bn.ops._activations import ACTIVATIONS, activation_code, slope_of
from tinygrad_bn.ops._algorithm import algorithm
from tinygrad_bn.ops._channels import in_layout, new_rows, paired, scratch
from tinygrad_bn.ops._common import plain
from tinygrad_bn.ops._geometry import Geometry
from tinygrad_bn.ops._operands import NOTHING
from tinygrad_bn.ops.batch_norm import (
    BatchNormTrain,
    Statistics,
    batch_norm_backward,
    batch_norm_train,
    or_nothing,
    single_value,
)
from tinygrad_bn.ops.batch_norm_residual import BatchNormResidual, on_tape
from tinygrad_bn.ops.convolution import Convolution, convolution, convolution_input, convolution_weight
from tinygrad_bn.ops.movement import contiguous

INWARD = ("none", "relu")  # activations that are computed on the way into a convolution


def shares_trips(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether a convolution, of arguments that fit, can normalise its input or find its results' statistics."""
    outputs, inputs = weight.array.shape[:2]
    return x.array.size > 0 and algorithm(inputs, outputs, geometry, x.dtype, x.device) == "winograd"


@mixed("first")
def convolution_moments(x: Tensor, weight: Tensor, geometry: Geometry, eps: float) -> tuple[Tensor, Statistics]:
    """Return ``convolution`` without a bias, and its results' batch statistics."""
    if not shares_trips(x, weight, geometry):
        z = convolution(x, weight, None, geometry)
        return z, statistics_of(z, eps)
    array, statistics = _launch(x, _winograd.PLAIN, weight, geometry, eps)
    saved = (NOTHING if weight.node is None else x, NOTHING if x.node is None else weight)
    return record(Convolution, Tensor(array, x.dtype, x.device), (x, weight), saved, (geometry,)), statistics


def _launch(x: Tensor, norm: _winograd.Norm, weight: Tensor, g: Geometry, eps: float) -> tuple[Array, Statistics]:
    device = x.device
    out = device.empty((x.array.shape[0], weight.array.shape[0], *g.output), x.dtype)
    parts = _winograd.forward_with_moments(plain(x), norm, plain(weight), out, g, device)
    rows = device.empty((4, out.shape[1]), x.dtype)
    launch(device.kernels.batch_norm_finish, parts, eps, rows)
    return out, Statistics(rows, out.size // out.shape[1])


@mixed("first")
def statistics_of(x: Tensor, eps: float) -> Statistics:
    """The batch statistics of x, of at least two axes, off the tape."""
    channels = x.array.shape[1]
    view = paired(x.detach())[0]
    statistics = Statistics(new_rows(x), x.array.size // max(channels, 1))
    if view.size:
        launch(x.device.kernels.batch_norm_statistics, view, eps, statistics.rows, scratch(x, view))
    return statistics


@mixed("first")
def batch_norm_given(
    x: Tensor,
    statistics: Statistics,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str,
    residual: Tensor | None = None,
) -> Tensor:
    """Return ``batch_norm_train`` or ``batch_norm_residual`` of tensors that fit, by the statistics of x, found with
    the same ``eps``.

    Raises
    ------
    ArgumentError
        If a channel has one value.
    """
    if statistics.count == 1:
        raise single_value(x)
    act = activation_code("batch_norm", activation)
    w, b = or_nothing(weight, x), or_nothing(bias, x)
    view, y, out, innermost = paired(x)
    r = or_nothing(None, x).array if residual is None else in_layout(residual, innermost)
    if view.size:
        launch(
            x.device.kernels.batch_norm_given,
            view,
            r,
            plain(w),
            plain(b),
            statistics.rows,
            act,
            slope_of(activation),
            out,
        )
    constants = (statistics, eps, activation)
    if residual is None:
        return record(BatchNormTrain, y, (x, w, b), (x, w, b), constants)
    return on_tape(BatchNormResidual, y, (x, residual, w, b), (x, w, b), constants)


class NormConvolution(Node):
    """With z = act(bn(x)): gz = convolution_input(gy, w), gw = convolution_weight(gy, z), the others from gz by
    ``batch_norm_backward``; z is computed once more, on its way into the sums of gw where that is to be had."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        x, weight, bias, filters = self.unpack()
        statistics, eps, activation, geometry, inward = self.constants
        gy = contiguous(gy)
        gfilters = None
        if self.inputs[3] is not None and inward and not mode.grad:
            out = x.device.empty(filters.array.shape, x.dtype)
            norm = (statistics.rows, plain(weight), plain(bias), ACTIVATIONS[activation])
            _winograd.backward_weight(plain(gy), plain(x), out, geometry, x.device, norm)
            gfilters = Tensor(out, x.dtype, x.device)
        elif self.inputs[3] is not None:
            if mode.grad:
                z = batch_norm_train(x, _given(weight), _given(bias), eps, activation)[0]
            else:
                z = batch_norm_given(x, statistics, weight, bias, eps, activation)
            gfilters = convolution_weight(gy, z, geometry)
        if self.inputs[:3] == (None, None, None):
            return None, None, None, gfilters
        gz = convolution_input(gy, filters, None, geometry)
        homes = self.inputs[1:3]
        return (*batch_norm_backward(gz, x, weight, bias, statistics, eps, activation, homes), gfilters)


def _given(t: Tensor) -> Tensor | None:
    return t if t.array.size else None


@operation(NormConvolution)
def norm_convolution(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    filters: Tensor,
    statistics: Statistics,
    eps: float,
    activation: str,
    geometry: Geometry,
    next_eps: float,
) -> tuple[Tensor, Statistics]:
    """Return w ⋆ act(bn(x)) and its batch statistics, of arguments that fit.

    Parameters
    ----------
    x : Tensor, shape (N, C, H, W)
    weight, bias : Tensor, shape (C,), optional
        Of the normalisation.
    filters : Tensor, shape (O, C / groups, KH, KW)
    statistics : Statistics
        Of x, found with the same ``eps``.
    eps : float
    activation : str
        As for ``batch_norm_train``.
    geometry : Geometry
    next_eps : float
        Of the normalisation that follows.

    Returns
    -------
    z : Tensor, shape (N, O, OH, OW)
    statistics : Statistics
        Of z, found with ``next_eps``.
    """
    if statistics.count == 1:
        raise single_value(x)
    w, b = or_nothing(weight, x), or_nothing(bias, x)
    inward = activation in INWARD and shares_trips(x, filters, geometry)
    if inward:
        norm = (statistics.rows, plain(w), plain(b), ACTIVATIONS[activation])
        out, found = _launch(x, norm, filters, geometry, next_eps)
        z = Tensor(out, x.dtype, x.device)
    else:
        y = batch_norm_given(x.detach(), statistics, w.detach(), b.detach(), eps, activation)
        z, found = convolution_moments(y, filters.detach(), geometry, next_eps)
    inputs = (x, w, b, filters)
    return record(NormConvolution, z, inputs, inputs, (statistics, eps, activation, geometry, inward)), found
