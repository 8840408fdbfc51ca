"""e^v of registers for sums of e^(x - max x): where nothing overflows, a third of ``simd.exp``'s operations go."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from tinygrad_bn.kernels.cpu._jit import ENABLED, jit
from tinygrad_bn.kernels.cpu.math import exp_core
from tinygrad_bn.kernels.cpu.simd import exp, largest, splat

_F4 = np.float32

if ENABLED:
    from tinygrad_bn.kernels.cpu.simd import _pow2, _rint
    from tinygrad_bn.kernels.cpu.vector import VECTORS

    @jit(inline=True)
    def _exp_below_f32(v: Any) -> Any:
        """From -88 down n is -127, whose bits as an exponent are those of 0."""
        v = largest(v, splat(_F4(-88.0)))
        n = _rint(v * _F4(1.44269504))
        return exp_core(v, n) * _pow2(n)

    def exp_below(v: Any) -> Any:
        """e^v where no lane is above 88, infinity included; in float32, 0 where v is below -87.68. NaN stays."""

    @overload(exp_below, strict=False)
    def _exp_below(v: Any) -> Any:
        if v is VECTORS[types.float32]:
            return lambda v: _exp_below_f32(v)
        return lambda v: exp(v)

else:
    exp_below = exp
