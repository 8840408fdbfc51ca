"""Adam, and Adam with decoupled weight decay."""

from __future__ import annotations

from typing import Any

from tinygrad_bn.core.table import dense
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.optim.fused import FusedOptimizer, nothing, state_array
from tinygrad_bn.optim.optimizer import Group, Parameters


class Adam(FusedOptimizer):
    """Adam: steps by the ratio of running means of the gradient and of the root of its square.

    Parameters
    ----------
    params : iterable of Tensor or of dict
    lr : float
    betas : tuple of two floats
        The weights of the old in the two running means, below 1.
    eps : float
        Added to the root.
    weight_decay : float
        Its multiple of the parameter is added to the gradient.
    amsgrad : bool
        Divide by the largest second moment so far.
    maximize : bool
        Climb instead of descending.
    decoupled_weight_decay : bool
        Shrink the parameter itself instead, as ``AdamW`` does.
    foreach, fused : bool, optional
        Accepted for PyTorch's sake; the update is always fused.

    Raises
    ------
    ArgumentError, DTypeError

    Notes
    -----
    m = β1 m + (1 - β1) g; v = β2 v + (1 - β2) g²; p -= lr / (1 - β1^t) · m / (√v / √(1 - β2^t) + eps) at step t. The
    state's ``step`` has the parameter's dtype.

    References
    ----------
    Kingma & Ba 2015 (arXiv:1412.6980); amsgrad: Reddi et al. 2018 (arXiv:1904.09237).
    """

    kernel = "adam"

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)

    def check_options(self, group: Group) -> None:
        self.check_least(group, "lr", "eps", "weight_decay")
        betas = group["betas"]
        if not (isinstance(betas, tuple | list) and len(betas) == 2 and all(0.0 <= b < 1.0 for b in betas)):
            raise ArgumentError(wrong(type(self).__name__, "betas", "two numbers from 0 to below 1", betas))

    def _columns(self, group: Group) -> tuple[str, ...]:
        return _LARGEST if group["amsgrad"] else _MOMENTS

    def _hyper(self, group: Group) -> tuple[Any, ...]:
        beta1, beta2 = group["betas"]
        return (
            float(group["lr"]),
            beta1,
            beta2,
            group["eps"],
            group["weight_decay"],
            group["decoupled_weight_decay"],
            group["amsgrad"],
            group["maximize"],
        )

    def _row(self, p: Tensor, state: dict[str, Any], names: tuple[str, ...]) -> tuple[Array, ...]:
        steps = state_array(p, state, "step", ())
        first = state_array(p, state, "exp_avg", p.array.shape)
        second = state_array(p, state, "exp_avg_sq", p.array.shape)
        largest = state_array(p, state, "max_exp_avg_sq", p.array.shape) if names is _LARGEST else nothing(p)
        array = dense(p)
        return array, array, first, second, largest, steps


_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_LARGEST = (*_MOMENTS, "max_exp_avg_sq")


class AdamW(Adam):
    """Adam with decoupled weight decay: p -= lr · weight_decay · p ahead of the step, whatever the gradient.

    Parameters
    ----------
    params, lr, betas, eps, amsgrad, maximize, foreach, fused
        As for ``Adam``.
    weight_decay : float

    Raises
    ------
    ArgumentError, DTypeError

    References
    ----------
    Loshchilov & Hutter 2019 (arXiv:1711.05101).
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, decoupled_weight_decay=True)
