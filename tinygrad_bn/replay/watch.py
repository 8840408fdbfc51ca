"""What Python sees while it runs a step, beside the arguments: a recording holds as long as that has not changed.

From the step's function on: what its closure, its defaults and the globals that it names hold, and so on through
functions, containers, modules, optimisers and objects of the user's own classes, of which those attributes count that
code of the user's names (``sight``). Numbers and strings are compared by value, everything else by identity.
"""

from __future__ import annotations

import gc
import io
import pickle
import random
import sys
import types
import weakref
from collections.abc import Callable, Iterable
from itertools import chain
from operator import attrgetter, call, is_not
from typing import Any

import numpy as np

from tinygrad_bn.core.tape import Leaf, Node
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.parameter import Parameter
from tinygrad_bn.nn.tree import changes
from tinygrad_bn.optim.optimizer import Optimizer
from tinygrad_bn.replay.held import SIMPLE, Held
from tinygrad_bn.replay.sight import RAW, REGISTRIES, Names, below, called, function_of, own, own_file
from tinygrad_bn.replay.words import KNOWN, Words

_LIMIT = 50_000  # objects that are looked at
_RAW_BYTES = 1 << 16  # of memory that Python may well look at, and that is compared in each call
_FEW_BYTES = 512  # that Python may well look at though kernels do too
_array, _node, _hooks = attrgetter("array"), attrgetter("node"), attrgetter("hooks")
_END = object()  # stands behind what a container holds: elements that move to the next one are seen


