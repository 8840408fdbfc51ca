"""One step of a recurrent layer after the products: all gates of an element by one thread.

    rnn    h' = act(a + b)
    gru    r = σ(a_r + b_r), z = σ(a_z + b_z), n = tanh(a_n + r b_n), h' = (1 - z) n + z h
    lstm   i = σ(a_i + b_i), f = σ(a_f + b_f), g = tanh(a_g + b_g), o = σ(a_o + b_o),
           c' = f c + i g, h' = o tanh c'

A step is small and there are many of them: what counts is that each is one launch. Arrays are C-contiguous. Papers: see
``kernels/ref/recurrent.py``.
"""

from __future__ import annotations

from typing import Any

from tinygrad_bn.kernels.cuda.entry import blocks, device, entry
from tinygrad_bn.kernels.cuda.maths import NAMES
from tinygrad_bn.kernels.cuda.target import cuda
from tinygrad_bn.kernels.cuda.words import real

__all__ = ["gru_step", "gru_step_backward", "lstm_step", "lstm_step_backward", "rnn_step", "rnn_step_backward"]

exp, tanh = NAMES["exp"], NAMES["tanh"]


@device
def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x); e^-|x| is at most 1."""
    e = exp(-abs(x))
    return (e if x < 0.0 else real(1)) / (1.0 + e)


@entry(static="relu")
def _rnn(a: Any, b: Any, out: Any, n: Any, relu: Any) -> None:
    i = cuda.grid(1)
    while i < n:
        v = a[i] + b[i]
        if relu:
            out[i] = 0.0 if v <= 0.0 else v
        else:
            out[i] = tanh(v)
        i += cuda.gridsize(1)


def rnn_step(a: Any, b: Any, relu: Any, out: Any) -> None:
    if out.size:
        _rnn[blocks(out.size)](a, b, out, out.size, bool(relu))


@entry(static="relu")
def _rnn_backward(gy: Any, gnext: Any, y: Any, ga: Any, n: Any, relu: Any) -> None:
    i = cuda.grid(1)
    while i < n:
        g = gy[i] + gnext[i]
        v = y[i]
        if relu:
            ga[i] = g * (1.0 if v > 0.0 else v * 0.0)
        else:
            ga[i] = g * (1.0 - v) * (1.0 + v)
        i += cuda.gridsize(1)


def rnn_step_backward(gy: Any, gnext: Any, y: Any, relu: Any, ga: Any) -> None:
    if ga.size:
        _rnn_backward[blocks(ga.size)](gy, gnext, y, ga, ga.size, bool(relu))


@entry
def _gru(a: Any, b: Any, h: Any, acts: Any, out: Any, n: Any, size: Any) -> None:
    i = cuda.grid(1)
    while i < n:
        row = i // size
        at, to = i + 2 * row * size, i + 3 * row * size  # row · 3H + j, row · 4H + j
        r = sigmoid(a[at] + b[at])
        z = sigmoid(a[at + size] + b[at + size])
        bn = b[at + 2 * size]
        new = tanh(a[at + 2 * size] + r * bn)
        acts[to] = r
        acts[to + size] = z
        acts[to + 2 * size] = new
        acts[to + 3 * size] = bn
        out[i] = (1.0 - z) * new + z * h[i]
        i += cuda.gridsize(1)


def gru_step(a: Any, b: Any, h: Any, acts: Any, out: Any) -> None:
    if out.size:
        _gru[blocks(out.size)](a, b, h, acts, out, out.size, out.shape[1])


@entry
def _gru_backward(gy: Any, gnext: Any, carry: Any, acts: Any, h: Any, ga: Any, gb: Any, n: Any, size: Any) -> None:
    i = cuda.grid(1)
    while i < n:
        row = i // size
        to, at = i + 2 * row * size, i + 3 * row * size
        r, z, new, bn = acts[at], acts[at + size], acts[at + 2 * size], acts[at + 3 * size]
        g = gy[i] + gnext[i] + carry[i]
        gn = g * (1.0 - z) * (1.0 - new) * (1.0 + new)
        gz = g * (h[i] - new) * z * (1.0 - z)
        gr = gn * bn * r * (1.0 - r)
        ga[to] = gr
        ga[to + size] = gz
        ga[to + 2 * size] = gn
        gb[to] = gr
        gb[to + size] = gz
        gb[to + 2 * size] = gn * r
        carry[i] = g * z
        i += cuda.gridsize(1)


def gru_step_backward(gy: Any, gnext: Any, carry: Any, acts: Any, h: Any, ga: Any, gb: Any) -> None:
    if gy.size:
        _gru_backward[blocks(gy.size)](gy, gnext, carry, acts, h, ga, gb, gy.size, gy.shape[1])


@entry
def _lstm(a: Any, b: Any, c: Any, acts: Any, cell: Any, out: Any, n: Any, size: Any) -> None:
    k = cuda.grid(1)
    while k < n:
        at = k + 3 * (k // size) * size
        i = sigmoid(a[at] + b[at])
        f = sigmoid(a[at + size] + b[at + size])
        g = tanh(a[at + 2 * size] + b[at + 2 * size])
        o = sigmoid(a[at + 3 * size] + b[at + 3 * size])
        acts[at] = i
        acts[at + size] = f
        acts[at + 2 * size] = g
        acts[at + 3 * size] = o
        new = f * c[k] + i * g
        cell[k] = new
        out[k] = o * tanh(new)
        k += cuda.gridsize(1)


def lstm_step(a: Any, b: Any, c: Any, acts: Any, cell: Any, out: Any) -> None:
    if out.size:
        _lstm[blocks(out.size)](a, b, c, acts, cell, out, out.size, out.shape[1])


@entry
def _lstm_backward(gy: Any, gnext: Any, gc: Any, acts: Any, c: Any, cell: Any, ga: Any, n: Any, size: Any) -> None:
    k = cuda.grid(1)
    while k < n:
        at = k + 3 * (k // size) * size
        i, f, g, o = acts[at], acts[at + size], acts[at + 2 * size], acts[at + 3 * size]
        t = tanh(cell[k])
        gh = gy[k] + gnext[k]
        gcell = gc[k] + gh * o * (1.0 - t) * (1.0 + t)
        ga[at] = gcell * g * i * (1.0 - i)
        ga[at + size] = gcell * c[k] * f * (1.0 - f)
        ga[at + 2 * size] = gcell * i * (1.0 - g) * (1.0 + g)
        ga[at + 3 * size] = gh * t * o * (1.0 - o)
        gc[k] = gcell * f
        k += cuda.gridsize(1)


def lstm_step_backward(gy: Any, gnext: Any, gc: Any, acts: Any, c: Any, cell: Any, ga: Any) -> None:
    if gy.size:
        _lstm_backward[blocks(gy.size)](gy, gnext, gc, acts, c, cell, ga, gy.size, gy.shape[1])
