"""In which precision a GPU may multiply: what users choose, where nothing of CUDA's need be loaded for it."""

from __future__ import annotations

__all__ = ["Precision", "precision"]


class Precision:
    """Of the whole process.

    Attributes
    ----------
    allow_tf32 : bool
        Whether products of float32 matrices may round their factors to TF32's 10 bits: tensor cores are an order of
        magnitude faster.
    """

    allow_tf32 = False


precision = Precision()
