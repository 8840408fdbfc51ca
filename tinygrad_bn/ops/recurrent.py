"""A recurrent layer in one direction over a whole sequence, as one operation.

The products of the inputs of all steps are one product, made outside; here are the products of the state, one a step,
each followed by a small kernel. On the way back the steps leave the gradients of all gates, from which the weight's
gradient is again one product. Formulas and papers: ``kernels/ref/recurrent.py``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tinygrad_bn.core.backward import grad
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.registry import operation
from tinygrad_bn.core.tape import Gradients, MultiNode, nodes_of
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.ops import arithmetic, functions, joining
from tinygrad_bn.ops._common import plain
from tinygrad_bn.ops._operands import NOTHING
from tinygrad_bn.ops.composite import through_composite
from tinygrad_bn.ops.matmul import NO_BIAS, linear

GATES = {"tanh": 1, "relu": 1, "gru": 3, "lstm": 4}
"""How many parts of H columns the products have, by kind of layer."""


class Kept(NamedTuple):
    """What the steps leave for backward: activations (T, N, 4H), of gru and lstm; cells (T, N, H), of lstm."""

    acts: Array
    cells: Array


class Recurrent(MultiNode):
    """The gradients of gates, initial states, weight and bias by ``recurrent_backward``."""

    __slots__ = ()

    def backward_all(self, *gradients: Tensor | None) -> Gradients:
        *inputs, y = self.unpack()
        _, kind, reverse, kept = self.constants
        like = inputs[1]
        gy, gh, gc = (
            _zeros(like, shape) if g is None else g
            for g, shape in zip(gradients, (y.array.shape, *[like.array.shape] * 2), strict=True)
        )
        return recurrent_backward((gy, gh, gc), tuple(inputs), y, kind, reverse, kept, self.inputs[3] is not None)


def _zeros(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    out = like.device.empty(shape, like.dtype)
    launch(like.device.kernels.fill, 0, out)
    return Tensor(out, like.dtype, like.device)


def _order(steps: int, reverse: bool) -> list[int]:
    return list(range(steps - 1, -1, -1) if reverse else range(steps))


@operation(Recurrent)
def recurrent(
    gates: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    kind: str,
    reverse: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the states of a recurrent layer after each step, the last one, and the last cell of an LSTM.

    Parameters
    ----------
    gates : Tensor, shape (T, N, G H), T at least 1
        The products of the inputs, x W_ihᵀ + b_ih: G parts of H columns, one a gate in PyTorch's order.
    h0 : Tensor, shape (N, H)
    c0 : Tensor, shape (N, H), of an LSTM
    weight : Tensor, shape (G H, H)
        W_hh.
    bias : Tensor, shape (G H,), optional
        b_hh.
    kind : {"tanh", "relu", "gru", "lstm"}
    reverse : bool
        Go from the last step to the first.

    Returns
    -------
    y : Tensor, shape (T, N, H)
    h : Tensor, shape (N, H)
        The state after the step that was taken last.
    c : Tensor, shape (N, H), of an LSTM, else None
    """
    device, dtype = gates.device, gates.dtype
    steps, n, _ = gates.array.shape
    size = h0.array.shape[1]
    a, w = plain(gates), plain(weight)
    b = NO_BIAS[dtype.name] if bias is None else plain(bias)
    y = device.empty((steps, n, size), dtype)
    gated = kind in ("gru", "lstm")
    kept = Kept(
        device.empty((steps if gated else 0, n, 4 * size), dtype),
        device.empty((steps if kind == "lstm" else 0, n, size), dtype),
    )
    product = device.empty((n, weight.array.shape[0]), dtype)
    h, c = plain(h0), plain(h0 if c0 is None else c0)
    for t in _order(steps, reverse):
        launch(device.kernels.linear, h, w, b, product)
        _step(device.kernels, kind, t, a[t], product, h, c, kept, y[t])
        h = y[t]
        c = kept.cells[t] if kind == "lstm" else c
    out = Tensor(y, dtype, device)
    last = [Tensor(device.empty((n, size), dtype), dtype, device) for _ in range(2 if kind == "lstm" else 1)]
    for t_, array in zip(last, (h, c)):
        launch(device.kernels.copy, array, t_.array)
    h_last, c_last = last[0], last[1] if kind == "lstm" else None
    inputs = (gates, h0, NOTHING if c0 is None else c0, weight, NOTHING if bias is None else bias)
    nodes = nodes_of(Recurrent, *inputs)
    if nodes is not None:
        Recurrent(nodes, (*inputs, out.alias()), (3, kind, reverse, kept)).attach((out, h_last, c_last))
    return out, h_last, c_last


