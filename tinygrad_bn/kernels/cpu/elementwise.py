"""Elementwise kernels: lifted from ``kernels/scalar.py``; what only writes or copies is NumPy's, from the
reference."""

from __future__ import annotations

from tinygrad_bn.kernels.cpu.lift import lift_all
from tinygrad_bn.kernels.ref.elementwise import arange, copy, fill, linspace

__all__ = ["arange", "copy", "fill", "linspace"]

globals().update({name: value for name, value in vars(lift_all()).items() if hasattr(value, "driver")})
