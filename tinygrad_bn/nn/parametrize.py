"""Parametrisations: a parameter or buffer of a module that is computed from others each time it is asked for.

    tb.nn.utils.parametrize.register_parametrization(layer, "weight", Symmetric())

``layer.weight`` is then ``Symmetric()(layer.parametrizations.weight.original)``; it is the original that is trained.
Names and semantics are those of ``torch.nn.utils.parametrize``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError, expected, wrong
from tinygrad_bn.nn.collections import ModuleDict
from tinygrad_bn.nn.containers import ModuleList
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.parameter import Parameter
from tinygrad_bn.ops import inplace

__all__ = [
    "ParametrizationList",
    "cached",
    "is_parametrized",
    "register_parametrization",
    "remove_parametrizations",
    "type_before_parametrizations",
]


class _Cache:
    """Values computed within ``cached()``, by list."""

    depth = 0
    values: dict[ParametrizationList, Tensor]

    def __init__(self) -> None:
        self.values = {}


_cache = _Cache()


@contextmanager
def cached() -> Iterator[None]:
    """Compute each parametrised tensor once within the block, however often it is asked for.

    Parameters must not be changed within it.
    """
    _cache.depth += 1
    try:
        yield
    finally:
        _cache.depth -= 1
        if not _cache.depth:
            _cache.values.clear()


class ParametrizationList(ModuleList):
    """The parametrisations of one tensor, applied in their order, and what they are applied to.

    Parameters
    ----------
    modules : sequence of Module
    original : Tensor or Parameter
        The tensor that is to be computed. The modules' ``right_inverse``, where they have one, give what to start
        from; without, it is the tensor itself.
    unsafe : bool
        Do not check that shape and dtype are kept.

    Attributes
    ----------
    original : Parameter or buffer
        What the first module takes; ``original0``, ``original1``, … if it takes several.
    """

    def __init__(self, modules: Sequence[Module], original: Tensor, unsafe: bool = False) -> None:
        super().__init__(modules)
        self.unsafe = unsafe
        start = self._inverted(original)
        self.count = 0 if isinstance(start, Tensor) else len(start)
        if isinstance(start, Tensor):
            self._keep("original", _moved(original, start), isinstance(original, Parameter))
        else:
            for i, t in enumerate(start):
                self._keep(f"original{i}", _like(original, t), isinstance(original, Parameter))
        if not unsafe:
            _check_kept(self(), original)

    def _of(self, items: list[tuple[str, Module]]) -> Any:
        return ModuleList(module for _, module in items)

    def _keep(self, name: str, tensor: Tensor, is_parameter: bool) -> None:
        if is_parameter:
            self.register_parameter(name, cast("Parameter", tensor))
        else:
            self.register_buffer(name, tensor)

    def _inverted(self, value: Any, strict: bool = False) -> Any:
        """What the modules have to be given for this value."""
        with no_grad():
            for module in reversed(list(self)):
                inverse = getattr(module, "right_inverse", None)
                if inverse is None:
                    if strict:
                        what = type(module).__name__
                        raise ArgumentError(f"parametrize: the tensor cannot be set: {what} has no right_inverse().")
                    break
                value = inverse(value)
        return value

    def originals(self) -> list[Tensor]:
        """Return what the first module takes."""
        names = [f"original{i}" for i in range(self.count)] or ["original"]
        return [getattr(self, name) for name in names]

    def right_inverse(self, value: Tensor) -> None:
        """Set the originals so that the parametrised tensor becomes a value.

        Raises
        ------
        ArgumentError
            If a parametrisation has no ``right_inverse``.
        """
        start = self._inverted(value, strict=True)
        with no_grad():
            for old, new in zip(self.originals(), [start] if isinstance(start, Tensor) else start, strict=True):
                inplace.copy_(old, new)

    def forward(self) -> Tensor:
        """Return the parametrised tensor."""
        known = _cache.values.get(self) if _cache.depth else None
        if known is not None:
            return known
        first, *rest = self
        value = first(*self.originals())
        for module in rest:
            value = module(value)
        if _cache.depth:
            _cache.values[self] = value
        return cast("Tensor", value)


def _moved(original: Tensor, start: Tensor) -> Tensor:
    """The original itself with the values to start from; another tensor where their shape or dtype differs."""
    if start is original:
        return original
    if start.array.shape != original.array.shape or start.dtype is not original.dtype:
        return _like(original, start)
    with no_grad():
        return inplace.copy_(original, start)


def _like(original: Tensor, values: Tensor) -> Tensor:
    """A parameter or buffer, as the original is one, of other values."""
    copy = values.detach().clone()
    return Parameter(copy, original.requires_grad) if isinstance(original, Parameter) else copy


def _check_kept(value: Any, original: Tensor) -> None:
    op, name = "register_parametrization", "parametrization"
    hint = "pass unsafe=True if that is meant"
    if not isinstance(value, Tensor):
        raise DTypeError(wrong(op, name, "a module that returns a Tensor", f"one that returns {type(value).__name__}"))
    if value.dtype is not original.dtype:
        want = f"an output of the tensor's dtype {original.dtype.name}"
        raise DTypeError(expected(op, name, want, value.dtype.name, hint))
    if value.array.shape != original.array.shape:
        want = f"an output of the tensor's shape {original.array.shape}"
        raise ShapeError(expected(op, name, want, value.array.shape, hint))


# ------------------------------------------------------------------------------------------------------ class and back


def _read(name: str, module: Module) -> Tensor:
    value: Tensor = module.parametrizations[name]()
    return value


def _write(name: str, module: Module, value: Tensor) -> None:
    module.parametrizations[name].right_inverse(value)


def _set(self: Any, name: str, value: Any) -> None:
    """Set an attribute; of a parametrised one the originals, even to a Parameter."""
    if name in type(self).parametrized:
        object.__setattr__(self, name, value)
    else:
        type_before_parametrizations(self).__setattr__(self, name, value)


def _class_with(base: type[Module], names: tuple[str, ...]) -> type[Module]:
    """A subclass in which the tensors of these names are computed."""
    if not names:
        return base
    body: dict[str, Any] = {"parametrized": names, "__setattr__": _set, "__module__": base.__module__}
    for name in names:
        body[name] = property(partial(_read, name), partial(_write, name))
    return type(f"Parametrized{base.__name__}", (base,), body)


def _names(module: Module) -> tuple[str, ...]:
    found: tuple[str, ...] = getattr(type(module), "parametrized", ())
    return found


def type_before_parametrizations(module: Module) -> type[Module]:
    """Return the class that a module has without its parametrisations."""
    return type(module).__mro__[1] if _names(module) else type(module)


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Return whether a module has parametrisations, or whether its tensor of that name has some."""
    return bool(_names(module)) if tensor_name is None else tensor_name in _names(module)


