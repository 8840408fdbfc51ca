"""A linear layer without a bias and the batch normalisation behind it, as one operation; the two are its oracle."""

from __future__ import annotations

from tinygrad_bn.core.backward import grad
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.mixed import plainly
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, MultiNode, Node, gradient_buffer, mode, nodes_of
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.ops._activations import ACTIVATIONS, RELU, slope_of
from tinygrad_bn.ops._common import plain
from tinygrad_bn.ops.batch_norm import Statistics, batch_norm_train
from tinygrad_bn.ops.composite import through_composite
from tinygrad_bn.ops.matmul import NO_MATRIX, linear

MOST = 256  # rows of a batch that is one block
LARGE = 1 << 24  # elements of a weight from which BLAS is faster


def linear_norm_fits(x: object, weight: Tensor, *channels: Tensor | None) -> bool:
    """Whether ``linear_batch_norm`` takes these: an input (M, K) of 2 to MOST rows, a weight (N, K) of less than LARGE
    elements, vectors (N,), all of one dtype on one device, matrices C-contiguous."""
    if not (isinstance(x, Tensor) and x.contiguous_array and weight.contiguous_array and plainly(x)):
        return False
    shape, wshape, dtype, device = x.array.shape, weight.array.shape, x.dtype, x.device
    if not (len(shape) == 2 and 2 <= shape[0] <= MOST and shape[1] == wshape[1] and 0 < weight.array.size < LARGE):
        return False
    if dtype is not weight.dtype or device is not weight.device or not dtype.is_floating_point:
        return False
    if device.type == "cuda":  # linear and batch_norm_train do as well there
        return False
    vector = wshape[:1]
    for t in channels:
        if t is None or t.array.shape != vector or t.dtype is not dtype or t.device is not device:
            return False
    return True


class LinearBatchNorm(Node):
    """gx, gweight, ggain, gbias by ``linear_batch_norm_backward``."""

    __slots__ = ()

    def backward(self, gy: Tensor) -> Gradients:
        x, weight, gain, bias, z = self.unpack()
        statistics, eps, activation = self.constants
        nodes = self.inputs
        found = linear_batch_norm_backward(
            gy, x, weight, gain, bias, z, statistics, eps, activation, nodes[0] is not None, nodes[1:]
        )
        return found if len(found) == 4 else (None, *found)


@operation(LinearBatchNorm)
def linear_batch_norm(
    x: Tensor, weight: Tensor, gain: Tensor, bias: Tensor, eps: float, activation: str
) -> tuple[Tensor, Statistics]:
    """Return act(BN(x weightᵀ)) and the batch's statistics, of tensors that ``linear_norm_fits``.

    Parameters
    ----------
    x : Tensor, shape (M, K)
    weight : Tensor, shape (N, K)
    gain, bias : Tensor, shape (N,)
        Of the normalisation.
    eps : float
    activation : str
        As for ``batch_norm_train``.

    Returns
    -------
    y : Tensor, shape (M, N)
    statistics : Statistics
    """
    dtype, device = x.dtype, x.device
    m, n = len(x.array), len(weight.array)
    act = ACTIVATIONS[activation]
    z, out, rows = device.empty((m, n), dtype), device.empty((m, n), dtype), device.empty((4, n), dtype)
    launch(
        device.kernels.linear_batch_norm,
        x.array if x.contiguous_array else plain(x),
        weight.array if weight.contiguous_array else plain(weight),
        gain.array if gain.contiguous_array else plain(gain),
        bias.array if bias.contiguous_array else plain(bias),
        eps, act, 0 if act <= RELU else slope_of(activation), z, rows, out,
    )  # fmt: skip
    y, statistics = Tensor(out, dtype, device), Statistics(rows, m)
    if mode.grad:
        nodes = nodes_of(LinearBatchNorm, x, weight, gain, bias)
        if nodes is not None:
            saved = (x, weight, gain, bias, Tensor(z, dtype, device))
            y.node = LinearBatchNorm(nodes, saved, (statistics, eps, activation))
    return y, statistics


class LinearBatchNormBackward(MultiNode):
    """The derivatives of the gradients, through the two operations."""

    __slots__ = ()

    def backward_all(self, *gradients: Tensor | None) -> Gradients:
        _, eps, activation = self.constants

        def composite(gy: Tensor, x: Tensor, weight: Tensor, gain: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
            y, _ = batch_norm_train(linear(x, weight), gain, bias, eps, activation)
            return grad(y, (x, weight, gain, bias), gy, create_graph=True)  # type: ignore[return-value]  # all are used

        wanted = gradients if len(gradients) == 4 else (None, *gradients)
        return through_composite(composite, self.unpack(), wanted)


@operation(LinearBatchNormBackward)
def linear_batch_norm_backward(
    gy: Tensor,
    x: Tensor,
    weight: Tensor,
    gain: Tensor,
    bias: Tensor,
    z: Tensor,
    statistics: Statistics,
    eps: float,
    activation: str,
    for_x: bool = True,
    homes: tuple[Node | None, ...] = (None, None, None),
) -> tuple[Tensor, ...]:
    """Return the gradients of ``linear_batch_norm`` with respect to x, where wanted, weight, gain and bias.

    ``homes``: where the last three go (``gradient_buffer``).
    """
    dtype, device = x.dtype, x.device
    (m, k), n = x.array.shape, weight.array.shape[0]
    act = ACTIVATIONS[activation]
    gx = Tensor(device.empty((m, k), dtype), dtype, device) if for_x else None
    gweight = gradient_buffer(homes[0], (n, k), dtype, device)
    ggain = gradient_buffer(homes[1], (n,), dtype, device)
    gbias = gradient_buffer(homes[2], (n,), dtype, device)
    launch(
        device.kernels.linear_batch_norm_backward,
        gy.array if gy.contiguous_array else plain(gy),
        x.array if x.contiguous_array else plain(x),
        weight.array if weight.contiguous_array else plain(weight),
        gain.array if gain.contiguous_array else plain(gain),
        bias.array if bias.contiguous_array else plain(bias),
        z.array,
        statistics.rows, act, 0 if act <= RELU else slope_of(activation), device.empty((m, n), dtype),
        NO_MATRIX[dtype.name] if gx is None else gx.array,
        gweight.array, ggain.array, gbias.array,
    )  # fmt: skip
    found = (gweight, ggain, gbias) if gx is None else (gx, gweight, ggain, gbias)
    if mode.grad:
        inputs = (gy, x, weight, gain, bias)
        nodes = nodes_of(LinearBatchNormBackward, *inputs)
        if nodes is not None:
            LinearBatchNormBackward(nodes, inputs, (len(found), eps, activation)).attach(found)
    return found
