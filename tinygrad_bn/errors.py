"""Named errors, and the one template that all messages follow.

    batch_norm: 'weight' must have shape (C,) = (3,). Got (4,).
    Hint: ...

Each class also derives from the builtin that a caller would catch for it.
"""

from __future__ import annotations

import os
import sys
from types import FrameType


class TinygradError(Exception):
    """Base of every error that this package raises on purpose."""


class ShapeError(TinygradError, ValueError):
    """An argument has the wrong shape or number of dimensions."""


class DTypeError(TinygradError, TypeError):
    """An argument has the wrong dtype."""


class DeviceError(TinygradError, RuntimeError):
    """Arguments live on different devices, or a device is not available."""


class OutOfMemoryError(TinygradError, MemoryError):
    """A device has not as much memory left as is asked for; what is there stays as it is."""


class ArgumentError(TinygradError, ValueError):
    """An argument has the wrong value."""


class IndexRangeError(TinygradError, IndexError):
    """An index, or a class label, is out of range."""


class GradientError(TinygradError, RuntimeError):
    """Differentiation was asked for where there is nothing to differentiate."""


class GraphFreedError(GradientError):
    """The graph's saved tensors were released by an earlier backward."""


class SavedTensorError(GradientError):
    """A tensor that backward needs was changed in place after it had been saved."""


class CaptureError(TinygradError, RuntimeError):
    """A step cannot be captured: a replay would not do what the step does."""


class AnomalyError(GradientError):
    """A backward rule returned a NaN; the message says where its forward was."""


class StateDictError(TinygradError, RuntimeError):
    """A state dict does not fit what it is loaded into; the message lists everything that does not fit."""


class DataError(TinygradError, OSError):
    """A data file is missing, truncated or corrupt; the message names the file and the reason."""


def expected(op: str, name: str, want: str, got: object, hint: str | None = None) -> str:
    """Return the message ``op: 'name' must have want. Got got.``, with a hint where there is a remedy."""
    return f"{op}: '{name}' must have {want}. Got {got}." + (f"\nHint: {hint}" if hint else "")


def wrong(op: str, name: str, want: str, got: object, hint: str | None = None) -> str:
    """Return the message ``op: 'name' must be want. Got got.``, with a hint where there is a remedy."""
    return f"{op}: '{name}' must be {want}. Got {got}." + (f"\nHint: {hint}" if hint else "")


def nearest(owner: str, name: str, known: list[str]) -> str:
    """Return the message for a name that does not exist, with the nearest that do."""
    import difflib

    found = difflib.get_close_matches(name, [k for k in known if not k.startswith("_")], 3, 0.6)
    return f"{owner} has no attribute {name!r}." + (f"\nHint: did you mean {', '.join(found)}?" if found else "")


def outside() -> int:
    """Return the ``stacklevel`` with which a warning names the line outside of this package that has led to it."""
    frame: FrameType | None = sys._getframe(1)
    level = 1
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level


_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
