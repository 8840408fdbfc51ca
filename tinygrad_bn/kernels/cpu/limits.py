"""What the processor can do at most: loops that do one thing and nothing else, to be timed.

sums <- a sums + b       fused multiplications and additions in registers, 2 · LANES operations a repeat
target <- source         8 bytes an element of float32, read and written
"""

from __future__ import annotations

from typing import Any

from tinygrad_bn.kernels.cpu._jit import jit

__all__ = ["LANES", "multiply_add", "stream"]

LANES = 256  # enough independent sums for the latency of two units of the widest registers


@jit()
def multiply_add(sums: Any, a: Any, b: Any, repeats: Any) -> None:
    """So many rounds over LANES sums."""
    for _ in range(repeats):
        for i in range(LANES):
            sums[i] = sums[i] * a + b


@jit()
def stream(source: Any, target: Any, repeats: Any) -> None:
    """So many copies."""
    for repeat in range(repeats):
        source[0] = repeat  # or the compiler would copy once
        for i in range(source.size):  # LLVM makes vectors of it; of a slice's assignment it does not
            target[i] = source[i]
