"""The doctor finds every planted fault, finds nothing in healthy models, and leaves all as it was."""

from __future__ import annotations

import copy
import doctest
import importlib
import json
import math
import re
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.doctor import KINDS, Report, thresholds
from tinygrad_bn.doctor import findings as findings_of
from tinygrad_bn.errors import ArgumentError, DTypeError
from tinygrad_bn.nn.bn_tools import run_ranks
from tinygrad_bn.profiler import FigureError

PAGE = Path(__file__).resolve().parents[1] / "docs" / "doctor.md"
Found = dict[str, list[Any]]


def vectors(batches: int = 10, size: int = 32, features: int = 8, mean: float = 0.0, seed: int = 0) -> list[tb.Tensor]:
    rng = np.random.default_rng(seed)
    return [tb.tensor(rng.normal(mean, 1, (size, features)).astype("float32")) for _ in range(batches)]


def pictures(batches: int = 6, size: int = 24, pixels: int = 8, channels: int = 3) -> list[tb.Tensor]:
    rng = np.random.default_rng(1)
    shape = (size, channels, pixels, pixels)
    return [tb.tensor((rng.normal(0, 1, shape) + rng.normal(0, 1, (size, channels, 1, 1))).astype("float32"))
            for _ in range(batches)]  # fmt: skip


def settled(model: Any, loader: list[tb.Tensor], epochs: int = 8) -> Any:
    """Let running statistics settle, as training does."""
    model.train()
    with tb.no_grad():
        for _ in range(epochs):
            for x in loader:
                model(x)
    return model


def trained(model: Any, loader: list[tb.Tensor], steps: int = 60, lr: float = 0.02) -> Any:
    """Train a model on labels that depend on the input."""
    optimiser = tb.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for i in range(steps):
        x = loader[i % len(loader)]
        labels = tb.tensor((x.numpy().reshape(len(x), -1)[:, :4].argmax(1)).astype("int64"))
        optimiser.zero_grad()
        tb.functional.cross_entropy(model(x), labels).backward()
        optimiser.step()
    return model


def block(*between: Any, features: int = 8, width: int = 16, **options: Any) -> Any:
    return nn.Sequential(
        nn.Linear(features, width, bias=False), *between, nn.BatchNorm1d(width, **options), nn.ReLU(),
        nn.Linear(width, 4),
    )  # fmt: skip


def kinds(report: Report) -> Found:
    assert {f.kind for f in report.findings} <= set(KINDS)
    for f in report.findings:
        assert f.message
        assert f.remedy.endswith(".")
        assert f"{f.severity}: {f.layer or '(model)'}: {f.kind}" in str(report)
    return {kind: report.of(kind) for kind in {f.kind for f in report.findings}}


# ------------------------------------------------------------------------------------------------------------- healthy


def mlp() -> tuple[Any, list[Any]]:
    model = nn.Sequential(
        nn.Linear(8, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32, bias=False), nn.BatchNorm1d(32),
        nn.Tanh(), nn.Dropout(0.3), nn.Linear(32, 4),
    )  # fmt: skip
    return trained(model, vectors()), vectors()


def cnn() -> tuple[Any, list[Any]]:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16), nn.SiLU(), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip
    return trained(model, pictures()), pictures()


def resnet() -> tuple[Any, list[Any]]:
    loader = pictures(4, 32)
    return trained(tb.models.resnet20(num_classes=4), loader, 32), loader


class Recurrent(nn.Module):
    """A recurrent network with batch normalisation: of sequences (N, T, features), the last state."""

    def __init__(self, features: int = 8, time: int = 3) -> None:
        super().__init__()
        self.cell, self.out = nn.BNLSTMCell(features, 12, time), nn.Linear(12, 4)

    def forward(self, x: tb.Tensor) -> Any:
        return self.out(self.cell.unroll(x.transpose(0, 1))[0][-1])


def sequences(batches: int = 10, size: int = 32, time: int = 5, mean: float = 0.0) -> list[tb.Tensor]:
    rng = np.random.default_rng(2)
    return [tb.tensor(rng.normal(mean, 1, (size, time, 8)).astype("float32")) for _ in range(batches)]


def recurrent() -> tuple[Any, list[Any]]:
    """Sequences longer than the statistics that are kept, which share those of the last step."""
    return trained(Recurrent(), sequences(), 100, lr=0.002), sequences()


