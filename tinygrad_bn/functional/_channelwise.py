"""What the members of batch normalisation's family have in common: channels as rows, their centre, scale and shift."""

from __future__ import annotations

from tinygrad_bn import ops
from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, ShapeError, expected
from tinygrad_bn.ops._channels import check_channels
from tinygrad_bn.ops._common import is_floating
from tinygrad_bn.ops.batch_norm import Statistics


def checked_input(op: str, input: object, least: int = 2, **given: Tensor | None) -> Tensor:
    """Return the input after it, and tensors of shape (C,) by their names, have been found to fit.

    Raises
    ------
    ShapeError, DTypeError, DeviceError
    """
    x = is_floating(op, "input", input)
    if x.array.ndim < least:
        form = "(N, C, …)" if least == 2 else "(N, C, L, …)"
        raise ShapeError(expected(op, "input", f"at least {least} axes, {form}", f"shape {x.array.shape}"))
    for name, t in given.items():
        if t is not None:
            check_channels(op, x, name, t)
    return x


def check_values(op: str, x: Tensor, count: int, least: int, hint: str, where: str = "") -> None:
    """Raise if a channel has fewer than ``least`` values, but for an empty batch."""
    if 0 < count < least:
        want = f"at least {least} values a channel{where} in training"
        raise ArgumentError(expected(op, "input", want, f"shape {x.array.shape}", hint))


def per_channel(t: Tensor, ndim: int) -> Tensor:
    """Return numbers of shape (C,) in the shape in which they broadcast over (N, C, …)."""
    return ops.reshape(t, (1, t.array.shape[0]) + (1,) * (ndim - 2))


def scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return x · weight + bias, each a number a channel or left out."""
    if weight is not None:
        x = ops.mul(x, per_channel(weight, x.array.ndim))
    return x if bias is None else ops.add(x, per_channel(bias, x.array.ndim))


def rows_of(x: Tensor) -> Tensor:
    """Return (N, C, …) as (C, M), all values of a channel in a row."""
    shape = x.array.shape
    return ops.reshape(ops.transpose(x, 0, 1), (shape[1], x.array.size // shape[1]))


def from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """Return (C, M) as (N, C, …): what ``rows_of`` did, undone."""
    shape = like.array.shape
    return ops.transpose(ops.reshape(rows, (shape[1], shape[0], *shape[2:])), 0, 1)


def centred(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows (C, M) less their means, and the means (C,), off the tape.

    The first value of a row is subtracted ahead: a large mean costs no accuracy, as what is left of it is at most √M
    deviations, and a constant row becomes exactly 0. That needs no gradient of its own, as centring undoes shifts.
    """
    first = ops.narrow(rows, 1, 0, 1).detach()
    moved = ops.sub(rows, first)
    mean = ops.mean(moved, 1, True)
    return ops.sub(moved, mean), ops.reshape(ops.add(first, mean.detach()), (-1,))


def rows_with(count: int, mean: Tensor, left: Tensor, second: Tensor) -> Statistics:
    """Return what ``functional.normalisation.commit`` takes of these: the mean, what rounding left of it, another."""
    with no_grad():
        return Statistics(ops.stack([mean, left, second, second]).array, count)
