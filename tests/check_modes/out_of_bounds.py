"""A kernel that reads one element past its array: a bounds check must stop it, and nothing else would notice.

Exits with 0 if the fault went unnoticed, with 1 (an IndexError) if it was caught.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bn.kernels.cpu._jit import jit


@jit()
def one_too_far(x: Any, out: Any) -> None:
    for i in range(out.size):
        out[i] = x[i + 1]


room = np.arange(11.0)
one_too_far(room[:10], np.empty(10))
print("unnoticed")
