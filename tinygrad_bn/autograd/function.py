"""Operations with a forward and a backward of one's own.

    class Square(tb.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, gy):
            (x,) = ctx.saved_tensors
            return 2 * x * gy

    y = Square.apply(x)

``forward`` is not recorded; ``backward`` is where ``create_graph`` asks for it, so that one that is made of
differentiable operations can be differentiated in its turn.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NoReturn

from tinygrad_bn import ops
from tinygrad_bn.core.tape import Gradients, MultiNode, Node, mode, no_grad, nodes_of
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import DeviceError, DTypeError, GradientError, GraphFreedError, ShapeError, expected, wrong
from tinygrad_bn.ops._operands import fit
from tinygrad_bn.ops._parts import Whole

__all__ = ["Function", "FunctionCtx", "once_differentiable"]


class FunctionCtx:
    """What ``forward`` leaves for ``backward``: tensors by ``save_for_backward``, anything else as attributes.

    Attributes
    ----------
    needs_input_grad : tuple of bool
        Which arguments of ``apply`` are tensors that require grad.
    """

    needs_input_grad: tuple[bool, ...]

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad
        self._to_save: tuple[Tensor | None, ...] = ()
        self._places: tuple[int | None, ...] = ()
        self._aside: frozenset[int] = frozenset()
        self._dirty: frozenset[int] = frozenset()
        self._materialize = True
        self._node: Callable[[], _Custom | None] | None = None

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors for ``backward``: inputs, outputs, what lies between, None.

        Changing one in place afterwards is an error there, not a wrong gradient.
        """
        for i, t in enumerate(tensors):
            if t is not None and not isinstance(t, Tensor):
                raise DTypeError(wrong("save_for_backward", f"tensors[{i}]", "a Tensor or None", type(t).__name__))
        self._to_save = tensors

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """The tensors that ``forward`` saved.

        Raises
        ------
        GraphFreedError
            If an earlier backward released them.
        SavedTensorError
            If one was changed in place since.
        """
        if self._node is None:
            return self._to_save
        node = self._node()
        if node is None:
            raise GraphFreedError("saved_tensors: the graph was released.\nHint: use them within backward().")
        return node.restored(self._places)

    def mark_non_differentiable(self, *outputs: Tensor) -> None:
        """Say that outputs, such as indices, have no gradient; their gradients come to ``backward`` as zeros."""
        self._aside = frozenset(id(t) for t in outputs)

    def mark_dirty(self, *inputs: Tensor) -> None:
        """Say that ``forward`` has changed inputs in place; they must be among its outputs."""
        self._dirty = frozenset(id(t) for t in inputs)

    def set_materialize_grads(self, value: bool) -> None:
        """Let gradients that are missing come to ``backward`` as zeros (True, the default) or as None."""
        self._materialize = bool(value)


class _Custom(Whole):
    """A call of a Function: its number of outputs, the class, the context, and what its tensors are like."""

    __slots__ = ()

    def backward_all(self, *gradients: Tensor | None) -> Gradients:
        _, kind, ctx, outputs, inputs = self.constants
        if ctx._materialize:
            gradients = tuple(
                ops.zeros(like[0], dtype=like[1], device=like[2]) if g is None and like is not None else g
                for g, like in zip(gradients, outputs, strict=True)
            )
        found = kind.backward(ctx, *gradients)
        return _checked(f"{kind.__name__}.backward", found, inputs)

    def restored(self, places: tuple[int | None, ...]) -> tuple[Tensor | None, ...]:
        """The saved tensors in their places; outputs are joined to this node where the pass is recorded."""
        saved = self.unpack()
        return tuple(None if at is None else self.joined(saved[at]) for at in places)


def _like(t: object) -> tuple[Any, ...] | None:
    return (t.array.shape, t.dtype, t.device) if isinstance(t, Tensor) else None


