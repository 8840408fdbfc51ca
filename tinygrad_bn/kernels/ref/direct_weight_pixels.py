"""The gradient of a convolution's filters as a direct sum, of few outputs or taps; see ``direct_weight.py``."""

from __future__ import annotations

from tinygrad_bn.kernels.ref.direct_weight import Array, direct_weight
from tinygrad_bn.kernels.spec import spec


@spec(writes="gw", workspace="places work parts")
def direct_weight_pixels(
    x: Array, gy: Array, stride_h: int, stride_w: int, top: int, left: int, dilation_h: int, dilation_w: int,
    samples: int, rows: int, columns: int, channels: int, places: Array, work: Array, parts: Array, gw: Array,
) -> None:  # fmt: skip
    """The same, for few outputs or taps; ``rows`` is 1 unless ``columns`` are all, ``work`` holds shifted strips."""
    direct_weight(
        x, gy, stride_h, stride_w, top, left, dilation_h, dilation_w, samples, rows, columns, channels, places, work,
        parts, gw,
    )  # fmt: skip
