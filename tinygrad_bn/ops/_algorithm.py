"""Which algorithm a convolution goes by: the one policy, and what a user may ask for instead.

    im2col      products of matrices and columns that lie in memory: any geometry, any device
    direct      sums over taps, no columns (``_direct``, ``_direct_weight``; ``_depthwise`` for groups of few channels)
    winograd    3×3 of stride 1 in float32 (``_winograd``), and what becomes one in pieces (``_winograd_pieces``):
                larger filters, dilation, some strides

"auto" takes Winograd's where it pays, else the direct one. What is asked for by name is taken where it can do the
geometry; "winograd" falls back on the direct one. Other devices than the CPU have im2col alone.
"""

from __future__ import annotations

from tinygrad_bn.core.device import Device
from tinygrad_bn.core.dtype import DType
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.ops import _depthwise, _winograd, _winograd_pieces
from tinygrad_bn.ops._geometry import Geometry

CONV_ALGORITHMS = ("auto", "direct", "winograd", "im2col")
_asked = "auto"


def set_conv_algorithm(name: str) -> None:
    """Ask for an algorithm, from the next convolution on, in all threads.

    Raises
    ------
    ArgumentError
        If there is none of that name.
    """
    global _asked
    if name not in CONV_ALGORITHMS:
        want = "one of " + ", ".join(map(repr, CONV_ALGORITHMS))
        raise ArgumentError(wrong("backends.cpu", "conv_algorithm", want, repr(name)))
    _asked = name


def get_conv_algorithm() -> str:
    """Return what is asked for."""
    return _asked


def algorithm(inputs: int, outputs: int, g: Geometry, dtype: DType, device: Device, of_filters: bool = False) -> str:
    """Return "winograd", "pieces", "depthwise", "direct" or "im2col" for a convolution from so many channels to so
    many, or, ``of_filters``, for its filters' gradient; "pieces" is Winograd's, of arrays that are taken apart."""
    asked = _asked
    if device.type != "cpu" or asked == "im2col":
        return "im2col"
    if asked == "winograd" and _winograd.fits(g, dtype, device):
        return "winograd"
    if asked == "auto" and _winograd.pays(inputs, outputs, g, dtype, device):
        return "winograd"
    if asked == "winograd" and _winograd_pieces.fits(g, dtype, device):
        return "pieces"
    if asked == "auto" and _winograd_pieces.pays(inputs, outputs, g, dtype, device, of_filters):
        return "pieces"
    return "depthwise" if _depthwise.pays(inputs, outputs, g, device) else "direct"
