"""Single steps of recurrent layers: the same operation as the layers', over one step."""

from __future__ import annotations

from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, ShapeError, expected, wrong
from tinygrad_bn.nn.rnn import _pair, _Recurrent, _size
from tinygrad_bn.ops._common import is_floating


class RNNCellBase(_Recurrent):
    """The cells' common part: see ``RNNCell``, ``LSTMCell`` and ``GRUCell``."""

    def __init__(
        self, kind: str, input_size: int, hidden_size: int, bias: bool, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        op = type(self).__name__
        self.kind = kind
        self.input_size = _size(op, "input_size", input_size, 0)
        self.hidden_size = _size(op, "hidden_size", hidden_size)
        self.bias = bias
        self._register("", input_size, bias, dtype, device)
        self.reset_parameters()

    def _next(self, input: object, states: list[tuple[str, Any]]) -> list[Tensor]:
        """The states after one step, h and for an LSTM c."""
        op = type(self).__name__
        x = is_floating(op, "input", input)
        batched = x.array.ndim == 2
        if x.array.ndim not in (1, 2) or x.array.shape[-1] != self.input_size:
            want = f"shape (N, I) or (I,) with I = {self.input_size}"
            raise ShapeError(expected(op, "input", want, x.array.shape))
        n = x.array.shape[0] if batched else 1
        shape = (n, self.hidden_size) if batched else (self.hidden_size,)
        given = [
            ops.zeros(shape, dtype=x.dtype, device=x.device) if s is None else self._state(name, s, shape, x)
            for name, s in states
        ]
        rows = [ops.reshape(s, (n, self.hidden_size)) for s in given]
        step = ops.reshape(x, (1, n, self.input_size))
        _, h, c = self._run(step, rows[0], rows[1] if len(rows) > 1 else None, "")
        return [ops.reshape(t, shape) for t in (h, c) if t is not None]

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class RNNCell(RNNCellBase):
    """One step of an Elman network: h' = act(x W_ihᵀ + b_ih + h W_hhᵀ + b_hh).

    Parameters
    ----------
    input_size, hidden_size : int
    bias : bool
    nonlinearity : {"tanh", "relu"}
    device : Device or str, optional
    dtype : DType, optional

    Attributes
    ----------
    weight_ih, weight_hh : Parameter, shapes (H, I) and (H, H)
    bias_ih, bias_hh : Parameter, shape (H,), or None
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ArgumentError(wrong("RNNCell", "nonlinearity", "'tanh' or 'relu'", repr(nonlinearity)))
        super().__init__(nonlinearity, input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Return the next state, (N, H), from an input (N, I) and a state (N, H), zeros by default; N may be left
        out."""
        return self._next(input, [("hx", hx)])[0]

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", nonlinearity={self.nonlinearity}" if self.nonlinearity != "tanh" else "")


class LSTMCell(RNNCellBase):
    """One step of a long short-term memory; parameters as for ``RNNCell``, with 4 H rows: i, f, g, o."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__("lstm", input_size, hidden_size, bias, device, dtype)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return the next state and cell, each (N, H), from an input (N, I) and a pair of such, zeros by default."""
        h, c = (None, None) if hx is None else _pair("LSTMCell", hx)
        after = self._next(input, [("hx[0]", h), ("hx[1]", c)])
        return after[0], after[1]


class GRUCell(RNNCellBase):
    """One step of gated recurrent units; parameters as for ``RNNCell``, with 3 H rows: r, z, n."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__("gru", input_size, hidden_size, bias, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Return the next state, (N, H), from an input (N, I) and a state (N, H), zeros by default; N may be left
        out."""
        return self._next(input, [("hx", hx)])[0]
