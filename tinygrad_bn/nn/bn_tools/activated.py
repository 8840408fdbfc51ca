"""The family's members that normalise within a sample, called as a batch norm is: with a residual and an activation.

    y = act(norm(x) + residual)

What ``convert`` puts in the place of a ``BatchNorm(…, activation=…)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinygrad_bn import ops
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.nn.instance_norm import InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from tinygrad_bn.nn.normalisation import GroupNorm, LayerNorm, RMSNorm
from tinygrad_bn.ops._activations import activated
from tinygrad_bn.ops.batch_norm_residual import check_residual

if TYPE_CHECKING:
    from tinygrad_bn.nn.module import Module as _Base
else:
    _Base = object


def act(y: Tensor, residual: Tensor | None, activation: str) -> Tensor:
    """Return an activation of y and of the residual added to it."""
    if residual is not None:
        check_residual(y, residual)
        y = ops.add(y, residual)
    return activated(y, activation)


class _Activated(_Base):
    activation = "none"

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return an activation of the normalised input and of the residual added to it."""
        return act(super().forward(input), residual, self.activation)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation!r}"


class ActivatedGroupNorm(_Activated, GroupNorm):
    """``GroupNorm`` with a residual and an activation."""


class ActivatedLayerNorm(_Activated, LayerNorm):
    """``LayerNorm`` with a residual and an activation."""


class ActivatedRMSNorm(_Activated, RMSNorm):
    """``RMSNorm`` with a residual and an activation."""


class ActivatedInstanceNorm1d(_Activated, InstanceNorm1d):
    """``InstanceNorm1d`` with a residual and an activation."""


class ActivatedInstanceNorm2d(_Activated, InstanceNorm2d):
    """``InstanceNorm2d`` with a residual and an activation."""


class ActivatedInstanceNorm3d(_Activated, InstanceNorm3d):
    """``InstanceNorm3d`` with a residual and an activation."""


ACTIVATED: dict[type[Any], type[Any]] = {
    GroupNorm: ActivatedGroupNorm,
    LayerNorm: ActivatedLayerNorm,
    RMSNorm: ActivatedRMSNorm,
    InstanceNorm1d: ActivatedInstanceNorm1d,
    InstanceNorm2d: ActivatedInstanceNorm2d,
    InstanceNorm3d: ActivatedInstanceNorm3d,
}
