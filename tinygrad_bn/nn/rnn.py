"""Recurrent layers over whole sequences, and their cells. Names, order of gates and initial values are PyTorch's.

The input's product with W_ih is one product for all time steps of a layer; the steps themselves are one operation
(``ops.recurrent``).
"""

from __future__ import annotations

import math
import warnings
from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError, expected, wrong
from tinygrad_bn.nn import init
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.parameter import Parameter, make
from tinygrad_bn.ops._common import is_floating, is_tensor, same_device
from tinygrad_bn.ops.recurrent import GATES, recurrent


def _size(op: str, name: str, value: object, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ArgumentError(wrong(op, name, f"an int of at least {least}", repr(value)))
    return value


class _Recurrent(Module):
    """What layers and cells have in common: names and initial values of the parameters."""

    kind: str
    hidden_size: int

    def _register(self, suffix: str, columns: int, bias: bool, dtype: Any, device: Any) -> None:
        """Add the parameters of one direction of one layer."""
        rows = GATES[self.kind] * self.hidden_size
        self.register_parameter(f"weight_ih{suffix}", make((rows, columns), dtype, device))
        self.register_parameter(f"weight_hh{suffix}", make((rows, self.hidden_size), dtype, device))
        for name in ("bias_ih", "bias_hh"):
            if bias:
                self.register_parameter(name + suffix, make((rows,), dtype, device))
            elif not suffix:
                self.register_parameter(name, None)

    def reset_parameters(self) -> None:
        """Draw all parameters anew, uniform in [-1/√hidden_size, 1/√hidden_size)."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def _of(self, name: str) -> Parameter | None:
        found: Parameter | None = getattr(self, name, None) if name in self._parameters else None
        return found

    def _run(self, x: Tensor, h: Tensor, c: Tensor | None, suffix: str, reverse: bool = False) -> Any:
        """One direction of one layer on x of shape (T, N, I)."""
        gates = ops.linear(x, getattr(self, f"weight_ih{suffix}"), self._of(f"bias_ih{suffix}"))
        weight, bias = getattr(self, f"weight_hh{suffix}"), self._of(f"bias_hh{suffix}")
        return recurrent(gates, h, c, weight, bias, self.kind, reverse)

    def _state(self, name: str, value: object, shape: tuple[int, ...], x: Tensor) -> Tensor:
        """A checked initial state."""
        op = type(self).__name__
        state = is_tensor(op, name, value)
        if state.array.shape != shape:
            raise ShapeError(expected(op, name, f"shape {shape}", state.array.shape))
        if state.dtype is not x.dtype:
            raise DTypeError(expected(op, name, f"dtype {x.dtype.name}, as input has", state.dtype.name))
        same_device(op, x, name, state)
        return state


class RNNBase(_Recurrent):
    """The layers' common part: see ``RNN``, ``LSTM`` and ``GRU``."""

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        op = type(self).__name__
        if proj_size:
            raise ArgumentError(wrong(op, "proj_size", "0: projections are not supported", proj_size))
        if isinstance(dropout, bool) or not 0 <= dropout <= 1:
            raise ArgumentError(wrong(op, "dropout", "from 0 to 1", dropout))
        if dropout and num_layers == 1:
            text = f"{op}: 'dropout' works between layers only and there is one layer. Got {dropout}."
            warnings.warn(text, UserWarning, stacklevel=3)
        self.mode = mode
        self.kind = {"RNN_TANH": "tanh", "RNN_RELU": "relu", "LSTM": "lstm", "GRU": "gru"}[mode]
        self.input_size = _size(op, "input_size", input_size, 0)
        self.hidden_size = _size(op, "hidden_size", hidden_size)
        self.num_layers = _size(op, "num_layers", num_layers)
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        for layer in range(num_layers):
            columns = hidden_size * len(self._suffixes(0)) if layer else input_size
            for suffix in self._suffixes(layer):
                self._register(suffix, columns, bias, dtype, device)
        self.reset_parameters()

    def _suffixes(self, layer: int) -> list[str]:
        """What the names of a layer's parameters end in, by direction."""
        return [f"_l{layer}", f"_l{layer}_reverse"] if self.bidirectional else [f"_l{layer}"]

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters by layer and direction."""
        return [
            [p for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if (p := self._of(n + s)) is not None]
            for layer in range(self.num_layers)
            for s in self._suffixes(layer)
        ]

    def flatten_parameters(self) -> None:
        """Do nothing: PyTorch's request to lay the parameters out for a GPU's library."""

    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """Return the last layer's states after each step, and the states of all layers after the last one.

        Parameters
        ----------
        input : Tensor, shape (T, N, input_size), (N, T, input_size) with ``batch_first``, or (T, input_size)
        hx : Tensor, shape (layers · directions, N, hidden_size), without N for an input without; a pair for an LSTM
            Initial states, zeros by default.

        Returns
        -------
        output : Tensor, shape of the input but for its last axis, directions · hidden_size
        hx : Tensor, or a pair for an LSTM

        Raises
        ------
        ShapeError, DTypeError, DeviceError
        """
        x = self._checked(input)
        batched = x.array.ndim == 3
        if not batched:
            x = ops.unsqueeze(x, 1)
        elif self.batch_first:
            x = ops.transpose(x, 0, 1)
        states, cells = self._initial(x, hx, batched)
        last: list[Tensor] = []
        last_cells: list[Tensor] = []
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = ops.dropout(x, self.dropout, self.training)
            x = self._layer(layer, x, states, cells, last, last_cells)
        x = ops.squeeze(x, 1) if not batched else ops.transpose(x, 0, 1) if self.batch_first else x
        h = ops.stack(last) if batched else ops.squeeze(ops.stack(last), 1)
        if self.kind != "lstm":
            return x, h
        return x, (h, ops.stack(last_cells) if batched else ops.squeeze(ops.stack(last_cells), 1))

    def _layer(
        self,
        layer: int,
        x: Tensor,
        states: tuple[Tensor, ...],
        cells: tuple[Tensor, ...] | None,
        last: list[Tensor],
        last_cells: list[Tensor],
    ) -> Tensor:
        """Run a layer's directions; add their last states to the lists and return their states side by side."""
        outs = []
        for direction, suffix in enumerate(self._suffixes(layer)):
            at = len(last)
            y, h, c = self._run(x, states[at], None if cells is None else cells[at], suffix, direction == 1)
            outs.append(y)
            last.append(h)
            last_cells.append(c)
        return outs[0] if len(outs) == 1 else ops.cat(outs, -1)

    def _checked(self, input: object) -> Tensor:
        op = type(self).__name__
        x = is_floating(op, "input", input)
        shape = x.array.shape
        if len(shape) not in (2, 3) or shape[-1] != self.input_size:
            order = "(N, T, I)" if self.batch_first else "(T, N, I)"
            raise ShapeError(expected(op, "input", f"shape {order} or (T, I) with I = {self.input_size}", shape))
        if shape[1 if self.batch_first and len(shape) == 3 else 0] == 0:
            raise ShapeError(expected(op, "input", "at least one time step", f"shape {shape}"))
        return x

    def _initial(self, x: Tensor, hx: Any, batched: bool) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...] | None]:
        """The initial states, and cells of an LSTM, one a layer and direction, each of shape (N, H)."""
        count, n = self.num_layers * len(self._suffixes(0)), x.array.shape[1]
        if hx is None:
            zeros = (ops.zeros((n, self.hidden_size), dtype=x.dtype, device=x.device),) * count
            return zeros, zeros if self.kind == "lstm" else None
        shape = (count, n, self.hidden_size) if batched else (count, self.hidden_size)
        named = [("hx", hx)]
        if self.kind == "lstm":
            named = list(zip(("hx[0]", "hx[1]"), _pair(type(self).__name__, hx), strict=True))
        whole = [self._state(name, value, shape, x) for name, value in named]
        parts = [ops.unbind(t if batched else ops.unsqueeze(t, 1)) for t in whole]
        return parts[0], parts[1] if self.kind == "lstm" else None

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        if self.num_layers != 1:
            parts.append(f"num_layers={self.num_layers}")
        if not self.bias:
            parts.append("bias=False")
        if self.batch_first:
            parts.append("batch_first=True")
        if self.dropout:
            parts.append(f"dropout={self.dropout}")
        if self.bidirectional:
            parts.append("bidirectional=True")
        return ", ".join(parts)


