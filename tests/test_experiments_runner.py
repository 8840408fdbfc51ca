"""The runner of the experiments: plans, sweeps and their resumption, records, verdicts, the command line."""

from __future__ import annotations

import json
import math
import os
import pkgutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import toy_experiment
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from toy_experiment import EXPERIMENT, changed, walk

import tinygrad_bn as tb
from tinygrad_bn.errors import ArgumentError, DataError, DeviceError, DTypeError, ShapeError
from tinygrad_bn.experiments.runner import extras, registry
from tinygrad_bn.experiments.runner.cli import main
from tinygrad_bn.experiments.runner.experiment import (
    SCALES,
    Claim,
    Experiment,
    Numbers,
    Task,
    above,
    below,
    between,
    curve,
)
from tinygrad_bn.experiments.runner.finished import read
from tinygrad_bn.experiments.runner.jsonable import decode, encode, text
from tinygrad_bn.experiments.runner.results import Outcome, Results
from tinygrad_bn.experiments.runner.verdicts import (
    HELD,
    NOT_HELD,
    NOT_JUDGED,
    UNDECIDED,
    decide,
    estimate,
    judge,
)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Callable[[Experiment], None]:
    """Make the toy the only experiment there is; called with another one, that one."""

    def use(experiment: Experiment) -> None:
        monkeypatch.setattr(registry, "NAMES", ("toy",))
        monkeypatch.setitem(sys.modules, "tinygrad_bn.experiments.toy", SimpleNamespace(EXPERIMENT=experiment))

    use(EXPERIMENT)
    return use


@pytest.fixture(autouse=True)
def no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINYGRAD_BN_DATA", raising=False)


