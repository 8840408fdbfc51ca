"""Activation checkpointing: what lies between the ends of a part of a network is computed twice instead of kept.

The part is run, and its record on the tape replaced by a single operation that knows the function, its arguments and
where gradients leave the part: at the arguments, at parameters, at whatever else the function found. Backward runs the
function again, from the same random state, and sends the gradients through that second record. Chen, Xu, Zhang &
Guestrin 2016 (arXiv:1604.06174).
"""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from tinygrad_bn import nn
from tinygrad_bn.autograd.transforms import tree_leaves, tree_map
from tinygrad_bn.core import backward as engine
from tinygrad_bn.core import tape
from tinygrad_bn.core.launch import reads_values
from tinygrad_bn.core.tape import Gradients, Leaf, MultiNode, Node, enable_grad, mode
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import ArgumentError, GradientError, SavedTensorError, wrong
from tinygrad_bn.ops._common import plain
from tinygrad_bn.utils._inner import InnerRun, kept_as_is, tracked, walked
from tinygrad_bn.utils._state import Seen, modules_of

__all__ = ["checkpoint", "checkpoint_sequential"]

_CHECKS = ("default", "none", "values")


def _no_context() -> tuple[Any, Any]:
    return nullcontext(), nullcontext()


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = None,
    preserve_rng_state: bool = True,
    context_fn: Callable[[], tuple[Any, Any]] = _no_context,
    determinism_check: str = "default",
    debug: bool = False,
    early_stop: bool = True,
    **kwargs: Any,
) -> Any:
    """Return ``function(*args, **kwargs)``, keeping nothing of what lies between; backward computes it again.

    Parameters
    ----------
    function : callable
        A module or a function. Called again with the same arguments it must do the same.
    *args, **kwargs
        Its arguments: tensors, trees of tensors, anything else.
    use_reentrant : bool, optional
        Accepted for PyTorch's sake; it is always as with ``False`` there: no argument needs to require grad, and
        ``tb.grad`` and second derivatives work.
    preserve_rng_state : bool
        Let the second run draw the same random numbers from the default generator, dropout's among them. The generator
        then stands where it stood.
    context_fn : callable
        Returns two context managers, for the first and for the second run.
    determinism_check : {"default", "none", "values"}
        What of the second run's outputs must be the first's: number, shapes and dtypes; only what backward cannot do
        without; or every bit, by a checksum.
    debug, early_stop : bool
        Accepted for PyTorch's sake.

    Returns
    -------
    What the function returns.

    Raises
    ------
    ArgumentError
        If the function changes a tensor argument in place.
    GradientError
        In backward, if the second run is not like the first.
    SavedTensorError
        In backward, if an argument, a parameter or another tensor that backward needs was changed in place since.

    Notes
    -----
    The second run leaves running statistics and ``num_batches_tracked`` of batch normalisations alone. Other buffers of
    the modules that the function is, holds or is given (spectral normalisation's vectors) have the values of the first
    run for the time of the second, and keep those that they have. What else the function changes outside of itself, it
    changes twice.

    References
    ----------
    Chen, Xu, Zhang & Guestrin 2016 (arXiv:1604.06174).

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> layer = tb.nn.Sequential(tb.nn.Linear(4, 8), tb.nn.BatchNorm1d(8), tb.nn.ReLU())
    >>> tb.checkpoint(layer, tb.ones(3, 4)).sum().backward()
    >>> layer[1].num_batches_tracked.item()
    1
    """
    op = "checkpoint"
    if not callable(function):
        raise ArgumentError(wrong(op, "function", "callable", type(function).__name__))
    if determinism_check not in _CHECKS:
        want = "one of " + ", ".join(map(repr, _CHECKS))
        raise ArgumentError(wrong(op, "determinism_check", want, repr(determinism_check)))
    first, second = context_fn()
    if not mode.grad:
        with first:
            return function(*args, **kwargs)
    return _Part(function, args, kwargs, preserve_rng_state, second, determinism_check).first_run(first)


class _Slot(int):
    """Stands for a tensor argument: its number among those that the operation saves."""


