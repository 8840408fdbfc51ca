"""Activations, dropout, flatten."""

from __future__ import annotations

from typing import Any

from tinygrad_bn import functional as F
from tinygrad_bn import ops
from tinygrad_bn.core.dtype import get_default_dtype
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.parameter import Parameter


class _InPlace(Module):
    """An activation without settings; with ``inplace`` in the input's memory."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


class ReLU(_InPlace):
    """y = max(x, 0)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return max(input, 0)."""
        return F.relu(input, self.inplace)


class ReLU6(_InPlace):
    """y = min(max(x, 0), 6)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return min(max(input, 0), 6)."""
        return F.relu6(input, self.inplace)


class SELU(_InPlace):
    """y = λ elu(x, α), which keeps mean 0 and variance 1; see ``functional.selu``."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the scaled ELU."""
        return F.selu(input, self.inplace)


class SiLU(_InPlace):
    """y = x / (1 + e^-x)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return input · sigmoid(input)."""
        return F.silu(input, self.inplace)


class Mish(_InPlace):
    """y = x tanh(ln(1 + e^x))."""

    def forward(self, input: Tensor) -> Tensor:
        """Return input · tanh(softplus(input))."""
        return F.mish(input, self.inplace)


class Hardsigmoid(_InPlace):
    """y = min(max(x + 3, 0), 6) / 6."""

    def forward(self, input: Tensor) -> Tensor:
        """Return relu6(input + 3) / 6."""
        return F.hardsigmoid(input, self.inplace)

    def extra_repr(self) -> str:
        return ""


class Hardswish(Hardsigmoid):
    """y = x min(max(x + 3, 0), 6) / 6."""

    def forward(self, input: Tensor) -> Tensor:
        """Return input · relu6(input + 3) / 6."""
        return F.hardswish(input, self.inplace)


class LeakyReLU(Module):
    """y = x above 0, negative_slope x below; with ``inplace`` in the input's memory."""

    def __init__(self, negative_slope: float = 1e-2, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Return the leaky ReLU."""
        return F.leaky_relu(input, self.negative_slope, self.inplace)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}" + (", inplace=True" if self.inplace else "")


class ELU(Module):
    """y = x above 0, alpha (e^x - 1) below; with ``inplace`` in the input's memory."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha = alpha
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Return the exponential linear unit."""
        return F.elu(input, self.alpha, self.inplace)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}" + (", inplace=True" if self.inplace else "")


class CELU(ELU):
    """y = x above 0, alpha (e^(x / alpha) - 1) below; with ``inplace`` in the input's memory."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the continuously differentiable ELU."""
        return F.celu(input, self.alpha, self.inplace)


class Hardtanh(Module):
    """y = min(max(x, min_val), max_val); with ``inplace`` in the input's memory.

    Raises
    ------
    ArgumentError
        If max_val is not above min_val.
    """

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        if not max_val > min_val:
            raise ArgumentError(wrong("Hardtanh", "max_val", f"above min_val = {min_val}", max_val))
        self.min_val = min_val
        self.max_val = max_val
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Return the limited input."""
        return F.hardtanh(input, self.min_val, self.max_val, self.inplace)

    def extra_repr(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}" + (", inplace=True" if self.inplace else "")


class GELU(Module):
    """y = x Φ(x); ``approximate`` "none" or "tanh", see ``functional.gelu``."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        """Return the Gaussian error linear unit."""
        return F.gelu(input, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class Softplus(Module):
    """y = ln(1 + e^(beta x)) / beta, x itself where beta x is above the threshold."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta = beta
        self.threshold = threshold

    def forward(self, input: Tensor) -> Tensor:
        """Return ln(1 + e^(beta · input)) / beta."""
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class PReLU(Module):
    """y = x above 0, weight x below, the weight learnt: one for all, or one a channel.

    Parameters
    ----------
    num_parameters : int
        1, or the number of channels, axis 1.
    init : float
        The weights' initial value.
    device, dtype : optional

    References
    ----------
    He et al. 2015 (arXiv:1502.01852).
    """

    weight: Parameter

    def __init__(self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.init = init
        self.weight = Parameter(ops.full((num_parameters,), init, dtype=dtype or get_default_dtype(), device=device))

    def forward(self, input: Tensor) -> Tensor:
        """Return the parametric ReLU."""
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class Sigmoid(Module):
    """y = 1 / (1 + e^-x)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return 1 / (1 + e^-input)."""
        return ops.sigmoid(input)


class Tanh(Module):
    """y = tanh x."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the hyperbolic tangent."""
        return ops.tanh(input)


class LogSigmoid(Module):
    """y = -ln(1 + e^-x)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return ln sigmoid(input)."""
        return ops.logsigmoid(input)


class Softsign(Module):
    """y = x / (1 + |x|)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return input / (1 + |input|)."""
        return F.softsign(input)


class Tanhshrink(Module):
    """y = x - tanh x."""

    def forward(self, input: Tensor) -> Tensor:
        """Return input - tanh(input)."""
        return F.tanhshrink(input)


class Softmax(Module):
    """y = e^x / Σ e^x along ``dim``, which must be given by the first call."""

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """Return the softmax along ``dim``."""
        return F.softmax(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Module):
    """y = x - logsumexp(x) along ``dim``, which must be given by the first call."""

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """Return the logarithm of the softmax along ``dim``."""
        return F.log_softmax(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Flatten(Module):
    """The axes from ``start_dim`` to ``end_dim`` taken as one: by default all but the batch's."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: Tensor) -> Tensor:
        """Return the flattened input."""
        return ops.flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Dropout(Module):
    """In training, each element is 0 with probability p and else divided by 1 - p.

    References
    ----------
    Srivastava et al. 2014 (JMLR 15, 1929), in the inverted form.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ArgumentError(wrong("Dropout", "p", "from 0 to 1", p))
        self.p = p
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Return the input with elements dropped in training, the input itself in evaluation."""
        return F.dropout(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"
