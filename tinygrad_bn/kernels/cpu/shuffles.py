"""Moves between registers and memory that reorder: elements that lie a stride apart.

    load_every(a, i, k, n)                    the lanes of a[i + k], a[i + k + n], a[i + k + 2 n], …
    store_every2(a, i, v, w)                  lane n of the two side by side at i + 2 n
    store_every4(a, i, v, w, x, y)            lane n of the four side by side at i + 4 n
    transpose(a, i, m, b, j, n)               b[j + k n + l] = a[i + l m + k] for all lanes k and l

With the JIT off the same names work on NumPy arrays (``_twin.py``).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tinygrad_bn.kernels.cpu._jit import ENABLED
from tinygrad_bn.kernels.cpu.vector import I32, VECTORS, align_of, data_of

if ENABLED:

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

else:
    from tinygrad_bn.kernels.cpu._twin import load_every, store_every2, store_every4, transpose  # noqa: F401
