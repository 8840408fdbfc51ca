"""Batch normalisation's nearest relatives: by parts of the batch, corrected towards running statistics, by other norms.

    ghost       y = (x - μ_g) / √(v_g + eps) · weight + bias        with μ_g, v_g of a part of the batch
    renorm      y = ((x - μ_B) / σ_B · r + d) · weight + bias       r, d from running statistics, without gradient
    ℓp          y = (x - μ_B) / (mean |x - μ_B|^p + eps)^(1/p) · weight + bias

Hoffer, Hubara & Soudry 2017 (arXiv:1705.08741), Ioffe 2017 (arXiv:1702.03275), Santurkar et al. 2018
(arXiv:1805.11604). These are pure: what they return beside y is for a layer to commit.
"""

from __future__ import annotations

import math
from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.core.mixed import mixed
from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, expected, wrong
from tinygrad_bn.functional._channelwise import (
    centred,
    check_values,
    checked_input,
    from_rows,
    per_channel,
    rows_of,
    rows_with,
    scaled,
)
from tinygrad_bn.ops.batch_norm import Statistics, batch_norm_train

MORE = "use larger batches (drop_last=True), or eval mode"


@mixed("first")
def ghost_batch_norm(
    input: Tensor, ghost_batch_size: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, list[Statistics]]:
    """Normalise each channel by the statistics of parts of the batch, of so many consecutive samples each.

    Parameters
    ----------
    input : Tensor, shape (N, C, …), float32 or float64
    ghost_batch_size : int
        A divisor of N.
    weight, bias : Tensor, shape (C,), optional
        Shared by all parts.
    eps : float
        Inside the square root.

    Returns
    -------
    y : Tensor, shape (N, C, …)
    statistics : list of Statistics
        Of each part.

    Raises
    ------
    ShapeError, DTypeError, DeviceError
    ArgumentError
        If the parts do not make up the batch, or a channel has one value in each.

    References
    ----------
    Hoffer, Hubara & Soudry 2017 (arXiv:1705.08741), Algorithm 1.
    """
    x = checked_input("ghost_batch_norm", input, weight=weight, bias=bias)
    parts = _parts(x, ghost_batch_size)
    if parts == 1:
        y, whole = batch_norm_train(x, weight, bias, eps)
        return y, [whole]
    samples, channels, *rest = x.array.shape
    apart = (parts, samples // parts, channels, *rest)
    side_by_side = (samples // parts, parts * channels, *rest)  # the channels of each part as channels of their own
    inner = ops.reshape(ops.transpose(ops.reshape(x, apart), 0, 1), side_by_side)
    y, all_ = batch_norm_train(inner, _repeated(weight, parts), _repeated(bias, parts), eps)
    y = ops.transpose(ops.reshape(y, (samples // parts, parts, channels, *rest)), 0, 1)
    with no_grad():
        rows = ops.reshape(Tensor(all_.rows, x.dtype, x.device), (4, parts, channels))
        by_part = ops.contiguous(ops.transpose(rows, 0, 1)).array
    return ops.reshape(y, x.array.shape), [Statistics(part, all_.count) for part in by_part]


def _parts(x: Tensor, size: int) -> int:
    """How many ghost batches there are; one of an empty batch."""
    op, samples = "ghost_batch_norm", x.array.shape[0]
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ArgumentError(wrong(op, "ghost_batch_size", "an int of at least 1", repr(size)))
    if samples % size:
        want = f"a batch that is a multiple of ghost_batch_size = {size}"
        raise ArgumentError(
            expected(op, "input", want, f"shape {x.array.shape}", "drop the last batch (drop_last=True)")
        )
    if not x.array.size:
        return 1
    parts: int = samples // size
    check_values(op, x, x.array.size // x.array.shape[1] // parts, 2, "use larger ghost batches", " of a ghost batch")
    return parts


def _repeated(t: Tensor | None, times: int) -> Tensor | None:
    """(C,) over and over, (times · C,)."""
    return None if t is None else ops.reshape(ops.expand(t, (times, *t.array.shape)), (-1,))


@mixed("first")
def batch_renorm(
    input: Tensor,
    running_mean: Tensor,
    running_std: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    rmax: float = 3.0,
    dmax: float = 5.0,
    eps: float = 1e-5,
) -> tuple[Tensor, Statistics]:
    """Normalise by the batch's statistics, and correct the result towards what running statistics would give.

    Parameters
    ----------
    input : Tensor, shape (N, C, …), float32 or float64
    running_mean, running_std : Tensor, shape (C,)
        μ and σ: constants, which stay as they are.
    weight, bias : Tensor, shape (C,), optional
    rmax : float
        At least 1: r lies between 1 / rmax and rmax. 1 for plain batch normalisation, with dmax = 0.
    dmax : float
        At least 0: d lies between -dmax and dmax.
    eps : float
        σ_B = √(var + eps).

    Returns
    -------
    y : Tensor, shape (N, C, …)
    statistics : Statistics
        Of which ``var`` is σ_B: it is the deviation that is averaged.

    Raises
    ------
    ShapeError, DTypeError, DeviceError
    ArgumentError
        If a channel has one value; if rmax or dmax are out of range.

    Notes
    -----
    y = ((x - μ_B) / σ_B · r + d) · weight + bias, r = σ_B / σ and d = (μ_B - μ) / σ, clipped. Neither has a gradient.

    References
    ----------
    Ioffe 2017 (arXiv:1702.03275), Algorithm 1.
    """
    op = "batch_renorm"
    x = checked_input(op, input, running_mean=running_mean, running_std=running_std, weight=weight, bias=bias)
    if not rmax >= 1:
        raise ArgumentError(wrong(op, "rmax", "at least 1", repr(rmax)))
    if not dmax >= 0:
        raise ArgumentError(wrong(op, "dmax", "at least 0", repr(dmax)))
    if not x.array.size:
        return scaled(x, weight, bias), Statistics(x.device.empty((4, x.array.shape[1]), x.dtype), 0)
    hat, batch = batch_norm_train(x, None, None, eps)
    with no_grad():
        mean, left, var = (Tensor(row, x.dtype, x.device) for row in batch.rows[:3])
        std = ops.sqrt(ops.add(var, eps))
        r = ops.clamp(ops.div(std, running_std), 1 / rmax, rmax)
        d = ops.clamp(ops.div(ops.add(ops.sub(mean, running_mean), left), running_std), -dmax, dmax)
    return scaled(scaled(hat, r, d), weight, bias), rows_with(batch.count, mean, left, std)


@mixed("first")
def lp_batch_norm(
    input: Tensor,
    p: float = 1,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    uncentred: bool = False,
) -> tuple[Tensor, Statistics]:
    """Centre each channel and divide it by the ℓp norm of what is left, as a mean: batch normalisation for p = 2.

    Parameters
    ----------
    input : Tensor, shape (N, C, …), float32 or float64
    p : {1, 2, math.inf}
    weight, bias : Tensor, shape (C,), optional
    eps : float
        Added ahead of the root.
    uncentred : bool
        Divide by the norm of the channel as it comes, of x instead of x - μ.

    Returns
    -------
    y : Tensor, shape (N, C, …)
    statistics : Statistics
        Of which ``var`` is the p-th absolute moment, mean |x - μ|^p; the largest |x - μ| for infinity.

    Raises
    ------
    ShapeError, DTypeError, DeviceError
    ArgumentError
        If a channel has one value; if p is another number.

    Notes
    -----
    y = (x - μ) / (mean |x - μ|^p + eps)^(1/p) · weight + bias; (x - μ) / (max |x - μ| + eps) for infinity. Of equal
    largest ones, the gradient goes to the first.

    References
    ----------
    Santurkar et al. 2018 (arXiv:1805.11604), section 3.3, who take the norm "before shifting the mean"; Hoffer et al.
    2018 (arXiv:1803.01814) take that of x - μ, times a constant.
    """
    op = "lp_batch_norm"
    x = checked_input(op, input, weight=weight, bias=bias)
    if p not in (1, 2, math.inf):
        raise ArgumentError(wrong(op, "p", "1, 2 or math.inf", repr(p)))
    if p == 2 and not uncentred:
        return batch_norm_train(x, weight, bias, eps)
    if not x.array.size:
        return scaled(x, weight, bias), Statistics(x.device.empty((4, x.array.shape[1]), x.dtype), 0)
    count = x.array.size // x.array.shape[1]
    check_values(op, x, count, 2, MORE)
    rows, mean = centred(rows_of(x))
    moment = _moment(rows_of(x) if uncentred else rows, p)
    norm = ops.add(moment, eps)
    y = from_rows(ops.div(rows, ops.sqrt(norm) if p == 2 else norm), x)
    second = ops.reshape(moment.detach(), mean.array.shape)
    return scaled(y, weight, bias), rows_with(count, mean, ops.zeros_like(mean), second)


def _moment(rows: Tensor, p: float) -> Tensor:
    """mean |x|^p of each row, (C, 1); max |x| for infinity."""
    if p == 2:
        return ops.mean(ops.mul(rows, rows), 1, True)
    size = ops.abs(rows)
    return ops.mean(size, 1, True) if p == 1 else ops.max(size, 1, True)[0]


def noisy(x: Tensor, mean: float, std: float, mean_width: float, std_width: float) -> Tensor:
    """Return s · x + m, with noise whose distribution is itself drawn for each channel.

    μ ~ U(-mean, mean) and σ ~ U(1, std) for each channel of an (N, C, …); m ~ U(μ - mean_width, μ + mean_width) and
    s ~ N(σ, std_width²) for each element. All are constants to differentiation.

    References
    ----------
    Santurkar et al. 2018 (arXiv:1805.11604), appendix A.
    """
    like: dict[str, Any] = {"dtype": x.dtype, "device": x.device}
    channels = x.array.shape[1]
    mu = ops.mul(ops.sub(ops.rand(channels, **like), 0.5), 2 * mean)
    sigma = ops.add(ops.mul(ops.rand(channels, **like), std - 1), 1.0)
    m = ops.mul(ops.sub(ops.rand(x.array.shape, **like), 0.5), 2 * mean_width)
    s = ops.mul(ops.randn(x.array.shape, **like), std_width)
    m, s = (ops.add(element, per_channel(t, x.array.ndim)) for element, t in ((m, mu), (s, sigma)))
    return ops.add(ops.mul(x, s), m)
