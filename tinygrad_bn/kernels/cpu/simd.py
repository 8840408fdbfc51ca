"""A vector type for Numba kernels: as wide as the processor's registers, with operators. Only this file, ``vector.py``,
``choices.py``, ``shuffles.py`` and ``streams.py`` know LLVM, and what is around kernels: ``_entry.py`` and its like.

    v = load(a, i)                lanes(a) elements of the array from the i-th on, in C order
    v = load_first(a, i, n)       the first n of them, zeros in the other lanes; nothing behind them is read
    store(a, i, v), store_first(a, i, v, n)
    store_between(a, i, v, m, n)  only lanes m … n - 1, where each belongs
    splat(x), zeros(a)            one number in all lanes
    + - * /, fma(a, b, c), sqrt(v), exp(v), first(v, n), lane(v, i), largest(a, b),
    smallest(a, b), unless_nan(a, b), where_positive(z, v), total(v),
    store_totals(a, i, v, w, x, y), pointer_to(a), prefetch(a, i), array_at(address, n, like)

Multiplication and addition may contract to a fused operation; nothing else is rearranged. With the JIT off the
same names work on NumPy arrays (``_twin.py``), so that kernels can be stepped through and measured for coverage.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from tinygrad_bn.kernels.cpu._jit import ENABLED, jit
from tinygrad_bn.kernels.cpu.math import exp_core
from tinygrad_bn.kernels.cpu.vector import I32, I64, VECTORS, VectorType, address_of, align_of, data_of

CONTRACT = ("contract",)
_F4 = np.float32

if ENABLED:

    @intrinsic
    def pointer_to(typing: Any, a: Any) -> Any:
        """The address of an array's first element: stands for the array in inner loops, where counting references to it
        at every call costs more than the call's work. The array must outlive it."""
        kind = types.CPointer(a.dtype)
        return kind(a), lambda context, builder, signature, args: data_of(context, builder, signature.args[0], args[0])

    @intrinsic
    def load(typing: Any, a: Any, i: Any) -> Any:
        kind = VECTORS[a.dtype]

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = address_of(context, builder, signature.args[0], args[0], args[1], kind)
            return builder.load(pointer, align=align_of(kind))

        return kind(a, types.intp), generate

    @intrinsic
    def store(typing: Any, a: Any, i: Any, v: Any) -> Any:
        kind = VECTORS[a.dtype]

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = address_of(context, builder, signature.args[0], args[0], args[1], kind)
            builder.store(args[2], pointer, align=align_of(kind))
            return context.get_dummy_value()

        return types.void(a, types.intp, kind), generate

    @intrinsic
    def load_first(typing: Any, a: Any, i: Any, n: Any) -> Any:
        kind = VECTORS[a.dtype]

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = address_of(context, builder, signature.args[0], args[0], args[1], kind)
            mask = kind.mask(builder, args[2])
            zero = ir.Constant(kind.value, [0.0] * kind.count)
            shape = ir.FunctionType(kind.value, [pointer.type, I32, mask.type, kind.value])
            function = cgutils.get_or_insert_function(builder.module, shape, f"llvm.masked.load.{kind.suffix}.p0")
            return builder.call(function, [pointer, ir.Constant(I32, align_of(kind)), mask, zero])

        return kind(a, types.intp, types.int64), generate

    @intrinsic
    def store_first(typing: Any, a: Any, i: Any, v: Any, n: Any) -> Any:
        kind = VECTORS[a.dtype]

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = address_of(context, builder, signature.args[0], args[0], args[1], kind)
            kind.masked_store(builder, args[2], pointer, kind.mask(builder, args[3]))
            return context.get_dummy_value()

        return types.void(a, types.intp, kind, types.int64), generate

    @intrinsic
    def store_between(typing: Any, a: Any, i: Any, v: Any, m: Any, n: Any) -> Any:
        kind = VECTORS[a.dtype]

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = address_of(context, builder, signature.args[0], args[0], args[1], kind)
            mask = builder.and_(kind.mask(builder, args[4]), builder.not_(kind.mask(builder, args[3])))
            kind.masked_store(builder, args[2], pointer, mask)
            return context.get_dummy_value()

        return types.void(a, types.intp, kind, types.int64, types.int64), generate

    @intrinsic
    def prefetch(typing: Any, a: Any, i: Any) -> Any:
        """Ask for the cache line of an element, which need not exist."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.gep(data_of(context, builder, signature.args[0], args[0]), [args[1]])
            shape = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
            function = cgutils.get_or_insert_function(builder.module, shape, "llvm.prefetch.p0")
            builder.call(function, [pointer, *(ir.Constant(I32, n) for n in (0, 2, 1))])  # to read, second level, data
            return context.get_dummy_value()

        return types.void(a, types.int64), generate

    @intrinsic
    def lanes(typing: Any, a: Any) -> Any:
        kind = VECTORS[a.dtype]
        return types.intp(a), lambda context, builder, signature, args: ir.Constant(I64, kind.count)

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
    def smallest(typing: Any, x: Any, y: Any) -> Any:
        """The smaller of each pair; a NaN in x stays."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.select(builder.fcmp_ordered("<", args[1], args[0]), args[1], args[0])

        return x(x, x), generate

    @intrinsic
    def _rint(typing: Any, x: Any) -> Any:
        return x(x), lambda context, builder, signature, args: x.call(builder, "llvm.rint", list(args))

    @intrinsic
    def _pow2(typing: Any, x: Any) -> Any:
        """2^n of float32 lanes that hold whole numbers from -126 to 127, by their bits."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            ints = ir.VectorType(I32, x.count)
            shifted = builder.add(builder.fptosi(args[0], ints), ir.Constant(ints, [127] * x.count))
            return builder.bitcast(builder.shl(shifted, ir.Constant(ints, [23] * x.count)), x.value)

        return x(x), generate

    @intrinsic
    def _exp_by_library(typing: Any, x: Any) -> Any:
        return x(x), lambda context, builder, signature, args: x.call(builder, "llvm.exp", list(args))

    @jit(inline=True)
    def _exp_f32(x: Any) -> Any:
        """As ``math.exp_f32``, lane by lane."""
        x = smallest(largest(x, splat(_F4(-104.0))), splat(_F4(89.0)))
        n = _rint(x * _F4(1.44269504))
        half = _rint(n * _F4(0.5))
        return exp_core(x, n) * _pow2(half) * _pow2(n - half)

    def exp(v: Any) -> Any:
        """e^v; see ``math.exp``."""

    @overload(exp, strict=False)
    def _exp(v: Any) -> Any:
        if v is VECTORS[types.float32]:
            return lambda v: _exp_f32(v)
        return lambda v: _exp_by_library(v)

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
                half = ir.Constant(ir.VectorType(I32, n), list(range(n)))
                rest = ir.Constant(ir.VectorType(I32, n), list(range(n, 2 * n)))
                out = builder.fadd(builder.shuffle_vector(out, out, half), builder.shuffle_vector(out, out, rest))
            return builder.extract_element(out, ir.Constant(I32, 0))

        return v.dtype(v), generate

    @intrinsic
    def store_totals(typing: Any, a: Any, i: Any, v0: Any, v1: Any, v2: Any, v3: Any) -> Any:
        """Store the sums of the lanes of four vectors side by side, halves added to halves as in ``total``."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            quad = ir.VectorType(v0.scalar, 4)
            sums = _four_totals(builder, v0, list(args[2:]))
            data = data_of(context, builder, signature.args[0], args[0])
            pointer = builder.bitcast(builder.gep(data, [args[1]]), quad.as_pointer())
            builder.store(sums, pointer, align=align_of(v0))
            return context.get_dummy_value()

        return types.void(a, types.intp, v0, v0, v0, v0), generate

    def _four_totals(builder: Any, kind: VectorType, vectors: list[Any]) -> Any:
        """Reduce four vectors to one of their four sums: each step halves what is summed and shares its shuffles."""

        def fold(x: Any, y: Any, groups: list[int], width: int) -> Any:
            """Add the upper half of each group of lanes of x and y to the lower; groups begin at ``groups``."""
            low = [g + i for g in groups for i in range(width // 2)]
            parts = [ir.Constant(ir.VectorType(I32, len(low)), [i + o for i in low]) for o in (0, width // 2)]
            return builder.fadd(builder.shuffle_vector(x, y, parts[0]), builder.shuffle_vector(x, y, parts[1]))

        n = kind.count
        a, b = (fold(x, y, [0, n], n) for x, y in (vectors[:2], vectors[2:]))
        if n == 2:
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, 4), [0, 1, 2, 3]))
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
        exp,
        first,
        fma,
        lane,
        lanes,
        largest,
        load,
        load_first,
        pointer_to,
        prefetch,
        smallest,
        splat,
        sqrt,
        store,
        store_between,
        store_first,
        store_totals,
        total,
        unless_nan,
        where_positive,
        zeros,
    )