class Checkpoint(MultiNode):
    """The operation that stands for a part: constants are the number of its outputs and the part."""

    __slots__ = ()

    def backward_all(self, *gradients: Tensor | None) -> Gradients:
        part: _Part = self.constants[1]
        return part.second_run(self.unpack(), self.inputs, gradients)


class _Part:
    """A part of a network: the function, what it was given, and what its first run was like."""

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        preserve_rng_state: bool,
        context: Any,
        check: str,
    ) -> None:
        self.function = function
        self.given = (args, kwargs)
        self.context = context
        self.check = check
        self.seen = Seen(modules_of(function, args, kwargs), preserve_rng_state)
        self.like: list[tuple[Any, ...]] = []
        self.stamps: dict[int, tuple[Any, int]] = {}  # storages or weak references to tensors, and versions

    def first_run(self, context: Any) -> Any:
        """Run the function and put one operation on the tape for all that it records."""
        args, kwargs = self.given
        tensors: dict[int, Tensor] = {id(t): t for t in tree_leaves(self.given) if isinstance(t, Tensor)}
        versions = [t.version for t in tensors.values()]
        kept = [kept_as_is(t) for t in tensors.values()]
        number = {key: _Slot(i) for i, key in enumerate(tensors)}
        self.given = tree_map(lambda t: number.get(id(t), t), self.given)
        start = tape._sequence()
        with context:
            result = self.function(*args, **kwargs)
        for t, version in zip(tensors.values(), versions, strict=True):
            if t.version != version:
                hint = "change a clone() instead"
                raise ArgumentError(wrong("checkpoint", "function", "free of in-place changes to arguments",
                                          f"one to a tensor of shape {t.shape}", hint))  # fmt: skip
        self.seen.keep_what_changed()
        outputs = tracked(result, start)
        if outputs:
            self._replace(outputs, start, tuple(kept))
        return result

    def _replace(self, outputs: list[Tensor], start: int, kept: tuple[Tensor, ...]) -> None:
        """Put the operation in the place of what was recorded."""
        frontier = self._stamped(outputs, start)
        inner = [n for n in frontier if n.sequence > start]
        self.like = [self._likeness(t) for t in outputs]
        Checkpoint(tuple(n for n in frontier if n.sequence <= start), kept, (len(outputs), self)).attach(outputs)
        if any(isinstance(n, Leaf) and n.tensor() is not None for n in inner):
            raise GradientError(
                "checkpoint: 'function' made a tensor that requires grad and left it somewhere; no gradient would "
                "come to it.\nHint: make it outside, and pass it as an argument."
            )

    def _stamped(self, outputs: list[Tensor], start: int) -> list[Node]:
        """Note the versions of all that backward needs; return the frontier. The record itself is let go of."""
        interior, frontier = walked([t.node for t in outputs if t.node is not None], start)
        for node in interior:
            self._stamp(node)
        for leaf in frontier:
            tensor = leaf.tensor() if isinstance(leaf, Leaf) else None
            if tensor is not None and leaf.sequence <= start:
                self._note(tensor, tensor.version)
        return frontier

    def _stamp(self, node: Node) -> None:
        saved = node.saved or ()
        for t, version in zip(saved, node.versions or [0] * len(saved), strict=True):
            self._note(t, version)
        if isinstance(node, Checkpoint):
            self.stamps.update(node.constants[1].stamps)

    def _note(self, t: Tensor, version: int) -> None:
        key = t if t.storage is None else t.storage
        if not self.seen.restores(t):
            self.stamps[id(key)] = (weakref.ref(t) if t.storage is None else t.storage, version)

    def _likeness(self, t: Tensor) -> tuple[Any, ...]:
        if self.check != "values":
            return t.shape, t.dtype, 0
        reads_values("checkpoint's checksum")
        return t.shape, t.dtype, zlib.crc32(plain(t).tobytes())

    def second_run(
        self, saved: tuple[Tensor, ...], inputs: tuple[Node | None, ...], gradients: Sequence[Tensor | None]
    ) -> Gradients:
        """Run the function again and send the gradients through what it records; return those of the frontier."""
        self._check_stamps()
        create = mode.grad
        tensors = [kept_as_is(t) for t in saved]
        args, kwargs = tree_map(lambda a: tensors[a] if isinstance(a, _Slot) else a, self.given)
        frontier = {n for n in inputs if n is not None}
        with self.seen.again(keep=create) as drawn:
            start = tape._sequence()
            with enable_grad(), drawn, self.context:
                result = self.function(*args, **kwargs)
            outputs = tracked(result, start)
            del result
            self._check_outputs(outputs)
            interior, found = walked([t.node for t in outputs if t.node is not None], start)
            if {n for n in found if n.sequence <= start} != frontier:
                raise _unlike("its result depends on other tensors than it did")
            run = InnerRun(create, {*found, *frontier}, {*interior, *found})
            del interior, found
            wanted = [(t, g) for t, g in zip(outputs, gradients, strict=True) if g is not None]
            del outputs
            engine._go("checkpoint", run, [t for t, _ in wanted], [g for _, g in wanted], create)
        return [None if n is None else run.arrived.get(n) for n in inputs]

    def _check_stamps(self) -> None:
        for mark, version in self.stamps.values():
            storage = mark
            if isinstance(mark, weakref.ref):
                tensor = mark()
                storage = None if tensor is None else tensor.storage
            if storage is not None and storage.version != version:
                raise SavedTensorError(
                    "checkpoint: a tensor that the function uses was changed in place after its first run: version "
                    f"{version} was seen, it is at version {storage.version}; the second run would use other values."
                    "\nHint: call backward() ahead of the change."
                )

    def _check_outputs(self, outputs: list[Tensor]) -> None:
        if len(outputs) != len(self.like):
            raise _unlike(f"{len(outputs)} outputs require grad, {len(self.like)} did")
        for i, (t, like) in enumerate(zip(outputs, self.like, strict=True)):
            shape, dtype, checksum = like
            if self.check != "none" and (t.shape != shape or t.dtype is not dtype):
                raise _unlike(f"output {i} is {t.dtype.name} of shape {t.shape}, it was {dtype.name} of shape {shape}")
            if self.check == "values" and self._likeness(t)[2] != checksum:
                raise _unlike(f"output {i} has other values than it had")


