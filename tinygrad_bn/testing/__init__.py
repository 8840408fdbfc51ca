"""Checks for people who add an operation: gradients against finite differences, and everything else that it owes.

    check_vjp   the operation's own <w, J v> against central differences of t -> <w, f(x + t v)>, for a random
                direction v and a random cotangent w; second derivatives likewise
    check_op    that, and values on every device, in every dtype and memory layout; no side effects, no shared memory

A sum is never differentiated: the gradient of Σ y through batch norm is zero, so a backward that returns zeros would
pass.
"""

from __future__ import annotations

from tinygrad_bn.testing.comparison import assert_close, make_tensor
from tinygrad_bn.testing.derivatives import GRADIENT_TOLERANCE, STEP, check_vjp, floating_outputs
from tinygrad_bn.testing.operations import LAYOUTS, VALUE_TOLERANCE, check_op

__all__ = [
    "GRADIENT_TOLERANCE",
    "LAYOUTS",
    "STEP",
    "VALUE_TOLERANCE",
    "assert_close",
    "check_op",
    "check_vjp",
    "floating_outputs",
    "make_tensor",
]
