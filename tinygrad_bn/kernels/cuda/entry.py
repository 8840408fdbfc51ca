"""How a kernel gets from Python to the GPU: ``@entry`` on a function of pointers and numbers, ``@device`` on what it
calls.

    @entry
    def _scale(x, factor, out, n):
        i = cuda.grid(1)
        while i < n:
            out[i] = 0.5 * factor * x[i]
            i += cuda.gridsize(1)

    def scale(x, factor, out):  # the kernel of that name, with the signature that all backends agree on
        _scale[blocks(out.size)](x, factor, out, out.size)

An array is a pointer to its first element: a kernel is told extents and strides, in elements, as numbers. It is
compiled for each combination of element types. ``real`` in its source is the type of its first floating-point array
(float64 where it has none), and a literal ``0.5`` is written ``real(0.5)`` for it: compilers take literals for
float64, which a GPU is slow at. Integers are 64 bits wide unless they come as ``np.int32``, numbers with a fraction
are ``real``.
Parameters named in ``static`` are constants of the compiled code. Machine code is kept in the folder of compiled
kernels; from then on a launch writes its arguments into a prepared buffer, and is one call of the driver.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import struct
import textwrap
import threading
from collections.abc import Callable, Sequence
from ctypes import addressof, create_string_buffer
from types import FunctionType
from typing import Any, overload

import numpy as np

from tinygrad_bn.errors import DeviceError
from tinygrad_bn.kernels.cuda import machine_code, target
from tinygrad_bn.kernels.cuda.array import CudaArray, address
from tinygrad_bn.kernels.cuda.driver import driver
from tinygrad_bn.kernels.cuda.target import SIMULATED, THREADS

__all__ = ["Device", "Entry", "blocks", "device", "entries", "entry"]

entries: list[Entry] = []
"""All kernels of the modules that have been imported: what is compiled for several GPUs in tests."""

_MOST = 1 << 14  # blocks of a grid-stride loop


def blocks(n: int, threads: int = THREADS) -> int:
    """Return how many blocks have a thread for each of ``n`` elements; at most 16,384, whose threads take several."""
    return max(min(-(-n // threads), _MOST), 1)


class _Reals(ast.NodeTransformer):
    """Give literals with a fraction the kernel's type."""

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, float):
            call = ast.Call(ast.Name("real", ast.Load()), [node], [])
            return ast.fix_missing_locations(ast.copy_location(call, node))
        return node


class Source:
    """The source of a function, to be compiled for a type of ``real`` and values of static parameters.

    Parameters
    ----------
    function : function
    text : str, optional
        Its source, where it is in no file.
    """

    def __init__(self, function: Any, text: str | None = None) -> None:
        self.function: FunctionType = function
        self.parameters = tuple(inspect.signature(function).parameters)
        self._text = text
        self._made: dict[Any, Any] = {}

    def text(self) -> str:
        """Return the source."""
        return self._text if self._text is not None else textwrap.dedent(inspect.getsource(self.function))

    def plain(self, real: type, constants: tuple[tuple[str, Any], ...] = ()) -> FunctionType:
        """Return the function for a type; what it calls that is marked ``device`` is for that type, too."""
        found = self._made.get((real, constants))
        if found is None:
            found = self._made[real, constants] = self._specialised(real, dict(constants))
        return found

    def _specialised(self, real: type, constants: dict[str, Any]) -> FunctionType:
        tree = ast.parse(self.text())
        definition = tree.body[0]
        assert isinstance(definition, ast.FunctionDef)
        definition.decorator_list = []
        definition.returns = None
        definition.args.args = [ast.arg(a.arg) for a in definition.args.args if a.arg not in constants]
        given = [ast.parse(f"{name} = {value!r}").body[0] for name, value in constants.items()]
        definition.body = given + [_Reals().visit(s) for s in definition.body]
        ast.increment_lineno(tree, self.function.__code__.co_firstlineno - 1)
        scope = dict(self.function.__globals__)
        for name in self._names():
            if isinstance(scope.get(name), Device):
                scope[name] = scope[name].made(real)
        scope["real"] = real
        exec(compile(ast.fix_missing_locations(tree), self.function.__code__.co_filename, "exec"), scope)
        return scope[definition.name]  # type: ignore[no-any-return]

    def _names(self) -> set[str]:
        """Names that the function looks up among its module's."""
        return set(self.function.__code__.co_names)

    def everything(self) -> list[str]:
        """Return the source, and that of all device functions below it; and constants that it uses."""
        found = [self.text()]
        for name in sorted(self._names()):
            value = self.function.__globals__.get(name)
            if isinstance(value, Device):
                found += value.source.everything()
            elif value is None or isinstance(value, int | float | str | np.generic | np.dtype | tuple | type):
                found.append(f"{name} = {value!r}")
        return found