def _pair(op: str, hx: Any) -> tuple[Any, Any]:
    if not isinstance(hx, tuple | list) or len(hx) != 2:
        raise DTypeError(wrong(op, "hx", "a pair (h, c)", type(hx).__name__))
    return hx[0], hx[1]


class RNN(RNNBase):
    """An Elman network: h' = act(x W_ihᵀ + b_ih + h W_hhᵀ + b_hh).

    Parameters
    ----------
    input_size, hidden_size : int
    num_layers : int
        Each takes the states of the one below.
    nonlinearity : {"tanh", "relu"}
    bias : bool
    batch_first : bool
        Take and return (N, T, …) instead of (T, N, …).
    dropout : float
        In training, between layers.
    bidirectional : bool
        Add a second direction, from the last step to the first; its states stand behind the first one's.
    device : Device or str, optional
    dtype : DType, optional

    Attributes
    ----------
    weight_ih_l0, weight_hh_l0 : Parameter, shapes (H, I) and (H, H)
        Of the first layer; ``weight_ih_l1`` takes H columns, 2 H where ``bidirectional``. ``_reverse`` is added to the
        names of the other direction.
    bias_ih_l0, bias_hh_l0 : Parameter, shape (H,)

    References
    ----------
    Elman 1990 (Cognitive Science 14, 179).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ArgumentError(wrong("RNN", "nonlinearity", "'tanh' or 'relu'", repr(nonlinearity)))
        mode = f"RNN_{nonlinearity.upper()}"
        options = (num_layers, bias, batch_first, dropout, bidirectional)
        super().__init__(mode, input_size, hidden_size, *options, device=device, dtype=dtype)
        self.nonlinearity = nonlinearity


class LSTM(RNNBase):
    """A long short-term memory: gates i, f, g, o in this order, c' = f c + i g, h' = o tanh c'.

    Parameters as for ``RNN``; ``proj_size`` must be 0. Parameters' first axes have 4 H rows.

    References
    ----------
    Hochreiter & Schmidhuber 1997 (Neural Computation 9, 1735); the forget gate: Gers, Schmidhuber & Cummins 2000
    (Neural Computation 12, 2451).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        options = (num_layers, bias, batch_first, dropout, bidirectional, proj_size)
        super().__init__("LSTM", input_size, hidden_size, *options, device=device, dtype=dtype)


class GRU(RNNBase):
    """Gated recurrent units: gates r, z, n in this order, n = tanh(x W_inᵀ + b_in + r (h W_hnᵀ + b_hn)),
    h' = (1 - z) n + z h.

    Parameters as for ``RNN``. Parameters' first axes have 3 H rows.

    References
    ----------
    Cho et al. 2014 (arXiv:1406.1078); the reset gate stands behind the product, as in PyTorch and cuDNN.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        options = (num_layers, bias, batch_first, dropout, bidirectional)
        super().__init__("GRU", input_size, hidden_size, *options, device=device, dtype=dtype)
