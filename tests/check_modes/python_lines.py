"""Count the lines of kernel source that Python executes: all of them with the JIT off, none with it on.

python python_lines.py            prints the number of lines executed in kernels/cpu/bn_rows.py
python python_lines.py fault      the same, of a kernel that has a fault which only Python reports
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import numpy as np

from tinygrad_bn.core.device import cpu
from tinygrad_bn.kernels.cpu import bn_rows
from tinygrad_bn.kernels.cpu._jit import jit

lines: set[int] = set()


def trace(frame: FrameType, event: str, argument: object) -> Any:
    if frame.f_code.co_filename == bn_rows.__file__:
        lines.add(frame.f_lineno)
        return trace
    return None


@jit()
def doubtful(x: Any, out: Any) -> None:
    """A shape that does not fit: compiled, it writes what fits; in Python it raises."""
    for i in range(x.size):
        out[i] = x[i]


if sys.argv[1:] == ["fault"]:
    doubtful(np.arange(3.0), np.empty(4)[:2])
    print("unnoticed")
else:
    kernel = cpu.kernels.batch_norm_train
    x = np.random.default_rng(0).standard_normal((3, 2, 5))
    none = np.empty(0)
    sys.settrace(trace)
    kernel.serial(x, none, none, 1e-5, 0, 0, np.empty_like(x), np.empty((4, 2)), np.empty((2, 1, 3)))
    sys.settrace(None)
    print(len(lines))
