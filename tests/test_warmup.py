"""``python -m tinygrad_bn warmup``: both drivers are compiled, and a second run compiles nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.core import launch
from tinygrad_bn.core.device import cpu
from tinygrad_bn.kernels.cpu._jit import ENABLED
from tinygrad_bn.train import warmup

pytestmark = pytest.mark.skipif(not ENABLED, reason="nothing is compiled")

SMALL = """
import sys
from tinygrad_bn import nn
from tinygrad_bn.train import cli, warmup
warmup.MODELS = {"linear": (lambda: nn.Linear(8, 10), (8,))}
sys.exit(cli.main(["warmup", *sys.argv[1:]]))
"""


def run(cache: Path, *flags: str) -> tuple[int, int, int, str]:
    """How many kernels are ready, how many functions were compiled and loaded, and what was said on stderr."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TINYGRAD")}
    found = subprocess.run(
        [sys.executable, "-c", SMALL, *flags],
        env=environment | {"TINYGRAD_BN_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    told = re.fullmatch(
        rf"(\d+) kernels are ready: (\d+) functions compiled, (\d+) loaded from {re.escape(str(cache))}, [\d.]+ s\n",
        found.stdout,
    )
    assert told is not None, found.stdout
    ready, compiled, loaded = (int(n) for n in told.groups())
    return ready, compiled, loaded, found.stderr


def test_a_second_run_compiles_nothing(tmp_path: Path) -> None:
    ready, compiled, _, said = run(tmp_path)
    assert compiled >= ready > 0
    assert "linear, float32: " in said
    again, compiled, loaded, said = run(tmp_path)
    assert (again, compiled, loaded) == (ready, 0, ready)
    assert "compiling" not in said


def test_both_drivers_are_compiled_whatever_the_size_and_the_kernel_runs() -> None:
    kernel = cpu.kernels.neg
    assert kernel.parallel is not None
    x, out = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1), np.empty((1, 2, 3, 1), np.float32)
    told: list[str] = []
    warmer = warmup.Warmer(told.append)
    for _ in range(2):
        warmer(kernel, (x, out), lambda: kernel.serial(x, out))
    kinds = tuple(kernel.serial.typeof_pyval(a) for a in (x, out))  # type: ignore[attr-defined]
    assert kinds in kernel.serial.overloads  # type: ignore[attr-defined]
    assert kinds in kernel.parallel.overloads  # type: ignore[attr-defined]
    assert (out == -x).all()
    assert told == ["neg", "neg"]
    assert warmer.seen == {(kernel.serial, *kinds), (kernel.parallel, *kinds)}


def test_the_observer_goes_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> nn.Module:
        raise ArithmeticError

    monkeypatch.setattr(warmup, "MODELS", {"none": (fail, (1,))})
    before = list(launch.observers)
    with pytest.raises(ArithmeticError):
        warmup.warmup()
    assert launch.observers == before


@pytest.mark.parametrize("name", list(warmup.MODELS))
def test_models_take_what_they_are_given(name: str) -> None:
    make, shape = warmup.MODELS[name]
    assert make()(tb.ones(2, *shape)).shape == (2, warmup.CLASSES)


def test_wrong_dtype(capsys: pytest.CaptureFixture[str]) -> None:
    from tinygrad_bn.train.cli import main

    with pytest.raises(SystemExit, match="2"):
        main(["warmup", "--dtype", "float16"])
    assert "invalid choice: 'float16'" in capsys.readouterr().err