def _unlike(what: str) -> GradientError:
    return GradientError(
        f"checkpoint: the function did not do the same when it was run again: {what}.\n"
        "Hint: let it depend on its arguments and on the default generator alone."
    )


def checkpoint_sequential(
    functions: Any, segments: int, input: Any, use_reentrant: bool | None = None, **kwargs: Any
) -> Any:
    """Return what functions make of an input one after the other, all segments but the last checkpointed.

    Parameters
    ----------
    functions : Sequential, or sequence of callables
    segments : int
        Into how many parts of about the same number of functions they are divided; √(number) keeps least.
    input : Tensor, or whatever the first function takes
    use_reentrant : bool, optional
        Accepted for PyTorch's sake.
    preserve_rng_state : bool
        As for ``checkpoint``.

    Returns
    -------
    What the last function returns.

    Raises
    ------
    ArgumentError
        If ``segments`` is no number from 1 to that of the functions.
    """
    op = "checkpoint_sequential"
    preserve = kwargs.pop("preserve_rng_state", True)
    if kwargs:
        raise ArgumentError(f"{op}: has no argument {next(iter(kwargs))!r}.")
    count = len(functions)
    if isinstance(segments, bool) or not isinstance(segments, int) or not 1 <= segments <= max(count, 1):
        raise ArgumentError(wrong(op, "segments", f"from 1 to the number of functions, {count}", repr(segments)))
    size = count // segments
    for i in range(segments - 1):
        input = checkpoint(_sequence(functions, i * size, (i + 1) * size), input, preserve_rng_state=preserve)
    return _sequence(functions, (segments - 1) * size, count)(input)


def _sequence(functions: Any, start: int, end: int) -> Callable[[Any], Any]:
    """Some of the functions as one: of a Sequential a Sequential, which fuses what it can."""
    part = functions[start:end]
    if isinstance(functions, nn.Sequential):
        return part  # type: ignore[no-any-return]  # a Sequential

    def run(x: Any) -> Any:
        for function in part:
            x = function(x)
        return x

    return run