class Device:
    """A function that kernels call: made by ``device``."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def made(self, real: type) -> Any:
        """Return it for a type of ``real``."""
        plain = self.source.plain(real)
        if SIMULATED:
            return plain
        found = self.source._made.get(("compiled", real))
        if found is None:
            found = self.source._made["compiled", real] = target.cuda.jit(device=True)(plain)
        return found


def device(function: Callable[..., Any]) -> Any:
    """Let kernels call a function."""
    return Device(Source(function))


class Entry:
    """A kernel to be launched as ``kernel[grid](arguments)``: made by ``entry``."""

    def __init__(
        self, source: Source, threads: int, static: tuple[str, ...] = (), real: str | None = None, resident: int = 1
    ) -> None:
        self.name = source.function.__name__
        self.source = source
        self.threads = threads
        self.bounds = threads, resident
        self.static = static
        self._static = tuple(source.parameters.index(n) for n in static)
        self._real = real
        self._prepared: dict[Any, _Prepared] = {}
        self.used: set[tuple[tuple[str, ...], Any]] = set()
        entries.append(self)

    def __getitem__(self, grid: int | tuple[int, ...]) -> Callable[..., None]:
        whole = (grid, 1, 1) if isinstance(grid, int) else (grid[0], grid[1], grid[2] if len(grid) > 2 else 1)
        return lambda *arguments: self._launch(whole, arguments)

    def _launch(self, grid: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
        if 0 in grid:
            return
        constants = tuple([(n, arguments[i]) for n, i in zip(self.static, self._static)])
        if constants:
            arguments = tuple([a for i, a in enumerate(arguments) if i not in self._static])
        kinds = tuple([_kind(a) for a in arguments])
        key = kinds, constants
        prepared = self._prepared.get(key)
        if prepared is None:
            prepared = self._prepared[key] = _Prepared(self, kinds, constants)
        prepared.launch(grid, arguments)

    def real(self, kinds: tuple[str, ...]) -> type:
        """Return the type that ``real`` is for arguments of these types."""
        if self._real is not None:
            kinds = (kinds[[n for n in self.source.parameters if n not in self.static].index(self._real)],)
        first = next((k for k in kinds if k in ("*f", "*d")), "*d")
        return np.float32 if first == "*f" else np.float64

    def wide(self, kinds: tuple[str, ...]) -> tuple[str, ...]:
        """Return the types of arguments, numbers with a fraction given theirs."""
        code = "f" if self.real(kinds) is np.float32 else "d"
        return tuple([code if k == "r" else k for k in kinds])

    def compiled(
        self, kinds: tuple[str, ...], constants: tuple[tuple[str, Any], ...], capability: tuple[int, int]
    ) -> tuple[str, str]:
        """Return PTX for arguments of these types, and the entry's name in it."""
        function = self.source.plain(self.real(kinds), constants)
        return target.ptx_of(function, self.wide(kinds), capability, self.bounds)

    def key(self, kinds: tuple[str, ...], constants: tuple[tuple[str, Any], ...]) -> str:
        """Return a hash of all that the machine code depends on."""
        kind = self.real(kinds).__name__, self.wide(kinds), constants, self.bounds
        parts = [*self.source.everything(), repr(kind), target.versions()]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        if not isinstance(value, CudaArray) and value.size:
            raise DeviceError("a kernel of the GPU was given an array of the host's: device.array() brings it there.")
        return _POINTERS[value.dtype.char]
    if isinstance(value, np.generic):
        return _NUMBERS[value.dtype.char]
    return "r" if isinstance(value, float) else "q"  # bool and int


