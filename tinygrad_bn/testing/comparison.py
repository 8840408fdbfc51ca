"""Arrays compared, and laid out in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinygrad_bn.core.device import as_device
from tinygrad_bn.core.tensor import Array, Tensor, wrap


def assert_close(actual: Array, expected: Array, rtol: float, name: str = "the result") -> None:
    """Raise unless two arrays agree in shape and, to ``rtol`` of an element plus of the largest finite one, in values.

    NaN and infinities must stand exactly where they are expected; integers and booleans must be equal.
    """
    if actual.shape != expected.shape:
        raise AssertionError(f"{name} must have shape {expected.shape}. Got {actual.shape}.")
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(b) & (actual.dtype.kind == "f")
    if not np.isfinite(a[finite]).all() or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        raise AssertionError(f"{name} must be\n{expected}\nGot\n{actual}")
    a, b = np.where(finite, a, 0), np.where(finite, b, 0)
    excess = np.abs(a - b) - rtol * (np.abs(b) + np.abs(b).max(initial=0))
    if excess.max(initial=0) > 0:
        at = np.unravel_index(int(excess.argmax()), b.shape)
        raise AssertionError(
            f"{name} is off at {int((excess > 0).sum())} of {b.size} elements, worst at {tuple(map(int, at))}: "
            f"{float(a[at])!r} instead of {float(b[at])!r}, allowed {rtol:.2g}."
        )


def compare_all(actual: Sequence[Array], expected: Sequence[Array], rtol: float, name: str) -> None:
    """Raise unless two lists of arrays agree."""
    if len(actual) != len(expected):
        raise AssertionError(f"{name}s: {len(expected)} were expected. Got {len(actual)}.")
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert_close(a, b, rtol, f"{name} {i}")


def make_tensor(array: Array, layout: str = "plain", device: str = "cpu") -> Tensor:
    """Return a tensor of an array's values in a memory layout, "plain" or one of ``LAYOUTS``, in memory of its own.

    "expanded" keeps the values only if all rows, along the first axis, are alike.
    """
    place = as_device(device)
    if layout == "permuted":
        return wrap(place.array(array.T.copy(order="C")).T, place)
    if layout == "sliced" and array.ndim:
        rows = np.zeros((*array.shape[:-1], 2 * array.shape[-1] + 1), array.dtype)
        rows[..., 1::2] = array
        return wrap(place.array(rows)[..., 1::2], place)
    if layout == "expanded" and array.ndim and array.shape[0] > 1:
        row = place.array(array[:1].copy(order="C"))
        return wrap(np.lib.stride_tricks.as_strided(row, array.shape, (0, *row.strides[1:]), subok=True), place)
    return wrap(place.array(array.copy(order="C")), place)


def elements(x: Tensor) -> Array:
    """Return a tensor's elements as an array of the host's, whatever its device."""
    return x.device.to_host(x.array)
