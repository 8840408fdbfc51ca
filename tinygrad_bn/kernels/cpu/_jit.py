"""The one decorator of CPU kernels: fastmath class, cache, serial and parallel drivers.

Cache entries are stamped with a hash of the kernel's own import closure, Numba's version, the processor and the flags:
Numba's own cache sees edits in the kernel's file only. Nothing compiles at import.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
from numba import config, njit
from numba.core import compiler
from numba.core.caching import _Cache
from numba.core.serialize import dumps

PACKAGE = "tinygrad_bn"
APPLY = {"contract"}
REDUCE = {"contract", "reassoc", "nsz", "arcp"}
ENABLED = not config.DISABLE_JIT


def cache_root() -> Path:
    """Return the folder of compiled kernels; made when something is written to it."""
    chosen = os.environ.get("TINYGRAD_BN_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / PACKAGE


@cache
def writable_root() -> Path:
    """Return the cache folder if it can be written, else a folder of this process's user in the temporary one."""
    root = cache_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            return root
    except OSError:
        fallback = Path(tempfile.gettempdir()) / f"{PACKAGE}-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
        fallback.mkdir(parents=True, exist_ok=True)
        return fallback


@cache
def closure_hash(module: str) -> str:
    """Return a hash of a module's source and of everything of this package that it imports, directly or not."""
    seen: dict[str, str] = {}
    stack = [module]
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        source = _source(name)
        seen[name] = source
        stack.extend(_imports(source))
    return hashlib.sha256("\0".join(f"{n}\0{seen[n]}" for n in sorted(seen)).encode()).hexdigest()


def _source(module: str) -> str:
    found = sys.modules.get(module)
    path = getattr(found, "__file__", None)
    return Path(path).read_text() if path else ""


def _imports(source: str) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{PACKAGE}.kernels"):
            found.append(node.module)
            found.extend(n for a in node.names if (n := f"{node.module}.{a.name}") in sys.modules)
        elif isinstance(node, ast.Import):
            found.extend(a.name for a in node.names if a.name.startswith(f"{PACKAGE}.kernels"))
    return found


def _flags() -> tuple[Any, ...]:
    return (numba.__version__, sys.version_info[:2], config.BOUNDSCHECK, config.OPT.__str__(), config.CPU_NAME)


class KernelCache(_Cache):
    """One file a compiled specialisation, named by the hash of all that it depends on; written by atomic rename."""

    def __init__(self, function: Callable[..., None], flavour: str) -> None:
        self._function = function
        self._flavour = flavour
        self._enabled = True

    @property
    def cache_path(self) -> str:
        return str(writable_root())

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        for path in writable_root().glob(f"{self._stem()}-*.kernel"):
            path.unlink(missing_ok=True)

    def _stem(self) -> str:
        return f"{self._function.__module__.removeprefix(PACKAGE + '.kernels.')}.{self._function.__qualname__}"

    def _path(self, signature: Any, codegen: Any) -> Path:
        parts = (
            str(signature),
            codegen.magic_tuple(),
            _flags(),
            self._flavour,
            closure_hash(self._function.__module__),
            self._function.__code__.co_code,
        )
        name = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
        return writable_root() / f"{self._stem()}-{name}.kernel"

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        target_context.refresh()
        import pickle

        try:
            payload = pickle.loads(self._path(signature, target_context.codegen()).read_bytes())
        except (OSError, EOFError, pickle.UnpicklingError):
            _announce()
            return None
        return compiler.CompileResult._rebuild(target_context, *payload)

    def save_overload(self, signature: Any, data: Any) -> None:
        path = self._path(signature, data.codegen)
        try:
            with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
                part.write(dumps(data._reduce()))
            os.replace(part.name, path)
        except OSError:
            return  # a full or read-only disk: the kernel works, it is only not kept


compiled = 0


def _announce() -> None:
    """Say on stderr, once a process, that kernels are being compiled."""
    global compiled
    compiled += 1
    if compiled == 1 and not os.environ.get("TINYGRAD_BN_QUIET"):
        print(
            f"tinygrad_bn: compiling kernels for this processor, once; they are kept in {writable_root()}",
            file=sys.stderr,
        )


def jit(
    *, fastmath: set[str] | None = None, parallel: bool = False, inline: bool = False
) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function lazily, one specialisation a dtype, cached across processes.

    Parameters
    ----------
    fastmath : set of str
        ``APPLY`` (default) where every element is computed by itself, ``REDUCE`` in sums only.
    parallel : bool
        Run its ``prange`` loops on the pool.
    inline : bool
        Make it part of its callers: a call passes every field of every array and counts references to it, some 50 ns,
        which a short function called in an inner loop cannot bear.
    """
    flags = APPLY if fastmath is None else fastmath

    def decorate(function: Callable[..., Any]) -> Any:
        if not ENABLED:
            return function
        compiled = njit(fastmath=flags, error_model="numpy", nogil=True, parallel=parallel, forceinline=inline)(
            function
        )
        compiled._cache = KernelCache(function, f"{sorted(flags)} {parallel} {inline}")
        return compiled

    return decorate


class Driver:
    """A kernel compiled twice from one source: its ``prange`` loops run serially, or on the pool."""

    def __init__(
        self, function: Callable[..., Any], work: Callable[..., int] | str, grain: int, flags: set[str]
    ) -> None:
        self.serial = jit(fastmath=flags)(function)
        self.parallel = jit(fastmath=flags, parallel=True)(function) if ENABLED else None
        self.work = work
        self.grain = grain


def parallel(work: Callable[..., int] | str, grain: int, fastmath: set[str] | None = None) -> Callable[..., Any]:
    """Declare a kernel whose ``prange`` loops pay on the pool from ``grain`` operations on.

    Parameters
    ----------
    work : str or callable
        The argument whose size is the number of elementary operations; or maps the arguments to that number.
    grain : int
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__dict__["driver"] = Driver(function, work, grain, APPLY if fastmath is None else fastmath)
        return function

    return decorate


def generated(name: str, source: str) -> ModuleType:
    """Import generated source from the cache folder, where Numba's compiler and people can read it."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    module_name = f"{PACKAGE}.kernels.generated.{name}_{digest}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    folder = writable_root() / "generated"
    path = folder / f"{name}_{digest}.py"
    if not path.exists() or path.read_text() != source:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".part", delete=False) as part:
            part.write(source)
        os.replace(part.name, path)
    return _load(module_name, path)


def _load(name: str, path: Path) -> ModuleType:
    from importlib.util import module_from_spec, spec_from_file_location

    found = spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ImportError(f"cannot import generated kernels from {path}")
    module = module_from_spec(found)
    sys.modules[name] = module
    found.loader.exec_module(module)
    return module
