"""How Python enters a kernel: the arrays of a call are borrowed from the caller, not counted.

Numba's own wrapper allocates a record of memory for each array of a call, counts references to it wherever the kernel
hands the array on, and gives it back at the end: 40 ns an array, and more inside. A kernel keeps nothing and returns
nothing, and the tuple of its arguments outlives the call: so here a wrapper reads the fields of each array and leaves
its record's place empty, which Numba takes for memory that wants no counting. Types are as safe as before: Numba's
dispatcher has matched every argument with the type that the wrapper was made for.

A list of calls that is run as a whole (``team.py``) comes in by a second door, that takes a call's arguments from words
in memory: an array is where its elements are, how many there are, its extents and its strides; a number is itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.callwrapper import PyCallWrapper
from numba.core.cgutils import if_unlikely, pack_array
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.lowering import Lower
from numba.core.typed_passes import NativeLowering, NativeParforLowering
from numba.parfors.parfor import Parfor
from numba.parfors.parfor_lowering import ParforLower

from tinygrad_bn.kernels.cpu._parts import loops_as_parts, without_wrappers
from tinygrad_bn.kernels.cpu._regions import without_the_lock

_BYTE, _WORD = ir.IntType(8), ir.IntType(64)
_HEAD, _ITEMS = object.__basicsize__, tuple.__basicsize__  # where an object's fields begin, and a tuple's items
_DATA, _EXTENTS, _STRIDES = _HEAD, _HEAD + 16, _HEAD + 24  # in NumPy's PyArrayObject_fields: part of its public ABI


def _field(builder: Any, start: Any, offset: int, kind: Any) -> Any:
    """Load what lies ``offset`` bytes behind a pointer."""
    place = builder.gep(builder.bitcast(start, _BYTE.as_pointer()), [ir.Constant(_WORD, offset)])
    return builder.load(builder.bitcast(place, kind.as_pointer()))


class Entry(PyCallWrapper):
    """The wrapper of a kernel: of a compiled function of arrays and numbers that returns nothing."""

    @staticmethod
    def fits(descriptor: Any) -> bool:
        """Whether a compiled function is such a one."""
        plain = types.Array, types.Number, types.Boolean
        return descriptor.restype is types.none and all(isinstance(kind, plain) for kind in descriptor.argtypes)

    def build_wrapper(self, api: Any, builder: Any, closure: Any, args: Any, kws: Any) -> None:
        """Emit the body: take the tuple apart, call, report."""
        arguments = []
        for i, kind in enumerate(self.fndesc.argtypes):
            given = _field(builder, args, _ITEMS + 8 * i, api.pyobj)
            taken = self._borrowed if isinstance(kind, types.Array) else self._number
            arguments.append(taken(api, builder, given, kind))
        state = api.save_thread() if self.release_gil else None
        status, _ = self.context.call_conv.call_function(
            builder, self.func, self.fndesc.restype, self.fndesc.argtypes, arguments, attrs=("noinline",)
        )
        if state is not None:
            api.restore_thread(state)
        with builder.if_then(status.is_ok, likely=True):
            api.return_none()
        self.context.call_conv.raise_error(builder, api, status)
        builder.ret(api.get_null_object())

    def _number(self, api: Any, builder: Any, given: Any, kind: Any) -> Any:
        native = api.to_native_value(kind, given)
        with if_unlikely(builder, native.is_error):
            builder.ret(api.get_null_object())
        return native.value

    def _borrowed(self, api: Any, builder: Any, given: Any, kind: Any) -> Any:
        """The array as compiled code sees it, without a record of its memory and without an owner."""
        extents, strides = (
            [_field(builder, _field(builder, given, at, _BYTE.as_pointer()), 8 * i, _WORD) for i in range(kind.ndim)]
            for at in (_EXTENTS, _STRIDES)
        )
        size = ir.Constant(_WORD, 1)
        for extent in extents:
            size = builder.mul(size, extent)
        data = _field(builder, given, _DATA, _BYTE.as_pointer())
        return _array(self.context, builder, kind, data, size, extents, strides)


def _array(context: Any, builder: Any, kind: Any, data: Any, size: Any, extents: Any, strides: Any) -> Any:
    """An array as compiled code sees it, of memory that is not counted."""
    array = context.make_array(kind)(context, builder)
    array.meminfo, array.parent = (ir.Constant(place.type, None) for place in (array.meminfo, array.parent))
    itemsize = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    array.data, array.nitems, array.itemsize = (
        builder.bitcast(data, array.data.type),
        size,
        ir.Constant(_WORD, itemsize),
    )
    array.shape, array.strides = (pack_array(builder, words, ty=_WORD) for words in (extents, strides))
    return array._getvalue()


def listed_name(descriptor: Any) -> str:
    """Return the name of a kernel's door for lists of calls."""
    return f"listed.{descriptor.llvm_func_name}"


