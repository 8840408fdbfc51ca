"""Operations in low precision against the same in float32: what ``test_half.py`` asks of every sample."""

from __future__ import annotations

from typing import Any

import numpy as np
from op_samples import RECORDS, OpSamples, Sample

import tinygrad_bn as tb
from tinygrad_bn.core.backward import backward
from tinygrad_bn.core.dtype import DType
from tinygrad_bn.testing.derivatives import random_of, tensors_in

Array = np.ndarray[Any, Any]
PLACES = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Half of the last place, relative to a number."""


def rounded(array: Array, dtype: DType) -> Array:
    """Float32 numbers that low precision has."""
    found: Array = tb.tensor(array, dtype=dtype, device="ref").float().numpy()
    return found


def inputs(sample: Sample, dtype: DType, device: str) -> tuple[list[tb.Tensor], list[tb.Tensor]]:
    """The sample's tensors in low precision, and the same values in float32."""
    low, single = [], []
    for array in sample.arrays:
        floating = array.dtype.kind == "f"
        values = rounded(array, dtype) if floating else array
        single.append(tb.tensor(values, device=device))
        low.append(tb.tensor(values, device=device, dtype=dtype) if floating else tb.tensor(values, device=device))
        if floating and sample.order:
            single[-1].requires_grad = low[-1].requires_grad = True
    return low, single


def results(call: Any, given: list[tb.Tensor], dtype: DType | None) -> tuple[list[tb.Tensor], list[tb.Tensor | None]]:
    """A call's results and gradients; gradients start from the same numbers in every precision."""
    tb.manual_seed(0)
    outs = tensors_in(call(tb, *given))
    tracked = [o for o in outs if o.node is not None]
    rng = np.random.default_rng(0)
    starts = [rounded(random_of(o.shape, rng).astype(np.float32), dtype or tb.bfloat16) for o in tracked]
    cotangents = [tb.tensor(s, dtype=o.dtype, device=o.device) for s, o in zip(starts, tracked, strict=True)]
    backward(tracked, cotangents, None, False)
    return outs, [x.grad for x in given]


def agree(got: tb.Tensor, want: tb.Tensor, dtype: DType, name: str, places: float) -> None:
    """To so many halves of the last place, of an element or of the largest; infinities where they are due."""
    assert got.shape == want.shape, name
    if not want.dtype.is_floating_point:
        assert got.dtype is want.dtype, name
        np.testing.assert_array_equal(got.numpy(), want.numpy(), err_msg=name)
        return
    assert got.dtype is dtype, f"{name}: {got.dtype.name}"
    a, b = got.detach().float().numpy().astype(np.float64), rounded(want.detach().numpy(), dtype).astype(np.float64)
    finite = np.isfinite(b)
    np.testing.assert_array_equal(a[~finite], b[~finite], err_msg=name)
    size = np.abs(b[finite]) + np.abs(b[finite]).max(initial=0)
    worst = np.abs(a[finite] - b[finite]) - places * PLACES[dtype.name] * size
    assert worst.max(initial=-1) <= 0, f"{name}: {a} instead of {b}"


def check(sample: Sample, dtype: DType, device: str, places: float = 8) -> None:
    """Values and gradients of a sample."""
    low, single = inputs(sample, dtype, device)
    with np.errstate(all="ignore"):
        outs, gradients = results(sample.call, low, dtype)
        wanted, wanted_gradients = results(sample.call, single, dtype)
    assert len(outs) == len(wanted)
    for i, (got, want) in enumerate(zip(outs, wanted, strict=True)):
        agree(got, want, dtype, f"output {i}", places)
    for i, (g, w) in enumerate(zip(gradients, wanted_gradients, strict=True)):
        assert (g is None) == (w is None), f"gradient {i}"
        if g is not None and w is not None:
            agree(g, w, dtype, f"gradient {i}", places)


def samples() -> list[tuple[OpSamples, Sample]]:
    return [(r, s) for r in RECORDS for s in r.samples]
