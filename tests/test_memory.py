"""A training step gives back what it takes, and needs no more from step to step."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import functional as F
from tinygrad_bn.core.memory import pool

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from bench import memory  # noqa: E402  # the repository's root must be on the path first
from bench.harness.case import Case  # noqa: E402


def test_a_steps_memory_returns_and_its_peak_does_not_grow() -> None:
    gc.collect()
    tb.empty_cache()
    before = pool.touched_bytes
    tb.manual_seed(0)
    model = tb.models.resnet20()
    optimiser = tb.optim.SGD(model.parameters(), 0.01, 0.9)
    x, classes = tb.randn(16, 3, 32, 32), tb.zeros(16, dtype=tb.int64)
    peaks, held, touched = [], [], []
    for _ in range(5):
        tb.reset_peak_memory_stats()
        optimiser.zero_grad()
        loss = F.cross_entropy(model(x), classes)
        loss.backward()
        optimiser.step()
        del loss
        gc.collect()
        peaks.append(tb.max_memory_allocated())
        held.append(tb.memory_allocated())
        touched.append(pool.touched_bytes)
    assert len(set(peaks[1:])) == len(set(held[1:])) == 1
    assert held[-1] < peaks[-1] / 4
    assert touched[-1] - before <= max(1.1 * peaks[-1], 1 << 26)


def test_backward_releases_as_it_passes() -> None:
    """Its peak is hardly above what forward leaves: saved tensors and gradients of inner nodes go at once."""
    w = tb.ones(1 << 18, requires_grad=True)
    y = w
    for _ in range(20):
        y = (y * 1.01).tanh()
    loss = y.sum()
    del y
    before = tb.memory_allocated()
    tb.reset_peak_memory_stats()
    loss.backward()
    assert tb.max_memory_allocated() - before <= 4 << 20  # of 20 MiB that are saved
    del loss
    assert tb.memory_allocated() < before - (15 << 20)


class Held(Case):
    """Stands for the case of the same name in the worker's package."""

    def inputs(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"x": np.zeros(1)}


def test_the_ratio_is_to_the_least_of_the_peers() -> None:
    found = [
        memory.Need("a", memory.OURS, "default", 60 << 20),
        memory.Need("a", "torch", "default", 120 << 20),
        memory.Need("a", "torch", "tuned", 100 << 20),
    ]
    assert memory.best_ratio(found, "a") == 0.6
    assert memory.best_ratio(found[:1], "a") is None
    text = memory.table(found)
    assert " 0.60 (least) |" in text
    assert text.count("(least)") == 1


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell how much is in memory")
def test_what_a_step_needs_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "held_cases"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "held.py").write_text(
        "import numpy as np\n"
        "from bench.harness.case import Case\n"
        "class Held(Case):\n"
        "    def inputs(self, rng):\n"
        "        return {'x': np.zeros(1)}\n"
        "    def tinygrad_bn(self, inputs):\n"
        "        return lambda: (np.ones(1 << 23).sum(),)\n"
        "CASES = [Held('held/step')]\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    need = memory.need(Held("held/step"), memory.OURS, "default", 1, 2, "held_cases")
    assert 56 << 20 <= need.bytes < 96 << 20
