"""Batch normalisation layers.

    y = (x - mean) / √(var + eps) · weight + bias

Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithms 1 and 2. m values of a channel go into its statistics: N for an
input of shape (N, C), N·L for (N, C, L), N·H·W for (N, C, H, W).
"""

from __future__ import annotations

from typing import Any, ClassVar

from tinygrad_bn import ops
from tinygrad_bn.core.dtype import int64
from tinygrad_bn.core.mixed import mixed
from tinygrad_bn.core.tally import Tally
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, ShapeError, expected, wrong
from tinygrad_bn.functional.masked import Axis, Form, checked_features
from tinygrad_bn.functional.normalisation import checked_momentum, checked_train, commit, evaluated
from tinygrad_bn.nn import init
from tinygrad_bn.nn._misuse import beta, remedy
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.parameter import Parameter, make
from tinygrad_bn.ops._activations import SLOPE, named, slope_of
from tinygrad_bn.ops._common import is_tensor
from tinygrad_bn.ops.batch_norm_residual import check_residual
from tinygrad_bn.ops.linear_norm import linear_batch_norm, linear_norm_fits


class BatchNorm(Module):
    """The layers' common part: see ``BatchNorm1d``."""

    axes: ClassVar[tuple[int, ...]] = ()
    shapes: ClassVar[str] = ""
    _version = 2
    weight: Parameter | None
    bias: Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        running_var: str = "unbiased",
        on_single: str = "error",
        activation: str | None = None,
        negative_slope: float = 0.01,
        axis: Axis = 1,
    ) -> None:
        super().__init__()
        self.num_features: Any
        self.num_features, self.axis = checked_features("BatchNorm", num_features, axis)
        _check_options(eps, running_var, on_single)
        self.eps = float(eps)
        self.momentum = None if momentum is None else checked_momentum(momentum)
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.unbiased = running_var == "unbiased"
        self.on_single = on_single
        self.activation = named("BatchNorm", activation, negative_slope)
        self.update_stats = True
        self.use_batch_stats: bool | None = None
        self._skipped = Tally()
        self._register(dtype, device, affine, affine and bias, track_running_stats)
        self.reset_parameters()

    def _register(self, dtype: Any, device: Any, weight: bool, bias: bool, track: bool) -> None:
        size = self.num_features if isinstance(self.num_features, tuple) else (self.num_features,)
        self.register_parameter("weight", make(size, dtype, device) if weight else None)
        self.register_parameter("bias", make(size, dtype, device) if bias else None)
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, ops.empty(size, dtype=dtype, device=device) if track else None)
        counter = ops.zeros((), dtype=int64, device=device) if track else None
        self.register_buffer("num_batches_tracked", counter)

    def _may_lack(self, version: int | None) -> tuple[str, ...]:
        """``num_batches_tracked`` came with version 2."""
        return ("num_batches_tracked",) if version is None or version < 2 else ()

    def reset_running_stats(self) -> None:
        """Put the running statistics back to mean 0, variance 1, no batches."""
        self._skipped.set(0)
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        init.zeros_(self.running_mean)
        init.ones_(self.running_var)
        init.zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Put the running statistics back, the weight to 1 and the bias to 0."""
        self.reset_running_stats()
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    @property
    def skipped_batches(self) -> int:
        """How many batches left the running statistics as they were because one of their own was not finite.

        Counted since construction or ``reset_running_stats()``; not part of the state dict.
        """
        return int(self._skipped)

    def forward(self, input: Tensor, residual: Tensor | None = None, *, mask: Tensor | None = None) -> Tensor:
        """Return the normalised input, of its shape; a residual of the same shape is added ahead of the activation.

        Parameters
        ----------
        input, residual : Tensor
        mask : Tensor of bool, optional
            True for the values that count: see ``functional.batch_norm``. The output is 0 elsewhere.

        Raises
        ------
        ShapeError, DTypeError, DeviceError
        ArgumentError
            If, in training, a channel has one value.

        Warns
        -----
        RuntimeWarning
            If the mask leaves nothing; with ``on_single="warn"``, if a channel has one value.
        """
        if mask is not None:
            return self._formed(input, self.activation, residual, mask)
        return self.forward_activated(input, self.activation, residual)

    def forward_activated(self, input: Tensor, activation: str, residual: Tensor | None = None) -> Tensor:
        """Return an activation of the normalised input and of the residual added to it, in one pass over memory."""
        if self.axis != 1:
            return self._formed(input, activation, residual, None)
        if not (
            isinstance(input, Tensor)
            and len(input.array.shape) in self.axes
            and input.array.shape[1] == self.num_features
        ):
            self._refuse(input)
        own = (self.weight, self.bias, self.running_mean, self.running_var)
        return self._by_mode(input, activation, residual, *own)

    def _formed(self, input: Tensor, activation: str, residual: Tensor | None, mask: Tensor | None) -> Tensor:
        """Normalise over any axes and what a mask leaves: in the form of an input that has its channels second."""
        if is_tensor(self._name, "input", input).array.ndim not in self.axes:
            self._refuse(input)
        form = Form(self._name, input, self.axis, mask)
        size = self.num_features if isinstance(self.num_features, tuple) else (self.num_features,)
        if form.features != size:
            self._refuse(input)
        if residual is not None:
            check_residual(input, residual)
            residual = form.inward(residual)
        if self._takes_batch() and self.on_single != "warn":
            form.check_count()
        own = [form.flat(n, getattr(self, n)) for n in ("weight", "bias", "running_mean", "running_var")]
        return form.outward(self._by_mode(form.inward(input), activation, residual, *own))

    def _takes_batch(self) -> bool:
        """Whether the batch's statistics normalise, rather than the running ones."""
        if self.use_batch_stats is None:
            return self.training or self.running_mean is None
        return self.use_batch_stats

    @mixed("first", direct=True)
    def _by_mode(
        self,
        input: Tensor,
        activation: str,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor | None,
        var: Tensor | None,
    ) -> Tensor:
        """Normalise an input (N, C, …), by the batch's statistics or the running ones, with tensors (C,)."""
        batch = self.use_batch_stats
        if batch is None:
            batch = self.training or mean is None
        if not batch:
            if mean is None or var is None:
                hint = "set it to None, or track running statistics"
                raise ArgumentError(wrong(self._name, "use_batch_stats", "None or True without these", False, hint))
            return evaluated(input, residual, mean, var, weight, bias, float(self.eps), activation)
        if self.on_single == "warn" and input.array.size == input.array.shape[1]:
            return beta(self._name, input, activation, residual, weight, bias)
        constants: Any = (float(self.eps), activation, residual)
        if mean is None or var is None or not (self.training and self.update_stats):
            return checked_train(input, weight, bias, None, None, *constants)[0]
        y, statistics = checked_train(input, weight, bias, mean, var, *constants)
        commit(statistics, mean, var, self.momentum, self.unbiased, self.num_batches_tracked, self._skipped)
        return y

    def forward_linear(self, linear: Any, input: Tensor, activation: str) -> Tensor:
        """Return ``forward_activated(linear(input), activation)``: one operation where that is to be had.

        ``linear`` is a Linear layer. It is one operation in training, without a bias ahead of the normalisation, for up
        to 256 rows.
        """
        mean, var = self.running_mean, self.running_var
        if (
            linear.bias is None
            and self.training
            and self.update_stats
            and self.use_batch_stats is None
            and self.axis == 1
            and linear_norm_fits(input, linear.weight, self.weight, self.bias, mean, var)
        ):
            arguments: Any = (input, linear.weight, self.weight, self.bias, float(self.eps), activation)
            y, statistics = linear_batch_norm(*arguments)
            commit(statistics, mean, var, self.momentum, self.unbiased, self.num_batches_tracked, self._skipped)  # type: ignore[arg-type]  # both fit
            return y
        return self.forward_activated(linear.forward(input), activation)

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _refuse(self, input: object) -> None:
        """Raise for an input that is no tensor of this layer's shape."""
        shape = is_tensor(self._name, "input", input).array.shape
        want = f"shape {self.shapes} with C = {self.num_features}"
        if self.axis != 1:
            want = f"{' or '.join(map(str, self.axes))} axes, of extent {self.num_features} at axis {self.axis}"
            raise ShapeError(expected(self._name, "input", want, shape))
        raise ShapeError(expected(self._name, "input", want, shape, remedy(shape, self.axes, self.num_features)))

    def extra_repr(self) -> str:
        parts = [
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}",
            f"track_running_stats={self.track_running_stats}",
        ]
        if not self.unbiased:
            parts.append("running_var='biased'")
        if self.axis != 1:
            parts.append(f"axis={self.axis}")
        if self.activation != "none":
            parts.append(f"activation={self.activation!r}")
        if self.activation == "leaky_relu" and slope_of(self.activation) != SLOPE:
            parts.append(f"negative_slope={slope_of(self.activation)}")
        if self.skipped_batches:
            parts.append(f"skipped_batches={self.skipped_batches}")
        return ", ".join(parts)


