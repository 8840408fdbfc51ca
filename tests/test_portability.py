"""Kernels for processors with narrower registers: Numba compiles for what it is told, and the results are the same.

``NUMBA_CPU_NAME`` alone keeps the host's features: ``NUMBA_CPU_FEATURES`` has to be set too. ``.ci/run`` runs some of
the kernels' tests in the same way.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinygrad_bn.kernels.cpu._jit import ENABLED

CODE = """
import json
import numpy as np
import tinygrad_bn as tb
from tinygrad_bn.core.device import cpu
from tinygrad_bn.kernels.cpu.vector import WIDTH
x, w = (np.random.default_rng(0).standard_normal(s, dtype=np.float32) for s in ((7, 45), (45, 37)))
y = (tb.tensor(x) @ tb.tensor(w)).numpy()
kernel = cpu.kernels.matmul_nn.serial
(text,) = kernel.inspect_asm().values()
words = {word: word in text for word in ("zmm", "ymm", "vfmadd", "mulps")}
print(json.dumps({"width": WIDTH, "error": float(abs(y - x.astype(float) @ w).max()), **words}))
"""
TARGETS = {
    "haswell": ("+avx2,+fma", {"width": 32, "zmm": False, "ymm": True, "vfmadd": True}),
    "nehalem": ("+sse4.2", {"width": 16, "zmm": False, "ymm": False, "vfmadd": False, "mulps": True}),
}


@pytest.mark.skipif(not ENABLED or os.uname().machine != "x86_64", reason="compiles for x86-64")
@pytest.mark.parametrize("name", list(TARGETS))
def test_a_product_for_another_processor(name: str, tmp_path: Path) -> None:
    features, wanted = TARGETS[name]
    chosen = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "TINYGRAD_BN_CACHE": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", CODE], env=os.environ | chosen, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-3000:]
    told = json.loads(found.stdout)
    assert told["error"] < 1e-4
    assert {key: told[key] for key in wanted} == wanted
