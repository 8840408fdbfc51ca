"""Moves between registers and memory that reorder: elements that lie a stride apart.

    load_between(a, i, m, n)                  lanes m … n - 1 from where each belongs, zeros in the others
    fma_between(x, y, z, m, n)                x · y + z in lanes m … n - 1, z in the others
    load_halves(a, i, j, m, n)                as load_between, the upper half of the lanes from j on; m, n hold for both
    store_halves(a, i, j, v, m, n)            and back
    fma_halves(x, y, z, m, n)                 as fma_between, m and n holding for both halves
    load_every(a, i, k, n)                    the lanes of a[i + k], a[i + k + n], a[i + k + 2 n], …
    store_every2(a, i, v, w)                  lane n of the two side by side at i + 2 n
    store_every4(a, i, v, w, x, y)            lane n of the four side by side at i + 4 n
    transpose(a, i, m, b, j, n)               b[j + k n + l] = a[i + l m + k] for all lanes k and l
    transpose_first(…, rows, columns)         the same for k < rows and l < columns alone; all that lies in a is read
    spread(a, i, m, b, j, places, p)          b[j + places[p + k] + l] = a[i + l m + k]
    spread_first(…, rows, columns)            the same for k < rows alone; zeros for l >= columns, which are not read

With the JIT off the same names work on NumPy arrays (``_twin.py``).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tinygrad_bn.kernels.cpu._jit import ENABLED
from tinygrad_bn.kernels.cpu.vector import I32, I64, VECTORS, VectorType, align_of, data_of

if ENABLED:

    def _between(builder: Any, kind: VectorType, m: Any, n: Any) -> Any:
        return builder.and_(kind.mask(builder, n), builder.not_(kind.mask(builder, m)))

    def _between_in_halves(builder: Any, kind: VectorType, m: Any, n: Any) -> list[Any]:
        """The lower lanes from m to n, and the upper ones."""
        half, every, out = kind.count // 2, _between(builder, kind, m, n), []
        for order in ([*range(half), *[kind.count] * half], [*[kind.count] * half, *range(half)]):
            places = ir.Constant(ir.VectorType(I32, kind.count), order)
            out.append(builder.shuffle_vector(every, ir.Constant(every.type, None), places))
        return out

    def _halves(builder: Any, kind: VectorType, data: Any, i: Any, j: Any) -> list[Any]:
        """Where a register would begin whose lower half lies at i, and one whose upper half lies at j."""
        half = ir.Constant(I64, kind.count // 2)
        return [_place(builder, data, i, kind), _place(builder, data, builder.sub(j, half), kind)]

    @intrinsic
    def load_between(typing: Any, a: Any, i: Any, m: Any, n: Any) -> Any:
        kind = VECTORS[a.dtype]

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _place(builder, data_of(context, builder, signature.args[0], args[0]), args[1], kind)
            zero = ir.Constant(kind.value, [0.0] * kind.count)
            return kind.masked_load(builder, pointer, _between(builder, kind, args[2], args[3]), zero)

        return kind(a, types.int64, types.int64, types.int64), generate

    @intrinsic
    def load_halves(typing: Any, a: Any, i: Any, j: Any, m: Any, n: Any) -> Any:
        kind = VECTORS[a.dtype]

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = data_of(context, builder, signature.args[0], args[0])
            out = ir.Constant(kind.value, [0.0] * kind.count)
            masks = _between_in_halves(builder, kind, *args[3:])
            for pointer, mask in zip(_halves(builder, kind, data, *args[1:3]), masks):
                out = kind.masked_load(builder, pointer, mask, out)
            return out

        return kind(a, types.int64, types.int64, types.int64, types.int64), generate

    @intrinsic
    def store_halves(typing: Any, a: Any, i: Any, j: Any, v: Any, m: Any, n: Any) -> Any:
        kind = VECTORS[a.dtype]

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = data_of(context, builder, signature.args[0], args[0])
            masks = _between_in_halves(builder, kind, *args[4:])
            for pointer, mask in zip(_halves(builder, kind, data, *args[1:3]), masks):
                kind.masked_store(builder, args[3], pointer, mask)
            return context.get_dummy_value()

        return types.void(a, types.int64, types.int64, kind, types.int64, types.int64), generate

    @intrinsic
    def fma_between(typing: Any, x: Any, y: Any, z: Any, m: Any, n: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            found = x.call(builder, "llvm.fmuladd", list(args[:3]))
            return builder.select(_between(builder, x, args[3], args[4]), found, args[2])

        return x(x, x, x, types.int64, types.int64), generate

    @intrinsic
    def fma_halves(typing: Any, x: Any, y: Any, z: Any, m: Any, n: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            found = x.call(builder, "llvm.fmuladd", list(args[:3]))
            wanted = builder.or_(*_between_in_halves(builder, x, args[3], args[4]))
            return builder.select(wanted, found, args[2])

        return x(x, x, x, types.int64, types.int64), generate

    @intrinsic(prefer_literal=True)
    def load_every(typing: Any, a: Any, i: Any, k: Any, n: Any) -> Any:
        """Elements i + k, i + k + n, i + k + 2 n, … for k < n, both literals; all that lie between are read."""
        kind = VECTORS[a.dtype]
        places = [n.literal_value * j + k.literal_value for j in range(kind.count)]

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            wide = ir.VectorType(kind.scalar, n.literal_value * kind.count)
            data = builder.gep(data_of(context, builder, signature.args[0], args[0]), [args[1]])
            everything = builder.load(builder.bitcast(data, wide.as_pointer()), align=align_of(kind))
            picked = ir.Constant(ir.VectorType(I32, kind.count), places)
            return builder.shuffle_vector(everything, everything, picked)

        return kind(a, types.intp, k, n), generate

    @intrinsic
    def store_every2(typing: Any, a: Any, i: Any, v0: Any, v1: Any) -> Any:
        """Store lane n of the two vectors side by side at i + 2 n."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            n = v0.count
            order = [j * n + k for k in range(n) for j in range(2)]
            mixed = builder.shuffle_vector(args[2], args[3], ir.Constant(ir.VectorType(I32, 2 * n), order))
            data = builder.gep(data_of(context, builder, signature.args[0], args[0]), [args[1]])
            wide = ir.VectorType(v0.scalar, 2 * n)
            builder.store(mixed, builder.bitcast(data, wide.as_pointer()), align=align_of(v0))
            return context.get_dummy_value()

        return types.void(a, types.intp, v0, v0), generate

    @intrinsic
    def store_every4(typing: Any, a: Any, i: Any, v0: Any, v1: Any, v2: Any, v3: Any) -> Any:
        """Store lane n of the four vectors side by side at i + 4 n."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            n = v0.count
            both = ir.Constant(ir.VectorType(I32, 2 * n), list(range(2 * n)))
            pairs = [builder.shuffle_vector(args[j], args[j + 1], both) for j in (2, 4)]
            order = [j * n + k for k in range(n) for j in range(4)]
            wide = ir.VectorType(v0.scalar, 4 * n)
            mixed = builder.shuffle_vector(*pairs, ir.Constant(ir.VectorType(I32, 4 * n), order))
            data = builder.gep(data_of(context, builder, signature.args[0], args[0]), [args[1]])
            builder.store(mixed, builder.bitcast(data, wide.as_pointer()), align=align_of(v0))
            return context.get_dummy_value()

        return types.void(a, types.intp, v0, v0, v0, v0), generate

    def _exchange(builder: Any, rows: list[Any], n: int, d: int) -> list[Any]:
        """Swap lane l of row k with lane l - d of row k + d, wherever l has the bit d and k has not."""
        low = [n + (lane ^ d) if lane & d else lane for lane in range(n)]
        high = [n + lane if lane & d else lane | d for lane in range(n)]
        masks = [ir.Constant(ir.VectorType(I32, n), order) for order in (low, high)]
        out = list(rows)
        for k in range(n):
            if not k & d:
                out[k], out[k | d] = (builder.shuffle_vector(rows[k], rows[k | d], mask) for mask in masks)
        return out

    @intrinsic
    def transpose(typing: Any, a: Any, i: Any, m: Any, b: Any, j: Any, n: Any) -> Any:
        """As many registers as one has lanes, m apart, to their transpose, n apart."""
        kind = VECTORS[a.dtype]

        def place(builder: Any, data: Any, first: Any, k: int, step: Any) -> Any:
            at = builder.add(first, builder.mul(step, ir.Constant(step.type, k)))
            return builder.bitcast(builder.gep(data, [at]), kind.value.as_pointer())

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source = data_of(context, builder, signature.args[0], args[0])
            target = data_of(context, builder, signature.args[3], args[3])
            size = kind.count
            rows = [
                builder.load(place(builder, source, args[1], k, args[2]), align=align_of(kind)) for k in range(size)
            ]
            d = size // 2
            while d:
                rows = _exchange(builder, rows, size, d)
                d //= 2
            for k in range(size):
                builder.store(rows[k], place(builder, target, args[4], k, args[5]), align=align_of(kind))
            return context.get_dummy_value()

        return types.void(a, types.int64, types.int64, b, types.int64, types.int64), generate

    def _place(builder: Any, data: Any, at: Any, kind: VectorType) -> Any:
        return builder.bitcast(builder.gep(data, [at]), kind.value.as_pointer())

    def _turned(builder: Any, rows: list[Any]) -> list[Any]:
        n = d = len(rows)
        while d > 1:
            d //= 2
            rows = _exchange(builder, rows, n, d)
        return rows

    def _step(builder: Any, first: Any, k: int, step: Any) -> Any:
        return builder.add(first, builder.mul(step, ir.Constant(step.type, k)))

    def _below(builder: Any, k: int, n: Any) -> Any:
        return builder.icmp_signed("<", ir.Constant(I64, k), n)

    @intrinsic
    def transpose_first(typing: Any, a: Any, i: Any, m: Any, b: Any, j: Any, n: Any, rows: Any, columns: Any) -> Any:
        """As ``transpose``; of what is written, the first ``rows`` registers, of each the first ``columns`` lanes."""
        kind = VECTORS[a.dtype]

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source = data_of(context, builder, signature.args[0], args[0])
            target = data_of(context, builder, signature.args[3], args[3])
            places = [_place(builder, source, _step(builder, args[1], k, args[2]), kind) for k in range(kind.count)]
            found = _turned(builder, [builder.load(place, align=align_of(kind)) for place in places])
            mask = kind.mask(builder, args[7])
            for k, v in enumerate(found):
                place = _place(builder, target, _step(builder, args[4], k, args[5]), kind)
                wanted = builder.select(_below(builder, k, args[6]), mask, ir.Constant(mask.type, None))
                kind.masked_store(builder, v, place, wanted)
            return context.get_dummy_value()

        return types.void(a, types.int64, types.int64, b, *[types.int64] * 4), generate

    @intrinsic
    def spread(typing: Any, a: Any, i: Any, m: Any, b: Any, j: Any, places: Any, p: Any) -> Any:
        """As ``transpose``, to places of a table."""
        kind = VECTORS[a.dtype]

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source = data_of(context, builder, signature.args[0], args[0])
            target = data_of(context, builder, signature.args[3], args[3])
            table = data_of(context, builder, signature.args[5], args[5])
            rows = [_place(builder, source, _step(builder, args[1], k, args[2]), kind) for k in range(kind.count)]
            found = _turned(builder, [builder.load(row, align=align_of(kind)) for row in rows])
            for k, v in enumerate(found):
                at = builder.load(builder.gep(table, [builder.add(args[6], ir.Constant(I64, k))]))
                builder.store(v, _place(builder, target, builder.add(args[4], at), kind), align=align_of(kind))
            return context.get_dummy_value()

        return types.void(a, types.int64, types.int64, b, types.int64, places, types.int64), generate

    @intrinsic
    def spread_first(
        typing: Any, a: Any, i: Any, m: Any, b: Any, j: Any, places: Any, p: Any, rows: Any, columns: Any
    ) -> Any:
        """As ``spread``, of a part: registers that are not wanted take the first one's place in the table."""
        kind = VECTORS[a.dtype]

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source = data_of(context, builder, signature.args[0], args[0])
            target = data_of(context, builder, signature.args[3], args[3])
            table = data_of(context, builder, signature.args[5], args[5])
            mask, zero = kind.mask(builder, args[7]), ir.Constant(kind.value, [0.0] * kind.count)
            none, every = ir.Constant(mask.type, None), ir.Constant(mask.type, [1] * kind.count)
            read = []
            for k in range(kind.count):
                wanted = builder.select(_below(builder, k, args[8]), mask, none)
                read.append(
                    kind.masked_load(
                        builder, _place(builder, source, _step(builder, args[1], k, args[2]), kind), wanted, zero
                    )
                )
            for k, v in enumerate(_turned(builder, read)):
                below = _below(builder, k, args[7])
                here = builder.select(below, builder.add(args[6], ir.Constant(I64, k)), args[6])
                place = _place(builder, target, builder.add(args[4], builder.load(builder.gep(table, [here]))), kind)
                kind.masked_store(builder, v, place, builder.select(below, every, none))
            return context.get_dummy_value()

        return types.void(a, types.int64, types.int64, b, types.int64, places, *[types.int64] * 3), generate

else:
    from tinygrad_bn.kernels.cpu._twin import (  # noqa: F401
        fma_between,
        fma_halves,
        load_between,
        load_every,
        load_halves,
        spread,
        spread_first,
        store_every2,
        store_every4,
        store_halves,
        transpose,
        transpose_first,
    )
