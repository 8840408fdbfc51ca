"""``capture``: record a step once, run its kernels again from then on."""

from __future__ import annotations

import functools
import inspect
import threading
import types
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from tinygrad_bn.core import memory as core_memory
from tinygrad_bn.core.dtype import get_default_dtype
from tinygrad_bn.core.launch import observers, recorder, recording
from tinygrad_bn.core.tape import mode
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.core.watch import watchers
from tinygrad_bn.errors import CaptureError, DTypeError, wrong
from tinygrad_bn.kernels.precision import precision
from tinygrad_bn.ops._algorithm import get_conv_algorithm
from tinygrad_bn.replay import results
from tinygrad_bn.replay.calls import Recorder, difference
from tinygrad_bn.replay.finds import Before
from tinygrad_bn.replay.held import SIMPLE
from tinygrad_bn.replay.memory import Memory, bottom, span
from tinygrad_bn.replay.recording import Recording
from tinygrad_bn.replay.watch import Watch

_TRIALS = 4  # recordings in a row, each unlike the one before, until a step is given up
_RECORDINGS = 16  # kept of one step and one kind of arguments
_KINDS = 128  # of arguments; what has been unused for longest goes
_UNCONFIRMED = 1 << 28  # bytes that recordings which have not been confirmed may hold in all


