"""A block after which a model is what it was before, bit for bit, also when something is raised in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.random import get_rng_state, set_rng_state
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.tree import changes

REGISTRIES = ("_parameters", "_buffers", "_modules")
HOLDERS = (list, dict, set, deque)


@contextmanager
def untouched(model: Module) -> Iterator[Callable[[], None]]:
    """Put back attributes (modes, switches, counters), buffers, hooks and the default generator's state at the end.

    Parameters
    ----------
    model : Module
        Its modules may change in the block; their attributes' values are put back by identity; tensors, arrays, lists,
        dicts, sets and deques among them by what they hold, too.

    Yields
    ------
    callable
        Puts back buffers, within the block.
    """
    modules = [_Module(m) for m in model.modules()]
    buffers = {id(t): _Kept(t) for t in model.buffers()}
    others = [*model.parameters(), *(v for m in modules for v in m.own.values() if isinstance(v, Tensor))]
    kept = buffers | {id(t): _Kept(t) for t in others if id(t) not in buffers}
    state = get_rng_state()

    def buffers_back() -> None:
        for buffer in buffers.values():
            buffer.put_back()

    try:
        yield buffers_back
    finally:
        for module in modules:
            module.put_back()
        for tensor in kept.values():
            tensor.put_back()
        set_rng_state(state)
        changes.note()


class _Module:
    """One module's attributes, registries and hooks."""

    def __init__(self, module: Module) -> None:
        own = module.__dict__
        self.module = module
        self.own = dict(own)
        self.registries = [(own[name], dict(own[name])) for name in REGISTRIES]
        hooks = module._hooks
        tables: list[dict[Any, Any]] = [] if hooks is None else [hooks.before, hooks.after, hooks.backward]
        self.tables = [(t, dict(t)) for t in tables]
        self.arrays = [(a, a.copy()) for a in own.values() if isinstance(a, np.ndarray)]
        self.holders = [(v, v.copy()) for k, v in own.items() if isinstance(v, HOLDERS) and k not in REGISTRIES]

    def put_back(self) -> None:
        for now, before in [*self.registries, *self.tables, (self.module.__dict__, self.own)]:
            now.clear()
            now.update(before)
        for holder, held in self.holders:
            if isinstance(holder, list):
                holder[:] = held
            else:
                holder.clear()
                (holder.extend if isinstance(holder, deque) else holder.update)(held)
        for array, values in self.arrays:
            if array.tobytes() != values.tobytes():
                array[...] = values


class _Kept:
    """One tensor's values, version and gradient."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.values: Array = tensor.device.to_host(tensor.array).copy()
        self.version = tensor.version
        self.grad = tensor.grad

    def put_back(self) -> None:
        t = self.tensor
        if t.device.to_host(t.array).tobytes() != self.values.tobytes():
            launch(t.device.kernels.copy, t.device.array(self.values), t.array)
        if t.version != self.version:
            t.shared_storage().version = self.version
        if t.grad is not self.grad:
            t.grad = self.grad
