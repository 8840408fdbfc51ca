"""Choices between lanes, moves of pairs, and whole numbers that stand for the lanes in fewer bytes.

    where_larger(v, w, a, b)           a where v > w, else b
    where_larger_or_nan(v, w, a, b)    a where v > w or v is NaN, else b
    where_equal(v, w, a, b)            a where v = w, else b
    constant(v, c)                     a number in all lanes of a register like v
    tanh_lanes(v), erfc_lanes(v)       float64 by the C library, lane by lane
    peak(v)                            the largest lane; a NaN may be passed over
    evens(v, w), odds(v, w)            every other lane of two registers side by side
    zip_low(v, w), zip_high(v, w)      v0 w0 v1 w1 …, the first and the second register of it
    load_whole(a, i, v), load_whole_first(a, i, n, v)    as ``load`` of integers, converted to the lanes of v
    store_whole(a, i, v), store_whole_first(a, i, v, n)  as ``store``, converted to the array's integers

With the JIT off the same names work on NumPy arrays (``_twin.py``).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tinygrad_bn.kernels.cpu._jit import ENABLED
from tinygrad_bn.kernels.cpu.vector import I32, data_of

if ENABLED:

    @intrinsic
    def where_larger(typing: Any, v: Any, w: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[2], args[3])

        return v(v, v, v, v), generate

    @intrinsic
    def where_larger_or_nan(typing: Any, v: Any, w: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            larger = builder.fcmp_ordered(">", args[0], args[1])
            nan = builder.fcmp_unordered("uno", args[0], args[0])
            return builder.select(builder.or_(larger, nan), args[2], args[3])

        return v(v, v, v, v), generate

    @intrinsic
    def where_equal(typing: Any, v: Any, w: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.select(builder.fcmp_ordered("==", args[0], args[1]), args[2], args[3])

        return v(v, v, v, v), generate

    @intrinsic
    def constant(typing: Any, v: Any, c: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            narrow = v.dtype is types.float32
            return v.splat(builder, builder.fptrunc(args[1], v.scalar) if narrow else args[1])

        return v(v, types.float64), generate

    def _lane_by_lane(name: str) -> Any:
        """A function of the C library, of float64 lanes."""

        def by_library(typing: Any, v: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                kind = ir.FunctionType(v.scalar, [v.scalar])
                function = cgutils.get_or_insert_function(builder.module, kind, name)
                out = ir.Constant(v.value, ir.Undefined)
                for lane in (ir.Constant(I32, i) for i in range(v.count)):
                    found = builder.call(function, [builder.extract_element(args[0], lane)])
                    out = builder.insert_element(out, found, lane)
                return out

            return v(v), generate

        return intrinsic(by_library)

    tanh_lanes, erfc_lanes = _lane_by_lane("tanh"), _lane_by_lane("erfc")

    @intrinsic
    def peak(typing: Any, v: Any) -> Any:
        """The largest lane, halves compared with halves."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            out, n = args[0], v.count
            while n > 1:
                n //= 2
                halves = [ir.Constant(ir.VectorType(I32, n), list(range(k, k + n))) for k in (0, n)]
                low, high = (builder.shuffle_vector(out, out, half) for half in halves)
                out = builder.select(builder.fcmp_ordered(">", high, low), high, low)
            return builder.extract_element(out, ir.Constant(I32, 0))

        return v.dtype(v), generate

    def _pairwise(order: Any) -> Any:
        """An intrinsic that picks lanes of two registers side by side; ``order`` maps their count to the places."""

        def pick(typing: Any, v: Any, w: Any) -> Any:
            places = ir.Constant(ir.VectorType(I32, v.count), order(v.count))

            def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                return builder.shuffle_vector(args[0], args[1], places)

            return v(v, v), generate

        return intrinsic(pick)

    evens = _pairwise(lambda n: list(range(0, 2 * n, 2)))
    odds = _pairwise(lambda n: list(range(1, 2 * n, 2)))
    zip_low = _pairwise(lambda n: [k // 2 + n * (k % 2) for k in range(n)])
    zip_high = _pairwise(lambda n: [(n + k) // 2 + n * (k % 2) for k in range(n)])

    def _place(context: Any, builder: Any, array_type: Any, array: Any, i: Any, count: int) -> tuple[Any, Any]:
        """Where a register's worth of integers lies, and their type."""
        data = builder.gep(data_of(context, builder, array_type, array), [i])
        ints = ir.VectorType(ir.IntType(array_type.dtype.bitwidth), count)
        return builder.bitcast(data, ints.as_pointer()), ints

    def _masked(builder: Any, what: str, ints: Any, result: Any, arguments: list[Any]) -> Any:
        name = f"llvm.masked.{what}.v{ints.count}i{ints.element.width}.p0"
        kind = ir.FunctionType(result, [a.type for a in arguments])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)

    @intrinsic
    def load_whole(typing: Any, a: Any, i: Any, v: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer, _ = _place(context, builder, a, args[0], args[1], v.count)
            return builder.sitofp(builder.load(pointer, align=1), v.value)

        return v(a, types.intp, v), generate

    @intrinsic
    def load_whole_first(typing: Any, a: Any, i: Any, n: Any, v: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer, ints = _place(context, builder, a, args[0], args[1], v.count)
            zeros, mask = ir.Constant(ints, [0] * v.count), v.mask(builder, args[2])
            found = _masked(builder, "load", ints, ints, [pointer, ir.Constant(I32, 1), mask, zeros])
            return builder.sitofp(found, v.value)

        return v(a, types.intp, types.int64, v), generate

    @intrinsic
    def store_whole(typing: Any, a: Any, i: Any, v: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer, ints = _place(context, builder, a, args[0], args[1], v.count)
            builder.store(builder.fptosi(args[2], ints), pointer, align=1)
            return context.get_dummy_value()

        return types.void(a, types.intp, v), generate

    @intrinsic
    def store_whole_first(typing: Any, a: Any, i: Any, v: Any, n: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer, ints = _place(context, builder, a, args[0], args[1], v.count)
            mask = v.mask(builder, args[3])
            arguments = [builder.fptosi(args[2], ints), pointer, ir.Constant(I32, 1), mask]
            _masked(builder, "store", ints, ir.VoidType(), arguments)
            return context.get_dummy_value()

        return types.void(a, types.intp, v, types.int64), generate

else:
    from tinygrad_bn.kernels.cpu._twin import (  # noqa: F401
        constant,
        erfc_lanes,
        evens,
        load_whole,
        load_whole_first,
        odds,
        peak,
        store_whole,
        store_whole_first,
        tanh_lanes,
        where_equal,
        where_larger,
        where_larger_or_nan,
        zip_high,
        zip_low,
    )