def heads() -> tuple[Any, list[Any]]:
    """Several results that are certain, one of them a view; three branches over inputs that have constant columns."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
            self.norm, self.one, self.two = nn.BatchNorm1d(8), nn.Linear(8, 1), nn.Linear(8, 2)
            self.sigmoid, self.tanh = nn.Sigmoid(), nn.Tanh()
            self.deep = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 5))

        def forward(self, x: tb.Tensor) -> Any:
            x = 2 * x
            aside = self.deep(x).sum(1, keepdim=True)
            h = self.norm(self.q(x).relu() * self.k(x) + self.v(x).relu() + aside)
            return {"p": self.sigmoid(100 * self.one(h)).squeeze(1), "more": [self.tanh(100 * self.two(h))]}

    loader = [x * tb.tensor([0.0, 0, 0, 1, 1, 1, 1, 1]) for x in vectors()]
    return settled(Net(), loader), loader


def group_norm() -> tuple[Any, list[Any]]:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 4),
    )  # fmt: skip
    return trained(model, pictures()), pictures()


def family() -> tuple[Any, list[Any]]:
    model = nn.Sequential(
        nn.Linear(8, 16, bias=False), nn.GhostBatchNorm(16, 16), nn.ReLU(),
        nn.Linear(16, 16, bias=False), nn.BatchRenorm(16, momentum=0.1), nn.ReLU(),
        nn.Linear(16, 16, bias=False), nn.NoisyBatchNorm(16), nn.LeakyReLU(),
        nn.Linear(16, 16, bias=False), nn.IterNorm(16, 8), nn.LayerNorm(16), nn.Linear(16, 4),
    )  # fmt: skip
    return trained(model, vectors(size=64)), vectors(size=64)


def sigmoids() -> tuple[Any, list[Any]]:
    """Probabilities that are certain are no fault, nor is a bias that a shortcut uses."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8, activation="sigmoid")
            self.last, self.out = nn.Linear(8, 4), nn.Sigmoid()

        def forward(self, x: tb.Tensor) -> Any:
            h = self.first(x)
            return {"y": self.out(100 * self.last(self.norm(h) + h))}

    return settled(Net(), vectors()), [(x, 0) for x in vectors()]


@pytest.mark.parametrize("make", [mlp, cnn, resnet, recurrent, group_norm, family, sigmoids, heads])
def test_nothing_is_found_in_healthy_models(make: Callable[[], tuple[Any, list[Any]]]) -> None:
    model, loader = make()
    report = tb.diagnose(model, loader)
    assert report.findings == [], str(report)
    assert report.healthy
    assert "nothing found" in str(report)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [16, 64])
def test_chance_alone_is_no_finding(size: int, seed: int) -> None:
    """Different batches of the same distribution than those of training; four of them are enough."""
    tb.manual_seed(seed)
    model = settled(block(), vectors(20, size, seed=seed), 3)
    assert tb.diagnose(model, vectors(4, size, seed=100 + seed)).findings == []


@pytest.mark.parametrize("size", [16, 32])
def test_heavy_tails_are_no_finding(size: int) -> None:
    """The deviation of few such values scatters more than their mean: that is what is measured."""
    rng = np.random.default_rng(size)
    first, second = ([tb.tensor(np.exp(rng.normal(size=(size, 8))).astype("float32")) for _ in range(20)] for _ in "ab")
    model = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8))
    assert tb.diagnose(settled(model, first), second[:10]).findings == []


def test_domains_have_samples_of_their_own() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.domain = nn.DomainSpecificBatchNorm1d(8, 4), tb.tensor(np.arange(96) % 4)

        def forward(self, x: tb.Tensor) -> Any:
            return self.norm(x, self.domain)

    loader = vectors(20, 96)
    report = tb.diagnose(settled(Net(), loader), loader)
    assert report.findings == [], str(report)
    assert [row.values for row in report.layers] == [24] * 4


# -------------------------------------------------------------------------------------------------------------- faults


