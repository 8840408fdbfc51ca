"""The folder of compiled kernels: a second process compiles nothing, and an edit is never missed.

Numba's own cache sees edits in a kernel's file only, and cannot place generated code. Here an entry is named by a hash
of all that it depends on: the kernel's import closure, Numba's version, the processor, the flags. A folder that is
missing, read-only or full is no obstacle: kernels are then compiled in each process anew, and one warning says so.
"""

from __future__ import annotations

import hashlib
import linecache
import pickle
import re
import sys
import zlib
from collections.abc import Callable
from functools import cache, partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

import llvmlite.binding as llvm
import numba
from numba import config
from numba.core import compiler
from numba.core.caching import _Cache
from numba.core.serialize import dumps

from tinygrad_bn.kernels.cpu._parts import Part
from tinygrad_bn.kernels.folder import PACKAGE, activity, cache_root, write

MAGIC = b"TBNK3\n"
_FOLDER = Path(__file__).parents[1]
_KERNELS = re.escape(f"{PACKAGE}.kernels")
_IMPORT = re.compile(rf"^[ \t]*(?:from ({_KERNELS}[\w.]*) import (\([^)]*\)|.*)|import ({_KERNELS}[\w.]*))", re.M)


@cache
def closure_hash(module: str) -> str:
    """Return a hash of a module's source and of everything of this package that it imports, directly or not."""
    seen: set[str] = set()
    stack = [module]
    while stack:
        name = stack.pop()
        if name not in seen:
            seen.add(name)
            stack.extend(imports(name))
    return hashlib.sha256("\0".join(f"{n}\0{_source(n)}" for n in sorted(seen)).encode()).hexdigest()


@cache
def _source(module: str) -> str:
    """The source of a module of kernels, imported or not; of one that has been generated; or nothing."""
    path = _FOLDER.joinpath(*module.split(".")[2:])
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file.read_text(encoding="utf-8")
    place = getattr(sys.modules.get(module), "__file__", None)
    return "".join(linecache.getlines(place)) if place else ""


@cache
def imports(module: str) -> tuple[str, ...]:
    """Return the modules of kernels that a module imports, whether they have been imported by now or not."""
    found: list[str] = []
    for source, names, plain in _IMPORT.findall(_source(module)):
        found += [source or plain, *(f"{source}.{name}" for name in re.findall(r"\w+", names))]
    return tuple(name for name in dict.fromkeys(found) if _source(name))


def _flags() -> tuple[Any, ...]:
    return (numba.__version__, sys.version_info[:2], config.BOUNDSCHECK, config.OPT.__str__(), config.CPU_NAME)


# ------------------------------------------------------------------------------------------------------------ the files


class KernelCache(_Cache):
    """One file a compiled specialisation.

    It holds object code, which is all that a call needs, and LLVM's bitcode, which is looked at only when another
    kernel is compiled that calls this one: reading it takes longer than everything else.
    """

    def __init__(self, function: Callable[..., None], flavour: str) -> None:
        self._function = function
        self._flavour = flavour

    @property
    def cache_path(self) -> str:
        return str(cache_root())

    def enable(self) -> None:
        """It always is."""

    def disable(self) -> None:
        """It never is."""

    def flush(self) -> None:
        for path in cache_root().glob(f"{self._stem()}-*.kernel"):
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
        return cache_root() / f"{self._stem()}-{name}.kernel"

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        start = perf_counter()
        target_context.refresh()
        try:
            found = unpacked(self._path(signature, target_context.codegen()).read_bytes())
        except OSError:
            found = None
        if found is None:
            activity.compiles()
            return None
        result = restored(target_context, *found)
        activity.loaded += 1
        activity.seconds += perf_counter() - start
        return result

    def save_overload(self, signature: Any, data: Any) -> None:
        write(self._path(signature, data.codegen), packed(data))


def packed(result: Any) -> bytes:
    """Return a compiled function as the content of a file."""
    (name, kind, (code, bitcode)), *rest = result._reduce()
    module = result.library._get_module_for_linking()
    symbols = [s.name for group in (module.functions, module.global_variables) for s in group if not s.is_declaration]
    head: bytes = dumps(((name, kind, (code, _nothing())), symbols, rest))
    content = len(head).to_bytes(8, "little") + head + zlib.compress(bitcode, 1)
    return MAGIC + zlib.crc32(content).to_bytes(4, "little") + content


@cache
def _nothing() -> bytes:
    """The bitcode of nothing."""
    bitcode: bytes = llvm.parse_assembly("").as_bitcode()
    return bitcode


def unpacked(file: bytes) -> Any:
    """Return a file's parts: library, symbols, what else is known of the function, compressed bitcode. None if it is
    spoilt."""
    start = len(MAGIC) + 4
    content = memoryview(file)[start:]
    if not file.startswith(MAGIC) or zlib.crc32(content) != int.from_bytes(file[len(MAGIC) : start], "little"):
        return None
    end = 8 + int.from_bytes(content[:8], "little")
    return (*pickle.loads(content[8:end]), bytes(content[end:]))


def restored(target_context: Any, library: Any, symbols: list[str], rest: list[Any], bitcode: bytes) -> Any:
    """Return Numba's record of a compiled function. Its symbols, which Numba would look for in the bitcode, are known
    beforehand; the bitcode is put in place when it is asked for."""
    name, _, (code, _) = library
    if code:
        target_context.codegen()._engine._defined_symbols.update(symbols)
        result = compiler.CompileResult._rebuild(target_context, library, *rest)
    else:
        result = Part.restored(target_context, name, rest)
    result.library._shared_module = None
    result.library._get_module_for_linking = partial(_linked, result.library, bitcode)
    return result


def _linked(library: Any, bitcode: bytes) -> Any:
    """What a function that calls this one is compiled with."""
    if library._shared_module is None:
        library._shared_module = llvm.parse_bitcode(zlib.decompress(bitcode))
    return library._shared_module


# ---------------------------------------------------------------------------------------------------- generated source


def generated(name: str, source: str) -> ModuleType:
    """Import generated source: from the cache folder, where people can read it, or from memory."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    module_name = f"{PACKAGE}.kernels.generated.{name}_{digest}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    path = cache_root() / "generated" / f"{name}_{digest}.py"
    if _reads(path) == source or write(path, source.encode()):
        return _load(module_name, path)
    module = sys.modules[module_name] = ModuleType(module_name)
    module.__file__ = f"<{module_name}>"
    linecache.cache[module.__file__] = (len(source), None, source.splitlines(keepends=True), module.__file__)
    exec(compile(source, module.__file__, "exec"), module.__dict__)
    return module


def _reads(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def _load(name: str, path: Path) -> ModuleType:
    found = spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ImportError(f"cannot import generated kernels from {path}")
    module = module_from_spec(found)
    sys.modules[name] = module
    found.loader.exec_module(module)
    return module
