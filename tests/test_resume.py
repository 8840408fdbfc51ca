"""Runs that are stopped and continued: bit-equal to one that was not; and training on CIFAR-10's files by command."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli import SMALL, read, start, untimed, wait_for_epochs
from test_data_cifar import write_cifar

import tinygrad_bn as tb
from tinygrad_bn import nn, optim
from tinygrad_bn.data import DataLoader, TensorDataset
from tinygrad_bn.errors import DataError, StateDictError
from tinygrad_bn.optim import lr_scheduler
from tinygrad_bn.train import EpochDone, History, StepDone, StopTraining, fit
from tinygrad_bn.train.checkpoint import load_checkpoint
from tinygrad_bn.train.cli import main
from tinygrad_bn.train.config import Config
from tinygrad_bn.train.job import evaluate_checkpoint
from tinygrad_bn.train.state import Training

FILE = "checkpoint.safetensors"


def flat(value: Any, at: str = "") -> dict[str, Any]:
    """Every number, string and array of nested entries, by path."""
    if isinstance(value, dict):
        return {k: v for name, entry in value.items() for k, v in flat(entry, f"{at}/{name}").items()}
    if isinstance(value, list | tuple):
        return flat(dict(enumerate(value)), at)
    return {at: value.numpy() if isinstance(value, tb.Tensor) else value}


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, statistics, optimiser, schedule, generators and history are equal, bit for bit, but for the seconds."""
    a, b = (load_checkpoint(folder / FILE) for folder in (one, other))
    assert a.training is not None
    assert b.training is not None
    for ours, theirs in ((a.model, b.model), (a.training, b.training)):
        left, right = flat(dict(ours)), flat(dict(theirs))
        assert left.keys() == right.keys()
        for name, value in left.items():
            if not name.endswith("/seconds"):
                np.testing.assert_array_equal(value, right[name], err_msg=name)
    assert untimed(read(one)) == untimed(read(other))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10's files, with little in them."""
    return write_cifar(tmp_path_factory.mktemp("cifar"), {"data_batch_1": 60, "data_batch_2": 37, "test_batch": 20})


def train(folder: Path, *flags: str) -> int:
    return main(["train", "--out", str(folder), *flags])


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let training be stopped, by what Ctrl-C raises, after a step of an epoch."""
    from tinygrad_bn.train.progress import GracefulInterrupt

    def stop_at(epoch: int, step: int) -> None:
        def call(self: Any, event: StepDone | EpochDone) -> None:
            if isinstance(event, StepDone) and (event.epoch, event.step) == (epoch, step):
                raise StopTraining

        monkeypatch.setattr(GracefulInterrupt, "__call__", call)

    return stop_at


# ------------------------------------------------------------------------------------------------- continued to the bit

RUNS = {
    "sgd, cosine": ["--lr-schedule", "cosine", "--lr", "0.05", "--weight-decay", "0.001"],
    "adam, steps after a warm-up": [
        "--optimizer", "adam", "--lr-schedule", "multistep", "--milestones", "2,3", "--warmup-epochs", "1"
    ],
    "adamw, steps": ["--optimizer", "adamw", "--lr-schedule", "step", "--step-size", "1", "--gamma", "0.5"],
    "no momentum": ["--momentum", "0", "--lr-schedule", "exponential", "--gamma", "0.9", "--warmup-epochs", "2"],
}  # fmt: skip


@pytest.mark.parametrize(("epoch", "step", "prefetch"), [(1, 1, "0"), (1, 4, "3"), (2, 3, "3"), (4, 4, "0")])
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.filterwarnings("ignore:cifar10")
def test_a_stopped_run_continues_to_the_same_bits(
    name: str, epoch: int, step: int, prefetch: str, pictures: Path, tmp_path: Path, stopped: Any
) -> None:
    """Stopped in the first and in a later epoch, in the middle and after an epoch's last step (4 steps each)."""
    flags = ["--data", "cifar10", "--data-dir", str(pictures), "--model", "mlp", "--hidden", "8", *RUNS[name]]
    flags += ["--epochs", "4", "--batch-size", "25", "--augment", "photometric", "--seed", "2"]
    assert train(tmp_path / "whole", *flags, "--prefetch", "0") == 0
    stopped(epoch, step)
    assert train(tmp_path / "cut", *flags, "--prefetch", prefetch) == 130
    assert read(tmp_path / "cut")["epochs"][-1]["steps"] == step
    stopped(0, 0)
    assert train(tmp_path / "cut", *flags, "--resume", "--prefetch", prefetch) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.filterwarnings("ignore:cifar10")
