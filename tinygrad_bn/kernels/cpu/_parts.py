"""What a kernel is made of: functions that only compiled code calls, and what Numba makes of a parallel loop.

Numba gives each function that it compiles wrappers for Python and for C, machine code, and LLVM's optimisations, and
does the same once more with the body of a parallel loop and again with the wrapper of that. Of all this only a
kernel's own machine code is ever run: its parts are taken into it, and optimised and translated there. So a function
is compiled as a part when compiled code calls it, and as a kernel when Python does; parts are linked, no more.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numba.core import compiler, types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, CompileResult, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.registry import CPUDispatcher
from numba.core.typed_passes import NativeLowering

__all__ = ["KernelDispatcher", "Part", "PartCompiler", "PartDispatcher", "loops_as_parts", "without_wrappers"]

_CLOSURE = "_3clocals_3e"  # "<locals>", as it is written in the names of compiled functions


class Part(JITCodeLibrary):
    """Code that is there to be linked: it never gets to the engine that makes machine code.

    Functions made inside functions (``simd``'s lambdas) have names in common, and Numba tells them apart by numbers
    that another process gives to others. They are made the part's own: of parts from several processes, the linker
    would take one for the other.
    """

    def finalize(self) -> None:
        """Take in what the part calls; closures among that are no longer to be seen from outside."""
        own = {function.name for function in self.get_defined_functions()}
        self._is_own = own.__contains__
        super().finalize()

    def _optimize_final_module(self) -> None:
        """Optimising is left to the kernel."""
        for function in self.get_defined_functions():
            if _CLOSURE in function.name and not self._is_own(function.name):
                function.linkage = "internal"

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    def serialize_using_object_code(self) -> tuple[str, str, tuple[bytes, bytes]]:
        """Return what is kept of it."""
        return self.name, "object", (b"", self._get_module_for_linking().as_bitcode())

    @classmethod
    def restored(cls, target_context: Any, name: str, rest: list[Any]) -> CompileResult:
        """Return Numba's record of a part whose code will be looked at when a kernel asks for it."""
        names = "fndesc", "environment", "signature", "objectmode", "lifted", "type_annotation", "reload_init"
        library = cls(target_context.codegen(), name)
        library._finalized = True
        return compiler.compile_result(
            typing_context=target_context.typing_context,
            target_context=target_context,
            library=library,
            entry_point=object(),
            referenced_envs=rest[-1],
            **dict(zip(names, rest)),
        )


def _library(codegen: Any, name: str) -> JITCodeLibrary:
    return (Part if "gufunc" in name.lower() else JITCodeLibrary)(codegen, name)


@contextmanager
def loops_as_parts(codegen: Any) -> Iterator[None]:
    """Let what Numba makes of a parallel loop, a "gufunc" and its wrapper, be parts."""
    codegen._library_class = _library
    try:
        yield
    finally:
        del codegen._library_class


def without_wrappers(flags: Any) -> Any:
    """Return a copy of a function's flags by which it is compiled for compiled code only."""
    flags = flags.copy()
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    return flags


@register_pass(mutates_CFG=True, analysis_only=False)
class _PartLowering(NativeLowering):
    _name = "part_lowering"

    def run_pass(self, state: Any) -> bool:
        """Lower to a part; Numba knows the function by a key in place of its entry."""
        state.flags = without_wrappers(state.flags)
        state.library = Part(state.targetctx.codegen(), state.func_id.func_qualname)
        super().run_pass(state)
        state.library.finalize()
        key = object()
        state.targetctx.insert_user_function(key, state.cr.fndesc, [state.library])
        state.cr = state.cr._replace(cfunc=key)
        return True


class PartCompiler(CompilerBase):
    """Numba's compiler of functions that are parts of others."""

    def define_pipelines(self) -> list[Any]:
        """Return Numba's pipeline, its lowering exchanged."""
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager.passes = [(_PartLowering if step is NativeLowering else step, text) for step, text in manager.passes]
        manager.finalize()
        return [manager]


def _number(kind: Any) -> Any:
    return kind.literal_type if isinstance(kind, (types.IntegerLiteral, types.BooleanLiteral)) else kind


class PartDispatcher(CPUDispatcher):
    """The specialisations of a function that compiled code calls."""

    def add_overload(self, cres: CompileResult) -> None:
        """Keep one; there is no entry for Python."""
        self.overloads[tuple(cres.signature.args)] = cres

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """Return what a call is typed with. A number that is known by now is one like others: not a type of its own."""
        args, kws = [_number(a) for a in args], {name: _number(a) for name, a in kws.items()}
        return super().get_call_template(args, kws)


class KernelDispatcher(CPUDispatcher):
    """The specialisations of a function that Python calls; compiled code is referred to its parts."""

    part: PartDispatcher

    def compile(self, sig: Any) -> Any:
        """Return the entry for a signature. Python's collector rests: it would go over all that Numba knows, a tenth
        of the time, again and again."""
        resting = gc.isenabled() and sig not in self.overloads
        if resting:
            gc.disable()
        try:
            return super().compile(sig)
        finally:
            if resting:
                gc.enable()

    @property
    def _numba_type_(self) -> types.Dispatcher:
        return types.Dispatcher(self.part)
