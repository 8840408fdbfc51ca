"""Where in the forward a failure of the backward comes from.

Under ``detect_anomaly`` every recorded operation keeps the line of the source and the modules that it was called from.
A backward rule that raises, or returns a NaN, then says so. Outside it nothing is kept and nothing looked at.
"""

from __future__ import annotations

import linecache
import os
import sys
import threading
from collections.abc import Callable
from contextlib import ContextDecorator
from dataclasses import dataclass
from functools import cache
from types import FrameType
from typing import Any

import numpy as np

from tinygrad_bn.core import watch
from tinygrad_bn.core.dtype import numbers
from tinygrad_bn.core.registry import OPS
from tinygrad_bn.core.tape import Gradients, Node
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.errors import AnomalyError
from tinygrad_bn.nn import trace

__all__ = ["detect_anomaly", "is_anomaly_check_nan_enabled", "is_anomaly_enabled", "set_detect_anomaly"]

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_ENGINE = ("autograd", "core", "functional", "kernels", "nn", "ops", "profiler", "utils", "tensor_methods.py")
_KEY = "anomaly"


@dataclass(frozen=True)
class Source:
    """Where an operation was recorded.

    Attributes
    ----------
    file, line, function : str, int, str
        The innermost line that is no part of the engine.
    calls : list
        The modules that were being called.
    cause : Node or None
        The operation whose backward rule recorded it.
    """

    file: str
    line: int
    function: str
    calls: list[trace.Called]
    cause: Source | None
    cause_name: str

    def __str__(self) -> str:
        code = linecache.getline(self.file, self.line).strip()
        text = f"  {self.file}:{self.line} in {self.function}" + (f"\n    {code}" if code else "")
        if self.calls:
            text += f"\n  module {trace.path(self.calls)} ({trace.kind_of(self.calls)})"
        if self.cause is not None:
            text += f"\nThis was recorded by the backward of {self.cause_name}, whose forward is at\n{self.cause}"
        return text


class _State(threading.local):
    """What the calling thread has asked for, and the operation whose backward it is in."""

    enabled = False
    check_nan = True
    node: Node | None = None


_state = _State()


@cache
def _of_the_engine(file: str) -> bool:
    rest = os.path.abspath(file).removeprefix(_ROOT)
    return rest != os.path.abspath(file) and rest.split(os.sep)[0] in _ENGINE


def _source(frame: FrameType | None) -> Source:
    place = ("<unknown>", 0, "")
    frames: list[Any] = []
    while frame is not None:
        called = trace.modules_at(frame)
        if called:
            frames.append(called)
        code = frame.f_code
        if not place[1] and not _of_the_engine(code.co_filename):
            place = (code.co_filename, frame.f_lineno, code.co_qualname)
        frame = frame.f_back
    node = _state.node
    cause = None if node is None else watch.kept_of(node, _KEY)
    return Source(*place, trace.chain(frames), cause, "" if node is None else name_of(node))


def name_of(node: Node) -> str:
    """Return the name of the operation whose rule a node states; the node's own where that is of no one operation."""
    names = [op.name for op in OPS.values() if isinstance(node, op.rules)]
    return names[0] if len(names) == 1 else node.name()


class _Anomaly:
    """The watcher, one for all threads."""

    key = _KEY

    def recorded(self) -> Source | None:
        """Where the node that is being made comes from."""
        return _source(sys._getframe(2)) if _state.enabled else None

    def step(self, node: Node, gradient: Any, run: Callable[[], Gradients]) -> Gradients:
        """Run a backward rule; say where its forward was if it raises or returns a NaN."""
        if not _state.enabled:
            return run()
        before, _state.node = _state.node, node
        try:
            found = run()
        except AnomalyError:
            raise
        except Exception as error:
            error.add_note(f"detect_anomaly: raised in the backward of {name_of(node)}. {_forward_of(node)}")
            raise
        finally:
            _state.node = before
        if _state.check_nan:
            _check(node, gradient, found)
        return found


