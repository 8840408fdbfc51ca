"""Samples of convolutions of what is normalised on its way in."""

from __future__ import annotations

from typing import Any

import numpy as np
from op_samples import Array, Sample, normal, positive, record
from samples_bn_residual import oracle as normalised
from samples_convolution import correlate

from tinygrad_bn.functional.convolution import geometry_of
from tinygrad_bn.ops.convolution_norm import norm_convolution, statistics_of


def run(act: str, padding: int, stride: int = 1) -> Any:
    def call(lib: Any, x: Any, w: Any, b: Any, filters: Any) -> Any:
        if lib.__name__ == "torch":
            z = lib.nn.functional.batch_norm(x, None, None, w, b, True)
            z = z if act == "none" else getattr(lib, act)(z)
            return lib.nn.functional.conv2d(z, filters, None, stride, padding)
        geometry = geometry_of("conv2d", 2, x, filters, None, stride, padding, 1, 1)
        return norm_convolution(x, w, b, filters, statistics_of(x, 1e-5), 1e-5, act, geometry, 1e-3)[0]

    return call


def sample(act: str, shape: tuple[int, ...], filters: tuple[int, ...], padding: int, stride: int = 1) -> Sample:
    x, w, b = normal(*shape), positive(shape[1]), normal(shape[1])
    z = normalised(x, np.zeros_like(x), w, b, 1e-5, "none")
    x = x + np.where(np.abs(z) < 0.02, 0.05, 0)  # away from the ReLU's kink

    def exact(x: Array, w: Array, b: Array, f: Array) -> Array:
        return correlate(normalised(x, np.zeros_like(x), w, b, 1e-5, act), f, stride=stride, padding=padding)

    return Sample(f"{shape}-{act}-{padding}", run(act, padding, stride), (x, w, b, normal(*filters)), exact)


record(
    "norm_convolution",
    [
        sample("relu", (2, 8, 5, 6), (9, 8, 3, 3), 1),
        sample("none", (1, 9, 8, 4), (8, 9, 3, 3), 2),
        sample("sigmoid", (2, 8, 4, 5), (8, 8, 3, 3), 1),
        sample("relu", (2, 2, 5, 5), (3, 2, 3, 3), 1, 2),
    ],
)
