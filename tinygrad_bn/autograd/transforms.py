"""Functions that return their value and its gradient, over trees of tensors: tuples, lists and dicts, nested."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.autograd._products import fresh, transforming
from tinygrad_bn.core.backward import grad
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError, expected, wrong

__all__ = ["tree_leaves", "tree_map", "value_and_grad"]


def tree_map(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return a tree of the same structure with the function's results for its leaves: whatever is no tuple, list or
    dict."""
    if isinstance(tree, dict):
        items = {key: tree_map(function, value) for key, value in tree.items()}
        return items if type(tree) is dict else _same_mapping(tree, items)
    if isinstance(tree, tuple | list):
        parts = [tree_map(function, value) for value in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return function(tree)


def _same_mapping(tree: Any, items: dict[Any, Any]) -> Any:
    """The items in a mapping of the tree's kind, if it can be made from a dict."""
    try:
        return type(tree)(items)
    except TypeError:
        return items


def tree_leaves(tree: Any) -> list[Any]:
    """Return the leaves of a tree, in order."""
    found: list[Any] = []
    tree_map(found.append, tree)
    return found


def value_and_grad(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., tuple[Any, Any]]:
    """Return a function that computes what ``f`` returns and its gradient.

    Parameters
    ----------
    f : callable
        Returns a tensor of one element.
    argnums : int or sequence of int
        The positional arguments to differentiate by: tensors, or trees of tensors such as a dict of parameters.
    has_aux : bool
        ``f`` returns a pair, of which the first is differentiated and the second handed on.

    Returns
    -------
    callable
        Takes what ``f`` takes; returns (value, gradient), or ((value, aux), gradient). The gradient is a tree like the
        argument, a tuple of such where ``argnums`` is a sequence; None stands where an argument holds None. An argument
        that the value does not depend on has a gradient of zeros.

    Raises
    ------
    ArgumentError, DTypeError, ShapeError

    Notes
    -----
    No ``.grad`` is touched, those of parameters that ``f`` finds elsewhere included. Value, aux and gradient are off
    the tape, unless this is called within another such function, which then differentiates them in their turn.

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> loss = lambda p, x: (p["w"] * x).sum() + p["b"]
    >>> parameters = {"w": tb.tensor([1.0, 2.0]), "b": tb.tensor(3.0)}
    >>> value, slopes = tb.value_and_grad(loss)(parameters, tb.tensor([4.0, 5.0]))
    >>> value.item(), slopes["w"].tolist()
    (17.0, [4.0, 5.0])
    """
    op = "value_and_grad"
    several = not isinstance(argnums, int)
    numbers = tuple(argnums) if not isinstance(argnums, int) else (argnums,)
    if not callable(f):
        raise ArgumentError(wrong(op, "f", "callable", type(f).__name__))
    if not numbers or not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers):
        raise ArgumentError(wrong(op, "argnums", "an int or a sequence of ints", repr(argnums)))

    @functools.wraps(f)
    def computed(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        at = [_position(op, n, len(args)) for n in numbers]
        with transforming() as nested:
            given = list(args)
            for i in set(at):
                given[i] = tree_map(lambda leaf: _fresh(op, leaf, nested), args[i])
            result = f(*given, **kwargs)
            value, aux = _split(op, result, has_aux)
            leaves = [t for i in sorted(set(at)) for t in tree_leaves(given[i]) if t is not None]
            slopes = _slopes(value, leaves, nested)
        found = [tree_map(lambda leaf: None if leaf is None else slopes[id(leaf)], given[i]) for i in at]
        keep: Callable[[Any], Any] = (lambda t: t) if nested else _off
        out = (keep(value), tree_map(keep, aux)) if has_aux else keep(value)
        return out, tuple(found) if several else found[0]

    return computed


def _off(value: Any) -> Any:
    return value.alias() if isinstance(value, Tensor) and value.node is not None else value


def _position(op: str, number: int, count: int) -> int:
    if not -count <= number < count:
        raise ArgumentError(wrong(op, "argnums", f"positions of the {count} positional arguments", number))
    return number % count


def _fresh(op: str, leaf: Any, nested: bool) -> Tensor | None:
    if leaf is None:
        return None
    if not isinstance(leaf, Tensor):
        raise DTypeError(wrong(op, "the argument to differentiate by", "made of Tensors", type(leaf).__name__))
    if not leaf.dtype.is_floating_point:
        hint = "pass what has no gradient as another argument"
        raise DTypeError(
            wrong(op, "the argument to differentiate by", "made of floating-point tensors", leaf.dtype.name, hint)
        )
    return fresh(leaf, nested)


def _split(op: str, result: Any, has_aux: bool) -> tuple[Tensor, Any]:
    aux = None
    if has_aux:
        if not (isinstance(result, tuple | list) and len(result) == 2):
            raise ArgumentError(wrong(op, "f(…)", "a pair (value, aux), as has_aux is set", type(result).__name__))
        result, aux = result
    if not isinstance(result, Tensor):
        raise DTypeError(wrong(op, "f(…)", "a Tensor", type(result).__name__))
    if result.array.size != 1 or not result.dtype.is_floating_point:
        raise ShapeError(expected(op, "f(…)", "one floating-point element", f"{result.dtype.name}, {result.shape}"))
    return result, aux


def _slopes(value: Tensor, leaves: list[Tensor], nested: bool) -> dict[int, Tensor]:
    """The gradients of the leaves by their identity."""
    found: Sequence[Tensor | None] = [None] * len(leaves)
    if value.node is not None and leaves:
        found = grad(value, leaves, ops.ones_like(value), create_graph=nested, allow_unused=True)
    return {id(t): ops.zeros_like(t) if g is None else g for t, g in zip(leaves, found, strict=True)}