def test_a_gap_between_running_and_batch_statistics() -> None:
    model = settled(block(), vectors())
    report = tb.diagnose(model, vectors(mean=1.0))
    (f,) = kinds(report)["statistics_gap"]
    x = np.concatenate([b.numpy() for b in vectors(mean=1.0)]) @ model[0].weight.detach().numpy().T.astype(float)
    gap = (model[1].running_mean.numpy() - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    assert f.layer == "1"
    assert f.evidence["mean_gap"] == pytest.approx(np.sqrt(np.mean(gap**2)), rel=1e-4)
    assert report.layers[0].mean_gap == f.evidence["mean_gap"] > 5 * f.evidence["by_chance"]
    assert report.output_gap is not None
    assert report.output_gap > 0.1
    assert "update_bn" in f.remedy
    tb.nn.utils.update_bn(model, vectors(mean=1.0))
    assert tb.diagnose(model, vectors(mean=1.0)).findings == []


def test_a_gap_of_variances_alone() -> None:
    model = settled(block(), vectors())
    model[1].running_var.mul_(4.0)
    (f,) = kinds(tb.diagnose(model, vectors()))["statistics_gap"]
    assert f.evidence["deviation_gap"] == pytest.approx(math.log(2), abs=0.1)
    assert f.evidence["mean_gap"] < 0.1


def test_a_momentum_too_small_for_the_steps_taken() -> None:
    model = settled(block(momentum=0.01), vectors(mean=3.0), 4)
    found = kinds(tb.diagnose(model, vectors(mean=3.0)))
    (f,) = found["momentum_too_small"]
    assert f.evidence["steps"] == 40
    assert f.evidence["initial_left"] == pytest.approx(0.99**40)
    assert f.evidence["momentum_needed"] == pytest.approx(1 - 0.05 ** (1 / 40))
    assert "momentum=0.08" in f.remedy
    assert found["statistics_gap"]


def test_statistics_from_elsewhere_are_not_put_down_to_momentum() -> None:
    """``update_bn`` counts batches, which are few, and leaves nothing of the initial values."""
    model = block()
    tb.nn.utils.update_bn(model, vectors(mean=1.0))
    assert list(kinds(tb.diagnose(model, vectors(mean=3.0)))) == ["statistics_gap"]


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_running_statistics_that_are_not_finite(name: str, tmp_path: Path) -> None:
    model = settled(block(), vectors())
    getattr(model[1], name)[3] = float("nan")
    report = tb.diagnose(model, vectors())
    (f,) = report.findings
    assert (f.kind, f.severity, f.layer, f.evidence["worst_channel"]) == ("statistics_gap", "error", "1", 3)
    assert "not finite: 1 of 16, the first of channel 3" in f.message
    report.figure(tmp_path / "report.png")
    json.dumps(report.to_dict(), allow_nan=False)


def test_recurrent_statistics_by_time_step() -> None:
    model, loader = Recurrent(time=4), sequences(time=4)
    assert {f.kind for f in tb.diagnose(model, loader).findings} == {"statistics_gap", "momentum_too_small"}
    settled(model, loader)
    assert tb.diagnose(model, loader).findings == []
    model.cell.bn_ih.running_mean[2, 5] += 30.0
    (f,) = tb.diagnose(model, loader).findings
    assert (f.kind, f.layer) == ("statistics_gap", "cell.bn_ih")
    assert "channel 5 of time step 2 most" in f.message
    assert tb.diagnose(model, [x[:, : 3 - i % 2] for i, x in enumerate(loader)]).findings == []  # steps that all have
    tb.nn.utils.update_bn(model, loader)
    assert tb.diagnose(model, loader).findings == []


def test_a_layer_that_is_frozen_by_its_mode_stays_so() -> None:
    """``model.train()`` and then ``norm.eval()``: training does not normalise by the batch."""
    model = settled(block(nn.Dropout(0.5))[:3], vectors())
    model.train()
    for i in (1, 2):
        model[i].eval()
    report = tb.diagnose(model, vectors(mean=2.0))
    assert report.findings == []
    assert report.output_gap == 0.0
    assert tb.diagnose(model.eval(), vectors(mean=2.0)).of("statistics_gap")  # nothing is to be told from that


def test_statistics_that_no_switch_holds_do_not_move_between_the_passes() -> None:
    """Evaluation is that of the model as it came, also by layers without ``update_stats``."""
    model = nn.Sequential(nn.InstanceNorm1d(8, track_running_stats=True))
    loader = [x.reshape(32, 8, 4) + 5.0 for x in vectors(features=32)]
    first = np.concatenate([model.train()(x).numpy() for x in loader])
    model[0].reset_running_stats()
    gap = np.sqrt(np.mean((np.concatenate([model.eval()(x).numpy() for x in loader]) - first) ** 2))
    assert tb.diagnose(model, loader).output_gap == pytest.approx(gap / np.sqrt(np.mean(first**2)), rel=1e-4)


def test_statistics_over_ranks_are_those_of_all() -> None:
    whole = vectors(10, 24)

    def rank(ranks: Any) -> Any:
        own: Any = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model), ranks)
        report = tb.diagnose(own, [x[(0, 4)[ranks.rank] : (4, 24)[ranks.rank]] for x in whole])
        return report.layers[0], [(f.kind, f.layer) for f in report.findings]

    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16))
    want = tb.diagnose(settled(model, whole), whole)
    for row, found in run_ranks(2, rank):
        assert row.values == 24
        assert (row.mean_gap, row.noise) == pytest.approx((want.layers[0].mean_gap, want.layers[0].noise), rel=1e-5)
        assert found == [("useless_bias", "0")]


def test_ranks_run_the_model_equally_often() -> None:
    """Whatever each finds out about biases: else they would wait for each other for ever."""

    class Net(nn.Module):
        def __init__(self, ranks: Any) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(8, 4), nn.SyncBatchNorm(4, process_group=ranks)
            self.uses_bias = ranks.rank == 0

        def forward(self, x: tb.Tensor) -> Any:
            h = self.linear(x)
            return self.norm(h) + h if self.uses_bias else self.norm(h)

    found = run_ranks(2, lambda ranks: tb.diagnose(Net(ranks), vectors(5)).of("useless_bias"), timeout=2.0)
    assert list(map(len, found)) == [0, 1]


def test_statistics_that_have_never_moved() -> None:
    (f,) = kinds(tb.diagnose(block(momentum=None), vectors(mean=3.0)))["momentum_too_small"]
    assert (f.severity, f.evidence["steps"], f.evidence["initial_left"]) == ("error", 0, 1.0)


def test_initial_statistics_that_fit_are_no_fault() -> None:
    model = nn.Sequential(nn.BatchNorm1d(8))
    assert tb.diagnose(model, vectors(20, 64)).findings == []


