"""The benchmark's suite for GPUs, as far as it goes without one: its cases on the CPU, its report, its refusal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from bench.cases._networks import Chain, Linear, Norm  # noqa: E402  # the repository's root must be on the path first
from bench.cases_gpu import _device, losses, networks, norms  # noqa: E402
from bench.harness import cli, gpu  # noqa: E402
from bench.harness.case import Case, discover, inputs_of  # noqa: E402
from bench.harness.contenders import CONTENDERS, OURS  # noqa: E402
from bench.harness.verify import fault  # noqa: E402

SMALL: list[Case] = [
    *[norms.BatchNormRelu((4, 20, 3, 5), dtype, backward) for dtype in norms.DTYPES for backward in (False, True)],
    *[norms.LayerNorm((6, 24), dtype, backward) for dtype in norms.DTYPES for backward in (False, True)],
    losses.OnDevice(5, 7),
    *[
        networks.OnDevice(
            "mlp", Chain(Linear(9, 6, bias=False), Norm(6, pictures=False), Linear(6, 10)), (9,), 5, captured
        )
        for captured in (False, True)
    ],
]


def right(case: Case, contender: str) -> None:
    inputs = inputs_of(case)
    step = case.prepare(contender, inputs)
    rows = [[CONTENDERS[contender].to_numpy(_float(t)) for t in case.picked(step())] for _ in range(case.steps)]
    answer = [np.stack(column) for column in zip(*rows)] if case.steps > 1 else rows[0]
    assert fault(answer, case.reference(inputs), case.tolerance) is None


def _float(tensor: Any) -> Any:
    return tensor.detach().float()


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_the_cases_are_right_on_the_cpu(case: Case) -> None:
    right(case, OURS)


@pytest.mark.peers
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_the_cases_are_right_in_pytorch(case: Case) -> None:
    pytest.importorskip("torch")
    right(case, "torch")


def test_a_wrong_answer_of_a_case_is_found() -> None:
    case = SMALL[1]
    inputs = inputs_of(case)
    answer = [a * 1.001 for a in case.reference(inputs).values()]
    assert fault(answer, case.reference(inputs), case.tolerance)


def test_every_case_has_ours_and_two_peers_and_the_bytes_of_the_fused_passes() -> None:
    found = discover("bench.cases_gpu")
    assert {c.name.split("/")[0] for c in found} == {
        "batch_norm_relu", "layer_norm", "cross_entropy", "w1_mnist_mlp", "resnet20"
    }  # fmt: skip
    for case in found:
        assert all(case.takes_part(c) for c in (OURS, *gpu.PEERS)), case.name
    assert norms.BatchNormRelu((2, 3, 4, 5), "float32", True).bytes == 120 * 4 * 8
    assert norms.BatchNormRelu((2, 3, 4, 5), "bfloat16", False).bytes == 120 * 2 * 3


def test_bfloat16_is_rounded_to_even() -> None:
    x = np.array([1.0, 1.00390625, 1.01171875, 1.005, -3.14159], np.float32)  # two of them halfway
    np.testing.assert_array_equal(_device.bfloat16(x), np.array([1.0, 1.0, 1.015625, 1.0078125, -3.140625], np.float32))


def test_without_a_gpu_the_command_says_so_and_ends_with_status_2() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_ENABLE_CUDASIM"} | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "bench" / "run.py"), "--device", "cuda", "--suite", "gpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("bench: --suite gpu needs a GPU. device: 'cuda' needs")
    assert "Hint: " in done.stderr
    assert "Traceback" not in done.stderr


PLANTED = """
import numpy as np
from bench.harness.case import Case

class Double(Case):
    def __init__(self, name, error=0.0):
        super().__init__(name, bytes=1 << 20)
        self.error = error

    def inputs(self, rng):
        return {"x": rng.standard_normal(4, dtype=np.float32)}

    def reference(self, inputs):
        return {"y": 2 * inputs["x"].astype(np.float64)}

    def tinygrad_bn(self, inputs):
        import tinygrad_bn as tb
        x = tb.tensor(inputs["x"])
        return lambda: (x * (2 + self.error),)

CASES = [Double("double"), Double("off", 0.1)]
"""


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A package of cases in place of those for GPUs; the card's answers are made up."""
    package = tmp_path / "planted_gpu_cases"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "doubles.py").write_text(PLANTED)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(gpu, "PACKAGE", "planted_gpu_cases")
    monkeypatch.setattr(gpu, "DEVICE", "TINYGRAD_BN_BENCH_NOWHERE")
    monkeypatch.setenv("TINYGRAD_BN_BENCH_NOWHERE", "")
    monkeypatch.setattr(gpu, "problem", lambda: "")
    monkeypatch.setattr(gpu, "copies", lambda: {1 << 20: 2e12})
    monkeypatch.setattr(
        gpu, "card", lambda: {"name": "a card", "capability": "9.0", "driver": "580", "versions": {"v": "1"}}
    )
    return ["--device", "cuda", "--suite", "gpu", "--peers", "none", "--rounds", "7", "--out", str(tmp_path / "out")]


def _said(passed: bool) -> list[dict[str, Any]]:
    return [{"check": "generic suite", "passed": passed, "seconds": 1.0, "said": ["5 passed"]}]


def test_the_report_names_the_card_and_the_fraction_of_its_bandwidth(
    planted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "checks", lambda: _said(True))
    assert cli.main([*planted, "--filter", "double"]) == 0
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert found["card"]["name"] == "a card"
    assert found["checks"][0]["passed"] is True
    (case,) = found["cases"]
    median = case["contenders"][0]["seconds"]["median"]
    assert case["floor_fraction"] == pytest.approx((1 << 20) / 2e12 / median)
    text = (tmp_path / "out" / "gpu.md").read_text()
    assert "a card, compute capability 9.0, driver 580" in text
    assert "- generic suite: passed: 5 passed" in text
    assert "1 MiB 2000" in text


def test_a_wrong_answer_or_a_failed_check_is_status_1(
    planted: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "checks", lambda: _said(False))
    assert cli.main([*planted, "--filter", "double"]) == 1
    assert "FAILED: generic suite" in capfd.readouterr().out
    assert cli.main([*planted, "--verify-only"]) == 1
    out = capfd.readouterr().out
    assert "WRONG: off, tinygrad_bn" in out
    assert "1 of 2 answers right" in out