def _check_options(eps: object, running_var: str, on_single: str) -> None:
    op = "BatchNorm"
    if not isinstance(eps, int | float) or not eps >= 0:
        raise ArgumentError(wrong(op, "eps", "at least 0", repr(eps)))
    if running_var not in ("unbiased", "biased"):
        raise ArgumentError(wrong(op, "running_var", "'unbiased' or 'biased'", repr(running_var)))
    if on_single not in ("error", "warn"):
        raise ArgumentError(wrong(op, "on_single", "'error' or 'warn'", repr(on_single)))


class BatchNorm1d(BatchNorm):
    """Batch normalisation of inputs (N, C) and (N, C, L): each channel over the batch and all axes but the second.

    Parameters
    ----------
    num_features : int or tuple of int
        C, the number of channels; the extents of the axes that are kept, where ``axis`` is a tuple.
    eps : float
        Inside the square root.
    momentum : float or None
        The weight of the new batch in the running statistics, from 0 to 1 (Keras and Flax count the weight of the old).
        None: their average over all batches, each counted alike.
    affine : bool
        Whether there are a weight and a bias.
    track_running_stats : bool
        Whether running statistics are kept; without them evaluation, too, uses the batch's.
    device : Device or str, optional
    dtype : DType, optional
    bias : bool
        False: a weight only.
    running_var : {"unbiased", "biased"}
        Whether the running variance takes Bessel's factor m / (m - 1). The variance that normalises is the biased one.
    on_single : {"error", "warn"}
        What to do in training with one value a channel, which would become ``bias`` whatever it is: raise, or warn and
        return just that. It says nothing about a variance, so the running statistics stay as they are.
    activation : str, optional
        Applied to the result in the same pass over memory: "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu" or
        "gelu_tanh"; see ``functional.batch_norm_act``.
    negative_slope : float
        Of "leaky_relu".
    axis : int or tuple of int
        The axes that are kept, as in Keras and Flax: a number for each index of theirs, statistics over all others. -1
        for inputs (N, L, C); (1, 2), with ``num_features=(C, L)``, for a statistic of each unit of (N, C, L).

    Attributes
    ----------
    weight, bias : Parameter, shape (C,), or None
        Start at 1 and 0.
    running_mean, running_var : Tensor, shape (C,), or None
        Buffers, which start at 0 and 1.
    num_batches_tracked : Tensor, shape (), int64, or None
        A buffer: how many batches went into the running statistics.
    update_stats : bool
        Whether training moves the running statistics.
    use_batch_stats : bool or None
        Normalise by the batch's statistics, or by the running ones; None: the batch's in training. With
        ``requires_grad_()`` these make three separate switches for what "frozen" may mean.

    Notes
    -----
    A constant channel gives exactly ``bias``. An empty batch gives an empty output and gradients of zero. A batch with
    a mean or variance that is not finite gives an output that shows it, but moves neither the running statistics nor
    ``num_batches_tracked``: ``skipped_batches`` counts it. Statistics are taken in blocks, merged in float64.

    References
    ----------
    Ioffe & Szegedy 2015 (arXiv:1502.03167).
    """

    axes = (2, 3)
    shapes = "(N, C) or (N, C, L)"


class BatchNorm2d(BatchNorm):
    """Batch normalisation of inputs (N, C, H, W); parameters, attributes and notes as for ``BatchNorm1d``."""

    axes = (4,)
    shapes = "(N, C, H, W)"


class BatchNorm3d(BatchNorm):
    """Batch normalisation of inputs (N, C, D, H, W); parameters, attributes and notes as for ``BatchNorm1d``."""

    axes = (5,)
    shapes = "(N, C, D, H, W)"
