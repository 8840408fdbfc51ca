"""Every operation on ``cuda``, by the samples of the generic suite: on a GPU where there is one, else simulated."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import numpy as np
import pytest
from op_samples import RECORDS, OpSamples, Sample

import tinygrad_bn as tb
from tinygrad_bn import cuda
from tinygrad_bn.core.registry import OPS
from tinygrad_bn.testing import check_op

for _path in sorted(Path(__file__).parent.glob("samples_*.py")):
    importlib.import_module(_path.stem)

pytestmark = pytest.mark.skipif(not cuda.is_available(), reason="no GPU, and NUMBA_ENABLE_CUDASIM is not 1")

NOT_HERE = {
    "linear_batch_norm": "a way of processors with caches; nn.Sequential runs linear and batch_norm_train instead",
    "linear_batch_norm_backward": "as above",
}
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
LARGE = 900
SAMPLES = [(r, s) for r in RECORDS for s in r.samples if not set(r.ops) & set(NOT_HERE)]


def _layouts(sample: Sample) -> tuple[str, ...]:
    """Strides to try besides C order: in the simulator none of samples that are there for their size."""
    if not SIMULATED:
        return ("permuted", "sliced", "expanded")
    return ("permuted",) if sum(np.size(a) for a in sample.arrays) < LARGE else ()


@pytest.mark.parametrize(("record", "sample"), SAMPLES, ids=[f"{r.name}-{s.name}".replace(" ", "") for r, s in SAMPLES])
def test_operation_on_cuda(record: OpSamples, sample: Sample) -> None:
    """Values against the oracle, gradients against differences, no side effects: in float64."""
    check_op(
        lambda *tensors: sample.call(tb, *tensors),
        sample.arrays,
        reference=sample.numpy,
        devices=("cuda",),
        dtypes=("float64",),
        layouts=_layouts(sample),
        order=min(sample.order, 1 if SIMULATED else 2),
        view=sample.view,
    )


def test_every_operation_has_a_sample_here() -> None:
    assert {op for r, _ in SAMPLES for op in r.ops} == set(OPS) - set(NOT_HERE)
