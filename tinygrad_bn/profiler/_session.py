"""What is noted while a profile is being taken: kernels as they are launched, operations and layers around them.

Nothing is there to be asked whether a profile is being taken. While one is, an observer stands at the door of the
kernels (``core.launch``), a watcher at the tape (``core.watch``) and a function in the place of ``Module.__call__``.

Which operation launches a kernel is read off Python's stack: the outermost function of the table of operations below
the innermost module or step of a backward pass. Time between the end of one such event and the beginning of the next is
Python's, and charged to what the next one belongs to; what the noting itself takes is charged to nobody.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable
from inspect import unwrap
from time import perf_counter_ns as now
from types import CodeType, FrameType
from typing import Any

from tinygrad_bn.core import backward, watch
from tinygrad_bn.core.launch import observers
from tinygrad_bn.core.registry import OPS
from tinygrad_bn.core.tape import Gradients, Node
from tinygrad_bn.kernels.spec import Kernel
from tinygrad_bn.nn import trace
from tinygrad_bn.nn.module import Module
from tinygrad_bn.profiler import _counts
from tinygrad_bn.profiler._events import Launch, Record, Span

_KEY = "profiler"
_MARK = " call"  # no name of a variable: put among a frame's locals, it tells one call of a function from the next
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_NAMED = tuple(_ROOT + folder + os.sep for folder in ("core", "data", "functional", "nn", "ops", "optim"))
_ENGINE = {f.__code__: "accumulate_grad" for f in (backward._Run._accumulate, backward._Run.send)}


class _State(threading.local):
    """Where the calling thread is."""

    def __init__(self) -> None:
        self.session = 0
        self.reset(0)

    def reset(self, session: int) -> None:
        self.session = session
        self.calls: list[trace.Called] = []
        self.open: list[Span] = []
        self.step: Span | None = None  # of a backward pass
        self.backward = False
        self.last = 0
        self.noting = 0
        self.op: Span | None = None


_state = _State()
_lock = threading.RLock()
_records: list[Record] = []
_session = 0
_call: Callable[..., Any] = Module.__call__
_paths: dict[tuple[Any, ...], tuple[str, list[trace.Called]]] = {}
_codes: dict[CodeType, str] = {}


def _here() -> _State:
    if _state.session != _session:
        _state.reset(_session)
    return _state


def start(record: Record) -> None:
    """Note all that happens into a record, from now on."""
    global _session, _call
    with _lock:
        _records.append(record)
        if len(_records) == 1:
            _session += 1
            _codes.clear()
            plain = [(unwrap(op.function), name) for name, op in OPS.items()]
            _codes.update({f.__code__: name for f, name in plain if hasattr(f, "__code__")})
            _call = Module.__call__
            Module.__call__ = _called  # type: ignore[method-assign]  # for the time of the profile
            watch.add(_watcher)
            observers.append(_observe)
    state = _here()
    record.owner = threading.get_ident()
    record.noting = -state.noting
    record.start = state.last = now()


def stop(record: Record) -> None:
    """Note nothing more into a record."""
    state = _here()
    _charge(state, state.last, now(), state.op)
    record.end = now()
    record.noting += state.noting
    with _lock:
        _records[:] = [r for r in _records if r is not record]
        if not _records:
            observers[:] = [o for o in observers if o is not _observe]
            watch.remove(_watcher)
            Module.__call__ = _call  # type: ignore[method-assign]  # as it was
            _paths.clear()
    state.last = now()


def _path(calls: list[trace.Called]) -> str:
    key = tuple(tuple(map(id, called)) for called in calls)
    found = _paths.get(key)
    if found is None:
        found = _paths[key] = (trace.path(calls), list(calls))  # the modules are kept: identities stay theirs
    return found[0]


def _charge(state: _State, since: int, until: int, span: Span | None) -> int:
    """Charge Python's time to an operation or a layer, in the profiles of this thread: another's may be waiting."""
    if not since or until <= since:
        return 0
    key = ("", "", False) if span is None else (span.name if span.kind == "op" else "", span.layer, span.backward)
    thread = threading.get_ident()
    for record in tuple(_records):
        if record.owner == thread:
            record.python[key] = record.python.get(key, 0) + until - since
    return until - since


def _done(state: _State, began: int) -> None:
    """The noting that began then is over."""
    state.last = now()
    state.noting += state.last - began


def _open(state: _State, span: Span) -> None:
    for record in tuple(_records):
        record.spans.append(span)


# --------------------------------------------------------------------------------------------------------------- layers


def _called(self: Module, *args: Any, **kwargs: Any) -> Any:
    """``Module.__call__`` while a profile is being taken."""
    began = now()
    state = _here()
    around = state.open[-1] if state.open else None
    _charge(state, state.last, began, around)
    state.calls.append((self,))
    outer, state.step = state.step, None
    span = Span("layer", "", _path(state.calls), state.backward, threading.get_ident(), began, began, around)
    span.name = span.layer
    _open(state, span)
    state.open.append(span)
    _done(state, began)
    span.start = state.last
    try:
        return _call(self, *args, **kwargs)
    finally:
        ended = now()
        span.end = ended
        last = state.op
        _charge(state, state.last, ended, last if last is not None and last.layer == span.layer else span)
        if state.open and state.open[-1] is span:
            state.open.pop()
            state.calls.pop()
        state.step = outer
        _done(state, ended)


functools.update_wrapper(_called, _call)


# ----------------------------------------------------------------------------------------------------------- operations


def _operation(state: _State, frame: FrameType | None, time: int, other: str) -> Span:
    """The operation that a frame is part of; ``other`` names what is part of none, as kernels of a captured step."""
    if state.step is not None:
        return state.step
    name, at, frames = "", None, []
    fallback_at = None
    while frame is not None and frame.f_code not in _BOUNDARY:
        code = frame.f_code
        called = trace.modules_at(frame)
        if called:
            frames.append(called)
        found = _codes.get(code) or _ENGINE.get(code)
        if found is not None:
            name, at = found, frame
        elif code.co_filename.startswith(_NAMED) and _says_something(code.co_name):
            fallback_at = frame
        frame = frame.f_back
    if at is None:
        name, at = other if fallback_at is None else _function(fallback_at), fallback_at
    calls = trace.chain([*frames, *reversed(state.calls)])
    return _span_of(state, name, at, _path(calls), time, len(calls) == len(state.calls))


def _function(frame: FrameType) -> str:
    """The name of what a frame runs, a method's with the class of its object."""
    code = frame.f_code
    own = frame.f_locals.get("self") if code.co_varnames[:1] == ("self",) else None
    return code.co_qualname if own is None else f"{type(own).__name__}.{code.co_name}"


