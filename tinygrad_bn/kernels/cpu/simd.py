"""A vector type for Numba kernels: as wide as the processor's registers, with operators. Only this file knows LLVM.

    v = load(a, i)                lanes(a) elements of the array from the i-th on, in C order
    v = load_first(a, i, n)       the first n of them, zeros in the other lanes; nothing behind them is read
    store(a, i, v), store_first(a, i, v, n)
    splat(x), zeros(a)            one number in all lanes
    + - * /, fma(a, b, c), sqrt(v), first(v, n), lane(v, i), largest(a, b),
    unless_nan(a, b), where_positive(z, v), total(v),
    store_totals(a, i, v, w, x, y), pointer_to(a), array_at(address, n, like)

Multiplication and addition may contract to a fused operation; nothing else is rearranged. With the JIT off the
same names work on NumPy arrays (``_twin.py``), so that kernels can be stepped through and measured for coverage.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import binding, ir
from numba import carray, config, types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

from tinygrad_bn.kernels.cpu._jit import ENABLED, jit


def register_bytes() -> int:
    """The width of the vector registers of the processor that Numba compiles for."""
    if config.CPU_FEATURES is not None:
        features = set(config.CPU_FEATURES.replace(" ", "").split(","))
    else:
        features = {f"+{name}" for name, on in binding.get_host_cpu_features().items() if on}
    return 64 if "+avx512f" in features else 32 if "+avx2" in features else 16


WIDTH = register_bytes()
CONTRACT = ("contract",)
_I64 = ir.IntType(64)
_I32 = ir.IntType(32)


class VectorType(types.Type):
    """A register full of float32 or float64."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        self.count = WIDTH // (dtype.bitwidth // 8)
        self.scalar = ir.FloatType() if dtype is types.float32 else ir.DoubleType()
        self.value = ir.VectorType(self.scalar, self.count)
        self.suffix = f"v{self.count}f{dtype.bitwidth}"
        super().__init__(name=f"vector<{dtype}>")

    def splat(self, builder: Any, scalar: Any) -> Any:
        one = builder.insert_element(ir.Constant(self.value, ir.Undefined), scalar, ir.Constant(_I32, 0))
        return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_I32, self.count), [0] * self.count))

    def mask(self, builder: Any, n: Any) -> Any:
        """Lanes below n."""
        lane = ir.IntType(self.dtype.bitwidth)
        ints = ir.VectorType(lane, self.count)
        whole = ir.Constant(_I64, self.count)
        few = builder.select(builder.icmp_signed("<", n, whole), n, whole)
        few = builder.trunc(few, lane) if lane.width < 64 else few
        one = builder.insert_element(ir.Constant(ints, ir.Undefined), few, ir.Constant(_I32, 0))
        all_n = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_I32, self.count), [0] * self.count))
        return builder.icmp_signed("<", ir.Constant(ints, list(range(self.count))), all_n)

    def call(self, builder: Any, name: str, arguments: list[Any]) -> Any:
        """An LLVM intrinsic on vectors."""
        kind = ir.FunctionType(self.value, [self.value] * len(arguments))
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"{name}.{self.suffix}"), arguments)


VECTORS = {types.float32: VectorType(types.float32), types.float64: VectorType(types.float64)}


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: VectorType) -> None:
        super().__init__(manager, kind, kind.value)


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any, kind: VectorType) -> Any:
    data = _data(context, builder, array_type, array)
    return builder.bitcast(builder.gep(data, [index]), kind.value.as_pointer())


