"""What the user's own code can see of an object: what it holds, and which other objects it leads to.

Of the user's own functions and classes that is what they name; of everything else it is what lies in the open.
"""

from __future__ import annotations

import contextvars
import sys
import sysconfig
import threading
import types
import weakref
from array import array
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.nn.hooks import Hooks
from tinygrad_bn.nn.module import Module
from tinygrad_bn.optim.fused import FusedOptimizer
from tinygrad_bn.optim.optimizer import Optimizer
from tinygrad_bn.replay.held import Held

REGISTRIES = ("_parameters", "_buffers", "_modules")
RAW = (array, bytearray, memoryview)
_PASSING = {"_steps", "_steps_after"}  # what a module remembers of other attributes
_MODULE = ("training", "_hooks", *REGISTRIES)
_CONTAINERS = (list, tuple, dict, set, frozenset, deque)
_UNNAMED = {"forward", "backward", "setup_context", "step"}  # methods that this package calls
_CACHED = type(lru_cache(len))
_STDLIB = sysconfig.get_paths()["stdlib"]


class Names:
    """What code of the user's names: variables and attributes, also in quotes, as ``getattr`` and ``vars`` take them.

    Attributes
    ----------
    used, quoted : set of str
    asked : set of str
        What is quoted where attributes are asked for that may not be there.
    made : set of type
        Classes that it may make objects of.
    """

    def __init__(self) -> None:
        self.used: set[str] = set()
        self.quoted: set[str] = set()
        self.asked: set[str] = set()
        self.made: set[type] = set()

    def __len__(self) -> int:
        return len(self.used) + len(self.quoted)

    def read(self, code: types.CodeType) -> None:
        """Add what a piece of code names, without the functions that are defined in it."""
        self.used.update(code.co_names)
        quoted = [c for c in code.co_consts if isinstance(c, str) and c.isidentifier()]
        self.quoted.update(quoted)
        if {"getattr", "hasattr"} & set(code.co_names):
            self.asked.update(quoted)

    def among(self, known: Iterable[str]) -> list[str]:
        """Those of the known names that are used, and any that may be asked for before they are there."""
        return sorted(((self.used | self.quoted) & set(known)) | self.asked)


def below(value: Any, name: str, names: Names) -> list[Held]:
    """What an object holds that the user's code may look at."""
    if isinstance(value, types.FunctionType):
        return _function(value, names)
    if isinstance(value, types.MethodType):
        return [Held(name, partial(_attributes, value, ("__func__", "__self__")), ("__func__", "self"))]
    if isinstance(value, types.BuiltinMethodType | types.MethodWrapperType):
        owner = value.__self__
        return [] if owner is None or isinstance(owner, types.ModuleType) else [Held(name, (owner,).__iter__, (name,))]
    if isinstance(value, staticmethod | classmethod | property):
        return [Held(name, partial(_attributes, value, ("__func__", "fget", "fset")), (name,) * 3)]
    if isinstance(value, partial):
        return [Held(name, partial(_attributes, value, ("func", "args", "keywords")), (name,) * 3)]
    if isinstance(value, Module):
        return _module(value, names)
    if isinstance(value, Optimizer):
        return _optimizer(value, names)
    if isinstance(value, Hooks):
        return [Held("hooks", table.values) for table in (value.before, value.after, value.backward)]
    if isinstance(value, Tensor):
        hooks = None if value.node is None else value.node.hooks
        return [Held("hooks", partial(_functions_of, hooks))] if hooks else []
    if isinstance(value, types.ModuleType):
        return _namespace(value.__name__, vars(value), names) if own_file(value.__name__) else []
    if isinstance(value, type):
        return _classes(value, names) if own(value) else []
    return [*_elements(value, name), *_object(value, names)]


def _elements(value: Any, name: str) -> list[Held]:
    """What a container holds, or something that points at something else."""
    if isinstance(value, contextvars.ContextVar):
        return [Held(name, partial(_content_of, value), (name,))]
    if isinstance(value, _CACHED):
        return [Held(name, partial(_answers_of, value), (name,) * 2)]
    if isinstance(value, weakref.ref):
        return [Held(name, partial(_target_of, value), (name,))]
    if isinstance(value, dict) or (isinstance(value, Mapping) and not own(type(value))):
        return [
            Held(name, partial(_values_of, value), [f"{name}[{key!r}]" for key in value]),
            Held(f"the keys of {name}", partial(list, value)),
        ]
    foreign = isinstance(value, Sequence) and not own(type(value)) and not isinstance(value, (range, *RAW))
    return [Held(name, partial(list, value))] if isinstance(value, _CONTAINERS) or foreign else []


def _function(function: types.FunctionType, names: Names) -> list[Held]:
    if not own_file(function.__module__):
        return []
    of = function.__name__
    found = [Held(of, partial(_parts_of, function), ("__code__", "__defaults__", "__kwdefaults__"))]
    if function.__closure__:
        found.append(Held(of, partial(_contents, function.__closure__), function.__code__.co_freevars))
    codes = _codes(function.__code__)
    named = {n for c in codes for n in c.co_names}
    if "globals" in named:
        named |= names.quoted
    wanted = sorted(named & function.__globals__.keys())
    if wanted:
        found.append(Held("the globals", partial(map, function.__globals__.get, wanted), wanted))
    return found + _namespace(of, function.__dict__, names)


def _namespace(name: str, namespace: Mapping[str, Any], names: Names, more: Iterable[str] = ()) -> list[Held]:
    wanted = sorted({*names.among(namespace), *more})
    return [Held(name, partial(map, namespace.get, wanted), wanted)] if wanted else []


