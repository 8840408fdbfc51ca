"""Instance normalisation layers.

    y = (x - mean) / √(var + eps) · weight + bias

with the mean and biased variance of each channel of each sample. Ulyanov, Vedaldi & Lempitsky 2016 (arXiv:1607.08022).
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

from tinygrad_bn import ops
from tinygrad_bn.core.dtype import int64
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ShapeError, expected
from tinygrad_bn.functional.normalisation import checked_momentum
from tinygrad_bn.functional.norms import instance_norm
from tinygrad_bn.nn import init
from tinygrad_bn.nn.normalisation import Affine, check_count, checked_eps
from tinygrad_bn.ops._common import is_tensor


class _InstanceNorm(Affine):
    """The layers' common part: see ``InstanceNorm1d``."""

    axes: ClassVar[int] = 0
    shapes: ClassVar[str] = ""
    _version = 2
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        check_count(self._name, "num_features", num_features, 0)
        self.num_features = num_features
        self.eps = checked_eps(self._name, eps)
        self.momentum = None if momentum is None else checked_momentum(momentum, self._name)
        self.affine = affine
        self.track_running_stats = track_running_stats
        self._register((num_features,), affine, affine and bias, device, dtype)
        for name in ("running_mean", "running_var"):
            made = ops.empty((num_features,), dtype=dtype, device=device) if track_running_stats else None
            self.register_buffer(name, made)
        counter = ops.zeros((), dtype=int64, device=device) if track_running_stats else None
        self.register_buffer("num_batches_tracked", counter)
        self.reset_parameters()

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _may_lack(self, version: int | None) -> tuple[str, ...]:
        """``num_batches_tracked`` came with version 2."""
        return ("num_batches_tracked",) if version is None or version < 2 else ()

    def reset_running_stats(self) -> None:
        """Put the running statistics back to mean 0, variance 1."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        init.zeros_(self.running_mean)
        init.ones_(self.running_var)
        init.zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Put the running statistics back, the weight to 1 and the bias to 0."""
        self.reset_running_stats()
        super().reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input, of its shape.

        Raises
        ------
        ShapeError, DTypeError, DeviceError
        ArgumentError
            If a channel that is normalised by its own statistics has one value.
        """
        self._check(input)
        single = input.array.ndim == self.axes - 1
        batch = ops.unsqueeze(input, 0) if single else input
        y = instance_norm(
            batch,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
        )
        return ops.squeeze(y, 0) if single else y

    def _check(self, input: Tensor) -> None:
        shape = is_tensor(self._name, "input", input).array.shape
        fits = len(shape) in (self.axes - 1, self.axes)
        channels = shape[1 - self.axes] if fits else None
        if channels == self.num_features:
            return
        if not fits or self.affine or self.running_mean is not None:
            want = f"shape {self.shapes} with C = {self.num_features}"
            raise ShapeError(expected(self._name, "input", want, shape))
        text = f"{self._name}: the input has {channels} channels; 'num_features' is {self.num_features}, and not used."
        warnings.warn(text, UserWarning, stacklevel=4)

    def extra_repr(self) -> str:
        head = f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}"
        return f"{head}, bias={self.bias is not None}, track_running_stats={self.track_running_stats}"


class InstanceNorm1d(_InstanceNorm):
    """Instance normalisation of inputs (N, C, L) or (C, L): each channel of each sample by its own statistics.

    Parameters
    ----------
    num_features : int
        C, the number of channels.
    eps : float
        Inside the square root.
    momentum : float or None
        The weight of the new batch in the running statistics, from 0 to 1; None: they stay as they are.
    affine : bool
        Whether there are a weight and a bias.
    track_running_stats : bool
        Whether running statistics are kept, which evaluation then uses; without them it, too, uses the sample's own.
    device : Device or str, optional
    dtype : DType, optional
    bias : bool
        False: a weight only.

    Attributes
    ----------
    weight, bias : Parameter, shape (C,), or None
        Start at 1 and 0.
    running_mean, running_var : Tensor, shape (C,), or None
        Buffers, which start at 0 and 1: of the samples' statistics, averaged over the batch.
    num_batches_tracked : Tensor, shape (), int64, or None
        A buffer that stays 0, as in PyTorch.

    References
    ----------
    Ulyanov, Vedaldi & Lempitsky 2016 (arXiv:1607.08022).
    """

    axes = 3
    shapes = "(N, C, L) or (C, L)"


class InstanceNorm2d(_InstanceNorm):
    """Instance normalisation of inputs (N, C, H, W) or (C, H, W); all else as for ``InstanceNorm1d``."""

    axes = 4
    shapes = "(N, C, H, W) or (C, H, W)"


class InstanceNorm3d(_InstanceNorm):
    """Instance normalisation of inputs (N, C, D, H, W) or (C, D, H, W); all else as for ``InstanceNorm1d``."""

    axes = 5
    shapes = "(N, C, D, H, W) or (C, D, H, W)"
