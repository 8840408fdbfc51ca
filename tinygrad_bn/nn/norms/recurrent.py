"""Recurrent batch normalisation: cells whose products are normalised, with statistics of each time step's own.

    RNN     h' = act(BN(h W_hhᵀ) + BN(x W_ihᵀ) + b)
    LSTM    (i, f, g, o) = BN(h W_hhᵀ) + BN(x W_ihᵀ) + b,  c' = σ(f) c + σ(i) tanh(g),  h' = σ(o) tanh(BN(c'))

Cooijmans, Ballas, Laurent, Gülçehre & Courville 2016 (arXiv:1603.09025). Weights of normalisations start at 0.1, so
that tanh does not saturate; the two ahead of b have no bias of their own. Statistics are kept of so many time steps;
later ones share those of the last.
"""

from __future__ import annotations

import math
from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.core.dtype import int64
from tinygrad_bn.core.mixed import mixed
from tinygrad_bn.core.tally import Tally
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError, expected, wrong
from tinygrad_bn.functional._channelwise import checked_input, scaled
from tinygrad_bn.functional.normalisation import checked_momentum, commit
from tinygrad_bn.nn import init
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.normalisation import Affine, check_count, checked_eps
from tinygrad_bn.nn.parameter import Parameter, make
from tinygrad_bn.ops._common import is_floating, is_tensor, same_device
from tinygrad_bn.ops.batch_norm import batch_norm_eval, batch_norm_train


class SeparatedBatchNorm1d(Affine):
    """Batch normalisation of inputs (N, C), with running statistics of each time step's own.

    Parameters
    ----------
    num_features : int
        C, the number of channels.
    max_length : int
        Of how many time steps statistics are kept; later ones share those of the last.
    eps : float
        Inside the square root.
    momentum : float or None
        The weight of the new batch in the running statistics; None: their average.
    bias : bool
        Whether there is a bias beside the weight.
    device : Device or str, optional
    dtype : DType, optional

    Attributes
    ----------
    weight : Parameter, shape (C,)
        Starts at 0.1; shared by all time steps, as the bias is.
    bias : Parameter, shape (C,), or None
        Starts at 0.
    running_mean, running_var : Tensor, shape (max_length, C)
        Buffers, which start at 0 and 1; the variance is unbiased.
    num_batches_tracked : Tensor, shape (max_length,), int64
        A buffer.
    update_stats, use_batch_stats
        Switches as for ``BatchNorm1d``.

    References
    ----------
    Cooijmans et al. 2016 (arXiv:1603.09025).
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        max_length: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        op = type(self).__name__
        check_count(op, "num_features", num_features, 0)
        check_count(op, "max_length", max_length, 1)
        self.num_features = num_features
        self.max_length = max_length
        self.eps = checked_eps(op, eps)
        self.momentum = None if momentum is None else checked_momentum(momentum, op)
        self.track_running_stats = True
        self.update_stats = True
        self.use_batch_stats: bool | None = None
        self._skipped = Tally()
        self._register((num_features,), True, bias, device, dtype)
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, ops.empty((max_length, num_features), dtype=dtype, device=device))
        self.register_buffer("num_batches_tracked", ops.zeros((max_length,), dtype=int64, device=device))
        self.reset_parameters()

    @property
    def skipped_batches(self) -> int:
        """How many batches left the running statistics as they were because one of their own was not finite."""
        return int(self._skipped)

    def reset_running_stats(self) -> None:
        """Put the running statistics of all time steps back to mean 0, variance 1, no batches."""
        self._skipped.set(0)
        init.zeros_(self.running_mean)
        init.ones_(self.running_var)
        init.zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Put the running statistics back, the weight to 0.1 and the bias to 0."""
        self.reset_running_stats()
        super().reset_parameters()
        if self.weight is not None:
            init.constant_(self.weight, 0.1)

    @mixed("first")
    def forward(self, input: Tensor, time: int) -> Tensor:
        """Return the input at a time step, counted from 0, normalised.

        Raises
        ------
        ShapeError, DTypeError, DeviceError
        ArgumentError
            If, in training, there is one sample; if the time step is no int of at least 0.
        """
        op = type(self).__name__
        check_count(op, "time", time, 0)
        x = is_tensor(op, "input", input)
        if x.array.ndim != 2 or x.array.shape[1] != self.num_features:
            raise ShapeError(expected(op, "input", f"shape (N, C) with C = {self.num_features}", x.array.shape))
        checked_input(op, x, weight=self.weight, bias=self.bias)
        if not x.array.size:
            return scaled(x, self.weight, self.bias)
        mean, var, tracked = (
            self._at(t, time) for t in (self.running_mean, self.running_var, self.num_batches_tracked)
        )
        if not (self.training if self.use_batch_stats is None else self.use_batch_stats):
            return batch_norm_eval(x, mean, var, self.weight, self.bias, self.eps)
        y, statistics = batch_norm_train(x, self.weight, self.bias, self.eps)
        if not (self.training and self.update_stats):
            return y
        commit(statistics, mean, var, self.momentum, True, tracked, self._skipped)
        for t in (self.running_mean, self.running_var, self.num_batches_tracked):
            t.bump()
        return y

    def _at(self, t: Tensor, time: int) -> Tensor:
        """A time step's statistics, in the buffer's own memory."""
        at = min(time, self.max_length - 1)
        return Tensor(t.array[at : at + 1].reshape(t.array.shape[1:]), t.dtype, t.device)

    def extra_repr(self) -> str:
        return f"{self.num_features}, max_length={self.max_length}, eps={self.eps}, momentum={self.momentum}"


