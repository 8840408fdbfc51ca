"""Elementwise kernels: lifted from ``kernels/scalar.py``; and arrays filled and copied."""

from __future__ import annotations

from tinygrad_bn.kernels import scalar
from tinygrad_bn.kernels.cuda.copying import arange, copy, fill, linspace
from tinygrad_bn.kernels.cuda.lift import lifted

__all__ = ["arange", "copy", "fill", "linspace"]

globals().update(lifted(scalar))
