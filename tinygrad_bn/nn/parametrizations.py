"""Parametrisations of the literature: weight normalisation, spectral normalisation."""

from __future__ import annotations

from tinygrad_bn import ops
from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.norms.weight import weight_standardization
from tinygrad_bn.nn.parametrize import register_parametrization
from tinygrad_bn.ops import inplace

__all__ = ["spectral_norm", "weight_norm", "weight_standardization"]


def _norm_except(v: Tensor, dim: int | None) -> Tensor:
    """The 2-norm over all axes but one, kept at extent 1; over all for None."""
    over = tuple(i for i in range(v.ndim) if dim is None or i != dim % v.ndim)
    return ops.sqrt(ops.sum(ops.mul(v, v), over, dim is not None)) if over else ops.abs(v)


class _WeightNorm(Module):
    """weight = g v / ‖v‖."""

    def __init__(self, dim: int | None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        """Return the weight of length g and direction v."""
        return ops.mul(v, ops.div(g, _norm_except(v, self.dim)))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return length and direction."""
        return _norm_except(weight, self.dim), weight


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Learn a weight's length and direction apart: weight = g v / ‖v‖; return the module.

    Parameters
    ----------
    module : Module
    name : str
        Of the parameter.
    dim : int or None
        The axis along which each slice has a length of its own; None: one for all.

    Notes
    -----
    ``module.parametrizations.weight.original0`` is g, ``original1`` v.

    References
    ----------
    Salimans & Kingma 2016 (arXiv:1602.07868).
    """
    return register_parametrization(module, name, _WeightNorm(None if dim == -1 else dim), unsafe=True)


class _SpectralNorm(Module):
    """weight / σ, σ = uᵀ W v the largest singular value by power iteration."""

    def __init__(self, weight: Tensor, n_power_iterations: int, dim: int, eps: float) -> None:
        super().__init__()
        if n_power_iterations < 1:
            raise ArgumentError(wrong("spectral_norm", "n_power_iterations", "at least 1", n_power_iterations))
        self.dim = ops.check_axis("spectral_norm", dim, weight.ndim)
        self.eps = eps
        self.n_power_iterations = n_power_iterations
        if weight.ndim > 1:
            with no_grad():
                matrix = self._matrix(weight)
                for name, n in zip(("_u", "_v"), matrix.shape, strict=True):
                    drawn = ops.randn(n, dtype=weight.dtype, device=weight.device)
                    self.register_buffer(name, self._unit(drawn))
                self._iterate(matrix, 15)

    def _matrix(self, weight: Tensor) -> Tensor:
        """The weight as a matrix whose rows are the slices of ``dim``."""
        order = (self.dim, *[i for i in range(weight.ndim) if i != self.dim])
        return ops.flatten(ops.permute(weight, order), 1)

    def _unit(self, x: Tensor) -> Tensor:
        return ops.div(x, ops.clamp(ops.sqrt(ops.sum(ops.mul(x, x))), min=self.eps))

    def _iterate(self, matrix: Tensor, times: int) -> None:
        """Move u and v towards the singular vectors of the largest singular value, in place."""
        for _ in range(times):
            inplace.copy_(self._u, self._unit(ops.matmul(matrix, self._v)))
            inplace.copy_(self._v, self._unit(ops.matmul(self._u, matrix)))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight divided by its largest singular value."""
        if weight.ndim == 1:
            return self._unit(weight)
        matrix = self._matrix(weight)
        if self.training:
            with no_grad():
                self._iterate(matrix.detach(), self.n_power_iterations)
        u, v = ops.clone(self._u), ops.clone(self._v)
        return ops.div(weight, ops.sum(ops.mul(u, ops.matmul(matrix, v))))

    def right_inverse(self, value: Tensor) -> Tensor:
        """Return the value: of many originals one."""
        return value


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Module:
    """Divide a weight by its largest singular value, so that the layer's Lipschitz constant is 1; return the module.

    Parameters
    ----------
    module : Module
    name : str
        Of the parameter.
    n_power_iterations : int
        Steps of the power iteration at each forward in training; 15 are made at once.
    eps : float
        The least norm that is divided by.
    dim : int, optional
        The axis of the outputs; by default 0, and 1 for transposed convolutions.

    Notes
    -----
    The gradient takes u and v as constants, as the paper does.

    References
    ----------
    Miyato et al. 2018 (arXiv:1802.05957).
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ArgumentError(wrong("spectral_norm", "name", "the name of a parameter", repr(name)))
    if dim is None:
        dim = 1 if any(kind.__name__.startswith("ConvTranspose") for kind in type(module).__mro__) else 0
    return register_parametrization(module, name, _SpectralNorm(weight, n_power_iterations, dim, eps))
