"""Whitening of channels by groups: what batch normalisation does to variances, done to covariances.

    Σ = mean((x - μ)(x - μ)ᵀ) + eps I,   y = W (x - μ) · weight + bias
    ZCA        W = Σ^(-1/2), by eigenvalues
    IterNorm   P_0 = I,  P_k = (3 P_(k-1) - P_(k-1)³ Σ / tr Σ) / 2,  W = P_T / √tr Σ    (how: functional/symmetric.py)

Huang et al. 2018 (arXiv:1804.08450) and 2019 (arXiv:1904.03441).
"""

from __future__ import annotations

from collections.abc import Callable

from tinygrad_bn import ops
from tinygrad_bn.core.mixed import mixed
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, expected, wrong
from tinygrad_bn.functional._channelwise import centred, check_values, checked_input, from_rows, rows_of, scaled
from tinygrad_bn.functional.symmetric import inverse_root, newton_root


@mixed("first")
def decorrelated_batch_norm(
    input: Tensor, group_size: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    """Whiten groups of channels by ZCA: y = Σ^(-1/2) (x - μ) · weight + bias, with the batch's statistics.

    Parameters
    ----------
    input : Tensor, shape (N, C, …), float32 or float64
    group_size : int
        D, a divisor of C: how many consecutive channels are made uncorrelated; 1 for batch normalisation.
    weight, bias : Tensor, shape (C,), optional
    eps : float
        Added to the variances.

    Returns
    -------
    y : Tensor, shape (N, C, …)
    mean : Tensor, shape (C,)
        Off the tape, as is the projection.
    projection : Tensor, shape (C / D, D, D)
        Σ^(-1/2).

    Raises
    ------
    ShapeError, DTypeError, DeviceError
    ArgumentError
        If the groups do not make up the channels, or if a channel has no more than D values.

    Notes
    -----
    Eigenvalues are found in float64, on the host: for tensors on a GPU, covariances are copied there and roots back.
    One below D ulp of the largest counts as that. Derivatives of any order exist where eigenvalues are equal, too.

    References
    ----------
    Huang, Yang, Lang & Deng 2018 (arXiv:1804.08450), Algorithm 1.
    """
    return _whitened("decorrelated_batch_norm", input, group_size, weight, bias, eps, inverse_root, True)


@mixed("first")
def iter_norm(
    input: Tensor,
    group_size: int,
    iterations: int = 5,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Whiten groups of channels as ``decorrelated_batch_norm`` does, by Newton's iterations instead of eigenvalues.

    Parameters
    ----------
    input, group_size, weight, bias, eps
        As there.
    iterations : int
        T, the paper's is 5. A direction of eigenvalue λ is white after about ln(tr Σ / λ) / 0.8 of them; until then it
        grows by a factor of 1.5 in each, so that few keep the batch's noise in small ones small.

    Returns
    -------
    y, mean, projection
        As there.

    Raises
    ------
    ShapeError, DTypeError, DeviceError
    ArgumentError
        If the groups do not make up the channels, or if a channel has one value. Fewer values than channels of a group
        are no error as in ``decorrelated_batch_norm``: directions without values are not inverted.

    Notes
    -----
    Any number of iterations is stable, in either dtype: more than are needed change nothing.

    References
    ----------
    Huang, Zhou, Zhu, Liu & Shao 2019 (arXiv:1904.03441), Algorithm 1.
    """
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
        raise ArgumentError(wrong("iter_norm", "iterations", "an int of at least 1", repr(iterations)))
    return _whitened("iter_norm", input, group_size, weight, bias, eps, lambda cov: newton_root(cov, iterations), False)


def check_groups(op: str, name: str, channels: int, size: object) -> None:
    """Raise unless a group's size divides the number of channels."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ArgumentError(wrong(op, "group_size", "an int of at least 1", repr(size)))
    if channels % size:
        raise ArgumentError(
            expected(op, name, f"a number of channels that is a multiple of group_size = {size}", channels)
        )


def _whitened(
    op: str,
    input: Tensor,
    size: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    root: Callable[[Tensor], Tensor],
    full_rank: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Whiten by a root of Σ⁻¹, which may need more values than a group has channels."""
    x = checked_input(op, input, weight=weight, bias=bias)
    channels = x.array.shape[1]
    check_groups(op, "input", channels, size)
    if not x.array.size:
        mean = ops.zeros(channels, dtype=x.dtype, device=x.device)
        projection = ops.zeros((channels // size, size, size), dtype=x.dtype, device=x.device)
        return scaled(x, weight, bias), mean, projection
    count = x.array.size // channels
    least = size + 1 if full_rank else 2
    check_values(op, x, count, least, "use larger batches or smaller groups, or eval mode")
    rows, means = centred(rows_of(x))
    groups = ops.reshape(rows, (channels // size, size, count))
    one = ops.eye(size, dtype=x.dtype, device=x.device)
    cov = ops.add(ops.div(ops.matmul(groups, ops.transpose(groups, 1, 2)), count), ops.mul(one, eps))
    w = root(cov)
    y = from_rows(ops.reshape(ops.matmul(w, groups), (channels, count)), x)
    return scaled(y, weight, bias), means, w.detach()


def projected(x: Tensor, mean: Tensor, projection: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return W (x - μ) · weight + bias by groups of channels, with given statistics, which are constants."""
    if not x.array.size:
        return scaled(x, weight, bias)
    rows = rows_of(x)
    left = ops.sub(rows, ops.reshape(mean.detach(), (-1, 1)))
    groups, size, _ = projection.array.shape
    w = ops.clone(projection.detach())
    y = ops.matmul(w, ops.reshape(left, (groups, size, rows.array.shape[1])))
    return scaled(from_rows(ops.reshape(y, rows.array.shape), x), weight, bias)