def test_a_run_stopped_thrice(pictures: Path, tmp_path: Path, stopped: Any) -> None:
    flags = ["--data", "cifar10", "--data-dir", str(pictures), "--model", "mlp", "--hidden", "8"]
    flags += ["--epochs", "3", "--batch-size", "25", "--augment", "--prefetch", "2"]
    assert train(tmp_path / "whole", *flags) == 0
    for i, (epoch, step) in enumerate([(1, 2), (1, 3), (3, 1)]):
        stopped(epoch, step)
        assert train(tmp_path / "cut", *flags, *(["--resume"] if i else [])) == 130
    stopped(0, 0)
    assert train(tmp_path / "cut", "--resume") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_run_killed_between_epochs_continues_from_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second Ctrl-C, in the middle of a step: the checkpoint of the epoch before stands."""
    from tinygrad_bn.train.progress import GracefulInterrupt

    assert train(tmp_path / "whole", *SMALL) == 0

    def call(self: Any, event: StepDone | EpochDone) -> None:
        if isinstance(event, StepDone) and (event.epoch, event.step) == (2, 3):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(GracefulInterrupt, "__call__", call)
        assert train(tmp_path / "cut", *SMALL) == 130
    assert [e["epoch"] for e in read(tmp_path / "cut")["epochs"]] == [1]
    assert train(tmp_path / "cut", "--resume") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_more_epochs_continue_a_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "whole", *SMALL[2:], "--epochs", "4") == 0
    assert train(tmp_path / "part", *SMALL[2:], "--epochs", "2") == 0
    assert train(tmp_path / "part", "--resume", "--epochs", "4") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "part")
    before = (tmp_path / "part" / FILE).read_bytes()
    capsys.readouterr()
    assert train(tmp_path / "part", "--resume") == 0
    assert "nothing is left of its 4 epochs" in capsys.readouterr().out
    assert (tmp_path / "part" / FILE).read_bytes() == before


def test_ctrl_c_and_resume_by_command(tmp_path: Path) -> None:
    """In processes: interrupted wherever it happens to be, continued, and still the run that was not interrupted."""
    flags = ["--epochs", "60", "--hidden", "16", "--batch-size", "50", "--prefetch", "2", "--lr-schedule", "cosine"]
    assert train(tmp_path / "whole", *flags) == 0
    process = start("train", *flags, "--out", str(tmp_path / "cut"))
    wait_for_epochs(process, tmp_path / "cut", 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode in (0, 130), err  # it may just have been done
    if process.returncode:
        assert "--resume continues" in err
    process = start("train", "--resume", "--out", str(tmp_path / "cut"))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


# ------------------------------------------------------------------------------------------------- what it does not do


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lr", "0.5"], "argument --lr: the run in .* has 0.1, and a resumed run keeps it. Got 0.5."),
        (["--hidden", "16"], r"argument --hidden: the run in .* has \(16, 16\), .* Got \(16,\)."),
        (["--data", "mnist"], "argument --data: the run in .* has digits, and a resumed run keeps it. Got mnist."),
        (["--epochs", "3"], "argument --epochs: the cosine of the run in .* is for 2 epochs. Got 3."),
    ],
)
def test_a_resumed_run_stays_what_it_was(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, *SMALL, "--lr-schedule", "cosine") == 0
    with pytest.raises(SystemExit) as caught:
        train(tmp_path, "--resume", *flags)
    assert caught.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_nothing_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "none", "--resume") == 1
    assert f"{tmp_path / 'none' / FILE}" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_checkpoint_without_a_run_is_evaluated_and_not_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the first version wrote them: no state of training, fewer settings."""
    assert train(tmp_path, *SMALL) == 0
    whole = evaluate_checkpoint(tmp_path, None, None)
    content = tb.load(tmp_path / FILE)
    del content["training"]
    later = ("weight_decay", "lr_schedule", "step_size", "milestones", "gamma", "warmup_epochs", "augment")
    content["config"] = {k: v for k, v in content["config"].items() if k not in later}
    tb.save(content, tmp_path / FILE)
    assert evaluate_checkpoint(tmp_path, None, None) == whole
    assert train(tmp_path, "--resume") == 1
    assert "must have the state of a run, not of its network alone" in capsys.readouterr().err


