"""The benchmark harness: statistics, ratios, verification, the command line. Nothing here decides by a clock."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from bench.harness import cli, report, timing  # noqa: E402  # the repository's root must be on the path first
from bench.harness.case import Case, discover, inputs_of, select  # noqa: E402
from bench.harness.client import Client, WorkerError, environment  # noqa: E402
from bench.harness.contenders import DEFAULT_PEERS, OURS, PEERS, parse_peers  # noqa: E402
from bench.harness.machine import Limits  # noqa: E402
from bench.harness.runner import Entry  # noqa: E402
from bench.harness.verify import fault  # noqa: E402

LIMITS = Limits(2, 1e12, {1 << 10: 1e9, 1 << 20: 3e9})


# --------------------------------------------------------------------------------------------------------- statistics


def test_summary_of_known_samples():
    s = timing.summary([5.0, 1.0, 3.0, 2.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0])
    assert (s.median, s.p10, s.p90, s.min, s.rounds) == (6.0, 2.0, 10.0, 1.0, 11)


@pytest.mark.parametrize("samples", [[], [1.0, 0.0], [1.0, math.nan], [-1.0]])
def test_summary_refuses_what_is_no_time(samples):
    with pytest.raises(ValueError, match="positive numbers"):
        timing.summary(samples)


def test_turns_alternate():
    order: list[str] = []
    timing.alternate(["a", "b", "c"], 3, order.append, pause=0.0)
    assert order == ["a", "b", "c"] * 3


def test_calibration_reaches_the_wanted_time():
    calls = []

    class Clock:
        now = 0.0

        @classmethod
        def perf_counter(cls):
            return cls.now

    def step():
        Clock.now += 0.0005
        calls.append(1)

    original, timing.time = timing.time, Clock
    try:
        assert timing.calibrate(step, lambda result: None, 0.02) == 40
        assert timing.sample(step, lambda result: None, 10) == pytest.approx(0.0005)
    finally:
        timing.time = original
    assert calls


# -------------------------------------------------------------------------------------------------------------- ratios


def entries_of(**medians: float) -> list[Entry]:
    """Entries of one case, timed at seven equal samples; a name is contender__malloc."""
    found = []
    for name, median in medians.items():
        contender, _, malloc = name.partition("__")
        found.append(Entry("case", contender, malloc or "default", samples=[median] * 7, count=1))
    return found


def line_of(entries: list[Entry], **options: float) -> report.Line:
    return report.lines([Case("case", **options)], entries, LIMITS)[0]


def test_ratio_is_the_best_peers_for_each_malloc():
    line = line_of(
        entries_of(
            tinygrad_bn=2e-3, torch__default=8e-3, torch_channels_last__default=6e-3, torch__tuned=3e-3, jax__tuned=1e-3
        )
    )
    assert line.ratios == {
        "default": timing.Ratio(pytest.approx(3.0), "torch_channels_last"),
        "tuned": timing.Ratio(pytest.approx(0.5), "jax"),
    }
    text = report.table([line])
    assert "torch_channels_last 6 ms |  3.00" in text
    assert "0.50 slower" in text


def test_a_wrong_peer_counts_for_nothing():
    entries = entries_of(tinygrad_bn=2e-3, torch=4e-3, jax=1e-6)
    entries[2].status = "WRONG"
    assert line_of(entries).ratios["default"] == timing.Ratio(pytest.approx(2.0), "torch")
    assert "WRONG" in report.contenders_table([line_of(entries)])


def test_no_ratio_without_peers_or_without_ours():
    assert line_of(entries_of(tinygrad_bn=1.0)).ratios == {}
    assert line_of(entries_of(torch=1.0)).ratios == {}
    wrong = entries_of(tinygrad_bn=1.0, torch=1.0)
    wrong[0].status = "WRONG"
    line = line_of(wrong)
    assert line.ratios == {}
    assert "WRONG" in report.table([line])


def test_floor_is_the_longer_of_arithmetic_and_traffic():
    assert LIMITS.floor(2e9, 1 << 20) == pytest.approx(2e-3)
    assert LIMITS.floor(1.0, 3 << 20) == pytest.approx((3 << 20) / 3e9)
    assert LIMITS.bandwidth(1 << 15) == pytest.approx(2e9)  # halfway, on a logarithmic scale
    assert line_of(entries_of(tinygrad_bn=4e-3), flops=2e9).floor_fraction == pytest.approx(0.5)
    assert line_of(entries_of(tinygrad_bn=4e-3)).floor_fraction is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.5, "1.5 s"), (0.0123, "12.3 ms"), (999e-6, "999 µs"), (2.5e-6, "2.5 µs"), (4.2e-8, "42 ns")],
)
def test_durations_read_well(seconds, text):
    assert report.duration(seconds) == text


def test_document_survives_json():
    line = line_of(entries_of(tinygrad_bn=1e-3, torch=2e-3), flops=1e6, bytes=1e3)
    machine = {"processor": "x", "versions": {"numpy": "2"}, "commit": None, "date": "d", "usable_cores": 2}
    machine |= {"features": [], "system": "s", "python": "3"}
    run = report.Run(LIMITS, [line], {}, ["a note"])
    found = json.loads(json.dumps(report.document(machine, {"rounds": 7}, [run])))
    case = found["runs"][0]["cases"][0]
    assert case["ratios"]["default"] == {"value": pytest.approx(2.0), "peer": "torch"}
    assert case["gflops_per_second"] == pytest.approx(1.0)
    assert case["contenders"][0]["seconds"]["rounds"] == 7
    assert [c["times_ours"] for c in case["contenders"]] == [1.0, pytest.approx(2.0)]
    text = report.markdown(machine, [run])
    assert "- a note" in text
    assert "|       2.00 |" in text


# -------------------------------------------------------------------------------------------------------- verification


def test_right_answers_pass():
    want = {"y": np.array([1.0, -2.0]), "empty": np.zeros((0, 3))}
    assert fault([np.array([1.0, -2.00001], np.float32), np.zeros((0, 3), np.float32)], want, 1e-5) is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ([np.array([1.0, -2.1])], "off by 1.00e-01"),
        ([np.array([1.0, np.nan])], "not finite"),
        ([np.array([1.0, np.inf])], "not finite"),
        ([np.array([[1.0, -2.0]])], "shape"),
        ([], "0 arrays instead of 1"),
        ([np.array([1.0, -2.0])] * 2, "2 arrays instead of 1"),
    ],
)
def test_wrong_answers_are_named(answer, reason):
    assert reason in (fault(answer, {"y": np.array([1.0, -2.0])}, 1e-5) or "")


def test_a_zero_answer_must_be_zero():
    assert fault([np.array([1e-30])], {"y": np.array([0.0])}, 1e-5)


# ------------------------------------------------------------------------------------------------------------ selection


def test_filter_searches_names():
    cases = [Case("a/1/forward"), Case("a/2/backward"), Case("b/1/forward")]
    assert [c.name for c in select(cases, r"^a/.*forward$|^b")] == ["a/1/forward", "b/1/forward"]
    assert select(cases, "") == cases


def test_peers_are_parsed():
    assert parse_peers("none") == ()
    assert parse_peers("jax, torch,jax") == ("jax", "torch")
    assert set(DEFAULT_PEERS) < set(PEERS)
    assert OURS not in PEERS
    for text in ("", "tensorflow", "none,torch", "torch,,tenserflow"):
        with pytest.raises(ValueError, match="'peers' must be"):
            parse_peers(text)


@pytest.mark.parametrize(
    "argv", [["--rounds", "6"], ["--rounds", "x"], ["--threads", "0"], ["--peers", "theano"], ["--filter", "("]]
)
def test_bad_arguments_are_refused(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.parser().parse_args(argv)
    assert stop.value.code == 2
    assert "must be" in capsys.readouterr().err


def test_defaults():
    arguments: argparse.Namespace = cli.parser().parse_args([])
    assert arguments.peers == DEFAULT_PEERS
    assert arguments.rounds >= 7
    assert arguments.threads in ((1,), (2,))


def test_tuned_malloc_is_in_the_workers_environment_alone():
    assert int(environment(2, "tuned")["MALLOC_MMAP_THRESHOLD_"]) >= 1 << 30
    assert not any(name.startswith("MALLOC_") for name in environment(2, "default").keys() - os.environ.keys())
    assert environment(1, "default")["OMP_NUM_THREADS"] == "1"


# ---------------------------------------------------------------------------------------------------- the cases we have


def test_every_case_has_an_answer_of_its_own_and_ours():
    cases = discover()
    assert len({c.name for c in cases}) == len(cases) > 40
    for case in cases:
        assert case.takes_part(OURS), case.name
        assert any(case.takes_part(p) for p in PEERS), case.name
        assert case.flops >= 0, case.name
        assert case.bytes >= 0, case.name


@pytest.mark.parametrize("name", ["batch_norm_relu/60x100/forward_backward", "w1_mnist_mlp/step", "optimiser/adam/mlp"])
def test_inputs_repeat_and_answers_are_float64(name):
    (case,) = select(discover(), f"^{name}$")
    first, again, other = inputs_of(case), inputs_of(case), inputs_of(case, seed=1)
    assert all(np.array_equal(first[k], again[k]) for k in first)
    assert any(not np.array_equal(first[k], other[k]) for k in first)
    for value in case.reference(first).values():
        assert value.dtype == np.float64
        assert np.isfinite(value).all()
        assert value.shape[0] == case.steps or case.steps == 1


def test_batch_norm_answer_is_its_derivative():
    """The float64 backward that everybody is held against, along one random direction."""
    (case,) = select(discover(), "^batch_norm_relu/60x100/forward_backward$")
    inputs = {name: a.astype(np.float64) for name, a in inputs_of(case).items()}
    answer = case.reference(inputs)
    rng = np.random.default_rng(1)
    direction = {name: rng.standard_normal(inputs[name].shape) for name in ("x", "weight", "bias")}
    h = 1e-7
    sides = [case.reference(inputs | {n: inputs[n] + s * h * d for n, d in direction.items()})["y"] for s in (1, -1)]
    slope = (inputs["gy"] * (sides[0] - sides[1])).sum() / (2 * h)
    inner = sum((answer[f"g{n}"] * d).sum() for n, d in direction.items())
    assert slope == pytest.approx(inner, rel=1e-5)


def test_training_step_answer_is_its_derivative():
    from bench.cases import w1

    case = w1.CASES[0]
    inputs = inputs_of(case)
    p = {name: inputs[name].astype(np.float64) for name in w1._names()}
    x, classes = inputs["x"][0].astype(np.float64), inputs["classes"][0]
    _, grads = w1.gradients(p, x, classes)
    rng = np.random.default_rng(1)
    direction = {name: rng.standard_normal(a.shape) for name, a in p.items()}
    h = 1e-6
    plus, minus = (w1.gradients({n: a + s * h * direction[n] for n, a in p.items()}, x, classes)[0] for s in (1, -1))
    assert (plus - minus) / (2 * h) == pytest.approx(sum((grads[n] * direction[n]).sum() for n in p), rel=1e-5)


# ---------------------------------------------------------------------------------------------------- the whole harness

PLANTED = '''
import numpy as np

from bench.harness.case import Case


class Double(Case):
    """y = 2 x; the answer is off by what ``error`` says."""

    steps = 2

    def __init__(self, name, error=0.0):
        super().__init__(name, 8, 64)
        self.error = error

    def inputs(self, rng):
        return {"x": rng.standard_normal((2, 4), dtype=np.float32)}

    def reference(self, inputs):
        return {"y": np.stack([2 * inputs["x"].astype(np.float64)] * 2)}

    def tinygrad_bn(self, inputs):
        import tinygrad_bn as tb

        x = tb.tensor(inputs["x"])
        print("frameworks print")
        return lambda: (x * (2 + self.error),)


class Raises(Double):
    def tinygrad_bn(self, inputs):
        raise RuntimeError("planted")


class Dies(Double):
    def tinygrad_bn(self, inputs):
        import os

        os._exit(7)


CASES = [Double("right"), Double("off", 0.01), Raises("raises"), Dies("dies")]
'''


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A package of cases, some wrong on purpose, that parent and workers can import."""
    package = tmp_path / "planted_cases"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "doubles.py").write_text(PLANTED)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    yield ["--cases", "planted_cases", "--peers", "none", "--threads", "1", "--out", str(tmp_path / "out")]
    for name in [n for n in sys.modules if n.startswith("planted_cases")]:
        del sys.modules[name]