def _step(kernels: Any, kind: str, t: int, a: Array, b: Array, h: Array, c: Array, kept: Kept, out: Array) -> None:
    if kind == "lstm":
        launch(kernels.lstm_step, a, b, c, kept.acts[t], kept.cells[t], out)
    elif kind == "gru":
        launch(kernels.gru_step, a, b, h, kept.acts[t], out)
    else:
        launch(kernels.rnn_step, a, b, kind == "relu", out)


class RecurrentBackward(MultiNode):
    """The derivatives of the gradients, through the steps' composite."""

    __slots__ = ()

    def backward_all(self, *gradients: Tensor | None) -> Gradients:
        _, kind, reverse, _ = self.constants

        def composite(gy: Tensor, gh: Tensor, gc: Tensor, *inputs: Tensor) -> list[Tensor]:
            gates, h0, c0, weight, bias = inputs
            outs = recurrent_composite(gates, h0, c0, weight, bias, kind, reverse)
            starts = [g for out, g in zip(outs, (gy, gh, gc)) if out is not None]
            found = grad([o for o in outs if o is not None], inputs, starts, create_graph=True, allow_unused=True)
            return [_zeros(x, x.array.shape) if g is None else g for x, g in zip(inputs, found, strict=True)]

        return through_composite(composite, self.unpack(), gradients)


