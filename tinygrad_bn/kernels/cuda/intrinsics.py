"""The functions of ``vector``, as instructions."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

__all__ = ["as_bits", "as_number", "at", "load4", "raise_to", "store4"]


def _element(pointer: Any) -> Any:
    """The type of what a pointer or an array holds."""
    return pointer.dtype


def _vector_at(context: Any, builder: Any, kind: Any, value: Any, index: Any, index_kind: Any) -> tuple[Any, Any]:
    """The address of four elements as that of a vector, and the vector's type."""
    start = context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
    place = builder.gep(start, [context.cast(builder, index, index_kind, types.intp)])
    vector = ir.VectorType(start.type.pointee, 4)
    return builder.bitcast(place, ir.PointerType(vector, start.type.addrspace)), vector


def _alignment(context: Any, kind: Any) -> int:
    return min(4 * int(context.get_abi_sizeof(context.get_data_type(_element(kind)))), 16)


@intrinsic
def load4(typing: Any, pointer: Any, index: Any) -> Any:
    """Return four elements."""
    signature = types.UniTuple(_element(pointer), 4)(pointer, index)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, index_kind = signature.args
        place, _ = _vector_at(context, builder, kind, arguments[0], arguments[1], index_kind)
        vector = builder.load(place)
        vector.align = _alignment(context, kind)
        found = [builder.extract_element(vector, ir.Constant(ir.IntType(32), k)) for k in range(4)]
        return context.make_tuple(builder, signature.return_type, found)

    return signature, generate


@intrinsic
def store4(typing: Any, pointer: Any, index: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Write four elements."""
    element = _element(pointer)
    signature = types.void(pointer, index, element, element, element, element)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, index_kind = signature.args[:2]
        place, vector = _vector_at(context, builder, kind, arguments[0], arguments[1], index_kind)
        whole = ir.Constant(vector, ir.Undefined)
        for k, value in enumerate(arguments[2:]):
            whole = builder.insert_element(whole, value, ir.Constant(ir.IntType(32), k))
        builder.store(whole, place).align = _alignment(context, kind)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def raise_to(typing: Any, pointer: Any, index: Any, value: Any) -> Any:
    """Make an element as large as a number, atomically."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.gep(arguments[0], [context.cast(builder, arguments[1], signature.args[1], types.intp)])
        builder.atomic_rmw("max", place, arguments[2], "monotonic")
        return context.get_dummy_value()

    return types.void(pointer, index, _element(pointer)), generate


@intrinsic
def as_bits(typing: Any, x: Any) -> Any:
    """Return the bits of a float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def as_number(typing: Any, u: Any) -> Any:
    """Return the float32 of those bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def at(typing: Any, address: Any, like: Any) -> Any:
    """Return a pointer to what lies at an address."""
    kind = types.CPointer(_element(like))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(kind))

    return kind(types.int64, like), generate