def test_a_state_that_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path, *SMALL) == 0
    content = tb.load(tmp_path / FILE)
    for change in ({"optimizer": {}}, {"epochs": [{"epoch": 1}]}, {"loader": {}}, {"generator": tb.zeros(3)}):
        tb.save(content | {"training": content["training"] | change}, tmp_path / FILE)
        capsys.readouterr()
        assert train(tmp_path, "--resume", "--epochs", "9") == 1
        assert "'state_dict' must have the state of a run that is set up as this one" in capsys.readouterr().err
    del content["training"]["scheduler"], content["config"]["hidden"]
    content["config"]["unheard"] = 1
    tb.save(content, tmp_path / FILE)
    assert train(tmp_path, "--resume") == 1
    assert "checkpoint: 'config' must be the settings of a training run" in capsys.readouterr().err


def test_checkpoints_hold_no_pickle(tmp_path: Path) -> None:
    """A safetensors file: a length, a JSON header, bytes."""
    assert train(tmp_path, *SMALL, "--optimizer", "adam", "--lr-schedule", "multistep") == 0
    content = (tmp_path / FILE).read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    skeleton = json.loads(header.pop("__metadata__")["tinygrad_bn"])
    assert "training/optimizer/state/0/exp_avg" in header
    assert 8 + size + max(entry["data_offsets"][1] for entry in header.values()) == len(content)
    assert skeleton["dict"][0] == ["format", "tinygrad_bn checkpoint 1"]
    assert [p.name for p in tmp_path.iterdir() if ".part" in p.name] == []


# ------------------------------------------------------------------------------------------------- as a library


def problem(schedule: bool = True) -> tuple[Training, DataLoader]:
    tb.manual_seed(3)
    x = np.random.default_rng(0).standard_normal((24, 4)).astype(np.float32)
    data = TensorDataset(tb.from_numpy(x), tb.from_numpy((x[:, 0] > 0).astype(np.int64)))
    model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 2))
    optimizer = optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5) if schedule else None
    return Training(model, optimizer, plateau, DataLoader(data, 8, shuffle=True), History()), DataLoader(data, 24)


def go(training: Training, test: DataLoader, epochs: int, stop: tuple[int, int] = (0, 0)) -> None:
    def halt(event: StepDone | EpochDone) -> None:
        if isinstance(event, StepDone) and (event.epoch, event.step) == stop:
            raise StopTraining

    fit(
        training.model,
        training.loader,
        training.optimizer,
        epochs=epochs,
        test=test,
        scheduler=training.scheduler,
        callbacks=[halt],
        history=training.history,
        unfinished=training.history.unfinished,
    )


