"""One step of a recurrent layer after the products, row by row: all gates of an element in registers at once.

    rnn    h' = act(a + b)
    gru    r = σ(a_r + b_r), z = σ(a_z + b_z), n = tanh(a_n + r b_n), h' = (1 - z) n + z h
    lstm   i = σ(a_i + b_i), f = σ(a_f + b_f), g = tanh(a_g + b_g), o = σ(a_o + b_o),
           c' = f c + i g, h' = o tanh c'

A product of a batch's rows goes before every step, so that the steps themselves have to be cheap. Papers: see
``kernels/ref/recurrent.py``.
"""

from __future__ import annotations

from typing import Any

from numba import prange

from tinygrad_bn.kernels.cpu import math
from tinygrad_bn.kernels.cpu._jit import jit, parallel

GRAIN = 1 << 14


@jit(inline=True)
def sigmoid(x: Any) -> Any:
    one = type(x)(1)
    return one / (one + math.exp(-x))


@jit()
def rnn_row(a: Any, b: Any, relu: Any, out: Any) -> None:
    zero = a.dtype.type(0)
    for j in range(out.size):
        v = a[j] + b[j]
        if relu:
            out[j] = zero if v <= zero else v
        else:
            out[j] = math.tanh(v)


@parallel(work="out", grain=GRAIN)
def rnn_step(a: Any, b: Any, relu: Any, out: Any) -> None:
    for n in prange(out.shape[0]):
        rnn_row(a[n], b[n], relu, out[n])


@jit()
def rnn_row_backward(gy: Any, gnext: Any, y: Any, relu: Any, ga: Any) -> None:
    zero = gy.dtype.type(0)
    one = gy.dtype.type(1)
    for j in range(ga.size):
        g = gy[j] + gnext[j]
        v = y[j]
        if relu:
            ga[j] = g * (one if v > zero else v * zero)
        else:
            ga[j] = g * (one - v) * (one + v)


@parallel(work="ga", grain=1 << 17)
def rnn_step_backward(gy: Any, gnext: Any, y: Any, relu: Any, ga: Any) -> None:
    for n in prange(ga.shape[0]):
        rnn_row_backward(gy[n], gnext[n], y[n], relu, ga[n])


@jit()
def gru_row(a: Any, b: Any, h: Any, acts: Any, out: Any) -> None:
    size = out.size
    one = a.dtype.type(1)
    for j in range(size):
        r = sigmoid(a[j] + b[j])
        z = sigmoid(a[size + j] + b[size + j])
        bn = b[2 * size + j]
        n = math.tanh(a[2 * size + j] + r * bn)
        acts[j] = r
        acts[size + j] = z
        acts[2 * size + j] = n
        acts[3 * size + j] = bn
        out[j] = (one - z) * n + z * h[j]


@parallel(work="acts", grain=GRAIN)
def gru_step(a: Any, b: Any, h: Any, acts: Any, out: Any) -> None:
    for n in prange(out.shape[0]):
        gru_row(a[n], b[n], h[n], acts[n], out[n])


@jit()
def gru_row_backward(gy: Any, gnext: Any, carry: Any, acts: Any, h: Any, ga: Any, gb: Any) -> None:
    size = gy.size
    one = gy.dtype.type(1)
    for j in range(size):
        r = acts[j]
        z = acts[size + j]
        n = acts[2 * size + j]
        g = gy[j] + gnext[j] + carry[j]
        gn = g * (one - z) * (one - n) * (one + n)
        gz = g * (h[j] - n) * z * (one - z)
        gr = gn * acts[3 * size + j] * r * (one - r)
        ga[j] = gr
        gb[j] = gr
        ga[size + j] = gz
        gb[size + j] = gz
        ga[2 * size + j] = gn
        gb[2 * size + j] = gn * r
        carry[j] = g * z


@parallel(work="acts", grain=1 << 17)
def gru_step_backward(gy: Any, gnext: Any, carry: Any, acts: Any, h: Any, ga: Any, gb: Any) -> None:
    for n in prange(gy.shape[0]):
        gru_row_backward(gy[n], gnext[n], carry[n], acts[n], h[n], ga[n], gb[n])


@jit()
def lstm_row(a: Any, b: Any, c: Any, acts: Any, cell: Any, out: Any) -> None:
    size = out.size
    for j in range(size):
        i = sigmoid(a[j] + b[j])
        f = sigmoid(a[size + j] + b[size + j])
        g = math.tanh(a[2 * size + j] + b[2 * size + j])
        o = sigmoid(a[3 * size + j] + b[3 * size + j])
        acts[j] = i
        acts[size + j] = f
        acts[2 * size + j] = g
        acts[3 * size + j] = o
        new = f * c[j] + i * g
        cell[j] = new
        out[j] = o * math.tanh(new)


@parallel(work="acts", grain=GRAIN)
def lstm_step(a: Any, b: Any, c: Any, acts: Any, cell: Any, out: Any) -> None:
    for n in prange(out.shape[0]):
        lstm_row(a[n], b[n], c[n], acts[n], cell[n], out[n])


@jit()
def lstm_row_backward(gy: Any, gnext: Any, gc: Any, acts: Any, c: Any, cell: Any, ga: Any) -> None:
    size = gy.size
    one = gy.dtype.type(1)
    for j in range(size):
        i = acts[j]
        f = acts[size + j]
        g = acts[2 * size + j]
        o = acts[3 * size + j]
        t = math.tanh(cell[j])
        gh = gy[j] + gnext[j]
        gcell = gc[j] + gh * o * (one - t) * (one + t)
        ga[j] = gcell * g * i * (one - i)
        ga[size + j] = gcell * c[j] * f * (one - f)
        ga[2 * size + j] = gcell * i * (one - g) * (one + g)
        ga[3 * size + j] = gh * t * o * (one - o)
        gc[j] = gcell * f


@parallel(work="acts", grain=GRAIN)
def lstm_step_backward(gy: Any, gnext: Any, gc: Any, acts: Any, c: Any, cell: Any, ga: Any) -> None:
    for n in prange(gy.shape[0]):
        lstm_row_backward(gy[n], gnext[n], gc[n], acts[n], c[n], cell[n], ga[n])
