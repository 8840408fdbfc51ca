"""Training and the command line: fit, history, figure, checkpoints, Ctrl-C, flags, errors, the README's example."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import nn, optim
from tinygrad_bn.data import DataLoader, TensorDataset
from tinygrad_bn.errors import ArgumentError, DataError
from tinygrad_bn.train import EpochDone, History, StepDone, StopTraining, evaluate, fit, mlp
from tinygrad_bn.train.cli import main
from tinygrad_bn.train.files import replaced
from tinygrad_bn.train.job import evaluate_checkpoint
from tinygrad_bn.train.progress import GracefulInterrupt

ROOT = Path(__file__).parents[1]
SMALL = ["--epochs", "2", "--hidden", "16,16", "--batch-size", "200"]


def run(folder: Path, *flags: str) -> int:
    return main(["train", *SMALL, "--out", str(folder), *flags])


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "history.json").read_text())
    return found


def untimed(history: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in e.items() if k != "seconds"} for e in history["epochs"]]


# -------------------------------------------------------------------------------------------------------------- train


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run, not to be changed."""
    folder = tmp_path_factory.mktemp("run")
    assert run(folder) == 0
    return folder


def test_train_leaves_its_files(finished: Path) -> None:
    assert sorted(p.name for p in finished.iterdir()) == ["checkpoint.safetensors", "figure.png", "history.json"]
    assert (finished / "figure.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    history = read(finished)
    assert history["config"]["hidden"] == [16, 16]
    assert history["config"]["seed"] == 0
    assert history["versions"]["numpy"] == np.__version__
    assert history["interrupted"] is False
    assert [e["epoch"] for e in history["epochs"]] == [1, 2]
    assert [e["steps"] for e in history["epochs"]] == [8, 8]
    assert history["epochs"][1]["train_loss"] < history["epochs"][0]["train_loss"]


def test_the_final_table_shows_the_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 0
    printed = capsys.readouterr()
    last = read(tmp_path)["epochs"][-1]
    row = printed.out.splitlines()[-2].split()
    assert row[0] == "2"
    assert float(row[1]) == round(last["train_loss"], 4)
    assert float(row[2]) == round(100 * last["train_accuracy"], 2)
    assert float(row[4]) == round(last["test_loss"], 4)
    assert float(row[5]) == round(100 * last["test_accuracy"], 2)
    assert re.search(r"epoch 2/2 100%.* step 16/16 .*ETA 00:00.*loss \d.*accuracy \d", printed.err)


def test_evaluate_reads_back_exactly_what_training_reached(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = read(finished)["epochs"][-1]
    for path in (finished, finished / "checkpoint.safetensors"):
        scores = evaluate_checkpoint(path, None, None)
        assert scores.accuracy == last["test_accuracy"]
        assert scores.loss == last["test_loss"]
        assert scores.count == 359
    assert main(["evaluate", str(finished)]) == 0
    assert f"({scores.correct} of 359)" in capsys.readouterr().out


def test_equal_seeds_give_equal_runs_for_any_number_of_threads(finished: Path, tmp_path: Path) -> None:
    assert run(tmp_path / "one", "--threads", "1") == 0
    assert run(tmp_path / "other", "--seed", "1") == 0
    assert untimed(read(tmp_path / "one")) == untimed(read(finished))
    assert untimed(read(tmp_path / "other")) != untimed(read(finished))


@pytest.mark.parametrize(
    "flags",
    [
        ["--norm", "none", "--activation", "tanh"],
        ["--activation", "relu", "--optimizer", "adam"],
        ["--momentum", "0", "--lr", "0.05"],
        ["--batch-size", "479"],  # a last batch of one, which batch norm cannot train on
    ],
)
def test_variants_train_and_are_read_back(flags: list[str], tmp_path: Path) -> None:
    assert run(tmp_path, *flags) == 0
    history = read(tmp_path)
    assert history["epochs"][-1]["train_loss"] < history["epochs"][0]["train_loss"]
    assert evaluate_checkpoint(tmp_path, None, None).accuracy == history["epochs"][-1]["test_accuracy"]


def test_the_default_network() -> None:
    model = mlp(64)
    kinds = [type(layer).__name__ for layer in model]
    assert kinds == ["Flatten", *["Linear", "BatchNorm1d", "Sigmoid"] * 3, "Linear"]
    assert [tuple(p.shape) for n, p in model.named_parameters() if n.endswith("weight") and p.ndim == 2] == [
        (100, 64), (100, 100), (100, 100), (10, 100)
    ]  # fmt: skip
    assert "1.bias" not in dict(model.named_parameters())
    assert "1.bias" in dict(mlp(64, norm="none").named_parameters())


def test_mlp_refuses() -> None:
    with pytest.raises(ArgumentError, match="mlp: 'norm' must be one of batch, none. Got 'layer'."):
        mlp(4, norm="layer")
    with pytest.raises(ArgumentError, match="mlp: 'activation' must be one of sigmoid, relu, tanh. Got 'swish'."):
        mlp(4, activation="swish")


def test_without_matplotlib_the_run_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    assert run(tmp_path) == 0
    printed = capsys.readouterr()
    assert 'the extra "figures"' in printed.err
    assert "pip install matplotlib" in printed.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.safetensors", "history.json"]


# ------------------------------------------------------------------------------------------------------------- Ctrl-C


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tinygrad_bn", *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, **pipes)


def wait_for_epochs(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    until = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < until:
        if (folder / "history.json").exists() and len(read(folder)["epochs"]) >= count:
            return
        time.sleep(0.05)
    process.kill()
    pytest.fail(f"no {count} epochs: {process.communicate()}")


def test_ctrl_c_leaves_a_usable_checkpoint(tmp_path: Path) -> None:
    process = start("train", "--epochs", "100000", "--hidden", "16", "--out", str(tmp_path))
    wait_for_epochs(process, tmp_path, 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "interrupted: " in err
    assert "checkpoint.safetensors holds the network of epoch" in err
    history = read(tmp_path)
    assert history["interrupted"] is True
    assert len(history["epochs"]) >= 2
    assert f"\n{len(history['epochs']):>5}  " in out
    assert evaluate_checkpoint(tmp_path, None, None).accuracy == history["epochs"][-1]["test_accuracy"]


def test_a_first_ctrl_c_ends_after_the_step_and_a_second_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    step = StepDone(1, 1, 2, 0.5, 0.5)
    with GracefulInterrupt() as interrupt:
        interrupt(step)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(StopTraining):
            interrupt(step)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopping after this step" in capfd.readouterr().err


def test_a_second_ctrl_c_before_the_first_step_leaves_the_initial_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def at_once(*arguments: Any, **options: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("tinygrad_bn.train.job.fit", at_once)
    assert run(tmp_path) == 130
    assert "as it was before the first step" in capsys.readouterr().err
    assert read(tmp_path)["interrupted"] is True
    assert evaluate_checkpoint(tmp_path, None, None).count == 359


# --------------------------------------------------------------------------------------------------- flags and errors


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epochs", "0"], "argument --epochs: must be a whole number of at least 1. Got '0'."),
        (["--epochs", "many"], "argument --epochs: must be a whole number of at least 1. Got 'many'."),
        (["--batch-size", "1"], "argument --batch-size: batch norm needs at least 2 samples"),
        (["--hidden", "10,,10"], "argument --hidden: must be whole numbers of at least 1 with commas between"),
        (["--hidden", "0"], "argument --hidden: must be whole numbers"),
        (["--lr", "nan"], "argument --lr: must be a positive number. Got 'nan'."),
        (["--lr", "fast"], "argument --lr: must be a positive number. Got 'fast'."),
        (["--momentum", "1"], "argument --momentum: must be a number from 0 to below 1. Got '1'."),
        (["--optimizer", "adam", "--momentum", "0.9"], "argument --momentum: belongs to --optimizer sgd"),
        (["--threads", "100000"], "argument --threads: must be from 1 to"),
        (["--seed", "-1"], "argument --seed: must be a whole number of at least 0. Got '-1'."),
        (["--norm", "layer"], "argument --norm: invalid choice: 'layer'"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--out", str(ROOT / "README.md" / "below")], "argument --out: cannot make the folder"),
    ],
)
def test_wrong_flags(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", *flags])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_mnist_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TINYGRAD_BN_DATA", raising=False)
    assert run(tmp_path, "--data", "mnist") == 1
    assert "tinygrad_bn train: mnist: 'root' must be the folder" in capsys.readouterr().err
    assert run(tmp_path, "--data", "mnist", "--data-dir", str(tmp_path)) == 1
    assert "must have a file train-images-idx3-ubyte" in capsys.readouterr().err


def test_checkpoints_that_cannot_be_read(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = (finished / "checkpoint.safetensors").read_bytes()
    cases = {
        "missing": None,
        "short": content[:-100],
        "empty": b"",
        "text": b"not a checkpoint at all, only text",
    }
    for name, broken in cases.items():
        path = tmp_path / name
        if broken is not None:
            path.write_bytes(broken)
        assert main(["evaluate", str(path)]) == 1
        assert str(path) in capsys.readouterr().err
    tb.save({"weight": tb.zeros(2)}, tmp_path / "other")
    assert main(["evaluate", str(tmp_path / "other")]) == 1
    assert "no checkpoint: it lacks the entry" in capsys.readouterr().err


def test_a_checkpoint_of_other_pictures(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from test_data import write_mnist

    write_mnist(tmp_path)
    assert main(["evaluate", str(finished), "--data", "mnist", "--data-dir", str(tmp_path)]) == 1
    assert "evaluate: 'data' must be a data set of pictures like those of digits" in capsys.readouterr().err


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    rows = dict(re.findall(r"^(\S[\w ]*?)  +(.*)$", capsys.readouterr().out, re.M))
    assert rows["tinygrad_bn"] == tb.__version__
    assert rows["numpy"] == np.__version__
    assert re.search(r"layer (omp|tbb|serial)", rows["threads"])
    assert "float32" in rows["dtypes"]
    assert rows["devices"].startswith("cpu")
    assert {"numba", "scipy", "python", "processor", "vector width", "blas", "kernel cache"} <= set(rows)


def test_the_module_runs_as_a_command() -> None:
    process = start("--help")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert all(command in out for command in ("train", "evaluate", "info", "warmup"))
    process = start()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "required: command" in err


def test_the_readmes_example(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    exec(compile(example, "README.md", "exec"), {})
    accuracy = float(capsys.readouterr().out.split()[-1])
    assert accuracy > 0.8  # after one epoch; chance is 0.1


# ---------------------------------------------------------------------------------------------------------------- fit


def problem(n: int = 24) -> tuple[nn.Module, TensorDataset]:
    """Two classes that a line separates."""
    tb.manual_seed(3)
    x = np.random.default_rng(0).standard_normal((n, 4)).astype(np.float32)
    labels = (x[:, 0] > 0).astype(np.int64)
    return nn.Sequential(nn.Linear(4, 2)), TensorDataset(tb.from_numpy(x), tb.from_numpy(labels))


def test_fit_does_what_the_loop_written_out_does() -> None:
    model, data = problem()
    twin, _ = problem()
    history = fit(model, DataLoader(data, 8), optim.SGD(model.parameters(), lr=0.5), epochs=2)
    optimizer = optim.SGD(twin.parameters(), lr=0.5)
    for _ in range(2):
        losses, correct = [], 0
        for x, y in DataLoader(data, 8):
            optimizer.zero_grad()
            logits = twin(x)
            loss = nn.functional.cross_entropy(logits, y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            correct += int((logits.detach().numpy().argmax(1) == y.numpy()).sum())
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_array_equal(ours.detach().numpy(), theirs.detach().numpy())
    assert history.epochs[-1].train_loss == pytest.approx(np.mean(losses), rel=1e-12)
    assert history.epochs[-1].train_accuracy == correct / 24
    assert history.epochs[-1].test_accuracy is None


def test_fit_tells_its_callbacks_and_steps_the_schedule() -> None:
    model, data = problem()
    optimizer = optim.SGD(model.parameters(), lr=0.5)
    schedule = optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    seen: list[StepDone | EpochDone] = []
    loader = DataLoader(data, 12)
    history = fit(model, loader, optimizer, epochs=2, test=loader, scheduler=schedule, callbacks=[seen.append])
    assert [type(e).__name__ for e in seen] == ["StepDone", "StepDone", "EpochDone"] * 2
    assert [e.learning_rate for e in history.epochs] == [0.5, 0.25]
    assert history.epochs[-1].test_accuracy == evaluate(model, loader).accuracy
    fit(model, loader, optimizer, epochs=1, history=history)
    assert [e.epoch for e in history.epochs] == [1, 2, 3]


def test_a_callback_stops_training_after_a_step() -> None:
    model, data = problem()

    def stop(event: StepDone | EpochDone) -> None:
        if isinstance(event, StepDone) and (event.epoch, event.step) == (2, 1):
            raise StopTraining

    optimizer = optim.SGD(model.parameters(), lr=0.5)
    history = fit(model, DataLoader(data, 8), optimizer, epochs=5, callbacks=[stop])
    assert history.interrupted
    assert [(e.epoch, e.steps, e.steps_planned) for e in history.epochs] == [(1, 3, 3), (2, 1, 3)]
    assert "stopped after 1 of 3 steps" in history.table()


def test_fit_and_evaluate_refuse() -> None:
    model, data = problem()
    optimizer = optim.SGD(model.parameters(), lr=0.5)
    with pytest.raises(ArgumentError, match="fit: 'epochs' must be an int of at least 0. Got -1."):
        fit(model, DataLoader(data, 8), optimizer, epochs=-1)
    with pytest.raises(ArgumentError, match="fit: 'loader' must have at least one batch. Got none."):
        fit(model, DataLoader(data, 100, drop_last=True), optimizer, epochs=1)
    with pytest.raises(ArgumentError, match="evaluate: 'loader' must have at least one sample. Got none."):
        evaluate(model, DataLoader(data, 100, drop_last=True))


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_leaves_the_mode_as_it_was(training: bool) -> None:
    _, data = problem()
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).train(training)
    before = {name: t.numpy().copy() for name, t in model.state_dict().items()}
    evaluate(model, DataLoader(data, 5))
    assert model.training is training
    for name, t in model.state_dict().items():
        np.testing.assert_array_equal(t.numpy(), before[name])


def test_history_writes_null_for_what_is_not_finite(tmp_path: Path) -> None:
    epoch = EpochDone(1, 2, 2, 0.5, 0.5, None, None, 0.1, 1.0)
    history = History([replace(epoch, train_loss=float("nan"), test_loss=float("inf"))])
    history.save(tmp_path / "history.json", note="x")
    text = (tmp_path / "history.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["epochs"][0]["train_loss"] is None
    assert json.loads(text)["epochs"][0]["test_loss"] is None
    assert json.loads(text)["note"] == "x"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "file"

    def write(text: str, error: Exception | None = None) -> None:
        with replaced(target) as part:
            part.write_text(text)
            if error is not None:
                raise error

    write("old")
    with pytest.raises(DataError, match="the disk is full"):
        write("half of the ne", DataError("the disk is full"))
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
