"""Elementwise operations of people's own, from scalar Python functions: ``@tb.elementwise``.

gx_j = Σ_i gy_i ∂f_i/∂x_j, one kernel for all j; its own derivatives are of the same form.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any, overload

import numpy as np

from tinygrad_bn.core import dtype as dtypes
from tinygrad_bn.core.device import Device
from tinygrad_bn.core.dtype import DType, get_default_dtype
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.mixed import Policy, gate
from tinygrad_bn.core.tape import Gradients, MultiNode, Node, nodes_of
from tinygrad_bn.core.tensor import Tensor, wrap
from tinygrad_bn.errors import ArgumentError, DTypeError, wrong
from tinygrad_bn.kernels.formula import Formula, written
from tinygrad_bn.kernels.spec import Kernel
from tinygrad_bn.kernels.vocabulary import parameters
from tinygrad_bn.ops._broadcast import arranged
from tinygrad_bn.ops._common import Scalar, constant, same_device
from tinygrad_bn.ops._operands import convert, fit

Numbers = tuple[float, ...]
_POLICY = Policy()


class _Rule(MultiNode):
    """gx = Σ gy ∂f/∂x, by the formula that the operation's was differentiated to."""

    __slots__ = ()

    def backward_all(self, *gradients: Tensor | None) -> Gradients:
        _, operation, numbers, used, shapes = self.constants
        wanted = tuple([i for i, node in enumerate(self.inputs) if node is not None])
        present = tuple([i for i, g in enumerate(gradients) if g is not None])
        saved = dict(zip(used, self.unpack(), strict=True))
        inner, takes = operation.gradient(wanted, present)
        given = [g for g in gradients if g is not None] + [saved[i] for i in takes]
        result: list[Tensor | None] = [None] * len(shapes)
        for i, g in zip(wanted, inner(tuple(given), numbers), strict=True):
            result[i] = fit(g, shapes[i])
        return result


class _RuleOfOne(_Rule):
    """The same of one result."""

    __slots__ = ()
    outputs = 1

    def backward(self, gy: Tensor) -> Gradients:
        return self.backward_all(gy)


class Operation:
    """A formula as an operation on tensors of one floating-point dtype and one device."""

    def __init__(self, formula: Formula) -> None:
        self.formula = formula
        base = _RuleOfOne if formula.outputs == 1 else _Rule
        self.rule: type[_Rule] = type(f"{formula.name}Backward", (base,), {"__slots__": ()})
        self._kernels: dict[tuple[str, tuple[bool, ...]], Kernel] = {}
        self._gradients: dict[Any, tuple[Operation, tuple[int, ...]]] = {}

    def gradient(self, wanted: tuple[int, ...], present: tuple[int, ...]) -> tuple[Operation, tuple[int, ...]]:
        """Return the operation that computes gradients, and which operands it takes behind the outputs'."""
        found = self._gradients.get((wanted, present))
        if found is None:
            formula, used = self.formula.gradient(wanted, present)
            found = self._gradients[wanted, present] = Operation(formula), used
        return found

    def __call__(self, operands: tuple[Tensor, ...], numbers: Numbers) -> list[Tensor]:
        """Compute, and put the operation on the tape where an operand is tracked."""
        outs = self._computed(operands, numbers)
        nodes = nodes_of(self.rule, *operands)
        if nodes is not None:
            self._record(nodes, operands, numbers, outs)
        return outs

    def _record(
        self, nodes: tuple[Node | None, ...], operands: tuple[Tensor, ...], numbers: Numbers, outs: list[Tensor]
    ) -> None:
        wanted = tuple([i for i, node in enumerate(nodes) if node is not None])
        used = self.gradient(wanted, tuple(range(len(outs))))[1]
        shapes = tuple([x.array.shape for x in operands])
        saved = tuple([operands[i] for i in used])
        node = self.rule(nodes, saved, (len(outs), self, numbers, used, shapes))
        if len(outs) == 1:
            outs[0].node = node
        else:
            node.attach(outs)

    def _computed(self, operands: tuple[Tensor, ...], numbers: Numbers) -> list[Tensor]:
        first = operands[0]
        dtype, device, shape = first.dtype, first.device, first.array.shape
        settings = [constant(n, dtype, device).array.reshape(1) for n in numbers]
        count = self.formula.outputs
        if first.array.size and all(x.contiguous_array and x.array.shape == shape for x in operands):
            arrays = [device.empty(shape, dtype) for _ in range(count)]
            kernel = self.kernel(device, (True,) * len(operands))
            launch(kernel, *[x.array.ravel() for x in operands], *settings, *[a.ravel() for a in arrays])
            return [Tensor(a, dtype, device) for a in arrays]
        views, flat, outs = arranged(self.formula.name, operands, dtype, count)
        if views:
            extent = flat[0].shape[-1]
            launch(self.kernel(device, tuple([v.shape[-1] == extent for v in views])), *views, *settings, *flat)
        return outs

    def kernel(self, device: Device, full: tuple[bool, ...]) -> Kernel:
        """Return the kernel of a device for operands that have, or have not, all elements of a row."""
        found = self._kernels.get((device.type, full))
        if found is None:
            made: Kernel = device.kernels.module("program").kernel(self.formula, full)
            found = self._kernels[device.type, full] = made
        return found


