"""Modules made of modules: a sequence that is run, and a list that is not."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, overload

from tinygrad_bn.errors import DTypeError, IndexRangeError, wrong
from tinygrad_bn.nn._chain import convolve_norm, untouched
from tinygrad_bn.nn.activation import ReLU, Sigmoid
from tinygrad_bn.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from tinygrad_bn.nn.convolution import Conv2d
from tinygrad_bn.nn.linear import Linear
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.tree import changes


class _Numbered(Module):
    """What a sequence and a list have in common: their modules by position."""

    _modules: dict[str, Module]  # type: ignore[assignment]  # none of them is None

    def _at(self, index: int) -> str:
        """The name of the module at a position."""
        size = len(self._modules)
        position = operator.index(index)
        if not -size <= position < size:
            raise IndexRangeError(wrong(type(self).__name__, "index", f"from {-size} to {size - 1}", position))
        return list(self._modules)[position]

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Module:
        if isinstance(index, slice):
            return self._of(list(self._modules.items())[index])
        return self._modules[self._at(index)]

    def _of(self, items: list[tuple[str, Module]]) -> Self:
        """A container of the same kind of some of the modules."""
        raise NotImplementedError  # abstract: each container states how it is made

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._at(index), _is_module(type(self).__name__, module))

    def __delitem__(self, index: int | slice) -> None:
        names = list(self._modules)
        for name in names[index] if isinstance(index, slice) else [self._at(index)]:
            delattr(self, name)
        self._renumber(list(self._modules.items()))

    def _renumber(self, items: list[tuple[str, Module]]) -> None:
        """Number the modules in this order; names that are no numbers stay."""
        for name in list(self._modules):
            delattr(self, name)
        for i, (name, module) in enumerate(items):
            self.add_module(str(i) if name.isdigit() else name, module)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def append(self, module: Module) -> Self:
        """Add a module at the end; return the container."""
        number = len(self)
        while str(number) in self._modules:  # a slice keeps its names
            number += 1
        self.add_module(str(number), _is_module(type(self).__name__, module))
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end; return the container."""
        for module in modules:
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Self:
        """Put a module before a position; return the container."""
        items = list(self._modules.items())
        items.insert(index, ("0", _is_module(type(self).__name__, module)))
        self._renumber(items)
        return self


def _is_module(op: str, module: object) -> Module:
    if not isinstance(module, Module):
        raise DTypeError(wrong(op, "module", "a Module", type(module).__name__))
    return module


_Step = tuple[Any, Any, str]
"""A normalisation, the Linear or Conv2d that runs as one with it, or None, and the name of an activation; or None and
a module that is called, "ahead" where it could run as one with a normalisation."""


class Sequential(_Numbered):
    """Modules that are run one after the other.

    A batch normalisation and a ReLU or Sigmoid behind it are run as one pass over memory, forward and backward, and
    with a Linear layer without a bias ahead of them as one operation; a Conv2d without a bias finds the batch's
    statistics as its results leave it. Not so where a module has hooks.

    Parameters
    ----------
    *args : Module, or one mapping of names to modules

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> net = tb.nn.Sequential(tb.nn.Linear(4, 8), tb.nn.BatchNorm1d(8), tb.nn.ReLU())
    >>> net[:2](tb.ones(3, 4)).shape
    (3, 8)
    """

    _steps: list[_Step] | None = None  # how it was run last
    _steps_after: object = None  # the last change of any module when that was found out

    def __init__(self, *args: Any) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], Mapping):
            items = list(args[0].items())
        else:
            items = [(str(i), module) for i, module in enumerate(args)]
        for name, module in items:
            self.add_module(name, _is_module("Sequential", module))

    def _of(self, items: list[tuple[str, Module]]) -> Self:
        return type(self)(OrderedDict(items))  # names are kept, and with them the keys of the state dict

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_steps", "_steps_after")}

    def forward(self, input: Any) -> Any:
        """Return what the last module makes of what the one before it makes, and so on."""
        steps = self._steps
        if steps is None or self._steps_after is not changes.last:
            last = changes.last
            steps = _steps(self._modules.values())
            self.__dict__.update(_steps=steps, _steps_after=last)
        for norm, layer, activation in steps:
            input = layer(input) if norm is None else _normalised(norm, layer, input, activation)
        return input


def _steps(modules: Iterable[Module]) -> list[_Step]:
    """How a sequence is run: what runs as one is one step."""
    steps: list[_Step] = []
    for module in modules:
        kind = type(module)
        norm, layer, activation = steps[-1] if steps else (None, None, "")
        if not untouched(module):
            steps.append((None, module, "called"))
        elif kind in FUSED and norm is not None and activation == "none":
            steps[-1] = (norm, layer, FUSED[kind])
        elif kind in NORMS and module.activation == "none":
            ahead = steps.pop()[1] if activation == "ahead" else None
            steps.append((module, ahead, "none"))
        else:
            steps.append((None, module, "ahead" if kind in AHEAD else "called"))
    return steps


def _normalised(norm: Any, layer: Any, input: Any, activation: str) -> Any:
    if type(layer) is Conv2d:
        return convolve_norm(layer, norm, input, activation)
    if layer is not None:
        return norm.forward_linear(layer, input, activation)
    return norm.forward_activated(input, activation)


AHEAD = {Linear, Conv2d}
NORMS = {BatchNorm1d, BatchNorm2d, BatchNorm3d}
FUSED: dict[type[Module], str] = {ReLU: "relu", Sigmoid: "sigmoid"}


class ModuleList(_Numbered):
    """A list of modules, whose parameters belong to the module that holds the list.

    Parameters
    ----------
    modules : iterable of Module, optional
    """

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        self.extend(modules or ())

    def _of(self, items: list[tuple[str, Module]]) -> Self:
        return type(self)(module for _, module in items)

    def __iadd__(self, modules: Iterable[Module]) -> Self:
        return self.extend(modules)
