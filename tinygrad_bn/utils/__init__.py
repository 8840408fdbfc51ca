"""What trades one resource for another, with PyTorch's names."""

from __future__ import annotations

from tinygrad_bn.utils import checkpoint

__all__ = ["checkpoint"]