def register_parametrization(
    module: Module, tensor_name: str, parametrization: Module, *, unsafe: bool = False
) -> Module:
    """Compute a parameter or buffer by a module from now on, and return the module that has it.

    Parameters
    ----------
    module : Module
    tensor_name : str
        Of a parameter or buffer of this module. If it is parametrised already, the new parametrisation is applied
        to the result.
    parametrization : Module
        Its ``forward`` maps the original to the tensor; its ``right_inverse``, if it has one, a value to an original,
        or several: ``forward`` then takes so many.
    unsafe : bool
        Do not check that the tensor's shape and dtype are kept.

    Raises
    ------
    ArgumentError
        If there is no parameter or buffer of that name.
    ShapeError, DTypeError
        If shape or dtype change.

    Notes
    -----
    In the state dict the original is ``parametrizations.<tensor_name>.original``. Register before the optimiser is
    made: the parameter may be another one afterwards.
    """
    op = "register_parametrization"
    if not isinstance(parametrization, Module):
        raise DTypeError(wrong(op, "parametrization", "a Module", type(parametrization).__name__))
    parametrization.train(module.training)
    if is_parametrized(module, tensor_name):
        before = getattr(module, tensor_name)
        if not unsafe:
            _check_kept(parametrization(before), before)
        module.parametrizations[tensor_name].append(parametrization)
        return module
    original = {**module._parameters, **module._buffers}.get(tensor_name)
    if original is None:
        known = ", ".join([*module._parameters, *module._buffers]) or "none"
        raise ArgumentError(wrong(op, "tensor_name", f"a parameter or buffer: {known}", repr(tensor_name)))
    made = ParametrizationList([parametrization], original, unsafe)
    delattr(module, tensor_name)
    if not is_parametrized(module):
        module.parametrizations = ModuleDict()
    module.parametrizations[tensor_name] = made
    module.__class__ = _class_with(type_before_parametrizations(module), (*_names(module), tensor_name))
    return module


def remove_parametrizations(module: Module, tensor_name: str, leave_parametrized: bool = True) -> Module:
    """Make a parametrised tensor a parameter or buffer again, and return the module.

    Parameters
    ----------
    leave_parametrized : bool
        Keep the value that was computed; else go back to the original, of which there must be one.

    Raises
    ------
    ArgumentError
        If the tensor is not parametrised, or there are several originals to go back to.
    """
    op = "remove_parametrizations"
    if not is_parametrized(module, tensor_name):
        raise ArgumentError(wrong(op, "tensor_name", "the name of a parametrised tensor", repr(tensor_name)))
    made = module.parametrizations[tensor_name]
    originals = made.originals()
    if made.count and not leave_parametrized:
        raise ArgumentError(wrong(op, "leave_parametrized", "True where there are several originals", False))
    with no_grad():
        value = getattr(module, tensor_name)
    tensor = _moved(originals[0], value) if leave_parametrized else originals[0]
    left = tuple(name for name in _names(module) if name != tensor_name)
    module.__class__ = _class_with(type_before_parametrizations(module), left)
    del module.parametrizations[tensor_name]
    if not left:
        del module.parametrizations
    if isinstance(tensor, Parameter):
        module.register_parameter(tensor_name, tensor)
    else:
        module.register_buffer(tensor_name, tensor)
    return module