@pytest.mark.parametrize("size", [4, 8])
def test_statistics_too_noisy_at_this_batch_size(size: int) -> None:
    loader = vectors(40, size)
    (f,) = kinds(tb.diagnose(settled(block(), loader), loader))["noisy_statistics"]
    assert f.evidence["noise"] == 1 / math.sqrt(size)
    assert tb.diagnose(block(), loader).layers[0].noise == pytest.approx(1 / math.sqrt(size), rel=0.25)
    assert (f.evidence["batch_size"], f.evidence["values"]) == (size, size)
    assert f.remedy.startswith("batches of 12 or more")


def test_batches_that_are_not_shuffled() -> None:
    loader = [x + 4 * (i % 2) for i, x in enumerate(vectors(8, 32))]
    (f,) = kinds(tb.diagnose(settled(block(), loader), loader))["batches_not_alike"]
    assert f.evidence["noise"] > 3 * f.evidence["bound"]
    assert "shuffle=True" in f.remedy


def test_batches_that_were_skipped_in_training() -> None:
    model = settled(block(), vectors())
    with tb.no_grad():
        model(tb.full((32, 8), float("nan")))
    (f,) = kinds(tb.diagnose(model, vectors()))["batches_skipped"]
    assert (f.severity, f.layer, f.evidence["skipped"], f.evidence["here"]) == ("warning", "1", 1, 0)


def test_batches_that_are_not_finite_here() -> None:
    model = nn.Sequential(block(), nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4))
    settled(model, vectors())
    loader = vectors()
    loader[3][5, 2] = float("inf")
    report = tb.diagnose(model, loader)
    assert list(kinds(report)) == ["batches_skipped"]
    (f,) = report.findings
    assert (f.severity, f.layer, f.evidence["skipped"], f.evidence["here"]) == ("error", "0.1", 0, 1)
    assert model[2].skipped_batches == 0


def test_the_layer_that_a_batch_which_is_not_finite_reaches_first() -> None:
    """In the order of the calls, not of the names."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.BatchNorm1d(8), nn.BatchNorm1d(8)

        def forward(self, x: tb.Tensor) -> Any:
            return self.last(self.first(x))

    loader = vectors()
    model = settled(Net(), loader)
    loader[3][5, 2] = float("nan")
    assert [(f.kind, f.layer) for f in tb.diagnose(model, loader).findings] == [("batches_skipped", "first")]


@pytest.mark.parametrize("ahead", [tb.zeros(0, 8), tb.full((32, 8), float("nan"))])
def test_a_first_batch_that_tells_nothing_hides_no_bias(ahead: tb.Tensor) -> None:
    model = settled(nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6)), vectors())
    assert tb.diagnose(model, [ahead, *vectors()]).of("useless_bias")


def test_results_that_differ_in_number_move() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm, self.calls = nn.Linear(8, 8), nn.BatchNorm1d(8), 0

        def forward(self, x: tb.Tensor) -> Any:
            self.calls += 1
            return [self.norm(self.linear(x))] * (1 + self.calls % 2)

    assert tb.diagnose(settled(Net(), vectors()), vectors()).healthy


@pytest.mark.parametrize("where", ["linear", "convolution"])
def test_a_bias_that_does_nothing(where: str) -> None:
    if where == "linear":
        model, loader = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)), vectors()
    else:
        model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1))
        loader = pictures()
    before = [p.detach().numpy().copy() for p in model.parameters()]
    report = tb.diagnose(settled(model, loader), loader)
    (f,) = report.findings
    assert (f.kind, f.severity, f.layer) == ("useless_bias", "info", "0")
    assert f.evidence == {"parameters": 6, "norm": "1"}
    assert report.healthy
    assert all((p.detach().numpy() == b).all() for p, b in zip(model.parameters(), before, strict=True))


def test_one_useless_bias_beside_a_useful_one() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm_a = nn.Linear(8, 8), nn.BatchNorm1d(8)
            self.b, self.norm_b = nn.Linear(8, 8), nn.BatchNorm1d(8)

        def forward(self, x: tb.Tensor) -> tb.Tensor:
            used = self.a(x)
            return self.norm_b(self.b((self.norm_a(used) + used).relu()))

    report = tb.diagnose(settled(Net(), vectors()), vectors())
    assert [(f.kind, f.layer) for f in report.findings] == [("useless_bias", "b")]


@pytest.mark.parametrize("how", ["module", "fused", "functional"])
@pytest.mark.parametrize("dimensions", [1, 2])
def test_dead_channels(how: str, dimensions: int) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kind = nn.BatchNorm1d if dimensions == 1 else nn.BatchNorm2d
            self.first = nn.Linear(8, 6, bias=False) if dimensions == 1 else nn.Conv2d(3, 6, 3, bias=False)
            self.norm = kind(6, activation="relu" if how == "fused" else None)
            self.act = nn.ReLU() if how == "module" else nn.Identity()
            self.last = nn.Linear(6, 2) if dimensions == 1 else nn.Conv2d(6, 2, 1)

        def forward(self, x: tb.Tensor) -> tb.Tensor:
            h = self.act(self.norm(self.first(x)))
            return self.last(h.relu() if how == "functional" else h)

    loader = vectors() if dimensions == 1 else pictures()
    model = settled(Net(), loader)
    assert tb.diagnose(model, loader).findings == []
    with tb.no_grad():
        model.norm.bias[2:4] = -20.0
    (f,) = tb.diagnose(model, loader).findings
    assert (f.kind, f.severity) == ("dead_channels", "warning")
    assert f.layer == {"module": "act", "fused": "norm", "functional": "first"}[how]
    assert f.evidence["channels"] == [2, 3]
    assert f.evidence["of"] == 6
    with tb.no_grad():
        model.norm.bias.fill_(-20.0)
    assert tb.diagnose(model, loader).of("dead_channels")[0].severity == "error"


def test_dead_channels_of_a_picture_made_by_a_linear_layer() -> None:
    """The channels are where the last normalisation has them, not where the last linear layer had them."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm, self.act = nn.Linear(8, 36, bias=False), nn.BatchNorm2d(4), nn.ReLU()

        def forward(self, x: tb.Tensor) -> Any:
            return self.act(self.norm(self.linear(x).reshape(-1, 4, 3, 3)))

    model = settled(Net(), vectors())
    with tb.no_grad():
        model.norm.bias[1] = -20.0
    (f,) = tb.diagnose(model, vectors()).findings
    assert (f.kind, f.evidence["channels"], f.evidence["of"]) == ("dead_channels", [1], 4)


