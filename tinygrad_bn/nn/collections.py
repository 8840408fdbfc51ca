"""Modules and parameters by name or number: dictionaries and lists whose contents belong to the module around them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, IndexRangeError, wrong
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.parameter import Parameter


def _items(op: str, given: Any) -> list[tuple[str, Any]]:
    """The pairs of a mapping, or of an iterable of pairs."""
    if isinstance(given, Mapping | ModuleDict | ParameterDict):
        return list(given.items())
    try:
        return [(key, value) for key, value in given]
    except (TypeError, ValueError):
        want = "a mapping, or an iterable of pairs"
        raise DTypeError(wrong(op, "contents", want, type(given).__name__)) from None


class ModuleDict(Module):
    """Modules by name, in the order of their insertion.

    Parameters
    ----------
    modules : mapping of str to Module, or iterable of pairs, optional
        Names must be no attributes of a module, such as ``forward`` or ``keys``.

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> heads = tb.nn.ModuleDict({"digit": tb.nn.Linear(4, 10), "parity": tb.nn.Linear(4, 2)})
    >>> heads["parity"](tb.ones(3, 4)).shape
    (3, 2)
    """

    _modules: dict[str, Module]  # type: ignore[assignment]  # none of them is None

    def __init__(self, modules: Any = None) -> None:
        super().__init__()
        self.update(modules or {})

    def __getitem__(self, key: str) -> Module:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        if key not in self._modules:
            raise KeyError(key)
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: object) -> bool:
        return key in self._modules

    def keys(self) -> Iterable[str]:
        """Return the names."""
        return self._modules.keys()

    def values(self) -> Iterable[Module]:
        """Return the modules."""
        return self._modules.values()

    def items(self) -> Iterable[tuple[str, Module]]:
        """Return names and modules."""
        return self._modules.items()

    def pop(self, key: str) -> Module:
        """Take a module out and return it."""
        module = self[key]
        del self[key]
        return module

    def clear(self) -> None:
        """Take all modules out."""
        for key in list(self._modules):
            del self[key]

    def update(self, modules: Any) -> None:
        """Add the modules of a mapping, or of an iterable of pairs; those of the same name are replaced."""
        for key, module in _items("ModuleDict", modules):
            self[key] = module


class _Parameters(Module):
    """What the list and the dictionary have in common: tensors become parameters, other values are kept as they are."""

    def _put(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor) and not isinstance(value, Parameter):
            value = Parameter(value)
        if name in self.__dict__ and not isinstance(value, Parameter | Module):
            delattr(self, name)
        setattr(self, name, value)

    def _lines(self, items: Iterable[tuple[Any, Any]]) -> str:
        return "\n".join(f"({key}): {_describe(value)}" for key, value in items)


def _describe(value: Any) -> str:
    if isinstance(value, Parameter):
        return f"Parameter containing: [{value.dtype.name} of shape {value.array.shape}]"
    return f"Object of type: {type(value).__name__}"


class ParameterList(_Parameters):
    """Parameters by number.

    Parameters
    ----------
    values : iterable, optional
        Tensors become parameters; values of other kinds are kept, but are no part of the state.
    """

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self._size = 0
        self.extend(() if values is None else values)

    def _at(self, index: int) -> str:
        position = operator.index(index)
        if not -self._size <= position < self._size:
            want = f"from {-self._size} to {self._size - 1}"
            raise IndexRangeError(wrong("ParameterList", "index", want, position))
        return str(position % self._size)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return type(self)(list(self)[index])
        return getattr(self, self._at(index))

    def __setitem__(self, index: int, value: Any) -> None:
        self._put(self._at(index), value)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return (getattr(self, str(i)) for i in range(self._size))

    def __iadd__(self, values: Iterable[Any]) -> Self:
        return self.extend(values)

    def append(self, value: Any) -> Self:
        """Add a value at the end; return the list."""
        self._put(str(self._size), value)
        self._size += 1
        return self

    def extend(self, values: Iterable[Any]) -> Self:
        """Add values at the end; return the list."""
        if isinstance(values, Tensor):
            raise DTypeError(wrong("ParameterList", "values", "an iterable of tensors", "a Tensor", "use append()"))
        for value in values:
            self.append(value)
        return self

    def extra_repr(self) -> str:
        return self._lines(enumerate(self))


class ParameterDict(_Parameters):
    """Parameters by name, in the order of their insertion.

    Parameters
    ----------
    parameters : mapping of str to anything, or iterable of pairs, optional
        Tensors become parameters; values of other kinds are kept, but are no part of the state.
    """

    def __init__(self, parameters: Any = None) -> None:
        super().__init__()
        self._names: dict[str, None] = {}
        self.update(parameters or {})

    def __getitem__(self, key: str) -> Any:
        if key not in self._names:
            raise KeyError(key)
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str) or not key or "." in key:
            want = "a string that is not empty and holds no dot"
            raise ArgumentError(wrong("ParameterDict", "key", want, repr(key)))
        if key not in self._names and hasattr(self, key):
            raise ArgumentError(
                wrong("ParameterDict", "key", "free", f"{key!r}, an attribute of ParameterDict already")
            )
        self._put(key, value)
        self._names[key] = None

    def __delitem__(self, key: str) -> None:
        if key not in self._names:
            raise KeyError(key)
        del self._names[key]
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, key: object) -> bool:
        return key in self._names

    def keys(self) -> Iterable[str]:
        """Return the names."""
        return self._names.keys()

    def values(self) -> Iterable[Any]:
        """Return the parameters."""
        return [self[key] for key in self._names]

    def items(self) -> Iterable[tuple[str, Any]]:
        """Return names and parameters."""
        return [(key, self[key]) for key in self._names]

    def get(self, key: str, default: Any = None) -> Any:
        """Return the parameter of a name, or a default."""
        return self[key] if key in self._names else default

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the parameter of a name, which is added first if it is missing."""
        if key not in self._names:
            self[key] = default
        return self[key]

    def pop(self, key: str) -> Any:
        """Take a parameter out and return it."""
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Take the last parameter out; return its name and it."""
        key = next(reversed(self._names))
        return key, self.pop(key)

    def clear(self) -> None:
        """Take all parameters out."""
        for key in list(self._names):
            del self[key]

    def copy(self) -> Self:
        """Return another dictionary of the same parameters."""
        return type(self)(self)

    def fromkeys(self, keys: Iterable[str], default: Any = None) -> Self:
        """Return another dictionary with one value under every name."""
        return type(self)((key, default) for key in keys)

    def update(self, parameters: Any) -> None:
        """Add the parameters of a mapping, or of an iterable of pairs; those of the same name are replaced."""
        for key, value in _items("ParameterDict", parameters):
            self[key] = value

    def __or__(self, other: Any) -> Self:
        out = self.copy()
        out.update(other)
        return out

    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self

    def extra_repr(self) -> str:
        return self._lines(self.items())