def _checked(op: str, found: Any, inputs: Sequence[tuple[Any, ...] | None]) -> list[Tensor | None]:
    """The gradients that a backward returned, one an argument of apply."""
    given = list(found) if isinstance(found, tuple | list) else [found]
    if len(given) < len(inputs) or any(g is not None for g in given[len(inputs) :]):
        want = f"{len(inputs)} gradients, one an argument of apply(), None where there is none"
        raise GradientError(expected(op, "result", want, len(given)))
    return [_fitted(op, i, g, like) for i, (g, like) in enumerate(zip(given, inputs, strict=False))]


def _fitted(op: str, i: int, g: Any, like: tuple[Any, ...] | None) -> Tensor | None:
    """A gradient in the shape and dtype of its argument."""
    if g is None:
        return None
    name = f"result[{i}]"
    if like is None:
        raise GradientError(wrong(op, name, "None, as the argument is no tensor", type(g).__name__))
    if not isinstance(g, Tensor):
        raise DTypeError(wrong(op, name, "a Tensor or None", type(g).__name__))
    shape, dtype, device = like
    if g.device is not device:
        raise DeviceError(wrong(op, name, f"on device {device}, as the argument is", str(g.device)))
    if g.array.shape != shape:
        lead = g.array.ndim - len(shape)
        if lead < 0 or any(n not in (1, m) for n, m in zip(shape, g.array.shape[lead:], strict=True)):
            raise ShapeError(
                expected(op, name, f"the argument's shape {shape}, or one that it broadcasts to", g.array.shape)
            )
        g = fit(g, shape)
    return ops.to(g, dtype)


