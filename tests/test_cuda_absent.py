"""Without a GPU: what is imported, and what is said. Each case is faked in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def run(code: str) -> str:
    """What a process without the simulator prints; it must warn of nothing."""
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_ENABLE_CUDASIM"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_importing_loads_nothing_of_cuda() -> None:
    code = """
import sys, tinygrad_bn, tinygrad_bn.cuda
tinygrad_bn.cuda.empty_cache()
tinygrad_bn.synchronize()
tinygrad_bn.zeros(3).to("cpu")
prefixes = "numba_cuda", "numba.cuda", "tinygrad_bn.kernels.cuda", "tinygrad_bn.core.cuda"
settings = "tinygrad_bn.kernels.cuda", "tinygrad_bn.kernels.cuda.choices"  # plain Python
print([m for m in sys.modules if (m.split(".")[0] == "cuda" or m.startswith(prefixes)) and m not in settings])
"""
    assert run(code) == "[]\n"


FAKE = """
import sys, types
import numba
def fake(name, **names):
    module = sys.modules[name] = types.ModuleType(name)
    module.__dict__.update(names)
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
class Status(int): pass
def no_library(flags):
    raise RuntimeError("Failure finding libcuda.so")
"""
BINDINGS = """
fake("numba.cuda", __file__="/numba_cuda/__init__.py", compile_ptx=print)
fake("cuda")
fake("cuda.bindings")
"""
ASK = """
import tinygrad_bn as tb
from tinygrad_bn import cuda
assert not cuda.is_available() and cuda.device_count() == 0
for ask in (lambda: tb.zeros(2, device="cuda"), lambda: tb.ones(2).cuda(), lambda: cuda.get_device_name(), cuda.Stream):
    try:
        ask()
    except tb.errors.DeviceError as error:
        said = str(error)
    else:
        raise AssertionError("no error")
print(said)
assert tb.ones(2).tolist() == [1.0, 1.0]
"""
CASES = {
    "numba-cuda": ('sys.modules["numba.cuda"] = None', "device: 'cuda' needs numba-cuda"),
    "driver": (
        BINDINGS + 'fake("cuda.bindings.driver", cuInit=no_library)',
        "device: 'cuda' needs an NVIDIA driver: Failure finding libcuda.so",
    ),
    "gpu": (
        BINDINGS + 'fake("cuda.bindings.driver", cuInit=lambda f: (Status(100),), cuGetErrorName=lambda s: (0, b"NO"))',
        "device: 'cuda' needs an NVIDIA GPU",
    ),
}


@pytest.mark.parametrize("missing", sorted(CASES))
def test_what_is_missing_is_one_error_that_says_what_to_install(missing: str) -> None:
    prepare, want = CASES[missing]
    said = run(FAKE + prepare + ASK)
    assert said.startswith(want)
    assert 'Hint: install the extra: pip install "tinygrad_bn[cuda]"' in said
