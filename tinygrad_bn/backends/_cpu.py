"""Choices about the CPU's kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tinygrad_bn.ops._algorithm import get_conv_algorithm, set_conv_algorithm


class CpuBackend:
    """Choices about the CPU's kernels, for the whole process.

    Attributes
    ----------
    conv_algorithm : str
        "auto" (default) picks an algorithm by measured rules; "direct", "winograd" and "im2col" ask for one.
        Winograd's does 3×3 windows of stride and dilation 1, without groups, in float32; where it cannot, the direct
        algorithm, which can do everything, takes its place. All compute the same sums; they differ in rounding
        (Winograd's by up to 4e-7 √C of the largest result, the others by about 4e-7) and in speed.
    """

    __slots__ = ()

    @property
    def conv_algorithm(self) -> str:
        """Which algorithm convolutions and their gradients go by."""
        return get_conv_algorithm()

    @conv_algorithm.setter
    def conv_algorithm(self, name: str) -> None:
        set_conv_algorithm(name)

    @contextmanager
    def flags(self, *, conv_algorithm: str) -> Iterator[None]:
        """Choose for as long as a ``with`` block runs.

        Parameters
        ----------
        conv_algorithm : str

        Raises
        ------
        ArgumentError
            If there is no such algorithm.
        """
        before = self.conv_algorithm
        self.conv_algorithm = conv_algorithm
        try:
            yield
        finally:
            self.conv_algorithm = before
