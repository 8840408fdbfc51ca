"""Differentiation by hand, with PyTorch's names: operations of one's own, gradients as values, modes of recording."""

from __future__ import annotations

from collections.abc import Sequence

from tinygrad_bn.autograd import function, functional
from tinygrad_bn.autograd.anomaly import (
    detect_anomaly,
    is_anomaly_check_nan_enabled,
    is_anomaly_enabled,
    set_detect_anomaly,
)
from tinygrad_bn.autograd.function import Function
from tinygrad_bn.autograd.functional import hvp, jvp, vjp
from tinygrad_bn.autograd.transforms import value_and_grad
from tinygrad_bn.core import backward as engine
from tinygrad_bn.core.backward import grad
from tinygrad_bn.core.tape import enable_grad, no_grad, set_grad_enabled
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import GradientError, expected

__all__ = [
    "Function",
    "backward",
    "detect_anomaly",
    "enable_grad",
    "function",
    "functional",
    "grad",
    "hvp",
    "is_anomaly_check_nan_enabled",
    "is_anomaly_enabled",
    "jvp",
    "no_grad",
    "set_detect_anomaly",
    "set_grad_enabled",
    "value_and_grad",
    "vjp",
]


def backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> None:
    """Accumulate the gradients of tensors into the ``grad`` of the leaves they were computed from.

    Parameters
    ----------
    tensors : Tensor or sequence of Tensor
    grad_tensors : Tensor or sequence, optional
        The gradients to start from, of the tensors' shapes; ones for scalars.
    retain_graph : bool, optional
        Keep the saved tensors for another pass; default: ``create_graph``.
    create_graph : bool
        Record the pass itself.

    Raises
    ------
    GradientError, GraphFreedError, SavedTensorError, ShapeError
    """
    outs = (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)
    if grad_tensors is None:
        starts: tuple[Tensor | None, ...] = (None,) * len(outs)
    else:
        starts = (grad_tensors,) if isinstance(grad_tensors, Tensor) else tuple(grad_tensors)
    if len(starts) != len(outs):
        raise GradientError(expected("backward", "grad_tensors", f"one entry a tensor, {len(outs)}", len(starts)))
    engine.backward(outs, starts, retain_graph, create_graph)
