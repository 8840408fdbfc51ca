"""Derivatives of functions, as values: products with the Jacobian and the Hessian, and both in full.

    vjp  vᵀ J      jvp  J v      hvp  H v      vhp  vᵀ H

``jvp`` differentiates ``vjp``, which is linear in its v, by that v: exact, at the cost of two backward passes. Names,
arguments and structure of the results are those of ``torch.autograd.functional``. No ``.grad`` is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tinygrad_bn import ops
from tinygrad_bn.autograd._products import (
    check_scalar,
    checked_outputs,
    directions_like,
    pull,
    push,
    shaped_like,
    tracked_inputs,
    transforming,
)
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, wrong

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]

Tensors = Tensor | tuple[Tensor, ...]


def vjp(
    func: Callable[..., Tensors], inputs: Tensors, v: Tensors | None = None, create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    """Return the outputs of a function and the product vᵀ J of a vector with its Jacobian.

    Parameters
    ----------
    func : callable
        Takes tensors, returns a tensor or a tuple of tensors.
    inputs : Tensor or tuple of Tensor
    v : Tensor or tuple of Tensor, of the outputs' shapes
        May be left out where the output is one number.
    create_graph : bool
        Let the results be differentiated in their turn. Within another of these functions they always can be.
    strict : bool
        Raise where an output does not depend on an input, instead of returning zeros.

    Returns
    -------
    outputs : as ``func`` returns them
    vjp : Tensor or tuple of Tensor, as the inputs

    Raises
    ------
    ShapeError, DTypeError, ArgumentError, GradientError
    """
    with transforming() as nested:
        keep = create_graph or nested
        given = tracked_inputs("vjp", inputs, keep)
        result = func(*given)
        outputs = checked_outputs("vjp", result, strict)
        found = pull("vjp", outputs, given, directions_like("vjp", v, outputs, "outputs"), keep, strict)
        return shaped_like(result, outputs, keep), shaped_like(inputs, found, keep)


def jvp(
    func: Callable[..., Tensors], inputs: Tensors, v: Tensors | None = None, create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    """Return the outputs of a function and the product J v of its Jacobian with a vector.

    Parameters
    ----------
    func, inputs, create_graph, strict
        As for ``vjp``.
    v : Tensor or tuple of Tensor, of the inputs' shapes
        May be left out where the input is one number.

    Returns
    -------
    outputs : as ``func`` returns them
    jvp : Tensor or tuple of Tensor, as the outputs

    Raises
    ------
    ShapeError, DTypeError, ArgumentError, GradientError
    """
    with transforming() as nested:
        keep = create_graph or nested
        given = tracked_inputs("jvp", inputs, keep)
        directions = directions_like("jvp", v, given, "inputs")
        result = func(*given)
        outputs = checked_outputs("jvp", result, strict)
        found = push("jvp", outputs, given, directions, keep, strict)
        return shaped_like(result, outputs, keep), shaped_like(result, found, keep)


def hvp(
    func: Callable[..., Tensor], inputs: Tensors, v: Tensors | None = None, create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    """Return the value of a function and the product H v of its Hessian with a vector.

    Parameters
    ----------
    func : callable
        Takes tensors, returns a tensor of one element.
    inputs, create_graph, strict
        As for ``vjp``.
    v : Tensor or tuple of Tensor, of the inputs' shapes
        May be left out where the input is one number.

    Returns
    -------
    output : Tensor
    hvp : Tensor or tuple of Tensor, as the inputs

    Raises
    ------
    ShapeError, DTypeError, ArgumentError, GradientError

    Notes
    -----
    The gradient of gᵀ v, where the tape's second derivatives are exact: the Hessian is symmetric, so ``vhp`` is the
    same.
    """
    return _hessian_product("hvp", func, inputs, v, create_graph, strict)


def vhp(
    func: Callable[..., Tensor], inputs: Tensors, v: Tensors | None = None, create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    """Return the value of a function and the product vᵀ H of a vector with its Hessian: see ``hvp``."""
    return _hessian_product("vhp", func, inputs, v, create_graph, strict)


def _hessian_product(
    op: str, func: Callable[..., Tensor], inputs: Tensors, v: Tensors | None, create_graph: bool, strict: bool
) -> tuple[Any, Any]:
    with transforming() as nested:
        keep = create_graph or nested
        given = tracked_inputs(op, inputs, keep)
        directions = directions_like(op, v, given, "inputs")
        result = func(*given)
        outputs = checked_outputs(op, result, strict)
        check_scalar(op, outputs, isinstance(result, tuple | list))
        slopes = pull(op, outputs, given, [ops.ones_like(outputs[0])], True, strict)
        found = pull(op, slopes, given, directions, keep, strict)
        return shaped_like(result, outputs, keep), shaped_like(inputs, found, keep)


def jacobian(
    func: Callable[..., Tensors],
    inputs: Tensors,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:
    """Return the Jacobian of a function.

    Parameters
    ----------
    func, inputs, create_graph, strict
        As for ``vjp``.
    vectorize : bool
        Accepted for PyTorch's sake.
    strategy : {"reverse-mode", "forward-mode"}
        A backward pass for each number of the outputs, or one (twice as dear) for each of the inputs.

    Returns
    -------
    Tensor, shape (*output.shape, *input.shape)
        A tuple over the inputs where these are a tuple, in a tuple over the outputs where those are.

    Raises
    ------
    DTypeError, ArgumentError, GradientError
    """
    if strategy not in ("reverse-mode", "forward-mode"):
        raise ArgumentError(wrong("jacobian", "strategy", "'reverse-mode' or 'forward-mode'", repr(strategy)))
    with transforming() as nested:
        keep = create_graph or nested
        given = tracked_inputs("jacobian", inputs, keep)
        result = func(*given)
        outputs = checked_outputs("jacobian", result, strict)
        product = _rows if strategy == "reverse-mode" else _columns
        table = product(outputs, given, keep, strict)
        found = [shaped_like(inputs, row, keep) for row in table]
        return tuple(found) if isinstance(result, tuple | list) else found[0]


def _units(t: Tensor) -> Iterator[Tensor]:
    """The unit vectors of a tensor's shape."""
    for i in range(t.array.size):
        array = np.zeros(t.array.size, t.array.dtype)
        array[i] = 1
        yield ops.to(ops.from_numpy(array.reshape(t.array.shape)), device=t.device)


