"""One step of a recurrent layer after the products: gates, states, and their gradients.

With a = x W_ihᵀ + b_ih and b = h W_hhᵀ + b_hh, both in parts of H columns, one a gate:

    rnn    h' = act(a + b)
    gru    r = σ(a_r + b_r), z = σ(a_z + b_z), n = tanh(a_n + r b_n), h' = (1 - z) n + z h
    lstm   i = σ(a_i + b_i), f = σ(a_f + b_f), g = tanh(a_g + b_g), o = σ(a_o + b_o),
           c' = f c + i g, h' = o tanh c'

Elman 1990 (Cognitive Science 14, 179); Cho et al. 2014 (arXiv:1406.1078) with the reset gate after the product;
Hochreiter & Schmidhuber 1997 (Neural Computation 9, 1735) with the forget gate of Gers et al. 2000.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))  # at most 1
    return np.where(x < 0, e / (1 + e), 1 / (1 + e))


@spec()
def rnn_step(a: Array, b: Array, relu: bool, out: Array) -> None:
    """out = act(a + b), all (N, H)."""
    out[...] = np.maximum(a + b, 0) if relu else np.tanh(a + b)


@spec(writes="ga")
def rnn_step_backward(gy: Array, gnext: Array, y: Array, relu: bool, ga: Array) -> None:
    """ga = (gy + gnext) act'(y): the gradient of a, and of b."""
    slope = np.where(y > 0, 1, y * 0) if relu else (1 - y) * (1 + y)
    ga[...] = (gy + gnext) * slope


@spec(writes="acts out")
def gru_step(a: Array, b: Array, h: Array, acts: Array, out: Array) -> None:
    """New state (N, H) from a, b (N, 3H); acts (N, 4H) keeps r, z, n and b_n."""
    ar, az, an = np.split(a, 3, 1)
    br, bz, bn = np.split(b, 3, 1)
    r, z = _sigmoid(ar + br), _sigmoid(az + bz)
    n = np.tanh(an + r * bn)
    acts[...] = np.concatenate([r, z, n, bn], 1)
    out[...] = (1 - z) * n + z * h


@spec(writes="ga gb", updates="carry")
def gru_step_backward(gy: Array, gnext: Array, carry: Array, acts: Array, h: Array, ga: Array, gb: Array) -> None:
    """Gradients of a and b; with g = gy + gnext + carry the state's own share, g z, becomes the next carry."""
    r, z, n, bn = np.split(acts, 4, 1)
    g = gy + gnext + carry
    gn = g * (1 - z) * (1 - n) * (1 + n)
    gz = g * (h - n) * z * (1 - z)
    gr = gn * bn * r * (1 - r)
    ga[...] = np.concatenate([gr, gz, gn], 1)
    gb[...] = np.concatenate([gr, gz, gn * r], 1)
    carry[...] = g * z


@spec(writes="acts cell out")
def lstm_step(a: Array, b: Array, c: Array, acts: Array, cell: Array, out: Array) -> None:
    """New cell and state (N, H) from a, b (N, 4H); acts (N, 4H) keeps i, f, g, o."""
    i, f, g, o = np.split(a + b, 4, 1)
    i, f, g, o = _sigmoid(i), _sigmoid(f), np.tanh(g), _sigmoid(o)
    acts[...] = np.concatenate([i, f, g, o], 1)
    cell[...] = f * c + i * g
    out[...] = o * np.tanh(cell)


@spec(writes="ga", updates="gc")
def lstm_step_backward(gy: Array, gnext: Array, gc: Array, acts: Array, c: Array, cell: Array, ga: Array) -> None:
    """The gradient of a, and of b; gc comes as the new cell's gradient and leaves as the old one's."""
    i, f, g, o = np.split(acts, 4, 1)
    t = np.tanh(cell)
    gh = gy + gnext
    gcell = gc + gh * o * (1 - t) * (1 + t)
    ga[...] = np.concatenate(
        [gcell * g * i * (1 - i), gcell * c * f * (1 - f), gcell * i * (1 - g) * (1 + g), gh * t * o * (1 - o)], 1
    )
    gc[...] = gcell * f