@pytest.mark.parametrize("stop", [(1, 2), (2, 3), (3, 1)])
def test_dropout_the_default_generator_and_a_plateau_continue(stop: tuple[int, int], tmp_path: Path) -> None:
    whole, test = problem()
    go(whole, test, 4)
    assert len({e.learning_rate for e in whole.history.epochs}) > 1  # the plateau was found
    cut, test = problem()
    go(cut, test, 4, stop)
    assert cut.history.interrupted
    tb.save([cut.model.state_dict(), cut.state_dict()], tmp_path / "state")
    resumed, test = problem()
    tb.manual_seed(99)
    resumed.load_state_dict(*tb.load(tmp_path / "state"))
    go(resumed, test, 5 - stop[0])
    assert not resumed.history.interrupted
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        np.testing.assert_array_equal(ours.detach().numpy(), theirs.detach().numpy())
    assert [(e.epoch, e.steps, e.train_loss, e.learning_rate) for e in resumed.history.epochs] == [
        (e.epoch, e.steps, e.train_loss, e.learning_rate) for e in whole.history.epochs
    ]


def test_training_refuses_a_state_of_something_else() -> None:
    one, _ = problem()
    other = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(StateDictError, match="Training: 'state_dict' must have the state of a run"):
        one.load_state_dict(other.state_dict(), one.state_dict())


# ------------------------------------------------------------------------------------------------- CIFAR-10 by command