@pytest.fixture
def numbers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes half a second: figure, page, report, TensorBoard files."""
    monkeypatch.setattr(sys.modules["tinygrad_bn.experiments.runner.start"], "publish", lambda outcome: None)


quickly = pytest.mark.usefixtures("numbers_only")


def start(out: Path, experiment: Experiment = EXPERIMENT, scale: str = "standard", **options: Any) -> Any:
    return tb.experiments.run(experiment, scale, out=out, **options)


def counted(limit: int | None = None, error: type[BaseException] = KeyboardInterrupt) -> tuple[Experiment, list[Any]]:
    """The toy, and a list of its runs; with a limit, the run after so many is interrupted in its middle."""
    made: list[Any] = []

    def run(task: Task) -> Numbers:
        if len(made) == limit:
            task.tick(2)
            raise error("here")
        made.append((task.arm, task.seed))
        return walk(task)

    return changed(run), made


# ---------------------------------------------------------------------------------------------------- the experiments


def test_every_experiment_is_registered() -> None:
    modules = {module.name for module in pkgutil.iter_modules(tb.experiments.__path__)}
    assert {name for name in modules if not name.startswith("_")} == {"runner", *tb.experiments.NAMES}
    assert len(set(tb.experiments.NAMES)) == len(tb.experiments.NAMES)


@pytest.mark.parametrize("name", tb.experiments.NAMES)
def test_experiments_are_complete(name: str) -> None:
    experiment = tb.experiments.load(name)
    assert experiment.name == name
    assert set(experiment.scales) == set(experiment.seeds) == set(SCALES)
    for words in (experiment.title, experiment.source, experiment.question, experiment.meaning):
        assert words.strip()
    names = [claim.name for claim in experiment.claims]
    assert names
    assert len(set(names)) == len(names)
    assert all(claim.text and claim.reason for claim in experiment.claims)
    for setting in experiment.scales.values():
        assert all(experiment.steps(setting, arm) > 0 for arm in experiment.arms(setting))


def test_the_package_does_not_import_them() -> None:
    code = "import sys, tinygrad_bn as tb; print('tinygrad_bn.experiments' in sys.modules); tb.experiments.run; "
    code += "print({'matplotlib', 'tensorboardX', 'pooch', 'scipy.stats'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (found.stdout, found.stderr) == ("False\nset()\n", "")


def test_an_unknown_name() -> None:
    with pytest.raises(ArgumentError, match=r"'name' must be one of input_.*Got 'gama_beta'\.\nHint: did you mean gam"):
        tb.experiments.run("gama_beta")


# --------------------------------------------------------------------------------------------------------------- sweep


@quickly
def test_all_runs_are_made_and_kept(tmp_path: Path) -> None:
    experiment, made = counted()
    outcome = start(tmp_path, experiment)
    assert made == [(arm, seed) for seed in range(5) for arm in ("drift", "none")]
    folder = tmp_path / "toy" / "standard"
    assert outcome.folder == folder
    kept = sorted(path.name for path in (folder / "runs").iterdir())
    assert kept == sorted(f"{arm}-{seed}.json" for arm, seed in made)
    stored = json.loads((folder / "runs" / "drift-3.json").read_text())
    assert stored["fingerprint"]["seed"] == 3
    assert stored["fingerprint"]["setting"] == {"steps": 50, "drift": 3.0, "rates": [0.1, 0.5]}
    assert stored["numbers"]["lost"] == "inf"
    assert outcome.results.outcomes[3]["drift"]["end"] == stored["numbers"]["end"]
    assert outcome.results.outcomes[3]["drift"]["lost"] == math.inf


@quickly
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_sweep_goes_on_where_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    broken, before = counted(limit=3, error=error)
    with pytest.raises(error) as raised:
        start(tmp_path, broken)
    if error is ValueError:
        assert raised.value.__notes__ == ["in experiment toy, arm none, seed 1"]
    whole, after = counted()
    again = start(tmp_path, whole)
    assert len(before) == 3
    assert before + after == [(arm, seed) for seed in range(5) for arm in ("drift", "none")]
    assert [outcome.seed for outcome in again.results] == [0, 1, 2, 3, 4]
    assert not list(tmp_path.rglob("*.part"))


@quickly
def test_what_was_resumed_equals_what_was_not(tmp_path: Path) -> None:
    broken, _ = counted(limit=3)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "a", broken)
    start(tmp_path / "a")
    start(tmp_path / "b")
    records = [json.loads((tmp_path / f / "toy/standard/result.json").read_text()) for f in "ab"]
    assert timeless(records[0]) == timeless(records[1])


@quickly
def test_finished_runs_are_made_again_only_when_asked(tmp_path: Path) -> None:
    start(tmp_path)
    experiment, made = counted()
    start(tmp_path, experiment)
    assert made == []
    start(tmp_path, experiment, fresh=True)
    assert len(made) == 10
    start(tmp_path, experiment, seeds=6)
    assert made[10:] == [("drift", 5), ("none", 5)]


@quickly
@pytest.mark.parametrize("what", ["setting", "version", "broken", "truncated", "other"])
def test_a_run_of_another_fingerprint_is_made_anew(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start(tmp_path)
    experiment, made = counted()
    file = tmp_path / "toy/standard/runs/none-2.json"
    if what == "setting":
        experiment = replace(
            experiment, scales={**experiment.scales, "standard": replace(experiment.scales["standard"], drift=2.0)}
        )
    elif what == "version":
        monkeypatch.setattr(tb, "__version__", "0.1.1")
    elif what == "broken":
        file.write_text("{")
    elif what == "truncated":
        file.write_text(file.read_text()[:-9])
    else:
        file.write_text("[]")
    start(tmp_path, experiment)
    assert made == ([("none", 2)] if what in ("broken", "truncated", "other") else made[:10])
    assert len(made) in (1, 10)


@quickly
def test_another_file_is_noticed_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(tmp_path, EXPERIMENT)
    start(tmp_path, EXPERIMENT)
    assert "changed" not in capsys.readouterr().err
    experiment, made = counted()  # its run stands in this file
    start(tmp_path, experiment)
    said = "toy: its file has changed since 10 of 10 runs were made; --fresh makes them again"
    assert said in capsys.readouterr().err
    assert made == []


@quickly
def test_the_bar_covers_all_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken, _ = counted(limit=3)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, broken)
    capsys.readouterr()

    def lazy(task: Task) -> Numbers:  # too few ticks, then too many
        task.tick(10)
        found = walk(task)
        task.tick(1000)
        return found

    start(tmp_path, changed(lazy))
    said = capsys.readouterr().err
    assert "step 150/500" in said
    assert "toy, none, seed 2/5" in said
    assert "step 500/500" in said
    assert "ETA" in said


@quickly
def test_the_random_state_is_left_as_it_was(tmp_path: Path) -> None:
    tb.manual_seed(7)
    expected = tb.randn(3).tolist()
    tb.manual_seed(7)
    start(tmp_path, scale="quick")
    assert tb.randn(3).tolist() == expected


def timeless(record: Any) -> Any:
    """A record without what a clock measured."""
    if isinstance(record, dict):
        return {key: timeless(value) for key, value in record.items() if key not in ("clock", "seconds")}
    return [timeless(value) for value in record] if isinstance(record, list) else record


@quickly
def test_the_same_seed_gives_the_same_record(tmp_path: Path) -> None:
    records = []
    for name in ("a", "b"):
        start(tmp_path / name, scale="quick")
        records.append(json.loads((tmp_path / name / "toy/quick/result.json").read_text()))
    assert records[0] != records[1]  # the clock
    assert timeless(records[0]) == timeless(records[1])


@quickly
def test_the_record(tmp_path: Path) -> None:
    outcome = start(tmp_path)
    content = (outcome.folder / "result.json").read_text()
    record = json.loads(content, parse_constant=pytest.fail)
    assert record["experiment"] == "toy"
    assert record["setting"]["steps"] == 50
    assert record["seeds"] == [0, 1, 2, 3, 4]
    assert record["versions"]["numpy"] == np.__version__
    assert set(record["versions"]) >= {"python", "numba", "scipy", "tinygrad_bn"}
    assert record["processor"]
    assert str(tmp_path) not in content
    assert len(record["runs"]) == 10
    assert len(record["runs"][0]["numbers"]["walk"]["y"]) == 50
    assert [claim.get("verdict") for claim in record["claims"]] == [HELD, NOT_HELD, HELD, None]
    assert record["claims"][3]["clock"]["verdict"] == HELD  # apart: a second run may measure something else
    assert record["claims"][0]["threshold"] == {"low": 1.0, "high": "inf"}
    assert len(record["claims"][0]["measured"]["values"]) == 5
    assert record["published"][1]["measured"] is None
    assert record["seconds"]["all"] > 0
    again = read(EXPERIMENT, "standard", outcome.folder)
    assert again.results == outcome.results
    assert again.verdicts == outcome.verdicts
    assert again.rows == outcome.rows
    assert again.facts == outcome.facts


@quickly
def test_a_record_that_is_read_with_another_setting(tmp_path: Path) -> None:
    outcome = start(tmp_path)
    other = changed(scales={**EXPERIMENT.scales, "standard": toy_experiment.Setting(51)})
    with pytest.raises(DataError, match="was made with another setting than the experiment has now"):
        read(other, "standard", outcome.folder)
    with pytest.raises(DataError, match="does not exist"):
        read(EXPERIMENT, "quick", tmp_path)
    (outcome.folder / "result.json").write_text('{"experiment": 1}')
    with pytest.raises(DataError, match="is no result of an experiment"):
        read(EXPERIMENT, "standard", outcome.folder)


@quickly
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"scale": "huge"}, ArgumentError, "'scale' must be one of quick, standard, paper. Got 'huge'"),
        ({"seeds": 0}, ArgumentError, "'seeds' must be at least 1. Got 0"),
        ({"device": "mars"}, DeviceError, "Got 'mars'"),
        ({"experiment": changed(arms=lambda s: ("a/b", "a b"))}, ArgumentError, "different names"),
        ({"experiment": changed(arms=lambda s: ())}, ArgumentError, "different names"),
        ({"experiment": changed(scales={"standard": 3})}, ArgumentError, "a dataclass for each scale. Got int"),
        ({"experiment": changed(lambda task: {"a": 1j})}, DTypeError, r"seed 0\['a'\]' must have a type that JSON can"),
        ({"experiment": changed(lambda task: {"a": [{3: 1}]})}, DTypeError, r"\['a'\]\[0\]' must have strings as its"),
        ({"experiment": changed(lambda task: {"a": {"b": tb.ones(2)}})}, DTypeError, "Tensor.\nHint: .*tolist"),
        ({"experiment": changed(lambda task: {"a": "nan"})}, DTypeError, "a text other than nan, inf and -inf"),
    ],
)
def test_errors(tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        start(tmp_path, **options)
    assert not list(tmp_path.rglob("*.json"))


def test_an_error_in_a_measure_says_which(tmp_path: Path) -> None:
    claim = Claim("odd", "It is odd.", lambda o: o["drift"]["nothing"], above(0), "it")
    with pytest.raises(KeyError) as raised:
        start(tmp_path, changed(claims=(claim,)))
    assert raised.value.__notes__ == ["in the measure of 'odd'"]


def test_a_curve_has_a_value_for_each_x() -> None:
    assert curve(range(2), np.float32([0.5, 2])) == {"x": [0, 1], "y": [0.5, 2.0]}
    assert curve([], []) == {"x": [], "y": []}
    for x, y in (([1, 2], [1]), ([[1]], [1]), ([1], 1.0)):
        with pytest.raises(ShapeError, match="'y' must have a value for each x"):
            curve(x, y)


# ---------------------------------------------------------------------------------------------------------------- JSON

WORDS = st.text().filter(lambda t: t not in ("nan", "inf", "-inf"))
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | WORDS
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=4) | st.dictionaries(WORDS, v, max_size=4), max_leaves=12)


def bits(value: Any) -> Any:
    """What tells values apart that == does not: -0.0 and 0.0, True and 1; and what equals itself: nan."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack("<d", value)
    if isinstance(value, list):
        return [bits(v) for v in value]
    return {k: bits(v) for k, v in value.items()} if isinstance(value, dict) else (type(value), value)


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_numbers_come_back_from_json_exactly(value: dict[str, Any]) -> None:
    written = text(encode(value))
    assert bits(decode(json.loads(written, parse_constant=pytest.fail))) == bits(value)


