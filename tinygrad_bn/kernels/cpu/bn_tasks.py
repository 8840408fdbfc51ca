"""The work of batch normalisation cut into tasks, whichever way channels lie.

A task t is some channels that lie side by side: those that ``bn_rows.together`` takes where they are rows of L > 1
values, a register's where they are columns (L = 1). Where tasks are few, the batch is cut into P = parts.shape[1] parts
besides, and what the parts of a channel found is merged in order.
"""

from __future__ import annotations

from typing import Any

from tinygrad_bn.kernels.cpu._jit import jit
from tinygrad_bn.kernels.cpu.bn_activation import RELU, slopes
from tinygrad_bn.kernels.cpu.bn_apply import rows_apply
from tinygrad_bn.kernels.cpu.bn_columns import (
    columns_apply,
    columns_gradient,
    columns_statistics,
    columns_sums,
    register_or,
)
from tinygrad_bn.kernels.cpu.bn_gradient import rows_gradient, rows_sums
from tinygrad_bn.kernels.cpu.bn_rows import rows_statistics, together
from tinygrad_bn.kernels.cpu.simd import lanes, load_first, pointer_to, zeros


@jit(inline=True)
def size_of(x: Any) -> Any:
    """How many channels a task takes."""
    return together(x) if x.shape[2] > 1 else lanes(x)


@jit(inline=True)
def tasks_of(x: Any) -> Any:
    """How many tasks there are."""
    return -(-x.shape[1] // size_of(x))


@jit(inline=True)
def channels_of(x: Any, t: Any) -> Any:
    """The channels c0 … c1 of a task."""
    size = size_of(x)
    return t * size, min(t * size + size, x.shape[1])


@jit(inline=True)
def samples_of(x: Any, p: Any, cuts: Any) -> Any:
    """The samples n0 … n1 of a part."""
    return x.shape[0] * p // cuts, x.shape[0] * (p + 1) // cuts


@jit()
def find_statistics(x: Any, t: Any, p: Any, parts: Any) -> None:
    """Part p, (count, mean, M2), of a task's channels."""
    _, channels, length = x.shape
    c0, c1 = channels_of(x, t)
    n0, n1 = samples_of(x, p, parts.shape[1])
    if length > 1:
        rows_statistics(x.reshape(-1), c0, c1, channels, length, n0, n1, parts, p)
    else:
        columns_statistics(x.reshape(-1), channels, c0, c1 - c0, n0, n1, parts, p)


@jit()
def normalise(
    x: Any, r: Any, y: Any, t: Any, p: Any, cuts: Any, statistics: Any, weight: Any, bias: Any, act: Any,
    slope: Any,
) -> None:  # fmt: skip
    """y of a task's channels and a part's samples; r is a pointer to what is added ahead of the activation, or None."""
    _, channels, length = x.shape
    c0, c1 = channels_of(x, t)
    n0, n1 = samples_of(x, p, cuts)
    fx, fy = x.reshape(-1), y.reshape(-1)
    if length > 1:
        rows_apply(fx, r, fy, c0, c1, channels, length, n0, n1, statistics, weight, bias, act, slope)
    else:
        n = c1 - c0
        h, e = load_first(statistics, c0, n), load_first(statistics, channels + c0, n)
        gain = load_first(statistics, 3 * channels + c0, n) * register_or(weight, c0, n, 1)
        columns_apply(fx, r, fy, channels, c0, n, n0, n1, h, e, gain, register_or(bias, c0, n, 0), act, slope)


@jit()
def find_sums(
    gy: Any, x: Any, y: Any, g: Any, t: Any, p: Any, statistics: Any, weight: Any, bias: Any, act: Any,
    slope: Any, parts: Any,
) -> None:  # fmt: skip
    """Part p, (·, Σ g, Σ g d), of a task's channels; g is written where y, a pointer or None, is given, or there
    is more than a ReLU."""
    _, channels, length = x.shape
    c0, c1 = channels_of(x, t)
    n0, n1 = samples_of(x, p, parts.shape[1])
    fgy, fx, fg = gy.reshape(-1), x.reshape(-1), g.reshape(-1)
    if length > 1:
        rows_sums(fgy, fx, y, fg, c0, c1, channels, length, n0, n1, statistics, weight, bias, act, slope, parts, p)
        return
    n = c1 - c0
    h, e = load_first(statistics, c0, n), load_first(statistics, channels + c0, n)
    gain = load_first(statistics, 3 * channels + c0, n) * register_or(weight, c0, n, 1)
    beta = register_or(bias, c0, n, 0)
    mask = act == RELU and y is None
    waiting = act > RELU or y is not None
    if waiting:
        at = n0 * channels + c0
        slopes(
            pointer_to(fgy), pointer_to(fx), y, pointer_to(fg), at, channels, n1 - n0, n, h, e, gain, beta, act, slope
        )
    source = fg if waiting else fgy
    columns_sums(source, fx, channels, c0, n, n0, n1, h, e, gain, beta, mask, parts, p)


@jit()
def find_gradient(
    g: Any, x: Any, gx: Any, t: Any, p: Any, statistics: Any, weight: Any, bias: Any, mask: Any, count: Any,
    gweight: Any, gbias: Any, parts: Any, past: Any,
) -> None:  # fmt: skip
    """gx of a task's channels and a part's samples, from g, or with a mask from gy where z > 0. count: how many values
    of a channel the statistics were made of, 0 where they are constants."""
    _, channels, length = x.shape
    c0, c1 = channels_of(x, t)
    n0, n1 = samples_of(x, p, parts.shape[1])
    fg, fx, fgx = g.reshape(-1), x.reshape(-1), gx.reshape(-1)
    if length > 1:
        rows_gradient(fg, fx, fgx, c0, c1, channels, length, n0, n1, statistics, weight, bias, mask, count, parts, past)
        return
    n = c1 - c0
    h, e = load_first(statistics, c0, n), load_first(statistics, channels + c0, n)
    r = load_first(statistics, 3 * channels + c0, n)
    gain = r * register_or(weight, c0, n, 1)
    k1 = k2 = zeros(x)
    if count:
        k1 = load_first(gbias, c0, n) / x.dtype.type(count)
        k2 = load_first(gweight, c0, n) * r / x.dtype.type(count)
    columns_gradient(fg, fx, fgx, channels, c0, n, n0, n1, h, e, gain, register_or(bias, c0, n, 0), mask, k1, k2)
