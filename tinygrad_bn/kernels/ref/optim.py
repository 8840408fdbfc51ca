"""Optimiser updates over all parameters at once.

``table`` lists what the update reads and writes, one row a parameter: its arrays, in the order that each kernel's
docstring gives. On this device a row is a tuple of arrays; on ``cpu`` it holds their addresses and their number of
elements, so that one compiled kernel serves any number of parameters. ``like`` is an empty array of the parameters'
dtype. ``hyper`` holds what may change from step to step, float64, and last the number of elements of all parameters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.spec import spec

Array = np.ndarray[Any, Any]


@spec(updates="table", writes="")
def sgd(table: Any, like: Array, hyper: Array) -> None:
    """Row: parameter, gradient, momentum buffer, steps (1,). hyper: lr, momentum, dampening, weight decay, nesterov,
    maximize.

    g += weight_decay p; b = g at the first step, momentum b + (1 - dampening) g later; p -= lr (g + momentum b if
    nesterov else b). Sutskever et al. 2013, in PyTorch's form.
    """
    lr, momentum, dampening, decay, nesterov, maximize, _ = hyper
    for p, g, b, steps in table:
        g = -g if maximize else g
        d = g.astype(np.float64) + decay * p
        if momentum:
            b[...] = d if steps[0] == 0 else momentum * b + (1 - dampening) * d
            d = d + momentum * b if nesterov else b
        steps[0] += 1
        p -= (lr * d).astype(p.dtype)


@spec(updates="table", writes="")
def adam(table: Any, like: Array, hyper: Array) -> None:
    """Row: parameter, gradient, first moment, second moment, largest second moment, steps (1,).

    hyper: lr, beta1, beta2, eps, weight decay, decoupled, amsgrad, maximize. Kingma & Ba 2015 (arXiv:1412.6980),
    algorithm 1; decoupled decay: Loshchilov & Hutter 2019 (arXiv:1711.05101); amsgrad: Reddi et al. 2018
    (arXiv:1904.09237).
    """
    lr, beta1, beta2, eps, decay, decoupled, amsgrad, maximize, _ = hyper
    for p, g, m, v, top, steps in table:
        steps[0] += 1
        t = float(steps[0])
        d = (-g if maximize else g).astype(np.float64)
        if decoupled:
            p *= p.dtype.type(1 - lr * decay)
        else:
            d = d + decay * p
        m[...] = beta1 * m + (1 - beta1) * d
        v[...] = beta2 * v + (1 - beta2) * d * d
        second = v
        if amsgrad:
            np.maximum(top, v, out=top)
            second = top
        denominator = np.sqrt(second.astype(np.float64)) / np.sqrt(1 - beta2**t) + eps
        p -= (lr / (1 - beta1**t) * m / denominator).astype(p.dtype)


@spec(updates="table", writes="")
def adagrad(table: Any, like: Array, hyper: Array) -> None:
    """Row: parameter, gradient, sum of squares, steps (1,). hyper: lr, lr decay, eps, weight decay, maximize.

    g += weight_decay p; s += g²; p -= lr / (1 + (t - 1) lr_decay) · g / (√s + eps) at step t. Duchi et al. 2011.
    """
    lr, lr_decay, eps, decay, maximize, _ = hyper
    for p, g, s, steps in table:
        rate = lr / (1 + float(steps[0]) * lr_decay)
        steps[0] += 1
        d = (-g if maximize else g).astype(np.float64) + decay * p
        s += (d * d).astype(s.dtype)
        p -= (rate * d / (np.sqrt(s.astype(np.float64)) + eps)).astype(p.dtype)


@spec(updates="table", writes="")
def rmsprop(table: Any, like: Array, hyper: Array) -> None:
    """Row: parameter, gradient, mean square, momentum buffer, mean gradient, steps (1,).

    hyper: lr, alpha, eps, weight decay, momentum, centered, maximize.

    g += weight_decay p; v = alpha v + (1 - alpha) g²; d = g / (√v + eps), of v - m² with m = alpha m + (1 - alpha) g if
    centered, no lower than 0; b = momentum b + d; p -= lr b, or lr d without momentum. Tieleman & Hinton 2012;
    centered: Graves 2013 (arXiv:1308.0850).
    """
    lr, alpha, eps, decay, momentum, centered, maximize, _ = hyper
    for p, g, v, b, m, steps in table:
        steps[0] += 1
        d = (-g if maximize else g).astype(np.float64) + decay * p
        v[...] = alpha * v + (1 - alpha) * d * d
        second = v.astype(np.float64)
        if centered:
            m[...] = alpha * m + (1 - alpha) * d
            second = np.maximum(second - m.astype(np.float64) ** 2, 0)
        d = d / (np.sqrt(second) + eps)
        if momentum:
            b[...] = momentum * b + d
            d = b
        p -= (lr * d).astype(p.dtype)


@spec()
def square_sums(table: Any, like: Array, out: Array) -> None:
    """Row: array. out_i = Σ x², float64."""
    for i, (x,) in enumerate(table):
        out[i] = (x.astype(np.float64) ** 2).sum()


@spec(updates="table", writes="")
def scale(table: Any, like: Array, factor: Array) -> None:
    """Row: array. x *= factor[0]."""
    for (x,) in table:
        x *= x.dtype.type(factor[0])