def test_few_samples_say_nothing_of_dead_channels() -> None:
    model = settled(block(), vectors())
    with tb.no_grad():
        model[1].bias[2] = -20.0
    assert tb.diagnose(model, vectors(3)).of("dead_channels") == []
    assert tb.diagnose(model, vectors(4)).of("dead_channels")[0].evidence["samples"] == 128


def test_a_vanishing_variance() -> None:
    model = block()
    with tb.no_grad():
        model[0].weight[3] *= 1e-3
    settled(model, vectors())
    (f,) = kinds(tb.diagnose(model, vectors()))["vanishing_variance"]
    assert (f.layer, f.severity, f.evidence["channels"]) == ("1", "warning", [3])
    assert 0 < f.evidence["largest"] < 1e-5
    with tb.no_grad():
        model[0].weight.zero_()
    assert tb.diagnose(settled(model, vectors()), vectors()).of("vanishing_variance")[0].severity == "error"


def test_a_variance_below_the_rounding_of_the_mean() -> None:
    loader = [1e-2 * x + 1e6 for x in vectors()]
    model = nn.BatchNorm1d(8)
    (f,) = tb.diagnose(settled(model, loader, 20), loader).of("vanishing_variance")
    assert f.layer == ""
    assert f.evidence["of"] == 8


@pytest.mark.parametrize(("act", "kind"), [(nn.Tanh, "tanh"), (nn.Sigmoid, "sigmoid"), (nn.Hardtanh, "hardtanh"),
                                           (nn.Hardsigmoid, "hardsigmoid"), (nn.ReLU6, "relu6")])  # fmt: skip
def test_saturated_activations(act: Any, kind: str) -> None:
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16), act(), nn.Linear(16, 2))
    settled(model, vectors())
    assert tb.diagnose(model, vectors()).of("saturated_activation") == [] or kind == "hardtanh"
    with tb.no_grad():
        model[1].weight.fill_(100.0)
    (f,) = kinds(tb.diagnose(model, vectors()))["saturated_activation"]
    assert (f.layer, f.evidence["activation"]) == ("2", kind)
    assert f.evidence["share"] > (0.4 if kind == "relu6" else 0.9)


def test_a_layer_used_twice() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(8)
            self.scale = 3.0

        def forward(self, x: tb.Tensor) -> tb.Tensor:
            return self.norm(self.norm(x) * self.scale + self.scale - 1)

    model = settled(Net(), vectors())
    (f,) = kinds(tb.diagnose(model, vectors()))["used_twice"]
    assert (f.layer, f.severity, f.evidence["calls"]) == ("norm", "warning", 2)
    assert f.evidence["mean_difference"] == pytest.approx(2 / math.sqrt(5), rel=0.05)
    assert f.evidence["deviation_difference"] == pytest.approx(math.log(3), rel=0.05)
    model.scale = 1.0
    (f,) = tb.diagnose(settled(model, vectors(), 20), vectors()).findings
    assert (f.kind, f.severity) == ("used_twice", "info")


def test_dropout_ahead_of_a_batch_norm() -> None:
    model = nn.Sequential(nn.Dropout(0.5), block(), nn.Dropout(0.5))
    settled(model, vectors(), 20)
    (f,) = kinds(tb.diagnose(model, vectors()))["dropout_ahead"]
    assert (f.layer, f.evidence["dropout"]) == ("1.1", ["0"])
    assert f.evidence["deviation_shift"] == pytest.approx(0.5 * math.log(2), rel=0.2)
    model[0].p = 0.0
    assert tb.diagnose(settled(model, vectors(), 20), vectors()).findings == []


def test_a_small_last_batch() -> None:
    loader = [*vectors(8, 32), vectors(1, 2)[0]]
    (f,) = kinds(tb.diagnose(settled(block(), vectors(8, 32)), loader))["small_last_batch"]
    assert (f.severity, f.layer) == ("warning", "1")
    assert f.evidence == {"size": 2, "batch_size": 32, "values": 2, "noise": pytest.approx(math.sqrt(0.5))}
    assert "drop_last=True" in f.remedy
    assert tb.diagnose(settled(block(), vectors(8, 32)), [*vectors(8, 32), vectors(1, 16)[0]]).findings == []


