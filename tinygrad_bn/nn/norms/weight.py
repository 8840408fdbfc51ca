"""Weight standardisation: filters of mean 0 and variance 1, for normalisations of small batches.

    ŵ = (w - mean(w)) / √(var(w) + eps), by filter

Qiao, Wang, Liu, Shen & Yuille 2019 (arXiv:1903.10520).
"""

from __future__ import annotations

from tinygrad_bn import ops
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.functional.responses import weight_standardization as standardised
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.normalisation import checked_eps
from tinygrad_bn.nn.parametrize import register_parametrization


class _WeightStandardization(Module):
    """The weight, standardised by filter."""

    def __init__(self, eps: float, dim: int) -> None:
        super().__init__()
        self.eps = eps
        self.dim = dim

    def forward(self, weight: Tensor) -> Tensor:
        """Return the standardised weight."""
        return standardised(weight, self.eps, self.dim)

    def right_inverse(self, value: Tensor) -> Tensor:
        """Return the value: of many originals one."""
        return value


def weight_standardization(module: Module, name: str = "weight", eps: float = 1e-5, dim: int | None = None) -> Module:
    """Compute a layer's weight by standardising another, of which it is a filter at a time; return the layer.

    Parameters
    ----------
    module : Module
    name : str
        Of the parameter; ``parametrizations.<name>.original`` is what is trained then.
    eps : float
        Added to the biased variance, inside the square root.
    dim : int, optional
        The axis of the outputs; by default 0, and 1 for transposed convolutions.

    Raises
    ------
    ArgumentError
        If there is no such parameter, or a filter has one value.

    References
    ----------
    Qiao, Wang, Liu, Shen & Yuille 2019 (arXiv:1903.10520).
    """
    op = "weight_standardization"
    weight = getattr(module, name, None) if isinstance(module, Module) else None
    if not isinstance(weight, Tensor):
        raise ArgumentError(wrong(op, "name", "the name of a parameter", repr(name)))
    if dim is None:
        dim = 1 if any(kind.__name__.startswith("ConvTranspose") for kind in type(module).__mro__) else 0
    made = _WeightStandardization(checked_eps(op, eps), ops.check_axis(op, dim, weight.ndim))
    return register_parametrization(module, name, made)
