"""Functions of numbers, for kernels that are generated: of the numbers' own type, on the GPU and in the simulator.

Those of CUDA's mathematical library, whose float32 ones are within 1 to 4 units in the last place, ``ndtr`` within 5
(CUDA C++ Programming Guide, "Mathematical Functions"). ``power`` of integers multiplies, and is exact.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.target import SIMULATED

__all__ = ["NAMES"]

UNARY = (
    "acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "erf", "erfc", "exp", "exp2", "expm1",
    "floor", "log", "log10", "log1p", "log2", "rint", "sin", "sinh", "sqrt", "tan", "tanh", "trunc",
)  # fmt: skip
BINARY = ("atan2", "copysign", "fmod", "hypot")


def _power(x: Any, y: Any) -> Any:
    return x**y


def _whole_power(x: Any, y: Any) -> Any:
    """By squares; below 0, 1 / x^-y, cut."""
    base = np.int64(x)
    left = np.int64(y)
    if left < 0:
        return np.int64(base if left & 1 else 1) if base == 1 or base == -1 else np.int64(0)
    found = np.int64(1)
    while left > 0:
        if left & 1:
            found *= base
        base *= base
        left >>= 1
    return found


def _simulated() -> dict[str, Any]:
    """NumPy's, and the standard library's given back in the type they are given."""
    own = {"ndtr": lambda x: 0.5 * math.erfc(x * -0.7071067811865476), "erf": math.erf, "erfc": math.erfc}
    found: dict[str, Any] = {n: lambda x, f=f: type(x)(f(x)) for n, f in own.items()}
    for name in (*UNARY, *BINARY):
        if name not in own:
            spelled = f"arc{name[1:]}" if name[0] == "a" else name
            found[name] = getattr(np, spelled)
    return found | {"power": _power}


def _on_gpu() -> dict[str, Any]:
    """The library's for the type of the first number."""
    from numba.cuda import libdevice, types
    from numba.cuda.extending import overload

    def one(single: Any, double: Any) -> Any:
        def function(x):  # type: ignore[no-untyped-def]
            raise NotImplementedError

        @overload(function)
        def _(x):  # type: ignore[no-untyped-def]
            return (lambda x: single(x)) if x is types.float32 else (lambda x: double(x))

        return function

    def two(single: Any, double: Any) -> Any:
        def function(x, y):  # type: ignore[no-untyped-def]
            raise NotImplementedError

        @overload(function)
        def _(x, y):  # type: ignore[no-untyped-def]
            return (lambda x, y: single(x, y)) if x is types.float32 else (lambda x, y: double(x, y))

        return function

    @overload(_power, strict=False)
    def _(x: Any, y: Any) -> Any:
        return _whole_power if isinstance(x, types.Integer) and isinstance(y, types.Integer) else lambda x, y: x**y

    found: dict[str, Any] = {"ndtr": one(libdevice.normcdff, libdevice.normcdf), "power": _power}
    for names, made in ((UNARY, one), (BINARY, two)):
        found |= {n: made(getattr(libdevice, n + "f"), getattr(libdevice, n)) for n in names}
    return found


NAMES: dict[str, Any] = _simulated() if SIMULATED else _on_gpu()
"""What a formula's functions stand for, by their names in ``math``; and ``power``, ``rint``, ``ndtr``."""