def test_arrays_become_lists() -> None:
    value = {"a": np.array([[1.5, np.nan]], np.float32), "b": np.int64(3), "c": (np.True_, -np.inf)}
    assert encode(value) == {"a": [[1.5, "nan"]], "b": 3, "c": [True, "-inf"]}


# ------------------------------------------------------------------------------------------------------------- verdicts

FINITE = st.floats(-1e6, 1e6)
ANY = st.floats(-1e300, 1e300) | st.sampled_from([np.inf, -np.inf])


@given(st.lists(FINITE, min_size=2, max_size=9))
def test_the_interval_is_students(values: list[float]) -> None:
    found = estimate(values)
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    wanted = np.mean(values) - half, np.mean(values) + half
    np.testing.assert_allclose((found.low, found.high), wanted, rtol=1e-9, atol=1e-6)
    assert found.low <= found.mean <= found.high
    assert found.values == tuple(values)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).standard_normal((2000, 5))
    inside = np.mean([e.low < 0 < e.high for e in map(estimate, draws)])
    assert abs(inside - 0.95) < 0.02


@given(st.lists(ANY, min_size=1, max_size=6), FINITE)
def test_a_claim_and_its_opposite_never_both_hold(values: list[float], where: float) -> None:
    found = estimate(values)
    over, under = decide(found, above(where)), decide(found, below(where))
    assert (over == HELD) <= (under == NOT_HELD)
    assert (under == HELD) <= (over == NOT_HELD)
    assert (over == under == UNDECIDED) == (found.low < where < found.high)
    if over == HELD:
        assert np.mean(values) > where or not np.isfinite(values).all()
        assert decide(found, above(where - 1)) == HELD


