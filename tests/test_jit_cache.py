"""The kernel cache: a second process compiles nothing, and an edit is never missed.

Each test runs processes of its own on a copy of the package with a cache of its own; the kernels are the smallest.
"""

from __future__ import annotations

import ast
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tinygrad_bn
from tinygrad_bn.kernels import TOPICS
from tinygrad_bn.kernels.cpu import _cache
from tinygrad_bn.kernels.cpu._jit import ENABLED

SOURCE = Path(tinygrad_bn.__file__).parent
REPORT = """
import sys
import tinygrad_bn as tb
assert "numba" not in sys.modules
x = tb.tensor([0.5, 1.0, 2.0])
{code}
from tinygrad_bn.kernels import folder
print(*y.tolist(), folder.activity.compiled)
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
    "spoil",
    [lambda b: b"nonsense", lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:-9] + b"x" + b[-8:]],
    ids=["nonsense", "half", "empty", "one byte"],
)
def test_a_spoilt_file_is_compiled_anew(house: House, spoil: object) -> None:
    values, first, _ = house.run(NEG)
    for path in house.kernels():
        path.write_bytes(spoil(path.read_bytes()))  # type: ignore[operator]
    assert house.run(NEG)[:2] == (values, first)
    assert house.run(NEG)[:2] == (values, 0)


REFUSE = """
import errno, os, tempfile
def refuse(*args, **kwargs):
    raise OSError(errno.{error}, os.strerror(errno.{error}))
{what} = refuse
"""


def warned_once(said: str, where: Path, reason: str) -> bool:
    """Whether there is one warning, with the remedy, and no traceback."""
    text = (
        f"RuntimeWarning: tinygrad_bn: compiled kernels cannot be kept in {where}: {reason}. Every process compiles its"
    )
    remedy = "Hint: set TINYGRAD_BN_CACHE to a folder that can be written."
    return said.count(text) == said.count("Warning:") == said.count(remedy) == 1 and "Traceback" not in said


@pytest.mark.parametrize("code", [NEG, EXP], ids=["neg", "exp"])
def test_a_folder_that_cannot_be_made(house: House, code: str) -> None:
    """Kernels, those from generated source too, are compiled all the same; nothing is written anywhere."""
    (house.folder / "file").write_text("not a folder")
    blocked = house.folder / "file" / "cache"
    before = sorted(house.folder.iterdir())
    values, compiled, said = house.run(code, TINYGRAD_BN_CACHE=str(blocked))
    assert values == house.run(code)[0]
    assert compiled > 0
    assert warned_once(said, blocked, "Not a directory")
    assert "tinygrad_bn: compiling kernels for this processor, in this process\n" in said
    assert set(house.folder.iterdir()) - set(before) == {house.cache}


def test_no_home(house: House) -> None:
    """Where there is neither a folder of the user's nor a choice, nothing named ~ appears."""
    code = f"import os; os.path.expanduser = lambda path: path\n{NEG}"
    values, _, said = house.run(code, TINYGRAD_BN_CACHE="", XDG_CACHE_HOME="")
    assert values == [-0.5, -1.0, -2.0]
    assert warned_once(said, Path("~/.cache/tinygrad_bn"), "there is no home folder")
    assert not (house.folder / "~").exists()


@pytest.mark.parametrize(
    ("what", "error", "reason"),
    [
        ("tempfile.NamedTemporaryFile", "EROFS", "Read-only file system"),
        ("tempfile._TemporaryFileWrapper.write", "ENOSPC", "No space left on device"),
        ("os.replace", "EACCES", "Permission denied"),
    ],
)
def test_a_folder_that_cannot_be_written(house: House, what: str, error: str, reason: str) -> None:
    refuse = REFUSE.format(what=what, error=error)
    values, compiled, said = house.run(refuse + NEG)
    assert values == [-0.5, -1.0, -2.0]
    assert compiled > 0
    assert warned_once(said, house.cache, reason)
    assert house.kernels() == list(house.cache.rglob("*.part")) == []


def test_a_full_folder_that_cannot_be_written_serves_as_it_is(house: House) -> None:
    values, _, _ = house.run(NEG)
    refuse = REFUSE.format(what="tempfile.NamedTemporaryFile", error="EROFS")
    assert house.run(refuse + NEG) == (values, 0, "")


def test_a_kernel_that_calls_a_loaded_one_is_compiled(house: House) -> None:
    """Its bitcode is read then, not before."""
    house.run(EXP)
    for path in house.cache.glob("generated.elementwise*.exp-*.kernel"):
        path.unlink()
    values, compiled, _ = house.run(EXP)
    assert compiled == 1
    assert values == pytest.approx([1.6487212, 2.7182818, 7.3890561])
    assert house.run(EXP)[1] == 0


@pytest.mark.skipif(not ENABLED, reason="nothing is compiled")
def test_imports_are_found_without_a_parser() -> None:
    """The pattern that looks for imports finds what Python's parser finds, in every kernel's file; it may find more, in
    the source that a file generates."""
    for topic in TOPICS:
        importlib.import_module(f"tinygrad_bn.kernels.cpu.{topic}")
    for name in [name for name in sys.modules if name.startswith("tinygrad_bn.kernels.")]:
        wanted = set()
        for node in ast.walk(ast.parse(_cache._source(name))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tinygrad_bn.kernels"):
                wanted |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names if alias.name.startswith("tinygrad_bn.kernels")}
        assert {w for w in wanted if w in sys.modules} <= set(_cache.imports(name)), name
        assert len(wanted) == 0 or _cache.imports(name)


def test_what_a_kernel_depends_on_is_the_same_however_much_has_been_imported() -> None:
    code = "from tinygrad_bn.kernels.cpu import _cache; print(_cache.closure_hash('tinygrad_bn.kernels.cpu.winograd'))"
    everything = (
        f"import importlib; [importlib.import_module('tinygrad_bn.kernels.cpu.' + t) for t in {TOPICS}]; {code}"
    )
    found = {subprocess.check_output([sys.executable, "-c", c], text=True) for c in (code, everything)}
    assert len(found) == 1


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
