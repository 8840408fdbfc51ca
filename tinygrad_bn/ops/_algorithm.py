"""Which algorithm a convolution goes by: the one policy, and what a user may ask for instead.

    im2col      products of matrices and columns that lie in memory: any geometry, any device
    direct      sums over taps, no columns (``_direct``, ``_direct_weight``; ``_depthwise`` for groups of few channels)
    winograd    3×3 of stride 1 in float32 (``_winograd``), and what becomes one in pieces (``_winograd_pieces``):
                larger filters, dilation, some strides

"auto" takes Winograd's where it pays, else the direct one. What is asked for by name is taken where it can do the
geometry; "winograd" falls back on the direct one. A GPU has no Winograd's; its direct algorithm is a product of
matrices that finds the columns' elements in the input. Other devices have im2col alone.
"""

from __future__ import annotations

from tinygrad_bn.core.device import Device
from tinygrad_bn.core.dtype import DType
from tinygrad_bn.errors import ArgumentError, wrong
from tinygrad_bn.ops import _depthwise, _winograd, _winograd_pieces
from tinygrad_bn.ops._geometry import Geometry

CONV_ALGORITHMS = ("auto", "direct", "winograd", "im2col")
CUDA_CONV_ALGORITHMS = ("auto", "direct", "im2col")
_asked = {"cpu": "auto", "cuda": "auto"}


def set_conv_algorithm(name: str, kind: str = "cpu") -> None:
    """Ask for an algorithm on a type of device, from the next convolution on, in all threads.

    Raises
    ------
    ArgumentError
        If there is none of that name.
    """
    names = CONV_ALGORITHMS if kind == "cpu" else CUDA_CONV_ALGORITHMS
    if name not in names:
        want = "one of " + ", ".join(map(repr, names))
        raise ArgumentError(wrong(f"backends.{kind}", "conv_algorithm", want, repr(name)))
    _asked[kind] = name


def get_conv_algorithm(kind: str = "cpu") -> str:
    """Return what is asked for on a type of device."""
    return _asked[kind]


def algorithm(inputs: int, outputs: int, g: Geometry, dtype: DType, device: Device, of_filters: bool = False) -> str:
    """Return "winograd", "pieces", "depthwise", "direct" or "im2col" for a convolution from so many channels to so
    many, or, ``of_filters``, for its filters' gradient; "pieces" is Winograd's, of arrays that are taken apart."""
    asked = _asked.get(device.type, "im2col")
    if asked == "im2col":
        return "im2col"
    if device.type != "cpu":
        return "depthwise" if _depthwise.pays(inputs, outputs, g, device) else "direct"
    if asked == "winograd" and _winograd.fits(g, dtype, device):
        return "winograd"
    if asked == "auto" and _winograd.pays(inputs, outputs, g, dtype, device):
        return "winograd"
    if asked == "winograd" and _winograd_pieces.fits(g, dtype, device):
        return "pieces"
    if asked == "auto" and _winograd_pieces.pays(inputs, outputs, g, dtype, device, of_filters):
        return "pieces"
    return "depthwise" if _depthwise.pays(inputs, outputs, g, device) else "direct"
