"""Imports run one way, and importing the package costs nothing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tinygrad_bn

ROOT = Path(tinygrad_bn.__file__).parent
ORDER = (
    "errors",
    "kernels",
    "core",
    "ops",
    "backends",
    "functional",
    "nn",
    "optim",
    "replay",
    "data",
    "interop",
    "models",
    "train",
    "experiments",
)
HIGHEST = {
    "amp",
    "__init__",
    "__main__",
    "_later",
    "autograd",
    "testing",
    "tensor_methods",
    "cuda",
    "profiler",
    "doctor",
    "utils",
}
"""Files of the package itself that look down on everything; nothing in ``ORDER`` imports them."""

pytestmark = pytest.mark.jit_off


def name_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT.parent).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(p): p for p in sorted(ROOT.rglob("*.py"))}


def imported(module: str, source: str) -> set[str]:
    """The modules of this package that a source imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module if FILES.get(module, Path("x.py")).name == "__init__.py" else module.rpartition(".")[0]
            for _ in range(max(node.level - 1, 0)):
                package = package.rpartition(".")[0]
            base = node.module or "" if not node.level else ".".join(filter(None, (package, node.module)))
            found.update(f"{base}.{a.name}" if f"{base}.{a.name}" in FILES else base for a in node.names)
    return {m for m in found if m.split(".")[0] == "tinygrad_bn"}


def layer(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_the_order_names_every_folder() -> None:
    assert {layer(m) for m in FILES} <= {*ORDER, *HIGHEST}


def test_nothing_imports_upward() -> None:
    wrong = []
    for module, path in FILES.items():
        own = layer(module)
        if own in HIGHEST:
            continue
        for target in imported(module, path.read_text()):
            if target == "tinygrad_bn" and own in ("train", "experiments"):
                continue  # its version, and the public face that a script uses
            if layer(target) in HIGHEST or ORDER.index(layer(target)) > ORDER.index(own):
                wrong.append(f"{module} imports {target}")
    assert wrong == []


def test_kernels_know_nothing_above_them_nor_each_others_backend() -> None:
    """``cpu`` may take kernels from ``ref``; ``ref`` knows no compiler."""
    for module, path in FILES.items():
        if not module.startswith("tinygrad_bn.kernels"):
            continue
        targets = imported(module, path.read_text())
        assert {layer(t) for t in targets} <= {"kernels", "errors"}, module
        if module.startswith("tinygrad_bn.kernels.ref"):
            assert not any(t.startswith("tinygrad_bn.kernels.cpu") for t in targets), module
            assert "numba" not in path.read_text(), module


def packages(path: Path) -> set[str]:
    """The packages, ours or others', that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").split(".")[0])
    return names


def test_only_kernels_and_the_launcher_know_numba() -> None:
    allowed = (
        "tinygrad_bn.kernels.cpu",
        "tinygrad_bn.kernels.cuda",
        "tinygrad_bn.core.launch",
        "tinygrad_bn.train.info",
    )
    assert [m for m, path in FILES.items() if "numba" in packages(path) and not m.startswith(allowed)] == []


def test_only_simd_the_cache_and_the_wrapper_of_kernels_know_llvm() -> None:
    """But for ``info``, which prints its version."""
    found = [m for m, path in FILES.items() if "llvmlite" in packages(path) and m != "tinygrad_bn.train.info"]
    found = [m for m in found if not m.startswith("tinygrad_bn.kernels.cuda.intrinsics")]
    allowed = ("_atomics", "_cache", "_entry", "_regions", "choices", "shuffles", "simd", "streams", "vector")
    assert found == [f"tinygrad_bn.kernels.cpu.{m}" for m in allowed]


def test_an_upward_import_would_be_found() -> None:
    source = "def f():\n    from tinygrad_bn.ops import add\n    from .. import nn\n    import tinygrad_bn.train.cli\n"
    assert imported("tinygrad_bn.core.tape", source) == {"tinygrad_bn.ops", "tinygrad_bn.nn", "tinygrad_bn.train.cli"}


def test_importing_loads_no_compiler_and_writes_nothing(tmp_path: Path) -> None:
    code = """
import sys
import tinygrad_bn as tb
tb.nn.Linear, tb.optim.SGD, tb.functional.relu
heavy = {"numba", "llvmlite", "scipy", "torch", "matplotlib", "jax", "cuda", "greenlet"} & set(sys.modules)
print(sorted(heavy))
"""
    environment = {**os.environ, "TINYGRAD_BN_CACHE": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert found.stdout == "[]\n", found.stderr[-2000:]
    assert found.stderr == ""
    assert not (tmp_path / "cache").exists()


def test_work_on_the_cpu_loads_nothing_of_cudas() -> None:
    """Neither kernels, nor compilers, nor a driver: whether a GPU is there or not."""
    code = """
import sys
import tinygrad_bn as tb
layer = tb.nn.BatchNorm1d(3)
layer(tb.nn.Linear(4, 3)(tb.rand(5, 4))).sum().backward()
tb.softmax(tb.rand(2, 3), 1)
names = "cuda", "numba.cuda", "numba_cuda", "greenlet", "tinygrad_bn.kernels.cuda", "tinygrad_bn.core.cuda_device"
print([m for m in sys.modules if m.startswith(names)])
"""
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)
    assert found.stdout == "[]\n", found.stdout + found.stderr[-2000:]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_every_module_can_be_imported_first() -> None:
    """None works only because another was imported before it; what the package imports by itself comes first anyway."""
    code = """
import os, sys
import numpy, numba, scipy.linalg.cython_blas, threadpoolctl    # once, ahead of the forks
import tinygrad_bn
for module in sys.argv[1:]:
    if module in sys.modules:
        continue
    pid = os.fork()
    if pid == 0:
        __import__(module)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        print(module)
"""
    elsewhere = (
        "tinygrad_bn.kernels.cuda",
        "tinygrad_bn.core.cuda_",
        "tinygrad_bn.core.exchange",
        "tinygrad_bn.replay.gpu_memory",
    )  # need a GPU, or the simulator
    modules = sorted(m for m in FILES if not m.endswith("__main__") and not m.startswith(elsewhere))
    found = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, timeout=300)
    assert (found.stdout, found.returncode) == ("", 0), found.stderr[-2000:]


@pytest.mark.parametrize("module", sorted(FILES))
def test_files_are_short(module: str) -> None:
    assert len(FILES[module].read_text().splitlines()) <= 350


def test_the_public_names_exist() -> None:
    for name in tinygrad_bn.__all__:
        assert getattr(tinygrad_bn, name) is not None
    assert len(set(tinygrad_bn.__all__)) == len(tinygrad_bn.__all__)