def _stacked(parts: list[Tensor], head: tuple[int, ...], tail: tuple[int, ...], like: Tensor) -> Tensor:
    if not parts:
        return ops.zeros((*head, *tail), dtype=like.dtype, device=like.device)
    return ops.reshape(ops.stack(parts), (*head, *tail))


def _rows(outputs: Sequence[Tensor], inputs: Sequence[Tensor], keep: bool, strict: bool) -> list[list[Tensor]]:
    table = []
    for out in outputs:
        pulled = [pull("jacobian", [out], inputs, [unit], keep, strict) for unit in _units(out)]
        table.append([_stacked([row[i] for row in pulled], out.shape, t.shape, t) for i, t in enumerate(inputs)])
    return table


def _columns(outputs: Sequence[Tensor], inputs: Sequence[Tensor], keep: bool, strict: bool) -> list[list[Tensor]]:
    table: list[list[Tensor]] = [[] for _ in outputs]
    for at, t in enumerate(inputs):
        pushed = []
        for unit in _units(t):
            v = [unit if i == at else ops.zeros_like(other) for i, other in enumerate(inputs)]
            pushed.append(push("jacobian", outputs, inputs, v, keep, strict))
        for i, out in enumerate(outputs):
            column = _stacked([p[i] for p in pushed], t.shape, out.shape, out)
            order = [*range(t.ndim, t.ndim + out.ndim), *range(t.ndim)]
            table[i].append(ops.permute(column, order) if order else column)
    return table


def hessian(
    func: Callable[..., Tensor],
    inputs: Tensors,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:
    """Return the Hessian of a function of one output element.

    Parameters
    ----------
    func, inputs, create_graph, strict, vectorize
        As for ``jacobian``.
    outer_jacobian_strategy : {"reverse-mode", "forward-mode"}
        How the gradient is differentiated.

    Returns
    -------
    Tensor, shape (*input.shape, *input.shape)
        Where the inputs are a tuple, a tuple of tuples: [i][j] is the derivative by input i and input j.

    Raises
    ------
    ShapeError, DTypeError, ArgumentError, GradientError
    """

    def slopes(*given: Tensor) -> tuple[Tensor, ...]:
        result = func(*given)
        outputs = checked_outputs("hessian", result, strict)
        check_scalar("hessian", outputs, isinstance(result, tuple | list))
        return tuple(pull("hessian", outputs, given, [ops.ones_like(outputs[0])], True, strict))

    found = jacobian(slopes, inputs, create_graph, strict, vectorize, outer_jacobian_strategy)
    return found if isinstance(inputs, tuple | list) else found[0]