class _NormalisedCell(Module):
    """The cells' common part: see ``BNRNNCell``."""

    gates = 1
    weight_ih: Parameter
    weight_hh: Parameter
    bias: Parameter | None

    def __init__(self, input_size: int, hidden_size: int, max_length: int, bias: bool, options: dict[str, Any]) -> None:
        super().__init__()
        op = type(self).__name__
        check_count(op, "input_size", input_size, 0)
        check_count(op, "hidden_size", hidden_size, 1)
        self.input_size, self.hidden_size = input_size, hidden_size
        rows = self.gates * hidden_size
        made = {k: options[k] for k in ("dtype", "device")}
        self.weight_ih = make((rows, input_size), **made)
        self.weight_hh = make((rows, hidden_size), **made)
        self.register_parameter("bias", make((rows,), **made) if bias else None)
        self.bn_ih = SeparatedBatchNorm1d(rows, max_length, bias=False, **options)
        self.bn_hh = SeparatedBatchNorm1d(rows, max_length, bias=False, **options)
        self._draw()

    def _draw(self) -> None:
        """Draw the matrices uniform in [-1/√hidden_size, 1/√hidden_size); put the bias to 0."""
        bound = 1 / math.sqrt(self.hidden_size)
        for weight in (self.weight_ih, self.weight_hh):
            init.uniform_(weight, -bound, bound)
        if self.bias is not None:
            init.zeros_(self.bias)

    def reset_parameters(self) -> None:
        """Draw the matrices anew, put the bias to 0 and the normalisations back."""
        self._draw()
        for module in self.children():
            module.reset_parameters()

    def _products(self, x: Tensor, h: Tensor, time: int) -> Tensor:
        """BN(h W_hhᵀ) + BN(x W_ihᵀ) + b."""
        both = ops.add(
            self.bn_hh(ops.linear(h, self.weight_hh), time),
            self.bn_ih(ops.linear(x, self.weight_ih), time),
        )
        return both if self.bias is None else ops.add(both, self.bias)

    def _given(self, input: object, **states: Tensor | None) -> list[Tensor]:
        """The input, (N, I), and the states, (N, H), zeros where None."""
        op = type(self).__name__
        x = is_floating(op, "input", input)
        if x.array.ndim != 2 or x.array.shape[1] != self.input_size:
            raise ShapeError(expected(op, "input", f"shape (N, I) with I = {self.input_size}", x.array.shape))
        found = [x]
        shape = (x.array.shape[0], self.hidden_size)
        for name, value in states.items():
            state = ops.zeros(shape, dtype=x.dtype, device=x.device) if value is None else is_tensor(op, name, value)
            if state.array.shape != shape:
                raise ShapeError(expected(op, name, f"shape {shape}", state.array.shape))
            if state.dtype is not x.dtype:
                raise DTypeError(expected(op, name, f"dtype {x.dtype.name}, as input has", state.dtype.name))
            same_device(op, x, name, state)
            found.append(state)
        return found

    def unroll(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """Return the states h after each step of a sequence (T, N, I), shape (T, N, H), and the state after the last.

        Raises
        ------
        ShapeError, DTypeError, DeviceError, ArgumentError
        """
        op = type(self).__name__
        if is_tensor(op, "input", input).array.ndim != 3 or not input.array.shape[0]:
            raise ShapeError(expected(op, "input", "shape (T, N, I) with T of at least 1", input.array.shape))
        outs = []
        for time, x in enumerate(ops.unbind(input)):
            hx = self(x, hx, time)
            outs.append(hx[0] if isinstance(hx, tuple) else hx)
        return ops.stack(outs), hx

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias is not None else ", bias=False")


