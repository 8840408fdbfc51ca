"""Which modules are being called: read off Python's stack, so that nothing has to keep count of it."""

from __future__ import annotations

import inspect
import os
from types import CodeType, FrameType
from typing import Any

from tinygrad_bn.nn.module import Module

Called = tuple[Module, ...]
"""One level of a stack of calls: a module, or several that run as one operation."""

_CALL = inspect.unwrap(Module.__call__).__code__
_OWN = os.path.dirname(__file__) + os.sep
_INTERIOR = {os.path.join(_OWN, name) for name in ("_chain.py", "containers.py", "batch_norm.py")}
_kinds: dict[CodeType, int] = {}  # 1: a module's call or forward, 2: a function on several, 0: neither


def modules_at(frame: FrameType) -> Called:
    """Return the modules that a frame runs, () if it runs none."""
    code = frame.f_code
    kind = _kinds.get(code)
    if kind is None:
        kind = _kinds[code] = _kind(code)
    if not kind:
        return ()
    own = frame.f_locals
    if kind == 1:
        module = own.get("self")
        return (module,) if isinstance(module, Module) else ()
    given = [own.get(name) for name in code.co_varnames[: code.co_argcount]]
    return tuple(m for m in given if isinstance(m, Module))


def _kind(code: CodeType) -> int:
    names = code.co_varnames[: code.co_argcount]
    if code is _CALL:
        return 1
    method = names[:1] == ("self",)
    if code.co_filename in _INTERIOR and (not method or code.co_name.startswith("forward_")):
        return 2
    return 1 if method and code.co_name.startswith("forward") else 0


def chain(frames: list[Called]) -> list[Called]:
    """Return the calls of a stack, outermost first, from those of its frames, innermost first.

    What a level runs on behalf of the one around it replaces that: a module's ``forward`` its call, some of several
    modules all of them.
    """
    found: list[Called] = []
    for called in reversed(frames):
        if found and set(map(id, called)) <= set(map(id, found[-1])):
            found[-1] = called
        else:
            found.append(called)
    return found


def path(calls: list[Called]) -> str:
    """Return the dotted path of a stack of calls: the outermost module's class, then the names below it.

    Modules that run as one operation are joined by a plus sign; one that is nobody's child goes by its class.
    """
    if not calls:
        return ""
    root = calls[0][0]
    names = _names_below(root)
    base = label = _outside(calls[0])
    for called in calls[1:]:
        ids = {id(m) for m in called}
        known = [name for i, name in names.items() if i in ids and name]  # in the order of the tree
        label = f"{base}.{_joined(known)}" if len(known) == len(ids) else f"{label}.{_outside(called)}"
    return label


def _names_below(root: Module) -> dict[int, str]:
    return {id(m): name for name, m in root.named_modules()}


def _outside(called: Called) -> str:
    return "+".join(type(m).__name__ for m in called)


def _joined(names: list[str]) -> str:
    """Names in one, what they have in common ahead: layer1.0.conv1+bn1."""
    parts = [name.split(".") for name in names]
    common = 0
    while all(len(p) > common + 1 and p[common] == parts[0][common] for p in parts):
        common += 1
    return ".".join([*parts[0][:common], "+".join(".".join(p[common:]) for p in parts)])


def kind_of(calls: list[Called]) -> str:
    """Return the class of the innermost module, or the classes of those that run as one."""
    if not calls:
        return ""
    order = list(_names_below(calls[0][0]))
    return _outside(tuple(sorted(calls[-1], key=lambda m: order.index(id(m)) if id(m) in order else -1)))


def stack(frame: FrameType | None) -> list[Called]:
    """Return the modules that are being called at a frame, outermost first."""
    frames: list[Any] = []
    while frame is not None:
        called = modules_at(frame)
        if called:
            frames.append(called)
        frame = frame.f_back
    return chain(frames)
