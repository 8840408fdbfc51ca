"""Activations and the terms of losses: lifted from ``kernels/pointwise.py``."""

from __future__ import annotations

from tinygrad_bn.kernels import pointwise
from tinygrad_bn.kernels.cuda.lift import lifted

globals().update(lifted(pointwise))