def test_cifar10_is_trained_on_and_evaluated(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data", "cifar10", "--data-dir", str(pictures), "--model", "mlp", "--hidden", "8", "--epochs", "2"]
    with pytest.warns(UserWarning, match="2 of 5 training batches, 97 of 50,000") as caught:
        assert train(tmp_path, *flags, "--batch-size", "24", "--lr-schedule", "cosine", "--warmup-epochs", "1") == 0
    assert len(caught) == 1
    out = capsys.readouterr().out
    assert "cifar10: 97 training and 20 test pictures\n" in out
    assert "mlp 3072-8-10, sigmoid, batch norm:" in out
    assert "learning rate 0.1, falling to 0 along a cosine, after a warm-up of 1 epoch, momentum 0.9" in out
    history = read(tmp_path)
    assert [e["steps"] for e in history["epochs"]] == [4, 4]  # 97 is 4 of 24 and one left over
    assert [e["learning_rate"] for e in history["epochs"]] == [0.05, 0.1]
    assert history["config"]["augment"] == "none"
    with pytest.warns(UserWarning, match="part"):
        assert evaluate_checkpoint(tmp_path, None, None).accuracy == history["epochs"][-1]["test_accuracy"]


def test_the_warning_of_the_command_is_one_line(pictures: Path, tmp_path: Path) -> None:
    flags = ["--data", "cifar10", "--model", "mlp", "--hidden", "8", "--epochs", "1", "--out", str(tmp_path)]
    process = start("train", *flags, "--data-dir", str(pictures))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert f"tinygrad_bn train: warning: cifar10: '{pictures}' holds a part of CIFAR-10" in err
    assert "UserWarning" not in err


@pytest.mark.filterwarnings("ignore:cifar10")
def test_cifar10_without_one_of_its_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data", "cifar10", "--model", "mlp", "--hidden", "8", "--epochs", "1"]
    write_cifar(tmp_path / "a", {"data_batch_1": 30})
    assert train(tmp_path / "run", *flags, "--data-dir", str(tmp_path / "a")) == 0
    assert read(tmp_path / "run")["epochs"][0]["test_accuracy"] is None
    write_cifar(tmp_path / "b", {"test_batch": 30})
    capsys.readouterr()
    assert train(tmp_path / "run2", *flags, "--data-dir", str(tmp_path / "b")) == 1
    assert "train: 'data' must have training pictures. Got none for cifar10." in capsys.readouterr().err
    assert train(tmp_path / "run3", *flags, "--data-dir", str(tmp_path / "run")) == 1
    assert "must have some of data_batch_1.bin" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cifar_cnn", "resnet20"])
@pytest.mark.filterwarnings("ignore:cifar10")
def test_convolutional_networks_train_and_continue(model: str, pictures: Path, tmp_path: Path, stopped: Any) -> None:
    write_cifar(tmp_path / "data", {"data_batch_1": 9, "test_batch": 4})
    flags = ["--data", "cifar10", "--data-dir", str(tmp_path / "data"), "--model", model, "--epochs", "2"]
    flags += ["--batch-size", "4", "--augment", "--lr", "0.01"]
    assert train(tmp_path / "whole", *flags) == 0
    assert [e["steps"] for e in read(tmp_path / "whole")["epochs"]] == [2, 2]  # a last batch of one is left out
    stopped(2, 1)
    assert train(tmp_path / "cut", *flags) == 130
    stopped(0, 0)
    assert train(tmp_path / "cut", "--resume") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    scores = evaluate_checkpoint(tmp_path / "cut", None, None)
    assert scores.accuracy == read(tmp_path / "whole")["epochs"][-1]["test_accuracy"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "resnet20"], "argument --model: resnet20 is for the pictures of --data cifar10, not of digits"),
        (["--data", "mnist", "--model", "cifar_cnn"], "argument --model: cifar_cnn is for the pictures of"),
        (["--augment"], "argument --augment: belongs to --data cifar10"),
        (["--data", "cifar10", "--augment", "mixup"], "argument --augment: invalid choice: 'mixup'"),
        (["--data", "cifar10", "--hidden", "9"], "argument --hidden: belongs to --model mlp; cifar_cnn has none"),
        (["--data", "cifar10", "--norm", "none"], "argument --norm: belongs to --model mlp"),
        (["--data", "cifar10", "--batch-size", "1"], "argument --batch-size: batch norm needs at least 2 samples\n"),
        (["--optimizer", "adamw", "--momentum", "0.5"], "argument --momentum: belongs to --optimizer sgd; adamw has"),
        (["--lr-schedule", "step"], "argument --step-size: is needed by --lr-schedule step"),
        (["--lr-schedule", "exponential"], "argument --gamma: is needed by --lr-schedule exponential"),
        (["--step-size", "3"], "argument --step-size: belongs to --lr-schedule step; constant has none"),
        (["--milestones", "3"], "argument --milestones: belongs to --lr-schedule multistep"),
        (["--gamma", "0.3"], "argument --gamma: belongs to --lr-schedule step or multistep or exponential"),
        (["--lr-schedule", "multistep", "--milestones", "5,3"], "argument --milestones: must not fall. Got 5,3."),
        (
            ["--lr-schedule", "multistep", "--milestones", "2", "--warmup-epochs", "2"],
            "must be above --warmup-epochs 2",
        ),
        (["--lr-schedule", "multistep", "--milestones", "a"], "argument --milestones: must be whole numbers"),
        (["--warmup-epochs", "2", "--epochs", "2"], "argument --warmup-epochs: must be below --epochs 2. Got 2."),
        (["--weight-decay", "-1"], "argument --weight-decay: must be a number of at least 0. Got '-1'."),
        (["--prefetch", "x"], "argument --prefetch: must be a whole number of at least 0. Got 'x'."),
    ],
)
def test_wrong_flags(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", *flags])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_network_of_pictures_is_not_evaluated_on_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dataclasses import asdict

    from tinygrad_bn.train.checkpoint import Checkpoint, save_checkpoint

    config = Config(data="cifar10", model="cifar_cnn")
    save_checkpoint(Checkpoint({}, asdict(config), {}), tmp_path / FILE)
    assert main(["evaluate", str(tmp_path), "--data", "digits"]) == 1
    assert "evaluate: 'data' must be a data set of pictures like those of cifar10" in capsys.readouterr().err
    with pytest.raises(DataError, match="cifar10"):
        evaluate_checkpoint(tmp_path, None, str(tmp_path))