def _add_listed(context: Any, module: Any, function: Any, descriptor: Any) -> None:
    """Add the door for lists of calls: it takes the address of a call's words, and returns Numba's status."""
    door = ir.Function(module, ir.FunctionType(ir.IntType(32), [_WORD.as_pointer()]), listed_name(descriptor))
    builder = ir.IRBuilder(door.append_basic_block())
    at = count()
    arguments = [_listed(context, builder, door.args[0], at, kind) for kind in descriptor.argtypes]
    status, _ = context.call_conv.call_function(
        builder, function, descriptor.restype, descriptor.argtypes, arguments, attrs=("noinline",)
    )
    builder.ret(status.code)


def _listed(context: Any, builder: Any, words: Any, at: Iterator[int], kind: Any) -> Any:
    """The argument whose words are the next."""
    if isinstance(kind, types.Array):
        numbers = [_field(builder, words, 8 * next(at), _WORD) for _ in range(2 + 2 * kind.ndim)]
        data = builder.inttoptr(numbers[0], _BYTE.as_pointer())
        return _array(context, builder, kind, data, numbers[1], numbers[2 : 2 + kind.ndim], numbers[2 + kind.ndim :])
    model = context.data_model_manager[kind]
    places = [next(at) for _ in range(-(-context.get_abi_sizeof(model.get_data_type()) // 8))]
    return model.from_data(builder, _field(builder, words, 8 * places[0], model.get_data_type()))


class _Lower(Lower):
    def create_cpython_wrapper(self, release_gil: bool = False) -> None:
        if not Entry.fits(self.fndesc):
            super().create_cpython_wrapper(release_gil)
            return
        context, descriptor = self.context, self.fndesc
        module = context.create_module("wrapper")
        signature = context.call_conv.get_function_type(descriptor.restype, descriptor.argtypes)
        function = ir.Function(module, signature, descriptor.llvm_func_name)
        Entry(context, module, function, descriptor, self.env, self.call_helper, release_gil).build()
        _add_listed(context, module, function, descriptor)
        self.library.add_ir_module(module)


class _ParforLower(_Lower, ParforLower):
    def lower_inst(self, inst: Any) -> None:
        """A parallel loop becomes a function, and that function's wrapper: parts of this one."""
        if not isinstance(inst, Parfor):
            super().lower_inst(inst)
            return
        inst.flags = without_wrappers(inst.flags)
        with loops_as_parts(self.context.codegen()), without_the_lock():
            super().lower_inst(inst)


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(NativeLowering):
    _name = "kernel_lowering"
    lowering_class = _Lower


@register_pass(mutates_CFG=True, analysis_only=False)
class _ParforLowering(NativeParforLowering):
    _name = "kernel_parfor_lowering"
    lowering_class = _ParforLower


class KernelCompiler(CompilerBase):
    """Numba's compiler with this file's wrapper in place of its own."""

    def define_pipelines(self) -> list[Any]:
        """Return Numba's pipeline, the step that makes wrappers exchanged."""
        ours = {NativeLowering: _Lowering, NativeParforLowering: _ParforLowering}
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager.passes = [(ours.get(step, step), text) for step, text in manager.passes]
        manager.finalize()
        return [manager]
