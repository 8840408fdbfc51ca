"""What a function's result depends on besides its arguments: the random state, and buffers of modules.

A function that is to be run again sees them as they were, and leaves them as they are.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tinygrad_bn import ops
from tinygrad_bn.autograd.transforms import tree_leaves
from tinygrad_bn.core.dtype import int64
from tinygrad_bn.core.launch import Observer, launch, observers
from tinygrad_bn.core.random import Generator, defaults
from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.kernels.spec import Kernel
from tinygrad_bn.nn.module import Module


def modules_of(function: Any, args: Any, kwargs: Any) -> list[Module]:
    """Return the modules that a function is, is a method of, holds in its closure, names, or is given."""
    found: dict[int, Module] = {}
    for item in [*_held_by(function), *tree_leaves((args, kwargs))]:
        if isinstance(item, Module):
            found[id(item)] = item
    return list(found.values())


def _held_by(function: Any) -> Iterator[Any]:
    if isinstance(function, functools.partial):
        yield from _held_by(function.func)
        yield from tree_leaves((function.args, function.keywords))
        return
    yield function
    yield getattr(function, "__self__", None)
    function = getattr(function, "__func__", function)
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield from tree_leaves(cell.cell_contents)
        except ValueError:
            continue  # a name that has no value yet
    code, names = getattr(function, "__code__", None), getattr(function, "__globals__", {})
    for name in code.co_names if code is not None else ():
        yield from tree_leaves(names.get(name))


class Seen:
    """The random state, and the buffers of some modules, as a function has found them.

    Parameters
    ----------
    modules : list of Module
    random : bool
        Whether the random state counts.
    """

    def __init__(self, modules: list[Module], random: bool) -> None:
        self.random = _states() if random else []
        buffers = {id(b): b for m in modules for b in m.buffers()}
        with no_grad():
            self.buffers = [(b, b.version, ops.clone(b)) for b in buffers.values()]
        self._ids: set[int] = set()

    def keep_what_changed(self) -> None:
        """Forget buffers that are what they were."""
        self.buffers = [entry for entry in self.buffers if entry[0].version != entry[1]]
        self._ids = {id(b.storage) for b, _, _ in self.buffers}

    def restores(self, t: Tensor) -> bool:
        """Whether a tensor lies in a buffer that ``again`` gives its former values."""
        return t.storage is not None and id(t.storage) in self._ids

    @contextmanager
    def again(self, keep: bool) -> Iterator[Any]:
        """Let buffers have their former values for a block; gives a context for the run itself.

        With ``keep`` a record that outlives the block may hold them: using it is then an error.
        """
        now = [(b, b.version, _clone(b)) for b, _, _ in self.buffers]
        try:
            for b, _, former in self.buffers:
                _write(former, b)
            yield self._run()
        finally:
            for b, version, value in now:
                _write(value, b)
                if keep:
                    b.bump()
                else:
                    b.shared_storage().version = version

    @contextmanager
    def _run(self) -> Iterator[None]:
        """The former random state, and no running statistics moved, for a block."""
        now = _states() if self.random else []
        observer = _still(threading.get_ident())
        observers.append(observer)
        try:
            _restore(self.random)
            yield
        finally:
            observers.remove(observer)
            _restore(now)


def _still(thread: int) -> Observer:
    """An observer that leaves out what moves running statistics on a thread."""

    def observer(kernel: Kernel, arguments: tuple[Any, ...], run: Callable[[], None]) -> None:
        if kernel.name != "batch_norm_update" or threading.get_ident() != thread:
            run()

    return observer


def _clone(t: Tensor) -> Tensor:
    with no_grad():
        return ops.clone(t)


def _write(value: Tensor, to: Tensor) -> None:
    launch(to.device.kernels.copy, value.array, to.array)


def _states() -> list[tuple[Generator, Array]]:
    """The default generators, each with a copy of its state."""
    found = []
    for generator in dict.fromkeys(defaults.values()):
        copy = generator.device.empty(generator.state.shape, int64)
        launch(generator.device.kernels.copy, generator.state, copy)
        found.append((generator, copy))
    return found


def _restore(states: list[tuple[Generator, Array]]) -> None:
    for generator, state in states:
        launch(generator.device.kernels.copy, state, generator.state)
