"""Choices about the GPU's kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.kernels.precision import precision
from tinygrad_bn.ops._algorithm import get_conv_algorithm, set_conv_algorithm


class CudaBackend:
    """Choices about the GPU's kernels, for the whole process. They may be made where there is no GPU, too.

    Attributes
    ----------
    conv_algorithm : str
        "auto" (default), which is "direct" at present: the product of matrices that a convolution is, its columns
        never written; "im2col": columns in memory, and products by cuBLAS where it is installed. Both compute the same
        sums, and differ in rounding.
    allow_tf32 : bool
        Whether cuBLAS may round the factors of float32 products to TF32, which keeps 10 bits of 23; False by default.
        Convolutions use cuBLAS only by "im2col".
    """

    __slots__ = ()

    @property
    def conv_algorithm(self) -> str:
        """Which algorithm convolutions and their gradients go by."""
        return get_conv_algorithm("cuda")

    @conv_algorithm.setter
    def conv_algorithm(self, name: str) -> None:
        set_conv_algorithm(name, "cuda")

    @property
    def allow_tf32(self) -> bool:
        """Whether products of float32 may be computed from factors of TF32."""
        return precision.allow_tf32

    @allow_tf32.setter
    def allow_tf32(self, allowed: bool) -> None:
        if not isinstance(allowed, bool):
            raise ArgumentError(wrong("backends.cuda", "allow_tf32", "a bool", repr(allowed)))
        precision.allow_tf32 = allowed

    @contextmanager
    def flags(self, *, conv_algorithm: str | None = None, allow_tf32: bool | None = None) -> Iterator[None]:
        """Choose for as long as a ``with`` block runs; what is not given stays.

        Parameters
        ----------
        conv_algorithm : str, optional
        allow_tf32 : bool, optional

        Raises
        ------
        ArgumentError
            If there is no such algorithm, or ``allow_tf32`` is no bool.
        """
        before = self.conv_algorithm, self.allow_tf32
        try:
            if conv_algorithm is not None:
                self.conv_algorithm = conv_algorithm
            if allow_tf32 is not None:
                self.allow_tf32 = allow_tf32
            yield
        finally:
            self.conv_algorithm, self.allow_tf32 = before