def _forward_of(node: Node) -> str:
    source = watch.kept_of(node, _KEY)
    if source is None:
        return "Its forward is not known: it ran outside of detect_anomaly()."
    return f"Its forward:\n{source}"


def _is_nan(gradient: object) -> bool:
    if not isinstance(gradient, Tensor) or not gradient.dtype.is_floating_point:
        return False
    return bool(np.isnan(numbers(gradient.array, gradient.dtype)).any())


def _check(node: Node, gradient: Any, found: Gradients) -> None:
    wrong = [i for i, g in enumerate(found) if node.inputs[i] is not None and _is_nan(g)]
    if not wrong:
        return
    given = gradient if isinstance(gradient, list) else [gradient]
    which = "input" if len(wrong) == 1 else "inputs"
    text = f"detect_anomaly: the backward of {name_of(node)} returned NaN for {which} {', '.join(map(str, wrong))}. "
    text += _forward_of(node)
    if any(map(_is_nan, given)):
        text += "\nHint: the gradient that it was given holds NaN already."
    elif any(map(_is_nan, node.saved or ())) or _is_nan(node.output):
        text += "\nHint: NaN stood in its forward already."
    raise AnomalyError(text)


_anomaly = _Anomaly()
_lock = threading.Lock()
_asking = 0


def _set(enabled: bool, check_nan: bool) -> None:
    """Switch the calling thread; the watcher is there as long as any thread has it on."""
    global _asking
    before, _state.enabled, _state.check_nan = _state.enabled, enabled, check_nan
    if before == enabled:
        return
    with _lock:
        _asking += 1 if enabled else -1
        if _asking == 1 and enabled:
            watch.add(_anomaly)
        elif _asking == 0:
            watch.remove(_anomaly)


class detect_anomaly(ContextDecorator):
    """Context manager or decorator under which a backward that fails says which forward it belongs to.

    Around forward and backward, it keeps the line and the modules that each operation was recorded from. An error in
    backward then carries them as a note; a NaN that a backward rule returns becomes an ``AnomalyError`` that names the
    operation, the file and line of its forward, that line, and the path of its module. It holds for the thread that
    enters it.

    Parameters
    ----------
    check_nan : bool
        Look for NaN.

    Examples
    --------
    >>> import tinygrad_bn as tb
    >>> x = tb.tensor([0.0, 4.0], requires_grad=True)
    >>> with tb.detect_anomaly():
    ...     (x.sqrt() * 0).sum().backward()
    Traceback (most recent call last):
    ...
    tinygrad_bn.errors.AnomalyError: detect_anomaly: the backward of sqrt returned NaN for input 0. Its forward:
    ...
    """

    def __init__(self, check_nan: bool = True) -> None:
        self.check_nan = bool(check_nan)
        self._before: list[tuple[bool, bool]] = []

    def __enter__(self) -> None:
        self._before.append((_state.enabled, _state.check_nan))
        _set(True, self.check_nan)

    def __exit__(self, *exc: object) -> None:
        _set(*self._before.pop())


class set_detect_anomaly:
    """Switch anomaly detection on this thread on or off: from the call on, or for a ``with`` block.

    Parameters
    ----------
    mode : bool
    check_nan : bool
        Look for NaN.
    """

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self._before = (_state.enabled, _state.check_nan)
        _set(bool(mode), bool(check_nan))

    def __enter__(self) -> None:
        """Keep what the constructor has set."""

    def __exit__(self, *exc: object) -> None:
        _set(*self._before)


def is_anomaly_enabled() -> bool:
    """Whether this thread is under ``detect_anomaly``."""
    return _state.enabled


def is_anomaly_check_nan_enabled() -> bool:
    """Whether NaN is looked for where this thread is under ``detect_anomaly``."""
    return _state.check_nan