class Elementwise:
    """A scalar function that works on tensors: what ``elementwise`` returns.

    Attributes
    ----------
    operands : tuple of str
        The parameters that take tensors and numbers, which broadcast.
    settings : dict
        The parameters that take numbers, and their defaults.
    formula : Formula
    """

    __wrapped__: Any
    __name__: str
    __qualname__: str

    def __init__(self, function: FunctionType, derivative: FunctionType | None) -> None:
        functools.update_wrapper(self, function)
        name = function.__name__ if function.__name__.isidentifier() else "function"
        self.operands, self.settings = parameters(name, function)
        if not self.operands:
            raise ArgumentError(f"elementwise: '{name}' must have a parameter without default, for a tensor. Got none.")
        self._name = name
        self.formula = written(name, function, len(self.operands), tuple(self.settings), derivative)
        self._operation = Operation(self.formula)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the function of each element; of several results, a tuple."""
        return gate.run(_POLICY, self._call, args, kwargs) if gate.on else self._call(*args, **kwargs)

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) != len(self.operands) or (kwargs and not kwargs.keys() <= self.settings.keys()):
            args, kwargs = self._bound(args, kwargs)
        numbers = self._numbers(kwargs) if self.settings else ()
        outs = self._operation(_promoted(self._name, self.operands, args), numbers)
        return outs[0] if len(outs) == 1 else tuple(outs)

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Operands and settings, however they were given."""
        code = self.__wrapped__.__code__
        positional = code.co_varnames[: code.co_argcount]
        if len(args) > len(positional):
            want = f"{len(positional)} positional arguments at most"
            raise ArgumentError(wrong(self._name, "args", want, len(args)))
        given = dict(zip(positional, args, strict=False))
        for key, value in kwargs.items():
            if key in given or key not in (*self.operands, *self.settings):
                want = f"given once, one of {', '.join((*self.operands, *self.settings))}"
                raise ArgumentError(wrong(self._name, key, want, repr(value)))
            given[key] = value
        missing = [n for n in self.operands if n not in given]
        if missing:
            raise ArgumentError(wrong(self._name, missing[0], "given", "nothing"))
        return tuple(given[n] for n in self.operands), {k: v for k, v in given.items() if k in self.settings}

    def _numbers(self, kwargs: dict[str, Any]) -> Numbers:
        return tuple([_number(self._name, name, kwargs.get(name, given)) for name, given in self.settings.items()])

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Bind as a method, as a function does."""
        return self if instance is None else functools.partial(self, instance)

    def __repr__(self) -> str:
        return f"<elementwise {self.__qualname__}({', '.join((*self.operands, *self.settings))})>"

    def __reduce__(self) -> str:
        return self.__qualname__


def _number(op: str, name: str, value: Any) -> float:
    if isinstance(value, bool | int | float | np.number):
        return float(value)
    hint = "a parameter without a default takes tensors, and is differentiated" if isinstance(value, Tensor) else None
    raise DTypeError(wrong(op, name, "a number", "nothing" if value is _EMPTY else type(value).__name__, hint))


_EMPTY = inspect.Parameter.empty


def _promoted(op: str, names: tuple[str, ...], given: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """The operands in one floating-point dtype, on one device."""
    first = given[0]
    if isinstance(first, Tensor) and first.dtype.is_floating_point:
        for x in given:
            if not isinstance(x, Tensor) or x.dtype is not first.dtype or x.device is not first.device:
                break
        else:
            return given
    tensors = [x for x in given if isinstance(x, Tensor)]
    if not tensors:
        raise DTypeError(wrong(op, names[0], "a Tensor", type(first).__name__))
    like = tensors[0]
    whole = [_operand(op, name, x, like) for name, x in zip(names, given, strict=True)]
    dtype = _common_dtype([x for x in whole if isinstance(x, Tensor)])
    return tuple(convert(x, dtype) if isinstance(x, Tensor) else constant(x, dtype, like.device) for x in whole)


def _operand(op: str, name: str, x: Any, like: Tensor) -> Tensor | Scalar:
    if isinstance(x, Tensor):
        same_device(op, like, name, x)
        return x
    if isinstance(x, np.ndarray) and x.ndim:
        return wrap(x, like.device, op)
    if isinstance(x, bool | int | float | np.number | np.bool_ | np.ndarray):
        return float(x)
    raise DTypeError(wrong(op, name, "a Tensor or a number", type(x).__name__))


def _common_dtype(tensors: list[Tensor]) -> DType:
    """The floating-point type of a result: one without axes does not widen one with axes; whole numbers take any."""
    for axes in (True, False):
        found = [x.dtype for x in tensors if x.dtype.is_floating_point and bool(x.array.ndim) is axes]
        if found:
            return functools.reduce(dtypes.promote, found)
    return get_default_dtype()


@overload
def elementwise(function: Callable[..., Any], *, derivative: Callable[..., Any] | None = None) -> Elementwise: ...


@overload
def elementwise(*, derivative: Callable[..., Any] | None = None) -> Callable[[Callable[..., Any]], Elementwise]: ...


def elementwise(
    function: Callable[..., Any] | None = None, *, derivative: Callable[..., Any] | None = None
) -> Elementwise | Callable[[Callable[..., Any]], Elementwise]:
    """Make a scalar Python function an operation on tensors: broadcasting, compiled, differentiable to any order.

    Parameters
    ----------
    function : callable
        Of numbers. Parameters without a default take tensors or numbers, which broadcast and are promoted as those of
        ``tb.add`` are, integers to the default floating-point type; parameters with a default, or keyword-only ones,
        take one number for all elements. It may return a tuple, for several results.
    derivative : callable, optional
        Of the same parameters: the derivative of the one result in each parameter that takes tensors. Without it the
        function is differentiated: forward mode, by dual numbers.

    Returns
    -------
    Elementwise
        Called as the function is. Without a function, a decorator.

    Raises
    ------
    ArgumentError
        If something in the function has no meaning element by element; the message tells the line.

    Notes
    -----
    The function is read, not called: it may consist of assignments, arithmetic, comparisons, ``if`` and conditional
    expressions, loops over constants, functions of ``math`` or NumPy's of the same names, and calls of other such
    functions. Numbers around it are read once, when it is decorated. Of ``if`` on a number both ways are compiled;
    what is not taken contributes nothing to result or derivative. ``max`` and ``min`` pass NaN on; where both are
    equal, each has half of the derivative; that of ``abs`` at 0 is 0.

    On device ``cpu`` it becomes one kernel, however long it is: each element is read and written once. The gradients
    with respect to all parameters are one kernel as well. Kernels are compiled on first use and kept in the cache
    folder. On ``ref`` Python itself evaluates the function.

    Examples
    --------
    >>> import math
    >>> import tinygrad_bn as tb
    >>> @tb.elementwise
    ... def softsign(x, scale=1.0):
    ...     return x / (scale + abs(x))
    >>> softsign(tb.tensor([-1.0, 0.0, 3.0])).tolist()
    [-0.5, 0.0, 0.75]
    """
    if function is None:
        return functools.partial(elementwise, derivative=derivative)
    for name, given in (("function", function), ("derivative", derivative)):
        if given is not None and not isinstance(given, FunctionType):
            raise ArgumentError(wrong("elementwise", name, "a Python function", type(given).__name__))
    return Elementwise(function, derivative)  # type: ignore[arg-type]  # checked above