def test_a_last_batch_whose_pictures_say_enough() -> None:
    """A few pictures of many pixels that differ are a large batch, a few that do not are a small one."""
    model = nn.BatchNorm2d(3)
    rng = np.random.default_rng(0)
    for flat, found in ((False, 0), (True, 1)):
        loader = [tb.tensor(rng.normal(0, 1, (n, 3, 1, 1) if flat else (n, 3, 8, 8)) * np.ones((1, 1, 8, 8)))
                  for n in (24, 24, 24, 24, 24, 3)]  # fmt: skip
        report = tb.diagnose(settled(model.double(), loader[:5], 10), loader)
        assert len(report.of("small_last_batch")) == len(report.findings) == found


@pytest.mark.parametrize("kind", ["plain", "ghost"])
def test_a_last_batch_that_stops_training(kind: str) -> None:
    norm = nn.BatchNorm1d(8) if kind == "plain" else nn.GhostBatchNorm(8, 16)
    model = settled(nn.Sequential(norm, nn.Linear(8, 2)), vectors(8, 32))
    (f,) = tb.diagnose(model, [*vectors(8, 32), vectors(1, 1)[0]]).findings
    assert (f.kind, f.severity, f.layer, f.evidence["size"]) == ("small_last_batch", "error", "0", 1)
    assert ("more than one value" if kind == "plain" else "multiple of ghost_batch_size") in f.evidence["error"]


def test_the_layer_at_which_training_stops_and_errors_that_are_no_matter_of_size() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Flatten(), nn.Linear(8, 6, bias=False), nn.BatchNorm1d(6))
    loader = [x.reshape(32, 2, 4) for x in vectors()]
    (f,) = tb.diagnose(settled(model, loader), [*loader, loader[0][:1]]).findings
    assert (f.kind, f.layer) == ("small_last_batch", "3")
    with pytest.raises(tb.errors.ShapeError):
        tb.diagnose(model, [*loader, loader[0][:5, :, :3]])
    with pytest.raises(tb.errors.ShapeError):
        tb.diagnose(model, [*loader, loader[0][:5, :1]])


def test_a_model_without_norms_is_told_so() -> None:
    (f,) = tb.diagnose(nn.Linear(8, 2), vectors()).findings
    assert (f.kind, f.severity, f.layer) == ("no_norm", "info", "")


def test_a_folded_model_and_norms_of_ones_own_are_told_nothing() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("running_mean", tb.zeros(8))

        def forward(self, x: tb.Tensor) -> Any:
            return x - self.running_mean

    folded = nn.utils.fold_bn(nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval())
    for model in (folded, Own()):
        assert tb.diagnose(model, vectors()).findings == []


def test_a_frozen_layer_is_the_same_in_evaluation() -> None:
    model = settled(block(), vectors())
    tb.nn.utils.freeze_bn(model)
    report = tb.diagnose(model, vectors(mean=2.0))
    assert report.of("statistics_gap") == []
    assert report.layers[0].mean_gap is None
    assert report.output_gap == pytest.approx(0.0, abs=1e-6)


def test_layers_that_are_never_called_or_keep_nothing() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused, self.plain = nn.BatchNorm1d(8), nn.BatchNorm1d(8, track_running_stats=False)

        def forward(self, x: tb.Tensor) -> tb.Tensor:
            return self.plain(x)

    report = tb.diagnose(Net(), vectors())
    assert report.findings == []
    rows = [(row.layer, row.values, row.mean_gap) for row in report.layers]
    assert rows == [("unused", None, None), ("plain", 32, None)]
    assert "unused" in str(report)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("device", ["cpu", "ref"])
def test_every_device_and_dtype(device: str, dtype: str) -> None:
    model = block().to(dtype, device)
    loader = [x.to(dtype).to(device) for x in vectors(mean=3.0)]
    report = tb.diagnose(model, loader)
    assert {f.kind for f in report.findings} == {"statistics_gap", "momentum_too_small"}


