"""What ``numba.cuda`` has no words for: four elements at a time, the bits of a number, the memory at an address.

    load4(p, i)                 p[i], p[i + 1], p[i + 2], p[i + 3]: one access of 16 bytes where p is float32; i, and p
                                itself, are multiples of 4 elements
    store4(p, i, a, b, c, d)
    as_bits(x), as_number(u)    a float32 as uint32, and back
    raise_to(p, i, v)           p[i] = max(p[i], v), atomically; integers
    at(address, like)           a pointer to elements of the type that ``like`` points to

Pointers and shared arrays alike; the latter made by ``cuda.shared.array(n, dtype, 16)``, or they begin anywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cuda.target import SIMULATED

__all__ = ["as_bits", "as_number", "at", "load4", "raise_to", "store4"]

if SIMULATED:
    from tinygrad_bn.kernels.cuda.simulator import at, cuda

    raise_to = cuda.atomic.max

    def load4(p: Any, i: Any) -> Any:
        """Return four elements."""
        _aligned(p, i)
        return p[i], p[i + 1], p[i + 2], p[i + 3]

    def store4(p: Any, i: Any, a: Any, b: Any, c: Any, d: Any) -> None:
        """Write four elements."""
        _aligned(p, i)
        p[i], p[i + 1], p[i + 2], p[i + 3] = a, b, c, d

    def _aligned(p: Any, i: Any) -> None:
        first = p.array.ctypes.data + int(i) * p.array.itemsize
        if first % min(4 * p.array.itemsize, 16):
            raise IndexError(f"{p.name}[{int(i)}]: four elements at an address that is no multiple of 16")

    def as_bits(x: Any) -> Any:
        """Return the bits of a float32 as uint32."""
        return np.float32(x).view(np.uint32)

    def as_number(u: Any) -> Any:
        """Return the float32 of those bits."""
        return np.uint32(u).view(np.float32)

else:
    from tinygrad_bn.kernels.cuda.intrinsics import as_bits, as_number, at, load4, raise_to, store4