class Watch:
    """All that is in sight of some functions and objects, as it is now.

    Attributes
    ----------
    held, modules : list of Held
        Of modules apart, since they tell of changes themselves (``nn.tree.changes``).
    tensors : dict of int to (Tensor, Array, Node or None, tuple)
        By number, what is in sight with its array, its place on the tape and its hooks.
    raw : list of (object, bytes)
        Small arrays of numbers that are no tensors.
    optimisers : list of Optimizer
    hidden : list of (weakref.ref, Array)
        Tensors that kernels have worked on though they are not in sight, with their arrays.
    names : Names
    unfit : str
        Why no recording can hold, in words; "" where one can.
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        self.held: list[Held] = []
        self.modules: list[Held] = []
        self.tensors: dict[int, tuple[Tensor, Array, Node | None, tuple[Any, ...]]] = {}
        self.raw: list[tuple[Any, bytes]] = []
        self.optimisers: list[Optimizer] = []
        self.hidden: list[tuple[weakref.ref[Tensor], Array]] = []
        self.names = Names()
        self.unfit = ""
        self._quick = False
        self._words: Words | None = None
        self._drawn: list[tuple[Any, bytes]] = []
        self._seen: dict[int, Any] = {}  # kept, or a number could come to stand for another object
        self._changes: object = changes.last
        roots = list(roots)
        known = -1
        while known < len(self.names):  # code leads to objects, and they to code
            known = len(self.names)
            self._walk(roots, self._code)
        self._walk(roots, self._visit)
        for source in (random, getattr(sys.modules.get("numpy.random"), "mtrand", None)):
            self._draws(getattr(source, "_inst", None) or getattr(source, "_rand", None))

    def settle(self) -> None:
        """Make ready for many looks."""
        held = [(h, () if h.labels else (_END,)) for h in self.held]
        self._looks = [look for h, end in held for look in ((h.look, end.__iter__) if end else (h.look,))]
        self._values = [value for h, end in held for value in (*h.values, *end)]
        found = [(t, a, n) for t, a, n, hooks in self.tensors.values() if not hooks]
        self._tensors, self._arrays, self._nodes = ([*column] for column in zip(*found)) if found else ([], [], [])
        self._tracked = [n for n in self._nodes if n is not None]
        self._changes = changes.last if len(found) == len(self.tensors) else None
        if self._quick:
            self.quicken()

    def quicken(self) -> None:
        """Let compiled code look at the tensors from now on, where none has had hooks."""
        self._quick, self._words = True, None
        if not KNOWN or any(n.hooks is not None for n in self._tracked):
            return
        of = zip(self._tensors, self._arrays, self._nodes)
        slots = [slot for t, a, n in of for slot in ((t, "array", a), (t, "node", n))]
        self._words = Words([*slots, *((n, "hooks", None) for n in self._tracked)])

    def same(self) -> bool:
        """Whether nothing is another object than before; quick, and False now and then where ``change`` finds none."""
        if self._changes is not changes.last:
            return False
        found = [*chain.from_iterable(map(call, self._looks))]
        if len(found) != len(self._values) or any(map(is_not, found, self._values)):
            return False
        return self._tensors_same() and not (
            (self.hidden and any((t := of()) is None or t.array is not array for of, array in self.hidden))
            or (self.raw and any(bytes(memory) != content for memory, content in self.raw))
        )

    def _tensors_same(self) -> bool:
        if self._words is not None:
            return self._words.same()
        tensors = self._tensors
        return not (
            any(map(is_not, map(_array, tensors), self._arrays))
            or any(map(is_not, map(_node, tensors), self._nodes))
            or any(map(_hooks, self._tracked))
        )

    def change(self) -> str:
        """Return what has changed since, in words; "" where nothing has."""
        for tensor, array, node, hooks in self.tensors.values():
            if tensor.array is not array or tensor.node is not node:
                return f"a tensor of shape {array.shape} lies elsewhere, or its requires_grad has changed"
            if _hooks_of(tensor) != hooks:
                return f"a tensor of shape {array.shape} has other hooks"
        for tensor_of, array in self.hidden:
            holder = tensor_of()
            if holder is None or holder.array is not array:
                return f"a tensor of shape {array.shape} that it used, out of sight, is gone"
        for held in (*self.held, *self.modules):
            changed = held.change()
            if changed:
                return changed
        for memory, content in self.raw:
            if bytes(memory) != content:
                return f"a {type(memory).__name__} of {len(content)} bytes has other elements"
        self.settle()  # equal numbers may be other objects now
        return ""

    def leave_to_kernels(self, arrays: Iterable[Array]) -> None:
        """Do not compare the elements of arrays that kernels are given: they look at them anew."""
        roots = {id(_chain(array)[-1]) for array in arrays}
        self.raw = [
            (memory, content)
            for memory, content in self.raw
            if not isinstance(memory, np.ndarray)
            or id(_chain(memory)[-1]) not in roots
            or (len(content) <= _FEW_BYTES and bytes(memory) == content)
        ]

    def drawn(self) -> bool:
        """Whether Python or NumPy has drawn random numbers since."""
        return any(_state_of(source) != state for source, state in self._drawn)

    def look_for(self, arrays: list[Array]) -> None:
        """Find the tensors that hold arrays which kernels work on, and watch them too, as long as they live."""
        known = {id(base) for _, array, *_ in self.tensors.values() for base in _chain(array)}
        asked = {id(base): base for array in arrays for base in _chain(array) if id(base) not in known}
        for holder in gc.get_referrers(*asked.values()) if asked else ():
            if isinstance(holder, Tensor) and id(holder.array) in asked:
                self.hidden.append((weakref.ref(holder), holder.array))

    def leaves(self) -> list[Tensor]:
        """The tensors in sight that gradients are accumulated for, frozen parameters included."""
        known = [(tensor, node) for tensor, _, node, _ in self.tensors.values()]
        return [t for t, node in known if isinstance(node, Leaf) or isinstance(t, Parameter) or t._grad is not None]

    # ------------------------------------------------------------------------------------------------------ two walks

    def _walk(self, roots: list[Any], look: Callable[[Any, str], list[tuple[Any, str]]]) -> None:
        self._seen = {}
        waiting = [(root, "the step") for root in roots]
        while waiting:
            value, name = waiting.pop()
            if id(value) not in self._seen and not isinstance(value, SIMPLE):
                self._seen[id(value)] = value
                waiting.extend(look(value, name))
            if len(self._seen) > _LIMIT:
                self.unfit = f"more than {_LIMIT} objects are in sight, in {name}: pass what it needs as arguments"
                return

    def _code(self, value: Any, name: str) -> list[tuple[Any, str]]:
        if isinstance(value, types.CodeType):
            self.names.read(value)
            return [(c, name) for c in value.co_consts if isinstance(c, types.CodeType)]
        found = self._led_to(value, name, below(value, name, self.names))
        if isinstance(value, types.FunctionType):
            return found if own_file(value.__module__) else []
        kind = type(value)
        if isinstance(value, type):
            kind = value
            self.names.made.add(value)
        for c in kind.__mro__:
            if own(c):
                used = [f for n, f in vars(c).items() if n in self.names.used or called(n, f, kind is value)]
                found += [(function_of(f), name) for f in used]
        return found

    def _visit(self, value: Any, name: str) -> list[tuple[Any, str]]:
        if isinstance(value, Tensor):
            self.tensors[id(value)] = (value, value.array, value.node, _hooks_of(value))
        elif isinstance(value, Optimizer):
            self.optimisers.append(value)
        elif isinstance(value, random.Random) or str(type(value).__module__).startswith("numpy.random."):
            self._draws(value)
        elif isinstance(value, (np.ndarray, *RAW)):
            memory: Any = value
            self.raw += [(value, bytes(memory))] if memoryview(memory).nbytes <= _RAW_BYTES else []
        elif hasattr(type(value), "__next__") and not own(type(value)) and not isinstance(value, io.IOBase):
            self.unfit = f"{name} is a {type(value).__name__}, which may give something else each time"
        found = below(value, name, self.names)
        (self.modules if isinstance(value, Module) else self.held).extend(found)
        return self._led_to(value, name, found) + ([(type(value), name)] if own(type(value)) else [])

    def _led_to(self, value: Any, name: str, found: list[Held]) -> list[tuple[Any, str]]:
        """The objects that what is held leads to."""
        apart: set[int] = set()
        if isinstance(value, Module):
            attributes = value.__dict__
            apart = {id(attributes[r]) for r in (*REGISTRIES, "_transient")}
            apart |= {id(v) for v in attributes.values() if isinstance(v, np.ndarray)}  # counters that kernels write
            return [(v, type(value).__name__) for h in found for v in h.values if id(v) not in apart]
        return [(v, h.labels[i] if h.labels else h.name) for h in found for i, v in enumerate(h.values)]

    def _draws(self, source: Any) -> None:
        if source is not None:
            self._drawn.append((source, _state_of(source)))


def _hooks_of(tensor: Tensor) -> tuple[Any, ...]:
    hooks = None if tensor.node is None else tensor.node.hooks
    return tuple(hooks) if hooks else ()


def _state_of(source: Any) -> bytes:
    """The state of one of Python's or NumPy's random generators."""
    if isinstance(source, random.Random):
        return b"" if isinstance(source, random.SystemRandom) else pickle.dumps(source.getstate())
    generator = getattr(source, "bit_generator", None) or getattr(source, "_bit_generator", source)
    return pickle.dumps(getattr(generator, "state", None))


def _chain(array: Array) -> list[Array]:
    """An array and those that it is a view of."""
    found = [array]
    while isinstance(found[-1].base, np.ndarray):
        found.append(found[-1].base)
    return found
