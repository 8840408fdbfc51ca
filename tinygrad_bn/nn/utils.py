"""Operations on the gradients of many parameters; calls with other parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.core.dtype import float32, float64
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.table import Table, dense, write_back
from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, GradientError, wrong
from tinygrad_bn.nn.bn_tools import convert, fold_bn, freeze_bn, momentum_from_keras, unfreeze_bn, update_bn
from tinygrad_bn.nn.stateless import functional_call
from tinygrad_bn.ops.inplace import copy_

__all__ = [
    "clip_grad_norm_",
    "convert",
    "fold_bn",
    "freeze_bn",
    "functional_call",
    "momentum_from_keras",
    "unfreeze_bn",
    "update_bn",
]

PIECE = 1 << 18  # elements that one block of a GPU adds up the squares of


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """Scale all gradients, in place, so that their norm, taken together as one vector, is at most ``max_norm``.

    Parameters
    ----------
    parameters : Tensor or iterable of Tensor
        Those without a gradient are passed over.
    max_norm : float
        At least 0.
    norm_type : float
        The order of the norm: 2, any other above 0, or infinity.
    error_if_nonfinite : bool
        Raise if the norm is not finite, before anything is scaled.

    Returns
    -------
    Tensor, shape ()
        The norm before scaling, of the gradients' dtype.

    Raises
    ------
    GradientError
        If the norm is not finite and ``error_if_nonfinite`` is set.
    ArgumentError, DTypeError

    Notes
    -----
    Every gradient is multiplied by min(1, max_norm / (norm + 1e-6)); squares are summed in float64. Pascanu, Mikolov &
    Bengio 2013 (arXiv:1211.5063).
    """
    op = "clip_grad_norm_"
    given = _gradients(op, parameters)
    gradients = _widened(given)
    if not float(max_norm) >= 0:
        raise ArgumentError(wrong(op, "max_norm", "at least 0", max_norm))
    if not float(norm_type) > 0:
        raise ArgumentError(wrong(op, "norm_type", "above 0", norm_type))
    if not gradients:
        return ops.zeros(())
    with no_grad():
        groups = _by_kind(gradients)
        tables = [Table([(dense(g),) for g in group], group[0].dtype, group[0].device) for group in groups]
        norm = _norm(gradients, tables, float(norm_type))
        if error_if_nonfinite and not ops.lt(norm, float("inf")).item():
            raise GradientError(wrong(op, "parameters", "such that the norm of the gradients is finite", norm.item()))
        factor = ops.clamp(ops.div(float(max_norm), ops.add(norm, 1e-6)), max=1.0)
        for group, table in zip(groups, tables, strict=True):
            _scale(group, table, ops.to(factor, device=table.device))
        for gradient, wide in zip(given, gradients, strict=True):
            if wide is not gradient:
                copy_(gradient, wide)
    return ops.to(norm, given[0].dtype)


def _gradients(op: str, parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    for p in given:
        if not isinstance(p, Tensor):
            raise DTypeError(wrong(op, "parameters", "Tensors", type(p).__name__))
    return [p._grad.alias() for p in given if p._grad is not None]


def _widened(gradients: list[Tensor]) -> list[Tensor]:
    """Gradients in float32 where they are of low precision."""
    return [ops.to(g, float32) if g.dtype.low else g for g in gradients]


def _by_kind(gradients: list[Tensor]) -> list[list[Tensor]]:
    """The gradients in groups of one dtype and device."""
    groups: dict[Any, list[Tensor]] = {}
    for g in gradients:
        groups.setdefault((g.dtype.name, g.device.type), []).append(g)
    return list(groups.values())


def _norm(gradients: list[Tensor], tables: list[Table], order: float) -> Tensor:
    """The norm of all gradients as one vector, float64 of shape ()."""
    home = gradients[0].device
    if order == 2.0:
        return ops.sqrt(ops.sum(ops.cat([ops.to(_square_sums(table), device=home) for table in tables])))
    wide = [ops.to(ops.abs(g), dtype=float64, device=home) for g in gradients if g.array.size]
    if not wide:
        return ops.zeros((), dtype=float64, device=home)
    if order == float("inf"):
        largest: Tensor = ops.max(ops.stack([ops.max(g) for g in wide]))
        return largest
    return ops.pow(ops.sum(ops.stack([ops.sum(ops.pow(g, order)) for g in wide])), 1.0 / order)


def _square_sums(table: Table) -> Tensor:
    if table.device.type == "cuda" and any(a.size > PIECE for a in table.arrays[0]):
        table = _pieces(table)
    out = Tensor(table.device.empty((len(table.data),), float64), float64, table.device)
    launch(table.device.kernels.square_sums, table.data, table.like, out.array)
    return out


def _pieces(table: Table) -> Table:
    """The same elements in shorter arrays, of which a GPU adds up many at once: a block each."""
    cuts = [(a.reshape(-1), i) for a in table.arrays[0] for i in range(0, a.size, PIECE)]
    return Table([(a[i : i + PIECE],) for a, i in cuts], table.dtype, table.device)


def _scale(group: list[Tensor], table: Table, factor: Tensor) -> None:
    launch(table.device.kernels.scale, table.data, table.like, factor.array.reshape(1))
    arrays: list[Array] = table.arrays[0]
    for gradient, array in zip(group, arrays, strict=True):
        write_back(gradient, array)
        gradient.bump()
