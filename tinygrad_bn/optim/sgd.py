"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.core.table import dense
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.errors import ArgumentError
from tinygrad_bn.optim.fused import FusedOptimizer, nothing, state_array
from tinygrad_bn.optim.optimizer import Group, Parameters


class SGD(FusedOptimizer):
    """Stochastic gradient descent.

    Parameters
    ----------
    params : iterable of Tensor or of dict
    lr : float
    momentum : float
    dampening : float
    weight_decay : float
        Its multiple of the parameter is added to the gradient.
    nesterov : bool
        Look one step of momentum ahead; wants momentum, and no dampening.
    maximize : bool
        Climb instead of descending.
    foreach, fused : bool, optional
        Accepted for PyTorch's sake; the update is always fused.

    Raises
    ------
    ArgumentError, DTypeError

    Notes
    -----
    g += weight_decay p; b = g at the first step, momentum b + (1 - dampening) g later;
    p -= lr (g + momentum b if nesterov else b).

    References
    ----------
    Sutskever et al. 2013 (ICML, 1139), in PyTorch's form.
    """

    kernel = "sgd"

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check_options(self, group: Group) -> None:
        self.check_least(group, "lr", "momentum", "weight_decay")
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            got = f"momentum {group['momentum']} and dampening {group['dampening']}"
            raise ArgumentError(f"SGD: 'nesterov' wants momentum above 0 and no dampening. Got {got}.")

    def _columns(self, group: Group) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] != 0 else ()

    def _hyper(self, group: Group) -> tuple[Any, ...]:
        return (
            float(group["lr"]),
            group["momentum"],
            group["dampening"],
            group["weight_decay"],
            group["nesterov"],
            group["maximize"],
        )

    def _row(self, p: Tensor, state: dict[str, Any], names: tuple[str, ...]) -> tuple[Array, ...]:
        begun = p.device.array(np.full(1, state.get("momentum_buffer") is not None, p.dtype.storage))
        buffer = state_array(p, state, "momentum_buffer", p.array.shape) if names else nothing(p)
        array = dense(p)
        return array, array, buffer, begun