def _data(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    """Where the elements of an array, or behind a pointer, begin."""
    if isinstance(array_type, types.CPointer):
        return array
    return context.make_array(array_type)(context, builder, array).data


def _align(kind: VectorType) -> int:
    return int(kind.dtype.bitwidth // 8)


if ENABLED:

    @intrinsic
    def pointer_to(typing: Any, a: Any) -> Any:
        """The address of an array's first element: stands for the array in inner loops, where counting references to it
        at every call costs more than the call's work. The array must outlive it."""
        kind = types.CPointer(a.dtype)
        return kind(a), lambda context, builder, signature, args: _data(context, builder, signature.args[0], args[0])

    @intrinsic
    def load(typing: Any, a: Any, i: Any) -> Any:
        kind = VECTORS[a.dtype]

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _address(context, builder, signature.args[0], args[0], args[1], kind)
            return builder.load(pointer, align=_align(kind))

        return kind(a, types.intp), generate

    @intrinsic
    def store(typing: Any, a: Any, i: Any, v: Any) -> Any:
        kind = VECTORS[a.dtype]

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _address(context, builder, signature.args[0], args[0], args[1], kind)
            builder.store(args[2], pointer, align=_align(kind))
            return context.get_dummy_value()

        return types.void(a, types.intp, kind), generate

    @intrinsic
    def load_first(typing: Any, a: Any, i: Any, n: Any) -> Any:
        kind = VECTORS[a.dtype]

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _address(context, builder, signature.args[0], args[0], args[1], kind)
            mask = kind.mask(builder, args[2])
            zero = ir.Constant(kind.value, [0.0] * kind.count)
            shape = ir.FunctionType(kind.value, [pointer.type, _I32, mask.type, kind.value])
            function = cgutils.get_or_insert_function(builder.module, shape, f"llvm.masked.load.{kind.suffix}.p0")
            return builder.call(function, [pointer, ir.Constant(_I32, _align(kind)), mask, zero])

        return kind(a, types.intp, types.int64), generate

    @intrinsic
    def store_first(typing: Any, a: Any, i: Any, v: Any, n: Any) -> Any:
        kind = VECTORS[a.dtype]

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _address(context, builder, signature.args[0], args[0], args[1], kind)
            mask = kind.mask(builder, args[3])
            shape = ir.FunctionType(ir.VoidType(), [kind.value, pointer.type, _I32, mask.type])
            function = cgutils.get_or_insert_function(builder.module, shape, f"llvm.masked.store.{kind.suffix}.p0")
            builder.call(function, [args[2], pointer, ir.Constant(_I32, _align(kind)), mask])
            return context.get_dummy_value()

        return types.void(a, types.intp, kind, types.int64), generate

    @intrinsic
    def lanes(typing: Any, a: Any) -> Any:
        kind = VECTORS[a.dtype]
        return types.intp(a), lambda context, builder, signature, args: ir.Constant(_I64, kind.count)

    @intrinsic
    def splat(typing: Any, x: Any) -> Any:
        kind = VECTORS[x]
        return kind(x), lambda context, builder, signature, args: kind.splat(builder, args[0])

    @intrinsic
    def zeros(typing: Any, a: Any) -> Any:
        kind = VECTORS[a.dtype]
        return kind(a), lambda context, builder, signature, args: ir.Constant(kind.value, [0.0] * kind.count)

    @intrinsic
    def fma(typing: Any, x: Any, y: Any, z: Any) -> Any:
        """x · y + z, fused where the processor can."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return x.call(builder, "llvm.fmuladd", list(args))

        return x(x, x, x), generate

    @intrinsic
    def sqrt(typing: Any, x: Any) -> Any:
        return x(x), lambda context, builder, signature, args: x.call(builder, "llvm.sqrt", list(args))

    @intrinsic
    def largest(typing: Any, x: Any, y: Any) -> Any:
        """The larger of each pair; a NaN in x stays."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", args[1], args[0]), args[1], args[0])

        return x(x, x), generate

    @intrinsic
    def where_positive(typing: Any, z: Any, v: Any) -> Any:
        """v where z > 0, z where z is NaN, else 0."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            zero = ir.Constant(z.value, [0.0] * z.count)
            positive = builder.select(builder.fcmp_ordered(">", args[0], zero), args[1], zero)
            return builder.select(builder.fcmp_unordered("uno", args[0], zero), args[0], positive)

        return z(z, z), generate

    @intrinsic
    def first(typing: Any, v: Any, n: Any) -> Any:
        """v with zeros in the lanes from n on."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            zero = ir.Constant(v.value, [0.0] * v.count)
            return builder.select(v.mask(builder, args[1]), args[0], zero)

        return v(v, types.int64), generate

    @intrinsic
    def lane(typing: Any, v: Any, i: Any) -> Any:
        """One lane's number."""
        return v.dtype(v, types.int64), lambda context, builder, signature, args: builder.extract_element(*args)

    @intrinsic
    def unless_nan(typing: Any, x: Any, y: Any) -> Any:
        """x, or y in the lanes where x is NaN."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.select(builder.fcmp_unordered("uno", args[0], args[0]), args[1], args[0])

        return x(x, x), generate

    @intrinsic
    def total(typing: Any, v: Any) -> Any:
        """The sum of the lanes, halves added to halves."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            out, n = args[0], v.count
            while n > 1:
                n //= 2
                half = ir.Constant(ir.VectorType(_I32, n), list(range(n)))
                rest = ir.Constant(ir.VectorType(_I32, n), list(range(n, 2 * n)))
                out = builder.fadd(builder.shuffle_vector(out, out, half), builder.shuffle_vector(out, out, rest))
            return builder.extract_element(out, ir.Constant(_I32, 0))

        return v.dtype(v), generate

    @intrinsic
    def store_totals(typing: Any, a: Any, i: Any, v0: Any, v1: Any, v2: Any, v3: Any) -> Any:
        """Store the sums of the lanes of four vectors side by side, halves added to halves as in ``total``."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            quad = ir.VectorType(v0.scalar, 4)
            sums = _four_totals(builder, v0, list(args[2:]))
            data = _data(context, builder, signature.args[0], args[0])
            pointer = builder.bitcast(builder.gep(data, [args[1]]), quad.as_pointer())
            builder.store(sums, pointer, align=_align(v0))
            return context.get_dummy_value()

        return types.void(a, types.intp, v0, v0, v0, v0), generate

    def _four_totals(builder: Any, kind: VectorType, vectors: list[Any]) -> Any:
        """Reduce four vectors to one of their four sums: each step halves what is summed and shares its shuffles."""

        def fold(x: Any, y: Any, groups: list[int], width: int) -> Any:
            """Add the upper half of each group of lanes of x and y to the lower; groups begin at ``groups``."""
            low = [g + i for g in groups for i in range(width // 2)]
            parts = [ir.Constant(ir.VectorType(_I32, len(low)), [i + o for i in low]) for o in (0, width // 2)]
            return builder.fadd(builder.shuffle_vector(x, y, parts[0]), builder.shuffle_vector(x, y, parts[1]))

        n = kind.count
        a, b = (fold(x, y, [0, n], n) for x, y in (vectors[:2], vectors[2:]))
        if n == 2:
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, 4), [0, 1, 2, 3]))
        half = n // 2
        out = fold(a, b, [0, half, n, n + half], half)
        width = n // 4
        while width > 1:
            out = fold(out, out, [g * width for g in range(4)], width)
            width //= 2
        return out

    @intrinsic
    def _pointer(typing: Any, address: Any, like: Any) -> Any:
        kind = types.CPointer(like.dtype)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(kind))

        return kind(types.int64, like), generate

    @jit()
    def array_at(address: Any, n: Any, like: Any) -> Any:
        """The n elements at an address, of the dtype of ``like``, as an array."""
        return carray(_pointer(address, like), (n,))

    def _operator(function: Any, instruction: str) -> None:
        @intrinsic
        def both(typing: Any, x: Any, y: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                return getattr(builder, instruction)(args[0], args[1], flags=CONTRACT)

            return x(x, x), generate

        def choose(x: Any, y: Any) -> Any:
            if isinstance(x, VectorType) and x is y:
                return lambda x, y: both(x, y)
            if isinstance(x, VectorType) and y is x.dtype:
                return lambda x, y: both(x, splat(y))
            if isinstance(y, VectorType) and x is y.dtype:
                return lambda x, y: both(splat(x), y)
            return None

        overload(function, strict=False)(choose)

    for _function, _instruction in (
        (operator.add, "fadd"),
        (operator.sub, "fsub"),
        (operator.mul, "fmul"),
        (operator.truediv, "fdiv"),
    ):
        _operator(_function, _instruction)

else:
    from tinygrad_bn.kernels.cpu._twin import (  # noqa: F401
        array_at,
        first,
        fma,
        lane,
        lanes,
        largest,
        load,
        load_first,
        pointer_to,
        splat,
        sqrt,
        store,
        store_first,
        store_totals,
        total,
        unless_nan,
        where_positive,
        zeros,
    )
