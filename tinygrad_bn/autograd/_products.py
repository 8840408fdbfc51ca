"""What derivatives of functions are made of: inputs to differentiate by, products with the Jacobian."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.core.backward import grad
from tinygrad_bn.core.tape import enable_grad
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, GradientError, ShapeError, expected, wrong
from tinygrad_bn.ops.composite import Gate


class _Depth(threading.local):
    """How many of these functions the calling thread is in: within another one derivatives are themselves recorded."""

    inside = 0


_depth = _Depth()


@contextmanager
def transforming() -> Iterator[bool]:
    """Record what is computed in the block; gives whether it is within another such block."""
    nested = _depth.inside > 0
    _depth.inside += 1
    try:
        with enable_grad():
            yield nested
    finally:
        _depth.inside -= 1


def fresh(t: Tensor, joined: bool) -> Tensor:
    """Return a tensor on the same memory to differentiate by: joined to the tape of the first, or the end of one."""
    out = t.alias()
    out.view_version = t.view_version
    if joined and t.node is not None:
        out.node = Gate((t.node,), ())
    else:
        out.requires_grad = True
    return out


def as_tuple(op: str, name: str, value: object) -> tuple[Tensor, ...]:
    given = tuple(value) if isinstance(value, tuple | list) else (value,)
    for i, t in enumerate(given):
        if not isinstance(t, Tensor):
            raise DTypeError(wrong(op, f"{name}[{i}]", "a Tensor", type(t).__name__))
    return given


def tracked_inputs(op: str, inputs: object, joined: bool) -> tuple[Tensor, ...]:
    given = as_tuple(op, "inputs", inputs)
    for i, t in enumerate(given):
        if not t.dtype.is_floating_point:
            raise DTypeError(wrong(op, f"inputs[{i}]", "a floating-point tensor", t.dtype.name))
    return tuple(fresh(t, joined) for t in given)


def checked_outputs(op: str, outputs: object, strict: bool) -> tuple[Tensor, ...]:
    found = as_tuple(op, "func(*inputs)", outputs)
    for i, t in enumerate(found):
        if strict and t.node is None:
            raise GradientError(f"{op}: output {i} of 'func' does not depend on the inputs, and 'strict' is set.")
    return found


def check_scalar(op: str, outputs: tuple[Tensor, ...], structured: bool) -> None:
    if structured or len(outputs) != 1 or outputs[0].array.size != 1:
        got = "several outputs" if structured else f"shape {outputs[0].shape}"
        raise ShapeError(expected(op, "func", "one output of one element", got))


def directions_like(op: str, v: object, like: tuple[Tensor, ...], of: str) -> tuple[Tensor, ...]:
    """v, of the shapes of ``like``; ones where none is given and there is one number to it."""
    if v is None:
        if len(like) != 1 or like[0].array.size != 1:
            raise ArgumentError(wrong(op, "v", f"given where the {of} are more than one number", None))
        return (ops.ones_like(like[0]),)
    given = as_tuple(op, "v", v)
    if len(given) != len(like):
        raise ArgumentError(expected(op, "v", f"one tensor for each of the {of}, {len(like)}", len(given)))
    for i, (t, other) in enumerate(zip(given, like, strict=True)):
        if t.shape != other.shape or t.dtype is not other.dtype or t.device is not other.device:
            want = f"shape {other.shape}, dtype {other.dtype.name}, on {other.device}"
            raise ShapeError(expected(op, f"v[{i}]", want, f"{t.shape}, {t.dtype.name}, on {t.device}"))
    return given


def pull(
    op: str, outputs: Sequence[Tensor], inputs: Sequence[Tensor], v: Sequence[Tensor | None], create: bool, strict: bool
) -> list[Tensor]:
    """vᵀ J, zeros where nothing depends on an input."""
    tracked = [(o, g) for o, g in zip(outputs, v, strict=True) if o.node is not None and g is not None]
    found: Sequence[Tensor | None] = [None] * len(inputs)
    if tracked:
        found = grad([o for o, _ in tracked], inputs, [g for _, g in tracked], True, create, allow_unused=True)
    if strict and None in [None if g is None else 0 for g in found]:
        at = [g is None for g in found].index(True)
        raise GradientError(f"{op}: the outputs do not depend on input {at}, and 'strict' is set.")
    return [ops.zeros_like(t) if g is None else g for t, g in zip(inputs, found, strict=True)]


def shaped_like(value: object, found: Sequence[Tensor], keep: bool) -> Any:
    """A tuple where the value is one, else its one element; off the tape unless it is to be kept on it."""
    given = tuple(t if keep else t.alias() for t in found)
    return given if isinstance(value, tuple | list) else given[0]


def push(
    op: str,
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    v: Sequence[Tensor],
    create: bool,
    strict: bool,
) -> list[Tensor]:
    """J v: the derivative of uᵀ J v by u, at any u."""
    u = [ops.zeros_like(o) for o in outputs]
    for t in u:
        t.requires_grad = True
    return pull(op, pull(op, outputs, inputs, u, True, strict), u, v, create, False)