class _Trial:
    """A recording that has not been confirmed by a second one."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.last: Recording | None = None
        self.failures = 0


class Captured:
    """A step whose kernels are recorded, then run again without Python; made by ``capture``.

    Attributes
    ----------
    recordings : int
        How many recordings there are, one for each kind of arguments and each state of what the step sees.
    replays : int
        How often one of them has been run.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._ready: dict[Any, list[Recording]] = {}
        self._trials: dict[Any, list[_Trial]] = {}
        self._unfit: dict[Any, int] = {}
        self._lock = threading.RLock()
        self._anew = 0
        self.replays = 0

    @property
    def recordings(self) -> int:
        """How many recordings there are."""
        return sum(map(len, self._ready.values()))

    def reset(self) -> None:
        """Forget all recordings and give their memory back."""
        with self._lock:
            self._ready.clear()
            self._trials.clear()

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        return self if owner is None else types.MethodType(self, owner)

    def __reduce__(self) -> NoReturn:
        raise CaptureError("capture: a captured step cannot be copied or pickled.\nHint: capture the copy's step.")

    def __repr__(self) -> str:
        name = getattr(self._function, "__qualname__", repr(self._function))
        return f"<captured {name}: {self.recordings} recordings, {self.replays} replays>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do the step: what the function returns, with tensors of their own memory, off the tape."""
        if recorder() is not None or (watchers and any(watcher.key == "anomaly" for watcher in watchers)):
            return self._function(*args, **kwargs)  # part of a step that is recorded; or looked at node by node
        with self._lock:
            sources: list[Tensor] = []
            others: list[Any] = []
            key = (_call_key(args, kwargs, sources, others), _pattern(sources), *_settings())
            for found in self._ready.get(key, ()):
                if not found.change():
                    for s in sources:
                        array = s.array
                        if id(array if array.base is None else bottom(array)) in found.roots:
                            _check_sources(sources, found.watch)
                    if not found.release():
                        self._drop(key, found, "a NumPy view of a gradient is held from an earlier call")
                        break
                    found.used = self.replays = self.replays + 1
                    found.run(sources)
                    return results.fresh(found.result, sources)
            return self._record(key, args, kwargs, sources, others)

    # ----------------------------------------------------------------------------------------------------- recording

    def _record(
        self, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any], sources: list[Tensor], others: list[Any]
    ) -> Any:
        trials = self._trials.setdefault(key, [])
        trial = next((t for t in trials if t.last is not None and not t.last.watch.change()), None)
        if trial is None:
            ready = self._ready.get(key)
            if ready or len(self._trials) >= 8:
                self._warn_of(ready[-1].change() if ready else "most calls bring arguments of another kind")
            trial = _Trial(Memory())
        else:
            trials.remove(trial)
        made, result = self._try(trial, args, kwargs, sources, others)
        told = made.unfit
        if not told and _call_key(args, kwargs, [], []) != key[0]:
            told = "it changes a list or a dict among its arguments"
        if made.drawn and threading.active_count() > 1:
            self._warn_of(told)  # it may have been another thread: no error, but nothing that could be stale
        elif told:
            self._unfit[key] = self._unfit.get(key, 0) + 1
        elif trial.last is not None:
            told = difference(trial.last.calls, made.calls) or results.difference(trial.last.result, made.result)
            if not told:
                self._keep(key, made)
                return result
            trial.failures += 1
        if _TRIALS in (trial.failures, self._unfit.get(key)):
            self._trials.pop(key)
            self._unfit.pop(key, None)
            raise CaptureError(
                f"capture: {_TRIALS} calls of the step did different things: {told}.\n"
                "Hint: tensors that change from call to call are arguments, state is changed in place, numbers that "
                "change are tensors."
            )
        trial.last = made
        self._trials.pop(key, None)
        self._trials[key] = [trial, *trials[: _RECORDINGS - 1]]
        self._forget()
        return result

    def _forget(self) -> None:
        """Let go of what has been unused for longest where there is too much."""
        held = sum(t.memory.nbytes for trials in self._trials.values() for t in trials)
        while len(self._trials) > 1 and (len(self._trials) > _KINDS or held > _UNCONFIRMED):
            held -= sum(t.memory.nbytes for t in self._trials.pop(next(iter(self._trials))))
        while len(self._unfit) > _KINDS:
            del self._unfit[next(iter(self._unfit))]
        while len(self._ready) > _KINDS:
            del self._ready[min(self._ready, key=lambda k: max([r.used for r in self._ready[k]], default=0))]

    def _keep(self, key: Any, made: Recording) -> None:
        self._unfit.pop(key, None)
        made.settle()
        made.used = self.replays
        self._ready[key] = [made, *self._ready.get(key, [])[: _RECORDINGS - 1]]
        if not self._trials[key]:
            del self._trials[key]
        self._forget()

    def _drop(self, key: Any, found: Recording, why: str) -> None:
        self._ready[key].remove(found)
        self._warn_of(why)

    def _warn_of(self, why: str) -> None:
        self._anew += 1
        if self._anew in (8, 64, 512):
            warnings.warn(
                f"capture: {self!r} was recorded anew {self._anew} times, at last because {why}.\n"
                "Hint: a step that is recorded anew runs as eager code does.",
                RuntimeWarning,
                stacklevel=4,
            )

    def _try(
        self,
        trial: _Trial,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        sources: list[Tensor],
        others: list[Any],
    ) -> tuple[Recording, Any]:
        """Run the step and record what it does."""
        hidden = trial.last.optimisers if trial.last is not None else []
        watch = Watch([self._function, *others, *hidden])
        _check_sources(sources, watch)
        memory = trial.memory
        memory.trial = object()
        before = Before(watch, sources)
        forbidden = {span(leaf._grad.array)[0]: _STALE for leaf in before.holders if leaf._grad is not None}
        noted = Recorder(memory, before, forbidden)
        before.forget_spares()
        thread = threading.get_ident()
        try:
            observers.append(noted)
            core_memory.lenders[thread] = memory.lend
            with recording(noted):
                result = results.kept(self._function(*args, **kwargs), sources, watch)
        finally:
            core_memory.lenders.pop(thread, None)
            observers[:] = [observer for observer in observers if observer is not noted]
            before.forget_spares()
        return Recording(noted, memory, watch, before, result), results.fresh(result, sources)


_STALE = "an optimiser's kernel uses gradients that were there ahead of the step: let the step make them"


def _settings() -> tuple[Any, ...]:
    """What else decides which kernels run."""
    return mode.grad, get_default_dtype().name, get_conv_algorithm(), get_conv_algorithm("cuda"), precision.allow_tf32


def _call_key(args: tuple[Any, ...], kwargs: dict[str, Any], sources: list[Tensor], others: list[Any]) -> Any:
    """The arguments of a call as part of a key; the tensors among them and the other objects are put into the lists."""
    positional = tuple([_key(value, sources, others) for value in args])
    return (positional, _key(kwargs, sources, others)) if kwargs else positional


def _key(value: Any, sources: list[Tensor], others: list[Any]) -> Any:
    """An argument as part of a key: tensors by what kernels see of them, numbers by value, other things by identity."""
    if isinstance(value, Tensor):
        if value.node is not None:
            raise CaptureError(
                f"capture: an argument of shape {value.shape} requires grad.\n"
                "Hint: pass x.detach(), and call requires_grad_() on a clone of it within the step."
            )
        sources.append(value)
        array = value.array
        return value.dtype.name, value.device.type, array.shape, array.strides
    if isinstance(value, SIMPLE):
        return type(value).__name__, repr(value) if isinstance(value, float) else value
    if isinstance(value, tuple | list):
        return type(value), tuple([_key(v, sources, others) for v in value])
    if isinstance(value, dict):
        return dict, tuple([(k, _key(v, sources, others)) for k, v in value.items()])
    if isinstance(value, np.ndarray | np.generic):
        raise DTypeError(wrong("capture", "arguments", "tensors", type(value).__name__, "pass tb.from_numpy(array)"))
    others.append(value)
    return "object", id(value)


