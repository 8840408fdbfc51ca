"""Batch normalisation layers that learn from their first input how many channels there are.

Until then their parameters and buffers have no elements; then these tensors grow in place, so that an optimiser that
holds them stays valid, and the layer becomes a plain one. What is computed is batch normalisation: Ioffe & Szegedy 2015
(arXiv:1502.03167).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tinygrad_bn import ops
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ShapeError, expected
from tinygrad_bn.functional.masked import Axis, kept_axes
from tinygrad_bn.nn.batch_norm import BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d
from tinygrad_bn.nn.tree import changes
from tinygrad_bn.ops._common import is_floating, is_tensor

TENSORS = ("weight", "bias", "running_mean", "running_var")


class LazyBatchNorm(BatchNorm):
    """The layers' common part: see ``LazyBatchNorm1d``."""

    cls_to_become: ClassVar[type[BatchNorm]]

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        axis: Axis = 1,
        **options: Any,
    ) -> None:
        none = (0,) * len(axis) if isinstance(axis, tuple | list) else 0
        super().__init__(none, eps, momentum, affine, track_running_stats, device, dtype, axis=axis, **options)

    def has_uninitialized_params(self) -> bool:
        """Whether the number of channels is still unknown; a layer that knows it is a ``cls_to_become``."""
        return True

    def forward(self, input: Tensor, residual: Tensor | None = None, *, mask: Tensor | None = None) -> Tensor:
        """Become a plain layer of the input's channels, and do what that does."""
        self.initialize_parameters(input)
        return self.forward(input, residual, mask=mask)

    def forward_activated(self, input: Tensor, activation: str, residual: Tensor | None = None) -> Tensor:
        """Become a plain layer of the input's channels, and do what that does."""
        self.initialize_parameters(input)
        return self.forward_activated(input, activation, residual)

    def forward_linear(self, linear: Any, input: Tensor, activation: str) -> Tensor:
        """Return ``forward_activated(linear(input), activation)``."""
        return self.forward_activated(linear.forward(input), activation)

    def initialize_parameters(self, input: Tensor) -> None:
        """Give all tensors the channels of an input, and become a plain layer.

        Raises
        ------
        ShapeError, DTypeError
            If the input has not the axes of such a layer; then nothing has changed.
        """
        if is_floating(self._name, "input", input).array.ndim not in self.axes:
            self._refuse(input)
        shape = input.array.shape
        self._take_extent(tuple(shape[i] for i in kept_axes(self._name, self.axis, len(shape))))

    def _refuse(self, input: object) -> None:
        """Raise for an input that is no tensor of as many axes."""
        shape = is_tensor(self._name, "input", input).array.shape
        want = f"shape {self.shapes}" if self.axis == 1 else f"{' or '.join(map(str, self.axes))} axes"
        raise ShapeError(expected(self._name, "input", want, shape))

    def _extent_in(self, given: Mapping[str, Any], prefix: str) -> tuple[int, ...] | None:
        found = (getattr(given.get(prefix + name), "shape", None) for name in TENSORS)
        axes = len(self.axis) if isinstance(self.axis, tuple) else 1
        shape = next((tuple(s) for s in found if s is not None and len(s) == axes), None)
        return shape if shape and all(shape) else None

    def _take_extent(self, shape: tuple[int, ...]) -> None:
        self.num_features = shape if isinstance(self.axis, tuple) else shape[0]
        for name in TENSORS:
            tensor = getattr(self, name)
            if tensor is not None:
                tensor.array = ops.empty(shape, dtype=tensor.dtype, device=tensor.device).array
                tensor.contiguous_array = True
                tensor.bump()
        self.__class__ = self.cls_to_become  # type: ignore[assignment]  # as in PyTorch: it is one from now on
        self.reset_parameters()
        changes.note()

    def extra_repr(self) -> str:
        rest = super().extra_repr().partition(", ")[2]
        return f"channels unknown, {rest}"


class LazyBatchNorm1d(LazyBatchNorm):
    """A ``BatchNorm1d`` that takes the number of channels from its first input, or from a state dict.

    Parameters
    ----------
    eps, momentum, affine, track_running_stats, device, dtype, bias, running_var, on_single, activation, axis
        As for ``BatchNorm1d``.

    Notes
    -----
    ``weight``, ``bias`` and the running statistics have no elements until then; an optimiser may be given them before.
    With the first input, in training or evaluation, the layer's class becomes ``BatchNorm1d``.

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> layer = tb.nn.LazyBatchNorm1d()
    >>> layer(tb.ones(2, 3)).shape, layer
    ((2, 3), BatchNorm1d(3, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True))
    """

    axes = BatchNorm1d.axes
    shapes = BatchNorm1d.shapes
    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(LazyBatchNorm):
    """A ``BatchNorm2d`` that takes the number of channels from its first input; all else as for ``LazyBatchNorm1d``."""

    axes = BatchNorm2d.axes
    shapes = BatchNorm2d.shapes
    cls_to_become = BatchNorm2d


class LazyBatchNorm3d(LazyBatchNorm):
    """A ``BatchNorm3d`` that takes the number of channels from its first input; all else as for ``LazyBatchNorm1d``."""

    axes = BatchNorm3d.axes
    shapes = BatchNorm3d.shapes
    cls_to_become = BatchNorm3d
