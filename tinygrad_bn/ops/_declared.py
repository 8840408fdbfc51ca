"""What people declare of an operation of their own: its arrays, and the kernels that they are passed to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_bn.core import dtype as dtypes
from tinygrad_bn.core.dtype import DType
from tinygrad_bn.errors import ArgumentError, expected, wrong
from tinygrad_bn.kernels.spec import Kernel, Spec

Shape = tuple[int, ...]
Number = bool | int | float
Names = str | Iterable[str]
Plan = dict[str, tuple[Shape, DType]]
"""The shape and dtype of each array."""


@dataclass(frozen=True)
class Layout:
    """The shape and dtype of an array: like another, of a shape that a function computes, of a dtype by name.

    Attributes
    ----------
    like : str
        The array of the same shape; "" where ``shape`` tells, or any will do.
    shape : callable or None
        Computes the shape from ``needs``: shapes of arrays and values of scalars, by their names.
    dtype : DType, str
        One of the table, or the name of the argument that has the same; "" for the operation's.
    """

    like: str
    shape: Callable[..., Any] | None
    needs: tuple[str, ...]
    dtype: DType | str

    def extents(self, op: str, name: str, known: Mapping[str, Any]) -> Shape:
        """Return the shape, given the others' shapes and the scalars."""
        if self.shape is None:
            shape: Shape = known[self.like or name]
            return shape
        found = self.shape(**{n: known[n] for n in self.needs})
        if isinstance(found, int | np.integer):
            found = (found,)
        if not isinstance(found, tuple | list) or any(not isinstance(n, int | np.integer) or n < 0 for n in found):
            raise ArgumentError(wrong(op, name, "declared with a function that returns a shape", repr(found)))
        return tuple(int(n) for n in found)


def names_of(op: str, parameter: str, given: Names | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return declarations by name; None stands for what is declared by name alone."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        found = dict(given)
    else:
        listed = given.replace(",", " ").split() if isinstance(given, str) else list(given)
        found = dict.fromkeys(listed)
        if len(found) != len(listed):
            raise ArgumentError(wrong(op, parameter, "free of repeated names", " ".join(map(str, listed))))
    for name in found:
        if not isinstance(name, str) or not name.isidentifier():
            raise ArgumentError(wrong(op, parameter, "made of names", repr(name)))
    return found


def layout(
    op: str, parameter: str, name: str, given: Any, arrays: Sequence[str], scalars: Iterable[str], default: str
) -> Layout:
    """Return a declaration of an array: None, a name, a function, or one of these and a dtype.

    A default of "" lets it have any shape.
    """
    shape, dtype = given if isinstance(given, tuple) and len(given) == 2 else (given, "")
    shape = default if shape is None else shape
    entry = f"{parameter}[{name!r}]"
    if dtype != "" and dtype not in arrays:
        dtype = dtypes.as_dtype(dtype, f"{op}: {entry}")
    if isinstance(shape, str):
        if shape and shape not in arrays:
            raise ArgumentError(wrong(op, entry, f"like one of {', '.join(arrays)}", repr(shape)))
        return Layout(shape, None, (), dtype or shape)
    known = (*arrays, *scalars)
    if not callable(shape):
        want = "the name of an argument, a function of shapes, or a pair of that and a dtype"
        raise ArgumentError(wrong(op, entry, want, repr(given)))
    needs = tuple(inspect.signature(shape).parameters)
    unknown = [n for n in needs if n not in known]
    if unknown:
        raise ArgumentError(wrong(op, entry, f"a function of some of {', '.join(known)}", f"parameter {unknown[0]!r}"))
    return Layout("", shape, needs, dtype)


def parameters(op: str, which: str, function: Any) -> tuple[str, ...]:
    """Return the names of a kernel's parameters.

    Raises
    ------
    ArgumentError
        If it is no function, has parameters that a kernel cannot have, or is compiled for threads of its own.
    """
    if not callable(function):
        raise ArgumentError(wrong(op, which, "a function, plain or compiled by njit", type(function).__name__))
    if getattr(function, "targetoptions", {}).get("parallel"):
        hint = "leave out parallel=True; kernels run on one thread, and results do not depend on how many there are"
        raise ArgumentError(wrong(op, which, "compiled without parallel=True", "one that is", hint))
    for p in inspect.signature(getattr(function, "py_func", function)).parameters.values():
        if p.default is not p.empty or p.kind not in (p.POSITIONAL_OR_KEYWORD, p.POSITIONAL_ONLY):
            raise ArgumentError(wrong(op, which, "a kernel with plain parameters, without defaults", f"'{p}'"))
    return tuple(inspect.signature(getattr(function, "py_func", function)).parameters)


def match(op: str, which: str, found: Sequence[str], needed: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise unless a kernel has all parameters that it needs, and none that was not declared."""
    known = list(allowed)
    missing = [n for n in needed if n not in found]
    if missing:
        raise ArgumentError(expected(op, which, f"a parameter named {missing[0]!r}", f"({', '.join(found)})"))
    unknown = [n for n in found if n not in known]
    if unknown:
        want = f"parameters out of those declared: {', '.join(known)}"
        raise ArgumentError(expected(op, which, want, f"{unknown[0]!r}"))


def kernels(name: str, function: Any, declared: Spec) -> dict[str, Kernel]:
    """Return a function as the kernels of ``cpu`` and ``ref``: compiled there if it is, plain Python here."""
    plain = getattr(function, "py_func", None)
    if plain is None:
        both = Kernel(name, declared, _run(name, function, function))
        return {"cpu": both, "ref": both}
    return {
        "cpu": Kernel(name, declared, _run(name, function, plain)),
        "ref": Kernel(name, declared, _run(name, plain, plain)),
    }


def _run(name: str, function: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., None]:
    """A function that checks that the kernel returns nothing, and if it is plain Python warns of no infinities."""
    compiled = function is not plain

    def run(*arguments: Any) -> None:
        if compiled:
            result = function(*arguments)
        else:
            with np.errstate(all="ignore"):
                result = function(*arguments)
        if result is not None:
            hint = "write into the arrays that it is given"
            raise ArgumentError(wrong(name, "kernel", "a function that returns nothing", type(result).__name__, hint))

    run.__dict__["__signature__"] = inspect.signature(plain)
    return run
