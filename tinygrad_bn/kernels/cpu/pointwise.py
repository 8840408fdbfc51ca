"""Activations and the terms of losses: lifted from ``kernels/pointwise.py``."""

from __future__ import annotations

from tinygrad_bn.kernels import pointwise
from tinygrad_bn.kernels.cpu.lift import lift_all

globals().update({name: value for name, value in vars(lift_all(pointwise)).items() if hasattr(value, "driver")})
