"""The kernel cache: a second process compiles nothing, and an edit is never missed.

Each test runs processes of its own on a copy of the package with a cache of its own; the kernels are the smallest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tinygrad_bn

SOURCE = Path(tinygrad_bn.__file__).parent
REPORT = """
import sys
import tinygrad_bn as tb
assert "numba" not in sys.modules
x = tb.tensor([0.5, 1.0, 2.0])
{code}
from tinygrad_bn.kernels.cpu import _jit
print(*y.tolist(), _jit.compiled)
"""
EXP = "y = x.exp()"
NEG = "y = -x"


class House:
    """A copy of the package, and a cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.package = folder / "tinygrad_bn"
        self.cache = folder / "cache"
        shutil.copytree(SOURCE, self.package, ignore=shutil.ignore_patterns("__pycache__"))

    def start(self, code: str, **environment: str) -> subprocess.Popen[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("TINYGRAD", "NUMBA"))}
        chosen = {"TINYGRAD_BN_CACHE": str(self.cache), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(self.folder)}
        return subprocess.Popen(
            [sys.executable, "-c", REPORT.format(code=code)],
            cwd=self.folder,
            env={**kept, **chosen, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str, **environment: str) -> tuple[list[float], int, str]:
        """Values, number of compilations, and what was said on stderr."""
        out, said = (process := self.start(code, **environment)).communicate(timeout=300)
        assert process.returncode == 0, said[-3000:]
        *values, compiled = out.split()
        return [float(v) for v in values], int(compiled), said

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.package / "kernels" / file
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))

    def kernels(self) -> list[Path]:
        return sorted(self.cache.glob("*.kernel"))


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_second_process_compiles_nothing(house: House) -> None:
    values, compiled, said = house.run(NEG)
    assert values == [-0.5, -1.0, -2.0]
    assert compiled > 0
    assert said.count("tinygrad_bn: compiling kernels for this processor, once; they are kept in") == 1
    assert house.kernels()
    assert house.run(NEG) == (values, 0, "")
    generated = list((house.cache / "generated").glob("elementwise_*.py"))
    assert len(generated) == 1
    assert "def neg(" in generated[0].read_text()


def test_quiet(house: House) -> None:
    assert house.run(NEG, TINYGRAD_BN_QUIET="1")[2] == ""


def test_editing_scalar_changes_results_and_editing_back_finds_the_old_kernels(house: House) -> None:
    before = house.run(NEG)[0]
    house.edit("scalar.py", "    return -x\n\n\ndef abs_", "    return -x - 1.0\n\n\ndef abs_")
    changed, compiled, _ = house.run(NEG)
    assert changed == [v - 1.0 for v in before]
    assert compiled > 0
    house.edit("scalar.py", "    return -x - 1.0\n\n\ndef abs_", "    return -x\n\n\ndef abs_")
    assert house.run(NEG)[:2] == (before, 0)


def test_editing_what_a_kernel_imports_changes_results(house: House) -> None:
    """``exp`` is in another file than the kernel that calls it."""
    before = house.run(EXP)[0]
    house.edit("cpu/math.py", "p * (r * r) + r + f4(1.0)", "p * (r * r) + r + f4(2.0)")
    changed, compiled, _ = house.run(EXP)
    assert compiled > 0
    assert all(c > b * 1.3 for c, b in zip(changed, before, strict=True))


def test_editing_what_a_kernel_does_not_import_compiles_nothing(house: House) -> None:
    house.run(NEG)
    house.edit("cpu/softmax.py", "GRAIN = 1 << 14", "GRAIN = 1 << 15")
    assert house.run(NEG)[1] == 0


@pytest.mark.parametrize(
    "spoil", [lambda b: b"nonsense", lambda b: b[: len(b) // 2], lambda b: b""], ids=["nonsense", "half", "empty"]
)
def test_a_spoilt_file_is_compiled_anew(house: House, spoil: object) -> None:
    values, first, _ = house.run(NEG)
    for path in house.kernels():
        path.write_bytes(spoil(path.read_bytes()))  # type: ignore[operator]
    assert house.run(NEG)[:2] == (values, first)
    assert house.run(NEG)[:2] == (values, 0)


def test_a_cache_that_cannot_be_written(house: House) -> None:
    """The temporary folder serves instead."""
    blocked = house.folder / "file"
    blocked.write_text("not a folder")
    values, _, said = house.run(NEG, TINYGRAD_BN_CACHE=str(blocked / "cache"))
    assert values == [-0.5, -1.0, -2.0]
    assert str(house.folder / "tinygrad_bn-") in said
    assert house.run(NEG, TINYGRAD_BN_CACHE=str(blocked / "cache"))[1] == 0


def test_the_users_own_cache_folder(house: House) -> None:
    kept = house.folder / "xdg"
    assert house.run(NEG, TINYGRAD_BN_CACHE="", XDG_CACHE_HOME=str(kept))[1] > 0
    assert list((kept / "tinygrad_bn").glob("*.kernel"))


def test_check_modes_have_kernels_of_their_own(house: House) -> None:
    """Or a bounds check would find kernels that do not check."""
    house.run(NEG)
    plain = set(house.kernels())
    assert house.run(NEG, NUMBA_BOUNDSCHECK="1")[1] > 0
    assert plain < set(house.kernels())
    assert house.run(NEG, NUMBA_DISABLE_JIT="1")[1] == 0


def test_two_processes_may_fill_a_cache_at_once(house: House) -> None:
    processes = [house.start(NEG) for _ in range(3)]
    found = [p.communicate(timeout=300)[0].split()[:3] for p in processes]
    assert found == [["-0.5", "-1.0", "-2.0"]] * 3
    assert house.run(NEG)[1] == 0
    assert not list(house.cache.rglob("*.part"))