def _pattern(sources: list[Tensor]) -> tuple[int, ...]:
    """For each tensor the first one with the same array; arrays that overlap otherwise are refused."""
    if len(sources) < 2:
        return ()
    first = []
    for i, s in enumerate(sources):
        for j in range(i):
            other = sources[j]
            if s.array is other.array:
                first.append(j)
                break
            if _may_overlap(s.array, other.array):
                raise CaptureError(f"capture: arguments {j} and {i} share memory.\nHint: pass a clone() of one.")
        else:
            first.append(i)
    return tuple(first)


def _may_overlap(a: Array, b: Array) -> bool:
    """Whether two arrays may share memory; two that own theirs do not."""
    return (a.base is not None or b.base is not None) and np.may_share_memory(a, b)


def _check_sources(sources: list[Tensor], watch: Watch) -> None:
    for i, s in enumerate(sources):
        for tensor, array, *_ in watch.tensors.values():
            for other in (array, None if tensor._grad is None else tensor._grad.array):
                if other is not None and np.may_share_memory(s.array, other):
                    raise CaptureError(
                        f"capture: argument {i} of shape {s.shape} shares memory with a tensor of shape {other.shape} "
                        "that the step sees.\nHint: pass a clone()."
                    )


def capture(function: Callable[..., Any]) -> Captured:
    """Record the kernels of a step and run them again in later calls, without Python; a decorator or a function.

    Parameters
    ----------
    function : callable
        A step: of training, say, with ``zero_grad``, forward, backward and the optimiser's update; or a forward under
        ``no_grad``. Its arguments are tensors off the tape, numbers, strings, and tuples, lists and dicts of them;
        other objects are told apart by identity. It returns tensors, numbers, strings, None, and such containers.

    Returns
    -------
    Captured
        To be called in the function's place. What it returns is off the tape and in memory of its own.

    Raises
    ------
    CaptureError
        In a call, if the step looks at a value (``item()``, ``if loss > 3``, ``print``), or does not do the same twice
        with the same kind of arguments: numbers worked out in Python that change, tensors that are neither arguments
        nor stay what they are, results put aside by other means than returning them. The line is named.
    DTypeError
        If an argument is a NumPy array, or the function is not callable.

    Notes
    -----
    Calls are recorded until two in a row have done the same (the first one often makes an optimiser's state), usually
    the first and the second, or the second and the third; they run as eager code does. From then on the kernels are run
    on the recorded memory: equal to eager code, bit for bit. Random numbers go on, options of an optimiser (``lr``) are
    read anew, gradients are where they were, errors that kernels report are raised, in-place changes of parameters and
    arguments are counted. There is a recording for each shape, dtype and layout of the arguments, each value of the
    numbers among them, and each state of what the function sees: its closure, the globals that it names, modules and
    their modes, parameters. Where that changes the step is recorded anew, or an earlier recording fits again. Other
    Python code (hooks, counters, printing) runs while a step is recorded only.

    A call within a captured step is part of it. Memory: what eager code needs at its peak, kept between calls.

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> model = tb.nn.Linear(3, 1)
    >>> optimizer = tb.optim.SGD(model.parameters(), lr=0.1)
    >>> @tb.capture
    ... def step(x, y):
    ...     optimizer.zero_grad()
    ...     loss = tb.functional.mse_loss(model(x), y)
    ...     loss.backward()
    ...     optimizer.step()
    ...     return loss
    >>> losses = [step(tb.ones(4, 3), tb.zeros(4, 1)).item() for _ in range(5)]
    >>> losses[4] < losses[0], step.replays
    (True, 3)
    """
    if not callable(function):
        raise DTypeError(wrong("capture", "function", "callable", type(function).__name__))
    if any(kind(function) for kind in (inspect.iscoroutinefunction, inspect.isgeneratorfunction)):
        raise DTypeError(wrong("capture", "function", "a plain function", "a coroutine or a generator"))
    return Captured(function)
