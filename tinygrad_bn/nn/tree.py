"""The tree of modules: what a module holds under which name, and walks over all of it.

Parameters, buffers and submodules stand in registries, in the order of their assignment, and also in the instance's
``__dict__``, where reading an attribute finds them at once; whoever changes one changes both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, nearest, wrong
from tinygrad_bn.nn.parameter import Parameter

if TYPE_CHECKING:
    from tinygrad_bn.nn.module import Module

_REGISTRIES = ("_parameters", "_buffers", "_modules")


class _Changes:
    """``last`` is another object after every change of any module's attributes or hooks: who remembers what he found
    out about modules keeps it, and looks again where it is no longer the same."""

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.note()

    def note(self) -> None:
        """Note that something has changed."""
        self.last = object()


changes = _Changes()


class Tree:
    """The part of ``Module`` that holds parameters, buffers and other modules."""

    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]
    _transient: set[str]

    def __init__(self) -> None:
        # not by assignment: __setattr__ reads the registries
        self.__dict__.update(_parameters={}, _buffers={}, _modules={}, _transient=set())

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__
        if isinstance(value, Parameter):
            self._enter("_parameters", name, value)
        elif isinstance(value, Tree):
            self._enter("_modules", name, value)
        else:
            for registry in _REGISTRIES:
                if name in own.get(registry, ()):
                    self._replace(registry, name, value)
                    return
            object.__setattr__(self, name, value)
            changes.note()

    def _enter(self, registry: str, name: str, value: Any) -> None:
        """Put a value under a name into a registry and the instance, and take it out of the other registries."""
        own = self.__dict__
        if registry not in own:
            raise AttributeError(
                f"{type(self).__name__}: '{name}' cannot be assigned before the module is initialised.\n"
                "Hint: call super().__init__() first."
            )
        for other in _REGISTRIES:
            if other != registry:
                own[other].pop(name, None)
        own[registry][name] = value
        own[name] = value
        changes.note()

    def _replace(self, registry: str, name: str, value: Any) -> None:
        """Put a plain value under a registered name: None, or another tensor under a buffer's."""
        if value is not None and not (registry == "_buffers" and isinstance(value, Tensor)):
            want = {"_parameters": "a Parameter", "_buffers": "a Tensor", "_modules": "a Module"}[registry]
            hint = f"delete the attribute first: del module.{name}"
            raise DTypeError(wrong(type(self).__name__, name, f"{want} or None", type(value).__name__, hint))
        self.__dict__[registry][name] = value
        self.__dict__[name] = value
        changes.note()

    def __delattr__(self, name: str) -> None:
        own = self.__dict__
        for registry in _REGISTRIES:
            own.get(registry, {}).pop(name, None)
        own.get("_transient", set()).discard(name)
        object.__delattr__(self, name)
        changes.note()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")
        if isinstance(getattr(type(self), name, None), property):
            return object.__getattribute__(self, name)  # the property itself raised: show its error, not ours
        if "_parameters" not in self.__dict__:
            hint = "call super().__init__() first"
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.\nHint: {hint}.")
        raise AttributeError(nearest(type(self).__name__, name, dir(self)))

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter under a name; None keeps its place in the order.

        Raises
        ------
        ArgumentError
            If the name is taken, empty or holds a dot.
        DTypeError
            If ``param`` is no Parameter.
        """
        self._check_name("register_parameter", "_parameters", name)
        if param is not None and not isinstance(param, Parameter):
            raise DTypeError(wrong("register_parameter", "param", "a Parameter or None", type(param).__name__))
        self._enter("_parameters", name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is state but no parameter, such as a running mean.

        Parameters
        ----------
        name : str
        tensor : Tensor or None
        persistent : bool
            Whether it is part of the state dict.

        Raises
        ------
        ArgumentError, DTypeError
        """
        self._check_name("register_buffer", "_buffers", name)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise DTypeError(wrong("register_buffer", "tensor", "a Tensor or None", type(tensor).__name__))
        self._enter("_buffers", name, tensor)
        (self._transient.discard if persistent else self._transient.add)(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a submodule under a name; None keeps its place in the order."""
        self._check_name("add_module", "_modules", name)
        if module is not None and not isinstance(module, Tree):
            raise DTypeError(wrong("add_module", "module", "a Module or None", type(module).__name__))
        self._enter("_modules", name, module)

    def register_module(self, name: str, module: Module | None) -> None:
        """Add a submodule under a name: another name of ``add_module``."""
        self.add_module(name, module)

    def _check_name(self, op: str, registry: str, name: str) -> None:
        if "_parameters" not in self.__dict__:
            raise AttributeError(f"{op}: the module is not initialised.\nHint: call super().__init__() first.")
        if not isinstance(name, str) or not name or "." in name:
            raise ArgumentError(wrong(op, "name", "a string that is not empty and holds no dot", repr(name)))
        if name not in self.__dict__[registry] and (hasattr(type(self), name) or name in self.__dict__):
            raise ArgumentError(wrong(op, "name", "free", f"{name!r}, an attribute of {type(self).__name__} already"))

    # -------------------------------------------------------------------------------------------------------- walking

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """Yield the module itself and all below it with their dotted names; one that occurs twice comes once."""
        own = cast("Module", self)
        seen = set() if memo is None else memo
        if own in seen:
            return
        if remove_duplicate:
            seen.add(own)
        yield prefix, own
        for name, module in self._modules.items():
            if module is not None:
                yield from module.named_modules(seen, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """Yield the module itself and all below it."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield the modules directly below with their names."""
        seen: set[Module] = set()
        for name, module in self._modules.items():
            if module is not None and module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> Iterator[Module]:
        """Yield the modules directly below."""
        return (module for _, module in self.named_children())

    def _named(self, registry: str, prefix: str, recurse: bool, remove_duplicate: bool) -> Iterator[tuple[str, Any]]:
        owners = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else [(prefix, self)]
        seen: set[int] = set()
        for path, module in owners:
            for name, tensor in module.__dict__[registry].items():
                if tensor is None or (remove_duplicate and id(tensor) in seen):
                    continue
                seen.add(id(tensor))
                yield f"{path}.{name}" if path else name, tensor

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Yield the parameters with their dotted names; one that occurs twice comes once."""
        return self._named("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Yield the parameters, those of modules below included unless ``recurse`` is False."""
        return (p for _, p in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield the buffers with their dotted names; one that occurs twice comes once."""
        return self._named("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Yield the buffers, those of modules below included unless ``recurse`` is False."""
        return (b for _, b in self.named_buffers(recurse=recurse))

    def get_submodule(self, target: str) -> Module:
        """Return the module of a dotted name; the module itself for "".

        Raises
        ------
        AttributeError
            If there is none, with the nearest name.
        """
        module = cast("Module", self)
        for name in target.split(".") if target else ():
            found = module._modules.get(name)
            if found is None:
                raise AttributeError(nearest(f"get_submodule: {type(module).__name__}", name, list(module._modules)))
            module = found
        return module

    def get_parameter(self, target: str) -> Parameter:
        """Return the parameter of a dotted name; an AttributeError with the nearest name if there is none."""
        found: Parameter = self._get("get_parameter", "_parameters", target)
        return found

    def get_buffer(self, target: str) -> Tensor:
        """Return the buffer of a dotted name; an AttributeError with the nearest name if there is none."""
        found: Tensor = self._get("get_buffer", "_buffers", target)
        return found

    def _get(self, op: str, registry: str, target: str) -> Any:
        path, _, name = target.rpartition(".")
        owner = self.get_submodule(path)
        found = owner.__dict__[registry].get(name)
        if found is None:
            raise AttributeError(nearest(f"{op}: {type(owner).__name__}", name, list(owner.__dict__[registry])))
        return found