class Function:
    """The base class of operations with a forward and a backward of one's own.

    A subclass defines two static methods and is called by ``apply``:

    ``forward(ctx, *args)`` computes a tensor or a tuple of outputs from tensors and whatever else ``apply`` was given.
    ``backward(ctx, *gradients)`` takes a gradient an output and returns one an argument of ``apply``: None for what is
    no tensor or needs none (``ctx.needs_input_grad``).

    With ``setup_context(ctx, inputs, output)`` defined, ``forward(*args)`` goes without the context.

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> class Cube(tb.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x**3
    ...
    ...     @staticmethod
    ...     def backward(ctx, gy):
    ...         (x,) = ctx.saved_tensors
    ...         return 3 * x**2 * gy
    >>> x = tb.tensor(2.0, requires_grad=True)
    >>> Cube.apply(x).backward()
    >>> x.grad.item()
    12.0
    """

    _kind: ClassVar[type[_Custom]] = _Custom

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give the subclass a kind of node under its name, for messages."""
        super().__init_subclass__(**kwargs)
        cls._kind = type(f"{cls.__name__}Backward", (_Custom,), {"__slots__": ()})

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """Compute the outputs; see the class."""
        raise NotImplementedError("Function: a subclass must define forward().")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """Compute the gradients; see the class."""
        raise NotImplementedError("Function: a subclass must define backward().")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Fill the context after ``forward``; see the class."""
        raise NotImplementedError("Function: setup_context() is not defined.")

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run ``forward`` and put the operation on the tape where a tensor among the arguments requires grad.

        Raises
        ------
        GradientError
            In backward, if ``backward`` returns a wrong number of gradients.
        ShapeError, DTypeError, DeviceError
            In backward, if one of them does not fit its argument.
        """
        ctx = FunctionCtx(tuple(isinstance(a, Tensor) and a.node is not None for a in args))
        with no_grad():
            if cls.setup_context is Function.setup_context:
                result = cls.forward(ctx, *args)
            else:
                result = cls.forward(*args)
                cls.setup_context(ctx, args, result)
        outputs = result if isinstance(result, tuple) else (result,)
        if not any(isinstance(t, Tensor) for t in outputs):
            want = "a Tensor, or a tuple that holds one"
            raise DTypeError(wrong(f"{cls.__name__}.forward", "result", want, type(result).__name__))
        tensors = [a for a in args if isinstance(a, Tensor)]
        if nodes_of(cls._kind, *tensors) is None:
            return result
        return _recorded(cls, ctx, args, outputs, isinstance(result, tuple))


def _recorded(
    function: type[Function], ctx: FunctionCtx, args: tuple[Any, ...], outputs: tuple[Any, ...], several: bool
) -> Any:
    """Put a call on the tape; return its outputs, inputs and what is tracked elsewhere as tensors of their own."""
    known = {id(a) for a in args if isinstance(a, Tensor)}
    fresh = [_fresh(function, t, known, ctx) for t in outputs]
    differentiable = [
        f if isinstance(f, Tensor) and f.dtype.is_floating_point and id(t) not in ctx._aside else None
        for t, f in zip(outputs, fresh, strict=True)
    ]
    inputs = tuple(a.node if isinstance(a, Tensor) else None for a in args)
    saved, places, at = _saved(ctx._to_save, outputs, fresh, differentiable)
    constants = (len(outputs), function, ctx, [_like(t) for t in outputs], [_like(a) for a in args])
    node: _Custom = function._kind(inputs, saved, constants)
    node.parts = {id(saved[i]): index for i, index in at.items()}
    for i, t in enumerate(differentiable):
        if t is not None:
            t.node = node.part(i)
    ctx._to_save, ctx._places, ctx._node = (), places, weakref.ref(node)
    return tuple(fresh) if several else fresh[0]


def _fresh(function: type[Function], out: Any, known: set[int], ctx: FunctionCtx) -> Any:
    """An output to which a node can be given."""
    if not isinstance(out, Tensor):
        return out
    if id(out) in ctx._dirty:
        if (out.node is not None and out.node.is_leaf) or out.view_version >= 0:
            what = "a leaf that requires grad" if out.view_version < 0 else "a view"
            raise GradientError(f"{function.__name__}: {what} cannot be changed in place while recording.")
        return out
    return out.alias(out.array) if id(out) in known or out.node is not None else out


def _saved(
    tensors: tuple[Tensor | None, ...], outputs: tuple[Any, ...], fresh: list[Any], differentiable: list[Any]
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...], dict[int, int]]:
    """What the node saves; where each of the context's tensors stands in it; which of them are which outputs.

    An output is saved by a twin: saving the tensor itself would make a reference cycle.
    """
    number = {id(t): i for i, t in enumerate(outputs) if differentiable[i] is not None}
    saved: list[Tensor] = []
    places: list[int | None] = []
    at: dict[int, int] = {}
    for t in tensors:
        if t is None:
            places.append(None)
            continue
        index = number.get(id(t))
        if index is not None and (fresh[index] is t):
            at[len(saved)] = index
            t = t.alias()
        places.append(len(saved))
        saved.append(t)
    return tuple(saved), tuple(places), at


class _NotTwice(MultiNode):
    """Stands behind gradients that were computed off the tape."""

    __slots__ = ()

    def backward_all(self, *gradients: Tensor | None) -> NoReturn:
        raise GradientError(
            f"{self.constants[1]}: its backward is marked once_differentiable, so its gradients have no derivative."
        )


def once_differentiable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a ``backward`` that computes off the tape, with NumPy say: differentiating its gradients is an error."""

    @functools.wraps(function)
    def wrapper(ctx: FunctionCtx, *gradients: Tensor | None) -> Any:
        with no_grad():
            found = function(ctx, *gradients)
        node = None if ctx._node is None else ctx._node()
        if not mode.grad or node is None:
            return found
        given = found if isinstance(found, tuple) else (found,)
        behind = [g.alias() if isinstance(g, Tensor) else None for g in given]
        above: tuple[Node | None, ...] = tuple(g.node for g in gradients if isinstance(g, Tensor))
        _NotTwice(node.inputs + above, (), (len(behind), node.constants[1].__name__)).attach(behind)
        result = tuple(g if b is None else b for g, b in zip(given, behind, strict=True))
        return result if isinstance(found, tuple) else result[0]

    return wrapper
