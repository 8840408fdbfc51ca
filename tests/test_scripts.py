"""Ordinary PyTorch scripts run with only their imports changed, and print the same numbers.

Weights and data are in a file that is written with PyTorch. Losses of float64 agree to 1e-9, of float32 to 1e-4.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb

pytestmark = pytest.mark.peers
FOLDER = Path(__file__).parent / "scripts"
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
Arrays = dict[str, np.ndarray]


def changed(source: str) -> str:
    """The script with PyTorch's name replaced in its import lines."""
    lines = source.splitlines(keepends=True)
    for i, line in enumerate(lines):
        if re.match(r"(import|from) torch\b", line):
            line = line.replace("torch.utils.data", "tinygrad_bn.data").replace(" torch", " tinygrad_bn", 1)
            lines[i] = "import tinygrad_bn as torch\n" if line == "import tinygrad_bn\n" else line
    return "".join(lines)


def run(source: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run a script as the main program; return the lines that it printed."""
    monkeypatch.setattr("sys.argv", ["script.py", *arguments])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, "script.py", "exec"), {"__name__": "__main__"})
    return printed.getvalue().splitlines()


def pictures(rng: np.random.Generator, dtype: str) -> Arrays:
    classes = rng.integers(0, 10, 48)
    templates = rng.standard_normal((10, 3, 16, 16))
    return {"pictures": (templates[classes] + rng.standard_normal((48, 3, 16, 16))).astype(dtype), "classes": classes}


def tokens(rng: np.random.Generator, dtype: str) -> Arrays:
    return {"tokens": (np.arange(33) * np.arange(2, 6)[:, None] + rng.integers(0, 2, (4, 33))) % 11}


def noisy(rng: np.random.Generator, dtype: str) -> Arrays:
    clean = rng.random((20, 1, 16, 16)) > 0.5
    return {"clean": clean.astype(dtype), "noisy": (clean + 0.3 * rng.standard_normal(clean.shape)).astype(dtype)}


SCRIPTS: dict[str, tuple[Callable[[np.random.Generator, str], Arrays], str, tuple[int, ...]]] = {
    "cnn": (pictures, "Net", ()),
    "lstm": (tokens, "LanguageModel", (11, 12, 16, 2)),
    "autoencoder": (noisy, "Autoencoder", (6,)),
}
"""What is in the file beside the weights; the class of the model and its arguments."""


@pytest.fixture
def libraries(dtype: str) -> Iterator[Any]:
    """PyTorch; it and ours with the dtype for default, for as long as the test runs."""
    torch = pytest.importorskip("torch")
    before = torch.get_default_dtype(), tb.get_default_dtype()
    for library in (torch, tb):
        library.set_default_dtype(getattr(library, dtype))
    yield torch
    torch.set_default_dtype(before[0])
    tb.set_default_dtype(before[1])


def numbers(line: str) -> list[float]:
    return [float(x) for x in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", line)]


@pytest.mark.parametrize("name", SCRIPTS)
def test_same_script_same_losses(
    name: str, dtype: str, libraries: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, model, arguments = SCRIPTS[name]
    source = (FOLDER / f"{name}.py").read_text()
    namespace: dict[str, Any] = {"__name__": "script"}
    exec(compile(source, f"{name}.py", "exec"), namespace)
    libraries.manual_seed(0)
    weights = {f"model.{k}": v.numpy() for k, v in namespace[model](*arguments).state_dict().items()}
    file = tmp_path / "given.npz"
    np.savez(file, **weights, **data(np.random.default_rng(0), dtype))

    theirs = run(source, [str(file)], monkeypatch)
    ours = run(changed(source), [str(file)], monkeypatch)
    assert len(theirs) == len(ours) > 3
    for a, b in zip(theirs, ours):
        np.testing.assert_allclose(numbers(b), numbers(a), rtol=TOLERANCE[dtype], err_msg=f"{a}\n{b}")


@pytest.mark.parametrize("name", SCRIPTS)
def test_only_imports_are_changed(name: str) -> None:
    before = (FOLDER / f"{name}.py").read_text()
    after = changed(before)
    different = [(a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert len(different) >= 2
    assert all(
        re.match(r"(import|from) torch\b", a) and re.match(r"(import|from) tinygrad_bn", b) for a, b in different
    )