@pytest.mark.parametrize("labels", [False, True])
def test_batches_that_are_dicts(labels: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(8)

        def forward(self, batch: Any) -> Any:
            return self.norm(batch["x"])

    loader: list[Any] = [{"name": "a", "x": x} for x in vectors()]
    model = Net()
    report = tb.diagnose(model, ((b, 1) if labels else b for b in loader))  # a generator, gone through once
    assert (report.batches, report.batch_size, report.layers[0].values) == (10, 32, 32)


def test_shapes_of_all_kinds() -> None:
    """Layers of (N, C, L), several outputs, empty batches, batches in lists."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x: tb.Tensor) -> Any:
            y = self.norm(x)
            return [y, (y.sum(2), y.argmax(1))]

    loader = [[tb.randn(20, 3, 5), "label"] for _ in range(10)]
    report = tb.diagnose(settled(Net(), [x for x, _ in loader], 6), [*loader[:5], tb.zeros(0, 3, 5), *loader[5:]])
    assert report.findings == []
    assert (report.batches, report.batch_size, report.layers[0].values) == (11, 20, 100)


# ------------------------------------------------------------------------------------------------------------ untouched


class Everything(nn.Module):
    """Counters, buffers, hooks, dropout and several norms; raises when told so."""

    def __init__(self) -> None:
        super().__init__()
        self.body = block(nn.Dropout(0.2))
        self.inner = nn.InstanceNorm1d(8, track_running_stats=True)
        self.white = nn.IterNorm(8, 8)
        self.calls = 0
        self.table = np.zeros(2)
        self.seen_sizes: list[int] = []
        self.cache: dict[int, int] = {}
        self.recent: deque[int] = deque(maxlen=3)
        self.state = tb.zeros(3)
        self.register_buffer("seen", tb.zeros(1))
        self.fail_at = 10**9

    def forward(self, x: tb.Tensor) -> tb.Tensor:
        self.calls += 1
        self.table += 1
        self.seen.add_(1)
        self.new = self.calls
        self.seen_sizes.append(len(x))
        self.cache[self.calls] = len(x)
        self.recent.append(self.calls)
        self.state.add_(1.0)
        self.body[4].weight.grad = None
        if self.calls == self.fail_at:
            raise KeyError("planted")
        x = self.inner(self.white(x).reshape(-1, 8, 1).expand(-1, 8, 2))
        return self.body(x[:, :, 0] + tb.randn(8) * 0.01)


def snapshot(model: Any) -> Any:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "names": list(tensors),
        "ids": [id(t) for t in tensors.values()],
        "bytes": [t.detach().numpy().tobytes() for t in tensors.values()],
        "versions": [t.version for t in tensors.values()],
        "grads": [None if t.grad is None else (id(t.grad), t.grad.numpy().tobytes()) for t in tensors.values()],
        "modes": [m.training for m in model.modules()],
        "hooks": [None if m._hooks is None else (id(m._hooks), dict(m._hooks.before), dict(m._hooks.after),
                  dict(m._hooks.backward)) for m in model.modules()],
        "switches": [(getattr(m, "update_stats", None), getattr(m, "use_batch_stats", None)) for m in model.modules()],
        "skipped": [getattr(m, "skipped_batches", None) for m in model.modules()],
        "attributes": [sorted(m.__dict__) for m in model.modules()],
        "own": (model.calls, model.table.tolist(), model.state.tolist()),
        "held": (list(model.seen_sizes), dict(model.cache), list(model.recent), id(model.recent)),
        "random": tb.get_rng_state().numpy().tolist(),
        "grad mode": tb.is_grad_enabled(),
    }  # fmt: skip


@pytest.mark.parametrize("fail", [None, 1, 2, 3, 4, 6])
def test_the_model_is_left_as_it_was(fail: int | None) -> None:
    model = Everything()
    model.body[2].register_forward_hook(lambda m, args, out: None)
    model(vectors()[0]).pow(2).sum().backward()
    model.body[1].eval()
    model.body[2].use_batch_stats = True
    if fail is not None:
        model.fail_at = model.calls + fail
    before = snapshot(model)
    if fail is None:
        tb.diagnose(model, vectors())
    else:
        with pytest.raises(KeyError, match="planted"):
            tb.diagnose(model, vectors())
    assert snapshot(model) == before


def test_a_graph_that_was_recorded_before_can_still_be_gone_back() -> None:
    model = settled(block(), vectors()).eval()
    y = model(vectors()[0])
    tb.diagnose(model, vectors(mean=2.0))
    y.pow(2).sum().backward()
    assert model[0].weight.grad is not None


def test_the_model_goes_on_as_if_nothing_had_been() -> None:
    states = []
    for look in (False, True):
        tb.manual_seed(3)
        model = block(nn.Dropout(0.3))
        trained(model, vectors(), 5)
        if look:
            tb.diagnose(model, vectors())
        trained(model, vectors(), 5)
        states.append([t.numpy().tobytes() for t in model.state_dict().values()])
    assert states[0] == states[1]


def test_a_loader_that_raises() -> None:
    def loader() -> Any:
        yield vectors()[0]
        raise OSError("the disk is gone")

    model = Everything()
    before = snapshot(model)
    with pytest.raises(OSError, match="disk"):
        tb.diagnose(model, loader())
    assert snapshot(model) == before


# --------------------------------------------------------------------------------------------------- errors, and output


@pytest.mark.parametrize(
    ("model", "loader", "error", "message"),
    [
        (block, [], ArgumentError, "diagnose: 'loader' must yield at least one batch. Got none."),
        (nn.ReLU, [], ArgumentError, "diagnose: 'loader' must yield at least one batch. Got none."),
        (block, [np.zeros((4, 8))], DTypeError, "'loader' must be an iterable of tensors .* Got ndarray.\nHint: "),
        (block, [()], DTypeError, "Got tuple"),
        (block, [tb.tensor(1.0)], DTypeError, "a tensor of no axes"),
        (block, 3, DTypeError, "diagnose: 'loader' must be an iterable of batches. Got int."),
        (lambda: print, [], DTypeError, "diagnose: 'model' must be a Module. Got builtin_function_or_method."),
        (block, [tb.zeros(1, 8)], ArgumentError, "more than one value a channel"),
        (block, [{"x": 3}], DTypeError, "dicts of such"),
        (block, iter([]), ArgumentError, "a generator can be gone through only once"),
        (nn.LazyBatchNorm1d, vectors(), ArgumentError, "of layers that know their channels. Got the model without"),
    ],
)
def test_errors(model: Any, loader: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tb.diagnose(model(), loader)


def test_the_dict_is_json_and_holds_all() -> None:
    report = tb.diagnose(block(), vectors(mean=2.0))
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert found["findings"][0]["kind"] == report.findings[0].kind
    assert found["layers"][0]["mean_gap"] == report.layers[0].mean_gap
    assert (found["batches"], found["batch_size"], found["healthy"]) == (10, 32, False)
    report.layers[0].noise = float("nan")
    assert report.to_dict()["layers"][0]["noise"] is None


def test_what_is_printed() -> None:
    report = tb.diagnose(block(), vectors(mean=2.0))
    lines = str(report).split("\n")
    assert lines[0].startswith("10 batches of up to 32; outputs by running statistics differ")
    assert lines[2].split()[:3] == ["layer", "class", "values"]
    assert lines[4].split()[:4] == ["1", "BatchNorm1d", "32", "0"]
    assert "!" in lines[4]
    assert repr(report).startswith("Report(1 layers, ")
    severities = [f.severity for f in report.findings]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)


def test_what_many_layers_have_in_common_is_printed_once() -> None:
    model = nn.Sequential(*(m for _ in range(3) for m in (nn.Linear(8, 8), nn.BatchNorm1d(8))))
    report = tb.diagnose(settled(model, vectors()), vectors())
    assert [f.kind for f in report.findings] == ["useless_bias"] * 3
    assert str(report).count("Remedy: make the layer with bias=False") == 1


def test_remedies_name_what_is_there() -> None:
    """Every dotted name in the remedies is one of the package's."""
    source = Path(str(findings_of.__file__)).read_text().replace("(nn.", "(tb.nn.").replace("; nn.", "; tb.nn.")
    names = set(re.findall(r"\btb\.[A-Za-z_][\w.]*\w", source))
    assert len(names) > 8
    for name in names:
        found: Any = tb
        for part in name.split(".")[1:]:
            found = getattr(found, part)


def test_the_figure_of_many_layers_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels of ticks do not run into each other, and the legend stands outside the bars."""
    figures: list[Any] = []
    matplotlib = importlib.import_module("matplotlib.figure")
    save = matplotlib.Figure.savefig
    monkeypatch.setattr(matplotlib.Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    model = nn.Sequential(*(nn.BatchNorm1d(8) for _ in range(50)))
    for gap in (0.0, 0.6, 20.0, 5000.0):
        model[49].running_mean.fill_(gap)
        tb.diagnose(model, vectors(4)).figure(tmp_path / "report.png")
        axes = {a.get_title(): a for a in figures[-1].axes}
        bars = axes["gap between running and batch statistics"]
        for labels in (bars.get_xticklabels(), bars.get_yticklabels()):
            boxes = [label.get_window_extent() for label in labels]
            assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        legend = axes[""].get_legend().get_window_extent()
        texts = [t.get_window_extent() for t in axes[""].texts]
        assert not any(legend.overlaps(a.get_window_extent()) for a in axes.values() if a is not axes[""])
        assert not any(legend.overlaps(t) for t in texts)


@pytest.mark.parametrize("model", [block, nn.ReLU])
def test_the_figure(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = tb.diagnose(model(), vectors(mean=2.0))
    report.figure(tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(FigureError, match="needs matplotlib"):
        report.figure(tmp_path / "none.png")


def test_every_threshold_has_its_reason() -> None:
    source = Path(str(thresholds.__file__)).read_text()
    names = [n for n in vars(thresholds) if n.isupper()]
    assert len(names) > 12
    without = [n for n in names if not source.split(f"\n{n} = ")[1].split("\n")[1].startswith('"""')]
    assert without == ["SATURATED_SEVERE"]


def test_the_threshold_for_scatter_is_the_quantile_of_chance() -> None:
    """Of scatter over batches of one channel, about one in 30,000 is above; 20,000 draws hold few."""
    rng = np.random.default_rng(0)
    for batches in (4, 10, 40):
        scatter = rng.normal(size=(20_000, batches)).std(1, ddof=1)
        assert np.mean(scatter > max(thresholds.unlike(batches), 1.5)) < 5e-4
    assert thresholds.unlike(4) < 3.0
    assert thresholds.unlike(1000) == thresholds.UNLIKE


def test_every_kind_is_on_the_page() -> None:
    text = PAGE.read_text()
    assert [kind for kind in KINDS if f"`{kind}`" not in text] == []


def test_the_page_and_the_example_run() -> None:
    found = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 15
    assert found.failed == 0
    found = doctest.testmod(importlib.import_module("tinygrad_bn.doctor"))
    assert found.attempted
    assert found.failed == 0