_LONG = "q" if np.dtype("l").itemsize == 8 else "i"
_NUMBERS = {c: c for c in "fdbBhHiIqQ"} | {"l": _LONG, "L": _LONG.upper()}  # by NumPy's code
_POINTERS = {c: "*" + code for c, code in _NUMBERS.items()} | {"?": "*B", "e": "*H"}


class _Prepared:
    """A kernel for arguments of certain types, on the GPU or the simulator."""

    def __init__(self, entry: Entry, kinds: tuple[str, ...], constants: tuple[tuple[str, Any], ...]) -> None:
        self._entry = entry
        self._kinds = kinds
        self._real = entry.real(kinds)
        self._labels = [f"{entry.name}: {n}" for n in entry.source.parameters if n not in entry.static]
        entry.used.add((kinds, constants))
        if SIMULATED:
            self._function = entry.source.plain(self._real, constants)
            return
        self._driver = driver()
        cubin, name = machine_code.of(entry, kinds, constants, self._driver.capability)
        self._handle = self._driver.loaded(cubin, name)
        codes = ["Q" if k[0] == "*" else k for k in entry.wide(kinds)]
        self._words = struct.Struct("=" + "".join(c + "x" * (8 - struct.calcsize("=" + c)) for c in codes))
        self._values = create_string_buffer(self._words.size)
        self._places = np.arange(len(codes), dtype=np.uint64) * np.uint64(8) + np.uint64(addressof(self._values))
        self._at = self._places.ctypes.data
        self._lock = threading.Lock()

    def launch(self, grid: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
        """Run on the GPU, in the current stream's order; or on the simulator, at once."""
        if SIMULATED:
            driver().simulate(lambda: self._simulate(grid, arguments))
            return
        words = [address(a) if k[0] == "*" else a for k, a in zip(self._kinds, arguments)]
        with self._lock:  # the driver copies the arguments before it returns
            try:
                self._words.pack_into(self._values, 0, *words)
            except OverflowError:  # a number that float32 has no room for: infinity, as elsewhere
                self._words.pack_into(self._values, 0, *self._rounded(words))
            self._driver.launch(self._handle, grid, self._entry.threads, self._at)

    def _rounded(self, words: Sequence[Any]) -> list[Any]:
        with np.errstate(over="ignore"):
            return [self._real(w) if k == "r" else w for k, w in zip(self._kinds, words)]

    def _simulate(self, grid: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
        from tinygrad_bn.kernels.cuda import simulator

        simulator.run(self._function, grid, self._entry.threads, self._rounded(arguments), self._labels)


@overload
def entry(function: Callable[..., Any]) -> Entry: ...
@overload
def entry(
    *, threads: int = THREADS, static: str = "", real: str | None = None, text: str | None = None, resident: int = 1
) -> Callable[[Callable[..., Any]], Entry]: ...
def entry(
    function: Callable[..., Any] | None = None,
    *,
    threads: int = THREADS,
    static: str = "",
    real: str | None = None,
    text: str | None = None,
    resident: int = 1,
) -> Any:
    """Make a function a kernel.

    Parameters
    ----------
    threads : int
        Threads of a block, along the first axis.
    static : str
        Names of parameters whose values are constants of the compiled code, separated by spaces.
    real : str, optional
        The parameter whose type ``real`` is, instead of the first floating-point array's.
    text : str, optional
        The source, where it is in no file.
    resident : int
        How many blocks a multiprocessor should have registers for at the same time.
    """
    if function is not None:
        return Entry(Source(function), THREADS)
    return lambda f: Entry(Source(f, text), threads, tuple(static.split()), real, resident)
