"""Hooks of a module: before and after its forward, and around its backward.

A backward hook sees the gradients of a module's inputs and outputs. Two identity nodes stand around the recorded
forward, one over all outputs, one over all inputs: what passes through the first on the way back are the gradients of
the outputs, what arrives at the second are those of the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from tinygrad_bn.core.tape import Gradients, MultiNode, mode
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import GradientError, wrong
from tinygrad_bn.nn.tree import changes

Hook = Callable[..., Any]
_number = count().__next__


class RemovableHandle:
    """Takes a hook away again, by ``remove()`` or at the end of a ``with`` block."""

    def __init__(self, table: dict[int, Any], hook: Any) -> None:
        self.id = _number()
        self._table = table
        table[self.id] = hook
        changes.note()

    def remove(self) -> None:
        """Take the hook away; doing it twice does no harm."""
        self._table.pop(self.id, None)
        changes.note()

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


class Hooks:
    """The hooks of one module, in the order of their registration.

    Attributes
    ----------
    before, after : dict
        Forward hooks and whether they take the keyword arguments too.
    backward : dict
    """

    def __init__(self) -> None:
        self.before: dict[int, tuple[Hook, bool]] = {}
        self.after: dict[int, tuple[Hook, bool]] = {}
        self.backward: dict[int, Hook] = {}

    @property
    def empty(self) -> bool:
        """Whether all hooks have been taken away again."""
        return not (self.before or self.after or self.backward)

    def call(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a module's forward with its hooks around it."""
        for hook, with_kwargs in list(self.before.values()):
            args, kwargs = self._prepared(hook, with_kwargs, module, args, kwargs)
        gates = Gates(self, module, args) if self.backward and mode.grad else None
        out = module.forward(*(args if gates is None else gates.args), **kwargs)
        for hook, with_kwargs in list(self.after.values()):
            given = (module, args, kwargs, out) if with_kwargs else (module, args, out)
            replaced = hook(*given)
            out = out if replaced is None else replaced
        return out if gates is None else gates.close(out)

    @staticmethod
    def _prepared(
        hook: Hook, with_kwargs: bool, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        replaced = hook(module, args, kwargs) if with_kwargs else hook(module, args)
        if replaced is None:
            return args, kwargs
        if not with_kwargs:
            return replaced if isinstance(replaced, tuple) else (replaced,), kwargs
        if not (isinstance(replaced, tuple) and len(replaced) == 2):
            raise GradientError(wrong("forward_pre_hook", "result", "None or (args, kwargs)", type(replaced).__name__))
        return replaced


class Gate(MultiNode):
    """The identity of several tensors, which shows their gradients to a function as they pass."""

    __slots__ = ()

    def backward_all(self, *gradients: Tensor | None) -> Gradients:
        found: Gradients = self.constants[1](gradients)
        return found


def _through(tensors: Sequence[Tensor], watch: Callable[[Sequence[Tensor | None]], Gradients]) -> list[Tensor]:
    """Return the tensors behind a gate."""
    behind = [t.alias() for t in tensors]
    Gate(tuple([t.node for t in tensors]), (), (len(behind), watch)).attach(behind)
    return behind


class Gates:
    """The two gates around one call of a module.

    Attributes
    ----------
    args : tuple
        The call's arguments, its tensors that are tracked behind the first gate.
    """

    def __init__(self, hooks: Hooks, module: Any, args: tuple[Any, ...]) -> None:
        self.hooks = hooks
        self.module = module
        self.at = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.node is not None]
        self.count = len(args)
        self.outputs: tuple[Tensor | None, ...] = ()
        replaced = list(args)
        if self.at:
            for i, t in zip(self.at, _through([args[i] for i in self.at], self._leave), strict=True):
                replaced[i] = t
        self.args = tuple(replaced)

    def close(self, out: Any) -> Any:
        """Return the module's output, its tracked tensors behind the second gate."""
        items = list(out) if isinstance(out, tuple | list) else [out]
        at = [i for i, t in enumerate(items) if isinstance(t, Tensor) and t.node is not None]
        if not at:
            return out
        for i, t in zip(at, _through([items[i] for i in at], self._enter(len(items), at)), strict=True):
            items[i] = t
        if not isinstance(out, tuple | list):
            return items[0]
        return type(out)(items) if not hasattr(out, "_fields") else type(out)(*items)

    def _enter(self, size: int, at: list[int]) -> Callable[[Sequence[Tensor | None]], Gradients]:
        def enter(gradients: Sequence[Tensor | None]) -> Gradients:
            outputs: list[Tensor | None] = [None] * size
            for i, g in zip(at, gradients, strict=True):
                outputs[i] = g
            self.outputs = tuple(outputs)
            if not self.at:
                self._run(tuple([None] * self.count))
            return gradients

        return enter

    def _leave(self, gradients: Sequence[Tensor | None]) -> Gradients:
        inputs: list[Tensor | None] = [None] * self.count
        for i, g in zip(self.at, gradients, strict=True):
            inputs[i] = g
        found = self._run(tuple(inputs))
        return [found[i] for i in self.at]

    def _run(self, inputs: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        for hook in list(self.hooks.backward.values()):
            replaced = hook(self.module, inputs, self.outputs)
            if replaced is not None:
                inputs = self._checked(replaced)
        return inputs

    def _checked(self, replaced: Any) -> tuple[Tensor | None, ...]:
        found = replaced if isinstance(replaced, tuple) else (replaced,)
        if len(found) != self.count:
            want = f"a tuple of {self.count} gradients, one an input, or None"
            raise GradientError(wrong("backward_hook", "result", want, f"{len(found)}"))
        return found
