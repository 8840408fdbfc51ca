"""Who provides ``cuda``: the one place that knows.

``numba-cuda`` where there is a GPU, or to compile for one that is not here; with ``NUMBA_ENABLE_CUDASIM=1`` in the
environment ``simulator``, which tests without a GPU run on. Kernels keep to what both offer: ``threadIdx.x``,
``blockIdx``, ``gridDim``, ``grid(1)``, ``gridsize(1)``, ``shared.array``, ``local.array``, ``syncthreads``, ``atomic``.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_bn.errors import DeviceError

__all__ = ["SIMULATED", "THREADS", "cubin_of", "cuda", "ptx_of", "versions"]

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
"""Whether kernels run on the simulator."""

THREADS = 32 if SIMULATED else 256
"""Threads of a block, where a kernel does not say otherwise."""

INSTALL = 'install the extra: pip install "tinygrad_bn[cuda]", on a machine with an NVIDIA driver'


def _provider() -> Any:
    if SIMULATED:
        from tinygrad_bn.kernels.cuda.simulator import cuda as simulated

        return simulated
    try:
        from numba import cuda as real
        from numba.cuda import compile_ptx
    except ImportError as error:
        raise DeviceError(
            f"device: 'cuda' needs numba-cuda, which cannot be imported: {error}.\nHint: {INSTALL}."
        ) from error
    if "numba_cuda" not in (real.__file__ or ""):
        raise DeviceError(f"device: 'cuda' needs the package numba-cuda, which is not installed.\nHint: {INSTALL}.")
    assert compile_ptx
    return real


cuda: Any = _provider()

_POINTEES = {"f": "float32", "d": "float64", "b": "int8", "B": "uint8", "h": "int16", "H": "uint16", "i": "int32"} | {
    "I": "uint32",
    "l": "int64",
    "L": "uint64",
    "q": "int64",
    "Q": "uint64",
}


def _signature(kinds: tuple[str, ...]) -> Any:
    """The types of a kernel's arguments: ``*f`` is a pointer to float32, ``i`` an int32."""
    from numba.cuda import types

    found = []
    for kind in kinds:
        pointee = getattr(types, _POINTEES[kind[-1]])
        found.append(types.CPointer(pointee) if kind[0] == "*" else pointee)
    return types.void(*found)


_one_at_a_time = threading.RLock()


@contextmanager
def _compiling_for(capability: tuple[int, int]) -> Iterator[None]:
    """Let numba-cuda compile for a GPU that may not be here: it asks the current device when functions are called.

    One thread at a time: what it would ask is put back in the end.
    """
    from numba.cuda import dispatcher

    class _Device:
        compute_capability = capability

    with _one_at_a_time:
        theirs = dispatcher.get_current_device
        dispatcher.get_current_device = lambda: _Device
        try:
            yield
        finally:
            dispatcher.get_current_device = theirs


def ptx_of(
    function: Callable[..., None], kinds: tuple[str, ...], capability: tuple[int, int], bounds: tuple[int, int]
) -> tuple[str, str]:
    """Compile a kernel; neither a GPU nor a driver is needed.

    Parameters
    ----------
    function : callable
        Plain Python.
    kinds : tuple of str
        A code of NumPy's for each argument, with ``*`` in front for a pointer.
    capability : tuple of int
        (9, 0) is a Hopper.
    bounds : tuple of int
        The most threads that a block will have, and how many blocks a multiprocessor should have room for: registers
        are shared out accordingly.

    Returns
    -------
    (ptx, name)
        The name of the entry in it.
    """
    with _compiling_for(capability):
        ptx, _ = cuda.compile_ptx(function, _signature(kinds), cc=capability, launch_bounds=bounds)
    found = re.search(r"\.entry\s+([\w$]+)", ptx)
    assert found is not None
    return ptx, found.group(1)


def cubin_of(ptx: str, capability: tuple[int, int]) -> tuple[bytes, str]:
    """Translate PTX into machine code by nvJitLink; return it and what the assembler says of registers and spills."""
    from cuda.bindings import nvjitlink

    options = [f"-arch=sm_{capability[0]}{capability[1]}", "-verbose"]
    handle = nvjitlink.create(len(options), options)
    try:
        source = ptx.encode()
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, source, len(source), "kernel")
        nvjitlink.complete(handle)
        code = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, code)
        log = bytearray(nvjitlink.get_info_log_size(handle))
        nvjitlink.get_info_log(handle, log)
    finally:
        nvjitlink.destroy(handle)
    return bytes(code), log.decode(errors="replace")


@cache
def versions() -> str:
    """Return what machine code depends on beside its source: the compilers, and the files here that use them."""
    from importlib.metadata import PackageNotFoundError, version

    found = [f"NumPy {np.__version__}"]
    for name in ("numba", "numba-cuda", "nvidia-nvvm", "nvidia-nvjitlink"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name}: none")
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem.startswith(("entry", "intrinsics", "maths", "target")):
            found.append(hashlib.sha256(path.read_bytes()).hexdigest())
    return ", ".join(found)
