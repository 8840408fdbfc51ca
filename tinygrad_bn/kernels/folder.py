"""The folder that compiled kernels are kept in, whatever they are compiled for.

A folder that is missing, read-only or full is no obstacle: kernels are then compiled in each process anew, and one
warning says so.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

__all__ = ["Activity", "activity", "cache_root", "writable", "write"]

PACKAGE = "tinygrad_bn"


class Activity:
    """What this process has had to do for its kernels.

    Attributes
    ----------
    compiled, loaded : int
        Functions that were not in the folder, and those that were.
    seconds : float
        Time that loading took.
    """

    def __init__(self) -> None:
        self.compiled = 0
        self.loaded = 0
        self.seconds = 0.0
        self._warned = False

    def compiles(self) -> None:
        """Count a function that is not in the folder; at the first, say on stderr that it takes a while."""
        self.compiled += 1
        if self.compiled == 1 and not os.environ.get("TINYGRAD_BN_QUIET"):
            place = f"once; they are kept in {cache_root()}" if writable() else "in this process"
            print(f"{PACKAGE}: compiling kernels for this processor, {place}", file=sys.stderr)

    def is_not_kept(self, error: OSError) -> None:
        """Warn, once, that what was compiled could not be written."""
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{PACKAGE}: compiled kernels cannot be kept in {cache_root()}: {error.strerror or error}. "
                "Every process compiles its own.\nHint: set TINYGRAD_BN_CACHE to a folder that can be written.",
                RuntimeWarning,
                stacklevel=2,
            )


activity = Activity()


def cache_root() -> Path:
    """Return the folder of compiled kernels; made when something is written to it."""
    chosen = os.environ.get("TINYGRAD_BN_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path(os.path.expanduser("~")) / ".cache") / PACKAGE


def writable() -> bool:
    """Whether files can be made in the folder."""
    try:
        _make(cache_root())
        with tempfile.TemporaryFile(dir=cache_root()):
            return True
    except OSError:
        return False


def _make(folder: Path) -> None:
    if not folder.is_absolute() and folder.parts[:1] == ("~",):
        raise OSError(2, "there is no home folder")
    folder.mkdir(parents=True, exist_ok=True)


def write(path: Path, content: bytes) -> bool:
    """Put a file in its place at once: another process finds all of it, or nothing. False if it cannot be written."""
    part = None
    try:
        _make(path.parent)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            part = file.name
            file.write(content)
        os.replace(part, path)
    except OSError as error:
        if part is not None:
            with suppress(OSError):
                os.unlink(part)
        activity.is_not_kept(error)
        return False
    return True
