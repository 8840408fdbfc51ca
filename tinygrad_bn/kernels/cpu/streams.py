"""Moves for results that are too large to stay in the caches until somebody reads them.

    stream(a, i, v)      store past the caches; the address must be a multiple of the register's size
    settle()             what was streamed is seen by other threads that are told of it after this
    misaligned(a)        how many elements the array begins behind a multiple of the register's size
    blend(v, w, n)       the first n lanes of v, then those of w

With the JIT off the same names work on NumPy arrays (``_twin.py``).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tinygrad_bn.kernels.cpu._jit import ENABLED
from tinygrad_bn.kernels.cpu.vector import I32, I64, VECTORS, WIDTH, address_of, data_of

if ENABLED:

    @intrinsic
    def stream(typing: Any, a: Any, i: Any, v: Any) -> Any:
        kind = VECTORS[a.dtype]

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = address_of(context, builder, signature.args[0], args[0], args[1], kind)
            stored = builder.store(args[2], pointer, align=WIDTH)
            stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(I32, 1)]))
            return context.get_dummy_value()

        return types.void(a, types.int64, kind), generate

    @intrinsic
    def settle(typing: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.fence("seq_cst")
            return context.get_dummy_value()

        return types.void(), generate

    @intrinsic
    def misaligned(typing: Any, a: Any) -> Any:
        kind = VECTORS[a.dtype]

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            address = builder.ptrtoint(data_of(context, builder, signature.args[0], args[0]), I64)
            rest = builder.and_(address, ir.Constant(I64, WIDTH - 1))
            return builder.udiv(rest, ir.Constant(I64, WIDTH // kind.count))

        return types.int64(a), generate

    @intrinsic
    def blend(typing: Any, v: Any, w: Any, n: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.select(v.mask(builder, args[2]), args[0], args[1])

        return v(v, v, types.int64), generate

else:
    from tinygrad_bn.kernels.cpu._twin import blend, misaligned, settle, stream  # noqa: F401
