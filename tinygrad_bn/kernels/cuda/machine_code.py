"""Machine code of kernels, in the folder of compiled kernels: ``cuda/sm_90/NAME-HASH.cubin``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinygrad_bn.kernels.cuda import target
from tinygrad_bn.kernels.folder import activity, cache_root, write

if TYPE_CHECKING:
    from tinygrad_bn.kernels.cuda.entry import Entry

__all__ = ["of"]


def of(
    entry: Entry, kinds: tuple[str, ...], constants: tuple[tuple[str, Any], ...], capability: tuple[int, int]
) -> tuple[bytes, str]:
    """Return a kernel's machine code for a GPU, and its name in it: from the folder, or compiled and put there.

    A file is a line of the name and the code's SHA-256, and the code. One whose code is not that is made anew.
    """
    arch = f"sm_{capability[0]}{capability[1]}"
    path = cache_root() / "cuda" / arch / f"{entry.name}-{entry.key(kinds, constants)}.cubin"
    found = _read(path)
    if found is not None:
        activity.loaded += 1
        return found
    activity.compiles()
    ptx, name = entry.compiled(kinds, constants, capability)
    code, _ = target.cubin_of(ptx, capability)
    write(path, f"{name} {_sum(code)}\n".encode() + code)
    return code, name


def _read(path: Path) -> tuple[bytes, str] | None:
    """What a file holds; None if it is missing, or damaged."""
    try:
        line, _, code = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    name, _, digest = line.decode(errors="replace").partition(" ")
    return (code, name) if digest == _sum(code) else None


def _sum(code: bytes) -> str:
    return hashlib.sha256(code).hexdigest()
