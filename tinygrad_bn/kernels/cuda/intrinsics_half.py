"""Conversions between float32 and binary16, an instruction each."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

__all__ = ["half_number", "half_word"]


@intrinsic
def half_number(typing: Any, w: Any) -> Any:
    """Return the float32 that the lower 16 bits are in binary16."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        low = builder.trunc(arguments[0], ir.IntType(16))
        return builder.fpext(builder.bitcast(low, ir.HalfType()), ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def half_word(typing: Any, x: Any) -> Any:
    """Return the float16 nearest to a float32, as uint32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        half = builder.fptrunc(arguments[0], ir.HalfType())
        return builder.zext(builder.bitcast(half, ir.IntType(16)), ir.IntType(32))

    return types.uint32(types.float32), generate