_BOUNDARY = {_called.__code__, watch.go_watched.__code__}


def _says_something(name: str) -> bool:
    """Whether a function's name is one to report: no helper, none of the layers' own."""
    return not name.startswith(("_", "forward", "<")) and name not in ("launch", "launch_checked")


def _span_of(state: _State, name: str, frame: FrameType | None, layer: str, time: int, own: bool) -> Span:
    """The span of a call of an operation, new unless the call had one before."""
    names = None if frame is None else frame.f_locals
    known = None if names is None else names.get(_MARK)
    if isinstance(known, Span):
        known.end = max(known.end, time)
        return known
    around = state.open[-1] if state.open else None
    span = Span("op", name, layer, state.backward, threading.get_ident(), time, time, around, own)
    if names is not None:
        names[_MARK] = span
    _open(state, span)
    return span


def _observe(kernel: Kernel, arguments: tuple[Any, ...], run: Callable[[], None]) -> None:
    """Run a kernel and note it."""
    began = now()
    state = _here()
    op = _operation(state, sys._getframe(1), began, kernel.name)
    python = _charge(state, state.last, began, op)
    given = _counts.named(kernel, arguments)
    flops, nbytes, wide = _counts.flops(kernel, given), _counts.nbytes(kernel, given), _counts.wide(given)
    done = Launch(kernel.name, op, threading.get_ident(), 0, 0, python, flops, nbytes, wide)
    state.op = op
    if op.start == began and op.kind == "op" and op is not state.step:
        op.start = now()
    done.start = now()
    state.noting += done.start - began
    try:
        run()
    finally:
        ended = done.end = now()
        op.end = ended
        for record in tuple(_records):
            record.launches.append(done)
        _done(state, ended)


class _Watcher:
    """Sees nodes recorded and backward steps made."""

    key = _KEY

    def recorded(self) -> tuple[str, str, list[trace.Called]]:
        """The operation and the modules that a node is recorded by."""
        began = now()
        state = _here()
        op = _operation(state, sys._getframe(2), began, "(other)")
        _charge(state, state.last, began, op)
        state.op = op
        calls = list(state.calls)
        _done(state, began)
        return op.name, op.layer, calls

    def step(self, node: Node, gradient: Any, run: Callable[[], Gradients]) -> Gradients:
        """Note a step of a backward pass."""
        if not node.outputs:
            return run()
        began = now()
        state = _here()
        name, layer, calls = watch.kept_of(node, _KEY) or (node.name(), "", [])
        around = state.open[-1] if state.open else None
        span = Span("op", f"{name}.backward", layer, True, threading.get_ident(), began, began, around, False)
        _charge(state, state.last, began, span)
        before = state.calls, state.step, state.backward
        again = type(node).__name__ == "Checkpoint"  # runs a part's forward: its operations go by their own names
        state.calls, state.step, state.backward = list(calls), None if again else span, True
        _open(state, span)
        state.open.append(span)
        state.op = span
        _done(state, began)
        span.start = state.last
        try:
            return run()
        finally:
            ended = span.end = now()
            _charge(state, state.last, ended, span)
            state.calls, state.step, state.backward = before
            if state.open and state.open[-1] is span:
                state.open.pop()
            _done(state, ended)


_watcher = _Watcher()


class record_function:
    """Context manager that puts a range with a name into the traces of the profiles that are being taken.

    Parameters
    ----------
    name : str
    """

    def __init__(self, name: str) -> None:
        self.name = str(name)
        self._spans: list[Span | None] = []

    def __enter__(self) -> record_function:
        span = None
        if _records:
            state = _here()
            around = state.open[-1] if state.open else None
            time = now()
            layer = around.layer if around is not None else ""
            span = Span("range", self.name, layer, state.backward, threading.get_ident(), time, time, around)
            _open(state, span)
            state.open.append(span)
        self._spans.append(span)
        return self

    def __exit__(self, *exc: object) -> None:
        span = self._spans.pop()
        if span is not None:
            span.end = now()
            if _state.open and _state.open[-1] is span:
                _state.open.pop()
