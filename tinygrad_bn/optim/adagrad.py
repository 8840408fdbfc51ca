"""Adagrad."""

from __future__ import annotations

from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.core.table import dense
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.optim.fused import FusedOptimizer, state_array
from tinygrad_bn.optim.optimizer import Group, Parameters


class Adagrad(FusedOptimizer):
    """Adagrad: steps by the ratio of the gradient and of the root of the sum of all its squares so far.

    Parameters
    ----------
    params : iterable of Tensor or of dict
    lr : float
    lr_decay : float
        The rate of step t is lr / (1 + (t - 1) lr_decay).
    weight_decay : float
        Its multiple of the parameter is added to the gradient.
    initial_accumulator_value : float
        What the sums of squares start from.
    eps : float
        Added to the root.
    maximize : bool
        Climb instead of descending.
    foreach, fused : bool, optional
        Accepted for PyTorch's sake; the update is always fused.

    Raises
    ------
    ArgumentError, DTypeError

    Notes
    -----
    g += weight_decay p; s += g²; p -= lr / (1 + (t - 1) lr_decay) · g / (√s + eps) at step t. The state is made at
    construction, as PyTorch's; its ``step`` has the parameter's dtype.

    References
    ----------
    Duchi, Hazan & Singer 2011 (JMLR 12, 2121).
    """

    kernel = "adagrad"

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters with options of its own, and make their state."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for p in group["params"]:
            self._begin(p, group["initial_accumulator_value"])

    def check_options(self, group: Group) -> None:
        self.check_least(group, "lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps")

    def _begin(self, p: Tensor, value: float) -> None:
        state = self.state[p]
        state_array(p, state, "step", ())
        state["sum"] = ops.full(p.array.shape, value, dtype=p.dtype, device=p.device)

    def _columns(self, group: Group) -> tuple[str, ...]:
        return _SUM

    def _hyper(self, group: Group) -> tuple[Any, ...]:
        return float(group["lr"]), group["lr_decay"], group["eps"], group["weight_decay"], group["maximize"]

    def _row(self, p: Tensor, state: dict[str, Any], names: tuple[str, ...]) -> tuple[Array, ...]:
        if state.get("sum") is None:
            group = next(g for g in self.param_groups if any(q is p for q in g["params"]))
            self._begin(p, group["initial_accumulator_value"])
        steps = state_array(p, state, "step", ())
        array = dense(p)
        return array, array, state_array(p, state, "sum", p.array.shape), steps


_SUM = ("step", "sum")
