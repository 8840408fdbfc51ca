"""Filter response normalisation and the activation that goes with it: no batch, no mean.

    y = x / √(mean(x²) + eps) · weight + bias,  z = max(y, τ)

Singh & Krishnan 2019 (arXiv:1911.09737).
"""

from __future__ import annotations

from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ShapeError, expected
from tinygrad_bn.functional.responses import filter_response_norm, thresholded_linear_unit
from tinygrad_bn.nn import init
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.normalisation import Affine, check_count, checked_eps
from tinygrad_bn.nn.parameter import Parameter, make
from tinygrad_bn.ops._common import is_tensor


class FilterResponseNorm(Affine):
    """Filter response normalisation of inputs (N, C, L, …): each channel of each sample by its mean square.

    Parameters
    ----------
    num_features : int
        C, the number of channels.
    eps : float
        Inside the square root.
    affine : bool
        Whether there are a weight and a bias.
    learnable_eps : bool
        Add |ε_l| to ``eps``, with ε_l learned, which the paper does where a channel of a sample has a single value:
        that would become its sign otherwise.
    device : Device or str, optional
    dtype : DType, optional

    Attributes
    ----------
    weight, bias : Parameter, shape (C,), or None
        Start at 1 and 0.
    eps_l : Parameter, shape (1,), or None
        Starts at 1e-4.

    Notes
    -----
    Follow it by a ``TLU``: without a mean that is subtracted, zero is no good threshold.

    References
    ----------
    Singh & Krishnan 2019 (arXiv:1911.09737).
    """

    eps_l: Parameter | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-6,
        affine: bool = True,
        learnable_eps: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_count("FilterResponseNorm", "num_features", num_features, 0)
        self.num_features = num_features
        self.eps = checked_eps("FilterResponseNorm", eps)
        self.affine = affine
        self._register((num_features,), affine, affine, device, dtype)
        self.register_parameter("eps_l", make((1,), dtype, device) if learnable_eps else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Put the weight back to 1, the bias to 0 and ε_l to 1e-4."""
        super().reset_parameters()
        if self.eps_l is not None:
            init.constant_(self.eps_l, 1e-4)

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input, of its shape."""
        _check_channels("FilterResponseNorm", input, self.num_features, 3)
        eps = self.eps if self.eps_l is None else ops.add(ops.abs(self.eps_l), self.eps)
        return filter_response_norm(input, self.weight, self.bias, eps)

    def extra_repr(self) -> str:
        head = f"{self.num_features}, eps={self.eps}, affine={self.affine}"
        return head + (", learnable_eps=True" if self.eps_l is not None else "")


class TLU(Module):
    """The thresholded linear unit max(x, τ), with a τ for each channel of inputs (N, C, …).

    Parameters
    ----------
    num_features : int
        C, the number of channels.
    device : Device or str, optional
    dtype : DType, optional

    Attributes
    ----------
    tau : Parameter, shape (C,)
        Starts at 0, as a ReLU.

    References
    ----------
    Singh & Krishnan 2019 (arXiv:1911.09737).
    """

    tau: Parameter

    def __init__(self, num_features: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        check_count("TLU", "num_features", num_features, 0)
        self.num_features = num_features
        self.tau = make((num_features,), dtype, device, "zeros")

    def reset_parameters(self) -> None:
        """Put τ back to 0."""
        init.zeros_(self.tau)

    def forward(self, input: Tensor) -> Tensor:
        """Return the larger of the input and τ."""
        _check_channels("TLU", input, self.num_features, 2)
        return thresholded_linear_unit(input, self.tau)

    def extra_repr(self) -> str:
        return str(self.num_features)


def _check_channels(op: str, input: Tensor, channels: int, least: int) -> None:
    shape = is_tensor(op, "input", input).array.shape
    if len(shape) < least or shape[1] != channels:
        form = "(N, C, …)" if least == 2 else "(N, C, L, …)"
        raise ShapeError(expected(op, "input", f"shape {form} with C = {channels}", shape))
