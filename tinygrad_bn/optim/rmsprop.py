"""RMSprop, with momentum and centred."""

from __future__ import annotations

from typing import Any

from tinygrad_bn.core.table import dense
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.optim.fused import FusedOptimizer, nothing, state_array
from tinygrad_bn.optim.optimizer import Group, Parameters


class RMSprop(FusedOptimizer):
    """RMSprop: steps by the ratio of the gradient and of the root of the running mean of its square.

    Parameters
    ----------
    params : iterable of Tensor or of dict
    lr : float
    alpha : float
        The weight of the old in the running means.
    eps : float
        Added to the root.
    weight_decay : float
        Its multiple of the parameter is added to the gradient.
    momentum : float
    centered : bool
        Divide by the root of the running variance instead, the square less the square of the running mean.
    capturable, foreach : bool, optional
        Accepted for PyTorch's sake; the update is always fused.
    maximize : bool
        Climb instead of descending.

    Raises
    ------
    ArgumentError, DTypeError

    Notes
    -----
    g += weight_decay p; v = alpha v + (1 - alpha) g²; d = g / (√v + eps), of v - m² with m = alpha m + (1 - alpha) g if
    centred; b = momentum b + d; p -= lr b. Where rounding makes v - m² negative, it counts as 0: PyTorch returns NaN.
    The state's ``step`` has the parameter's dtype.

    References
    ----------
    Tieleman & Hinton 2012 (Coursera, lecture 6.5); centred: Graves 2013 (arXiv:1308.0850).
    """

    kernel = "rmsprop"

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check_options(self, group: Group) -> None:
        self.check_least(group, "lr", "eps", "momentum", "weight_decay", "alpha")

    def _columns(self, group: Group) -> tuple[str, ...]:
        buffer = ("momentum_buffer",) if group["momentum"] > 0 else ()
        return ("step", "square_avg", *buffer, *(("grad_avg",) if group["centered"] else ()))

    def _hyper(self, group: Group) -> tuple[Any, ...]:
        return (
            float(group["lr"]),
            group["alpha"],
            group["eps"],
            group["weight_decay"],
            group["momentum"],
            group["centered"],
            group["maximize"],
        )

    def _row(self, p: Tensor, state: dict[str, Any], names: tuple[str, ...]) -> tuple[Array, ...]:
        shape = p.array.shape
        steps = state_array(p, state, "step", ())
        square = state_array(p, state, "square_avg", shape)
        buffer, mean = (
            state_array(p, state, name, shape) if name in names else nothing(p)
            for name in ("momentum_buffer", "grad_avg")
        )
        array = dense(p)
        return array, array, square, buffer, mean, steps