class BNRNNCell(_NormalisedCell):
    """One step of an Elman network with recurrent batch normalisation: h' = act(BN(h W_hhᵀ) + BN(x W_ihᵀ) + b).

    Parameters
    ----------
    input_size, hidden_size : int
    max_length : int
        Of how many time steps statistics are kept; later ones share those of the last.
    bias : bool
    nonlinearity : {"tanh", "relu"}
    eps : float
    momentum : float or None
    device : Device or str, optional
    dtype : DType, optional

    Attributes
    ----------
    weight_ih, weight_hh : Parameter, shapes (H, I) and (H, H)
    bias : Parameter, shape (H,), or None
    bn_ih, bn_hh : SeparatedBatchNorm1d

    Notes
    -----
    At the first step h is the same for all samples where ``hx`` is left out, and BN(h W_hhᵀ) is 0.

    References
    ----------
    Cooijmans et al. 2016 (arXiv:1603.09025).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        max_length: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ArgumentError(wrong("BNRNNCell", "nonlinearity", "'tanh' or 'relu'", repr(nonlinearity)))
        options = {"eps": eps, "momentum": momentum, "device": device, "dtype": dtype}
        super().__init__(input_size, hidden_size, max_length, bias, options)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None, time: int = 0) -> Tensor:
        """Return the next state, (N, H), from an input (N, I) at a time step and a state (N, H), zeros by default."""
        x, h = self._given(input, hx=hx)
        return (ops.tanh if self.nonlinearity == "tanh" else ops.relu)(self._products(x, h, time))


class BNLSTMCell(_NormalisedCell):
    """One step of a long short-term memory with recurrent batch normalisation; gates in the order i, f, g, o.

    Parameters
    ----------
    input_size, hidden_size, max_length, bias, eps, momentum, device, dtype
        As for ``BNRNNCell``.

    Attributes
    ----------
    weight_ih, weight_hh : Parameter, shapes (4 H, I) and (4 H, H)
    bias : Parameter, shape (4 H,), or None
    bn_ih, bn_hh, bn_c : SeparatedBatchNorm1d
        The last, of the cell on its way to the output, has a bias.

    References
    ----------
    Cooijmans et al. 2016 (arXiv:1603.09025), equations 6 to 8.
    """

    gates = 4

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        max_length: int,
        bias: bool = True,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        options = {"eps": eps, "momentum": momentum, "device": device, "dtype": dtype}
        super().__init__(input_size, hidden_size, max_length, bias, options)
        self.bn_c = SeparatedBatchNorm1d(hidden_size, max_length, **options)

    def forward(self, input: Tensor, hx: Any = None, time: int = 0) -> tuple[Tensor, Tensor]:
        """Return the next state and cell, each (N, H), from an input (N, I) at a time step and a pair of such."""
        if hx is not None and (not isinstance(hx, tuple | list) or len(hx) != 2):
            raise DTypeError(wrong("BNLSTMCell", "hx", "a pair (h, c)", type(hx).__name__))
        before, cell = (None, None) if hx is None else hx
        x, h, c = self._given(input, h=before, c=cell)
        i, f, g, o = ops.chunk(self._products(x, h, time), 4, 1)
        c = ops.add(ops.mul(ops.sigmoid(f), c), ops.mul(ops.sigmoid(i), ops.tanh(g)))
        return ops.mul(ops.sigmoid(o), ops.tanh(self.bn_c(c, time))), c