def _object(value: Any, names: Names, more: Iterable[str] = ()) -> list[Held]:
    """An object's attributes, those included that so far only its class has: they would go ahead of that one's."""
    kind = type(value)
    kinds = [c for c in kind.__mro__ if own(c)]
    attributes = getattr(value, "__dict__", None)
    known = {n for c in kinds for n in vars(c)}
    found: list[Held] = []
    if isinstance(value, threading.local):
        wanted = names.among({*known, *vars(value)})
        found = [Held(kind.__name__, partial(_attributes, value, wanted), wanted)] if wanted else []
    elif isinstance(attributes, dict):
        wrapped = ("__wrapped__",) if "__wrapped__" in attributes else ()
        found = _namespace(kind.__name__, attributes, names, {*names.among({*known, *attributes}), *more, *wrapped})
    slots = {s for c in kinds for s in _slots(c)}
    wanted = sorted(slots & {*names.used, *names.quoted})
    if wanted:
        found.append(Held(kind.__name__, partial(_attributes, value, wanted), wanted))
    return found


def _classes(kind: type, names: Names) -> list[Held]:
    """What a class and its bases say, and the functions that are called without being named."""
    kinds = [c for c in kind.__mro__ if own(c)]
    wanted = {*names.among({n for c in kinds for n in vars(c)})}
    wanted |= {n for c in kinds for n, f in vars(c).items() if called(n, f, kind in names.made)}
    labels = sorted(wanted)
    return [Held(c.__name__, partial(map, vars(c).get, labels), labels) for c in kinds] if labels else []


def _module(module: Module, names: Names) -> list[Held]:
    """A module's attributes; of a class of the user's, those that his code names."""
    name, attributes = type(module).__name__, module.__dict__
    if own(type(module)):
        found = _object(module, names, (*_MODULE, "forward"))
    else:
        wanted = sorted({*attributes, "forward"} - _PASSING)
        found = [Held(name, partial(map, attributes.get, wanted), wanted)]
    return found + [Held(name, attributes[r].values, [*attributes[r]]) for r in REGISTRIES]


def _optimizer(value: Optimizer, names: Names) -> list[Held]:
    """An optimiser's parameters; where the user's own code reads its options, those too."""
    look: Any = partial(_params_of, value)
    if not isinstance(value, FusedOptimizer) or "param_groups" in names.used | names.quoted:
        look = partial(_attributes, value, ("param_groups",))
    found = [Held("param_groups", look)]
    if own(type(value)):
        found += _object(value, names, ("state",))
    return found


def called(name: str, value: Any, made: bool) -> bool:
    """Whether a method is called without being named: by an operator, by this package, or as an object is made."""
    if name in ("__repr__", "__del__", "__str__") or (name in ("__init__", "__new__") and not made):
        return False
    return (name in _UNNAMED or name.startswith("__")) and isinstance(function_of(value), types.FunctionType)


def function_of(value: Any) -> Any:
    """The function behind what a class holds."""
    if isinstance(value, property):
        return value.fget
    return value.__func__ if isinstance(value, staticmethod | classmethod) else value


def own(kind: type) -> bool:
    """Whether a class is the user's own."""
    return isinstance(kind.__module__, str) and own_file(kind.__module__)


@cache
def own_file(module: str | None) -> bool:
    """Whether a Python module is the user's: no part of Python, of this package, or of what was installed."""
    root = (module or "").partition(".")[0]
    if root in ("", "__main__"):
        return True
    if root in ("tinygrad_bn", "builtins"):
        return False
    file = getattr(sys.modules.get(module or "") or sys.modules.get(root), "__file__", None)
    if file is None:
        return root not in sys.stdlib_module_names
    path = Path(file)
    return not {"site-packages", "dist-packages"} & set(path.parts) and Path(_STDLIB) not in path.parents


def _codes(code: types.CodeType) -> list[types.CodeType]:
    return [code] + [c for inner in code.co_consts if isinstance(inner, types.CodeType) for c in _codes(inner)]


def _slots(kind: type) -> list[str]:
    slots = kind.__dict__.get("__slots__", ())
    return [slots] if isinstance(slots, str) else list(slots)


def _attributes(value: Any, names: Sequence[str]) -> list[Any]:
    return [getattr(value, n, None) for n in names]


def _functions_of(hooks: list[Any]) -> list[Any]:
    return [getattr(hook, "hook", hook) for hook in hooks]


def _params_of(optimiser: Optimizer) -> list[Any]:
    return [group["params"] for group in optimiser.param_groups]


def _parts_of(function: types.FunctionType) -> tuple[Any, ...]:
    return function.__code__, function.__defaults__, function.__kwdefaults__


def _values_of(value: Mapping[Any, Any]) -> list[Any]:
    return list(value.values())


def _content_of(variable: contextvars.ContextVar[Any]) -> tuple[Any]:
    return (variable.get(None),)


def _answers_of(cached: Any) -> tuple[int, int]:
    """How many answers a cache has had to work out, and how many it holds: it gives others where these have changed."""
    info = cached.cache_info()
    return info.misses, info.currsize


def _target_of(reference: weakref.ref[Any]) -> tuple[Any]:
    return (reference(),)


def _contents(cells: tuple[types.CellType, ...]) -> list[Any]:
    try:
        return [cell.cell_contents for cell in cells]
    except ValueError:
        return [_content(cell) for cell in cells]


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # not yet bound