def test_right_answers_give_status_0(planted, capfd, tmp_path):
    assert cli.main([*planted, "--verify-only", "--filter", "right"]) == 0
    assert "1 of 1 answers right" in capfd.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("case", "says"),
    [("off", "WRONG: off, tinygrad_bn"), ("raises", "ERROR: raises, tinygrad_bn"), ("dies", "ended with status 7")],
)
def test_a_planted_fault_gives_status_1(planted, capfd, case, says):
    assert cli.main([*planted, "--verify-only", "--filter", f"right|{case}"]) == 1
    out = capfd.readouterr().out
    assert says in out
    assert "1 of 2 answers right" in out


def test_a_timed_run_writes_both_files(planted, capfd, tmp_path, monkeypatch):
    monkeypatch.setattr(cli.machine, "measured", lambda threads: LIMITS)
    assert cli.main([*planted, "--rounds", "7", "--filter", "right|off"]) == 1
    found = json.loads((tmp_path / "out" / "latest.json").read_text())
    right, off = found["runs"][0]["cases"]
    assert len(right["contenders"][0]["samples"]) == 7
    assert right["contenders"][0]["steps_per_sample"] >= 1
    assert right["floor_fraction"] > 0
    assert off["contenders"][0]["samples"] == []
    assert found["machine"]["versions"]["numpy"] == np.__version__
    assert found["runs"][0]["contenders"]["tinygrad_bn/default"]["threads"] == 1
    text = (tmp_path / "out" / "latest.md").read_text()
    assert "| right |" in text
    assert "WRONG: off, tinygrad_bn" in text
    assert "| right |" in capfd.readouterr().out