@given(st.lists(ANY, min_size=1, max_size=6), FINITE, FINITE)
def test_an_interval_is_both_of_its_half_lines(values: list[float], a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    found = estimate(values)
    halves = decide(found, above(low)), decide(found, below(high))
    whole = decide(found, between(low, high))
    assert (whole == HELD) == (halves == (HELD, HELD))
    assert (whole == NOT_HELD) == (NOT_HELD in halves)


@pytest.mark.parametrize(
    ("values", "threshold", "verdict"),
    [
        ([2.0, 2.1, 2.2], above(1), HELD),
        ([2.0, 2.1, 2.2], below(1), NOT_HELD),
        ([2.0, 2.1, 2.2], above(2.1), UNDECIDED),
        ([2.0, 2.1, 2.2], between(1, 3), HELD),
        ([2.0, 2.1, 2.2], between(5, 6), NOT_HELD),
        ([2.0], above(1.9), HELD),
        ([2.0], above(2.0), NOT_HELD),
        ([2.0, 2.0], above(1.9), HELD),
        ([math.inf, math.inf], above(5), HELD),
        ([math.inf, math.inf], below(5), NOT_HELD),
        ([math.inf, 3.0], above(5), UNDECIDED),
        ([math.inf, 7.0], above(5), HELD),
        ([-math.inf, math.inf], above(5), UNDECIDED),
        ([math.inf], between(1, 5), NOT_HELD),
        ([math.nan, 7.0], above(5), UNDECIDED),
        ([math.nan], below(5), UNDECIDED),
        ([1e308, 1.5e308], above(5), HELD),
    ],
)
def test_verdicts(values: list[float], threshold: Any, verdict: str) -> None:
    assert decide(estimate(values), threshold) == verdict


@pytest.mark.parametrize(("scale", "data"), [("quick", ""), ("standard", "digits"), ("quick", "mnist")])
def test_nothing_is_judged_at_quick_or_on_a_stand_in(scale: str, data: str) -> None:
    outcome = Outcome(None, 0, {"drift": {"end": 9.0}, "none": {"end": 1.0}})
    (found,) = judge(EXPERIMENT.claims[:1], Results(scale, None, data, [outcome]))
    assert (found.verdict, found.estimate.mean) == (NOT_JUDGED, 8.0)
    (found,) = judge(EXPERIMENT.claims[:1], Results("standard", None, "mnist", [outcome]))
    assert found.verdict == HELD


# --------------------------------------------------------------------------------------------------- the command line


def test_the_command_prints_verdicts_and_says_where_files_are(
    tmp_path: Path, toy: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["toy", "--out", str(tmp_path), "--scale", "standard"]) == 0
    said = capsys.readouterr().out
    assert "drift, m/step  3" in said
    rows = {line.split()[0]: line for line in said.splitlines() if line}
    assert rows["leads_away"].endswith("> 1        held")
    assert rows["stays"].endswith("< 1        not held")
    written = ["figure.png", "page.md", "report.html", "result.json", "runs", "table.md", "tensorboard"]
    assert said.endswith(f"written to {tmp_path / 'toy/standard'}: {', '.join(written)}\n")
    assert main(["toy", "--out", str(tmp_path)]) == 0
    assert "not judged" in capsys.readouterr().out


def test_the_list(toy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[2].split() == f"toy {EXPERIMENT.title} {EXPERIMENT.source}".split()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["toi"], "'name' must be one of toy. Got 'toi'.\nHint: did you mean toy?"),
        (["toy", "list"], "list stands alone"),
        (["toy", "--seeds", "0"], "must be a whole number of at least 1. Got '0'."),
        (["toy", "--scale", "large"], "invalid choice: 'large'"),
        (["toy", "--data-dir", "x", "--download"], "not allowed with argument"),
        ([], "the following arguments are required: NAME"),
    ],
)
def test_wrong_flags(flags: list[str], message: str, toy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(flags)
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


def test_errors_of_the_command(
    tmp_path: Path, toy: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ["--out", str(tmp_path / "out")]
    if not tb.cuda.is_available():
        assert main(["toy", "--device", "cuda", *out]) == 1
        assert capsys.readouterr().err.startswith("tinygrad_bn.experiments: device: 'cuda' needs ")
    toy(changed(data="mnist"))
    assert main(["toy", "--data-dir", str(tmp_path), *out]) == 1
    assert "must have a file train-images-idx3-ubyte or train-images-idx3-ubyte.gz" in capsys.readouterr().err
    toy(changed(lambda task: {"a": 1j}))
    assert main(["toy", *out]) == 1
    assert capsys.readouterr().err.endswith("Got builtins.complex.\n")
    (tmp_path / "file").write_text("")
    assert main(["toy", "--out", str(tmp_path / "file")]) == 1
    folder = tmp_path / "file/toy/quick/runs"
    assert f"experiments: '{folder}' cannot be made: Not a directory" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.json"))


def test_what_is_not_installed_is_said_and_left_out(
    tmp_path: Path, toy: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert main(["toy", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().err
    assert said.startswith("tinygrad_bn.experiments: no figure: matplotlib is not installed.\nHint: pip install")
    assert "no TensorBoard files: tensorboardX is not installed." in said
    files = sorted(path.name for path in (tmp_path / "toy/quick").iterdir())
    assert files == ["page.md", "report.html", "result.json", "runs", "table.md"]
    assert "![" not in (tmp_path / "toy/quick/page.md").read_text()
    assert main(["toy", "--out", str(tmp_path), "--pages", str(tmp_path / "pages")]) == 0
    assert sorted(path.name for path in (tmp_path / "pages").iterdir()) == ["README.md", "toy.md"]


INTERRUPTED = """
import sys, time
from types import SimpleNamespace
import toy_experiment
from tinygrad_bn.experiments.runner import cli, registry

def run(task):
    if task.seed == 1:
        print("now", flush=True)
        time.sleep(60)
    return toy_experiment.walk(task)

registry.NAMES = ("toy",)
sys.modules["tinygrad_bn.experiments.toy"] = SimpleNamespace(EXPERIMENT=toy_experiment.changed(run))
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to send")
def test_control_c(tmp_path: Path, toy: Any) -> None:
    command = [sys.executable, "-c", INTERRUPTED, "toy", "--scale", "standard", "--out", str(tmp_path)]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ["PYTHONPATH"]])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=paths) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert said.endswith("interrupted; the same command continues after the last finished run\n")
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["toy/standard/runs/drift-0.json", "toy/standard/runs/none-0.json"]
    experiment, made = counted()
    start(tmp_path, experiment)
    assert len(made) == 8