@operation(RecurrentBackward)
def recurrent_backward(
    gradients: tuple[Tensor, Tensor, Tensor],
    inputs: tuple[Tensor, ...],
    y: Tensor,
    kind: str,
    reverse: bool,
    kept: Kept,
    for_weight: bool = True,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of ``recurrent`` with respect to gates, h0, c0, weight and bias.

    Parameters
    ----------
    gradients : tuple of Tensor
        Those of y, h and c.
    inputs : tuple of Tensor
        gates, h0, c0, weight, bias; what there is not is empty.
    y : Tensor, shape (T, N, H)
    kept : Kept
    for_weight : bool
        Whether the weight's gradient is wanted; else it is None.
    """
    gates, h0, c0, weight, bias = inputs
    device, dtype = gates.device, gates.dtype
    steps, n, width = gates.array.shape
    gy, gh, gc = (plain(g) for g in gradients)
    states = _before(y, h0, reverse)
    cells = _before(Tensor(kept.cells, dtype, device), c0, reverse) if kind == "lstm" else states
    gnext, carry = device.empty(gh.shape, dtype), device.empty(gh.shape, dtype)
    launch(device.kernels.copy, gh, gnext)
    if kind == "lstm":
        launch(device.kernels.copy, gc, carry)
    else:
        launch(device.kernels.fill, 0, carry)
    ga = device.empty((steps, n, width), dtype)
    gb = device.empty((steps, n, width), dtype) if kind == "gru" else ga
    w = plain(weight)
    for t in reversed(_order(steps, reverse)):
        _step_backward(device.kernels, kind, t, gy[t], gnext, carry, states, cells, kept, plain(y), ga, gb)
        if n:
            launch(device.kernels.matmul_nn, gb[t], w, gnext)
    gh0 = gnext
    if kind == "gru":
        gh0 = device.empty(gnext.shape, dtype)
        launch(device.kernels.add, gnext.reshape(-1), carry.reshape(-1), gh0.reshape(-1))
    gweight, gbias = _parameter_gradients(Tensor(gb, dtype, device), states, for_weight, bool(bias.array.size))
    out = (
        Tensor(ga, dtype, device),
        Tensor(gh0, dtype, device),
        Tensor(carry, dtype, device) if kind == "lstm" else None,
        gweight,
        gbias,
    )
    nodes = nodes_of(RecurrentBackward, *gradients, *inputs)
    if nodes is not None:
        RecurrentBackward(nodes, (*gradients, *inputs), (5, kind, reverse, for_weight)).attach(out)
    return out


def _before(after: Tensor, first: Tensor, reverse: bool) -> Array:
    """The states ahead of each step, shape (T, N, H), from those after each and the initial one."""
    out = after.device.empty(after.array.shape, after.dtype)
    start, rest, shifted = (out[-1], out[:-1], after.array[1:]) if reverse else (out[0], out[1:], after.array[:-1])
    launch(after.device.kernels.copy, first.array, start)
    launch(after.device.kernels.copy, shifted, rest)
    return out


def _step_backward(
    kernels: Any,
    kind: str,
    t: int,
    gy: Array,
    gnext: Array,
    carry: Array,
    states: Array,
    cells: Array,
    kept: Kept,
    y: Array,
    ga: Array,
    gb: Array,
) -> None:
    if kind == "lstm":
        launch(kernels.lstm_step_backward, gy, gnext, carry, kept.acts[t], cells[t], kept.cells[t], ga[t])
    elif kind == "gru":
        launch(kernels.gru_step_backward, gy, gnext, carry, kept.acts[t], states[t], ga[t], gb[t])
    else:
        launch(kernels.rnn_step_backward, gy, gnext, y[t], kind == "relu", ga[t])


def _parameter_gradients(
    gb: Tensor, states: Array, for_weight: bool, for_bias: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of weight and bias from those of all products: one product, one sum."""
    device, dtype = gb.device, gb.dtype
    steps, n, width = gb.array.shape
    size = states.shape[2]
    flat = gb.array.reshape(steps * n, width)
    gweight = gbias = None
    if for_weight:
        gweight = Tensor(device.empty((width, size), dtype), dtype, device)
        if n:
            launch(device.kernels.matmul_tn, flat, states.reshape(steps * n, size), gweight.array)
        else:
            launch(device.kernels.fill, 0, gweight.array)
    if for_bias:
        gbias = Tensor(device.empty((width,), dtype), dtype, device)
        if n:
            launch(device.kernels.sum, flat.reshape(1, steps * n, width), 1.0, gbias.array.reshape(1, width))
        else:
            launch(device.kernels.fill, 0, gbias.array)
    return gweight, gbias


def recurrent_composite(
    gates: Tensor, h0: Tensor, c0: Tensor | None, weight: Tensor, bias: Tensor | None, kind: str, reverse: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return what ``recurrent`` does, composed of smaller operations: its oracle, and its second derivative's way."""
    parts = joining.unbind(gates)
    h, c = h0, c0
    after: dict[int, Tensor] = {}
    b = None if bias is None or not bias.array.size else bias
    for t in _order(len(parts), reverse):
        product = linear(h, weight, b)
        if kind == "lstm" and c is not None:
            h, c = _lstm(arithmetic.add(parts[t], product), c)
        elif kind == "gru":
            h = _gru(parts[t], product, h)
        else:
            h = (functions.relu if kind == "relu" else functions.tanh)(arithmetic.add(parts[t], product))
        after[t] = h
    return joining.stack([after[t] for t in range(len(parts))]), h, c if kind == "lstm" else None


def _lstm(product: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = joining.chunk(product, 4, 1)
    kept = arithmetic.mul(functions.sigmoid(f), c)
    cell = arithmetic.add(kept, arithmetic.mul(functions.sigmoid(i), functions.tanh(g)))
    return arithmetic.mul(functions.sigmoid(o), functions.tanh(cell)), cell


def _gru(a: Tensor, b: Tensor, h: Tensor) -> Tensor:
    ar, az, an = joining.chunk(a, 3, 1)
    br, bz, bn = joining.chunk(b, 3, 1)
    r = functions.sigmoid(arithmetic.add(ar, br))
    z = functions.sigmoid(arithmetic.add(az, bz))
    n = functions.tanh(arithmetic.add(an, arithmetic.mul(r, bn)))
    return arithmetic.add(n, arithmetic.mul(z, arithmetic.sub(h, n)))
