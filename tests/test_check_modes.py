"""Each check mode catches the fault that is planted for it, and the normal mode does not: the modes are alive."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "check_modes"
MODES = ("NUMBA_DISABLE_JIT", "NUMBA_BOUNDSCHECK")


def run(script: str, *arguments: str, **mode: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a mode; the cache is shared with the normal mode, as it is in use."""
    environment = {k: v for k, v in os.environ.items() if k not in MODES} | mode
    command = [sys.executable, str(FOLDER / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.parametrize("times", [1, 2])
def test_bounds_are_checked(times: int) -> None:
    """Also the second time, when kernels of both modes lie in the cache."""
    assert run("out_of_bounds.py").stdout == "unnoticed\n"
    caught = run("out_of_bounds.py", NUMBA_BOUNDSCHECK="1")
    assert caught.returncode == 1
    assert "IndexError" in caught.stderr
    assert "out of bounds" in caught.stderr


def test_without_the_jit_kernels_run_as_python() -> None:
    compiled = run("python_lines.py")
    assert compiled.stdout == "0\n", compiled.stderr[-2000:]
    interpreted = run("python_lines.py", NUMBA_DISABLE_JIT="1")
    assert int(interpreted.stdout) > 40, interpreted.stderr[-2000:]


def test_without_the_jit_faults_of_kernels_are_pythons() -> None:
    assert run("python_lines.py", "fault").stdout == "unnoticed\n"
    caught = run("python_lines.py", "fault", NUMBA_DISABLE_JIT="1")
    assert caught.returncode == 1
    assert "IndexError: index 2 is out of bounds for axis 0 with size 2" in caught.stderr