def test_a_peer_that_is_not_installed_is_a_note(planted, capfd, monkeypatch):
    from bench.harness import contenders, runner

    absent = contenders.Contender("jax", "no_such_framework", lambda threads: None, dict)
    monkeypatch.setitem(runner.CONTENDERS, "jax", absent)
    monkeypatch.setattr(Case, "takes_part", lambda self, contender: True)
    assert cli.main([*planted, "--verify-only", "--filter", "right", "--peers", "jax"]) == 0
    assert "note: jax does not take part: no_such_framework is not installed" in capfd.readouterr().err


def test_no_case_gives_status_2(planted, capfd):
    assert cli.main([*planted, "--filter", "nothing"]) == 2
    assert "right" in capfd.readouterr().err


def test_two_cases_of_one_name_are_refused(planted, tmp_path):
    source = (tmp_path / "planted_cases" / "doubles.py").read_text()
    (tmp_path / "planted_cases" / "more.py").write_text(source)
    with pytest.raises(ValueError, match=r"unique.*right"):
        discover("planted_cases")


def test_a_worker_says_what_it_cannot_do(planted):
    worker = Client(OURS, 1, "default", "planted_cases")
    try:
        with pytest.raises(WorkerError, match="no case has been set up"):
            worker.ask("calibrate")
        assert worker.alive
        worker.process.kill()
        worker.process.wait()
        with pytest.raises(WorkerError, match="ended"):
            worker.ask("calibrate")
    finally:
        worker.close()
    assert not worker.alive
