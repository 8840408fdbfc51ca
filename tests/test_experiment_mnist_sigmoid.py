"""The experiment on the inputs of sigmoids: its equations, its repeatability, its verdicts on made-up numbers."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.experiments import mnist_sigmoid as experiment
from tinygrad_bn.experiments.mnist_sigmoid import WITH, WITHOUT, Looks, Setting
from tinygrad_bn.experiments.runner.experiment import CLOCK, Task
from tinygrad_bn.experiments.runner.pictures import Pictures
from tinygrad_bn.experiments.runner.results import Outcome, Results
from tinygrad_bn.experiments.runner.verdicts import HELD, NOT_HELD, judge

TINY = Setting(steps=20, every=5, batch=8, hidden=(6, 5, 4), look=10)


@pytest.fixture
def pictures() -> Pictures:
    rng = np.random.default_rng(0)
    x = rng.random((50, 1, 4, 4), dtype=np.float32)
    y = (x.mean((1, 2, 3)) > 0.5).astype(np.int64)
    return Pictures("digits", x[:35], y[:35], x[35:], y[35:])


def task(arm: str, pictures: Pictures, seed: int = 3) -> Task:
    return Task(arm, TINY, seed, pictures, "cpu", lambda n=1: None)


def numbers(arm: str, pictures: Pictures, seed: int = 3) -> dict[str, Any]:
    found = experiment.run(task(arm, pictures, seed))
    assert found[CLOCK]["seconds"] > 0
    return {name: value for name, value in found.items() if name != CLOCK}


def test_pictures_become_binary_rows() -> None:
    found = experiment.binary(np.array([[[[0.0, 0.5], [0.51, 1.0]]]], np.float32))
    assert found.dtype == np.float32
    assert found.tolist() == [[0, 0, 1, 1]]


def test_steadiness_of_written_out_percentiles() -> None:
    percentiles = np.array([[[-1, 0], [0, 5], [1, 10]], [[0, -5], [2, 6], [4, 10]]], float)  # (looks, 3, units)
    shift, stretch = experiment.steadiness(percentiles)
    np.testing.assert_allclose(shift, [2 / 1.5, 1 / 6.25])
    np.testing.assert_allclose(stretch, [2, 1.5])


def test_shift_and_stretch_do_not_see_a_scale() -> None:
    percentiles = np.sort(np.random.default_rng(0).normal(size=(7, 3, 5)), axis=1)
    for one, other in zip(experiment.steadiness(percentiles), experiment.steadiness(8 * percentiles), strict=True):
        np.testing.assert_allclose(one, other)


def test_both_networks_start_from_the_same_weights() -> None:
    nets = [experiment.network(arm, 300, Setting(1, 1, std=0.2), seed=1) for arm in (WITH, WITHOUT)]
    weights = [[layer.weight.detach().numpy() for layer in net if isinstance(layer, tb.nn.Linear)] for net in nets]
    assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))
    assert abs(weights[0][0].std() - 0.2) < 0.01
    assert [type(layer).__name__ for layer in nets[0]] == [
        "Flatten",
        *["Linear", "BatchNorm1d", "Sigmoid"] * 3,
        "Linear",
    ]
    assert all(not layer.bias.detach().numpy().any() for layer in nets[1] if isinstance(layer, tb.nn.Linear))


def test_an_epoch_has_each_row_once_and_the_next_another_order() -> None:
    rows = list(islice(experiment.batches(20, 6, seed=5), 6))
    first, second = np.concatenate(rows[:3]), np.concatenate(rows[3:])
    assert len(set(first)) == len(set(second)) == 18
    assert first.tolist() != second.tolist()
    assert np.array_equal(np.concatenate(list(islice(experiment.batches(20, 6, 5), 6))), np.concatenate(rows))


def test_a_look_sees_the_normalised_inputs_and_leaves_no_trace(pictures: Pictures) -> None:
    x = experiment.binary(pictures.train_x)
    net = experiment.network(WITH, x.shape[1], TINY, seed=0)
    before = {name: value.numpy().copy() for name, value in net.state_dict().items()}
    seen = Looks(tb.from_numpy(x), pictures.train_y, TINY.look)
    seen.look(net)
    assert all(np.array_equal(value.numpy(), before[name]) for name, value in net.state_dict().items())
    assert net.training
    h = x[: TINY.look].astype(np.float64)
    for i in (0, 1, 2):
        u = h @ before[f"{3 * i + 1}.weight"].T.astype(np.float64)
        inputs = (u - u.mean(0)) / np.sqrt(u.var(0) + 1e-5)
        h = 1 / (1 + np.exp(-inputs))
    np.testing.assert_allclose(seen.percentiles[0], np.percentile(inputs, (15, 50, 85), axis=0), rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_numbers(pictures: Pictures) -> None:
    for arm in (WITH, WITHOUT):
        first = numbers(arm, pictures)
        tb.manual_seed(99)
        assert numbers(arm, pictures) == first
        assert numbers(arm, pictures, seed=4) != first


def made_up(better: float, steadier: float) -> Outcome:
    x = np.arange(0, 201).astype(float)
    base = 90 * (1 - np.exp(-x / 40))
    common = {"late_shift": 1.0, "late_stretch": 1.0, CLOCK: {"seconds": 1.0}}
    accuracies = {WITHOUT: base, WITH: np.minimum(base + better, 99)}
    return Outcome(
        TINY,
        0,
        {
            arm: {"accuracy": {"x": x.tolist(), "y": y.tolist()}, "shift": shift, "stretch": shift} | common
            for arm, y, shift in ((WITHOUT, accuracies[WITHOUT], steadier), (WITH, accuracies[WITH], 1.0))
        },
    )


@pytest.mark.parametrize(("better", "steadier", "verdict"), [(5.0, 3.0, HELD), (-1.0, 1.0, NOT_HELD)])
def test_claims_decide(better: float, steadier: float, verdict: str) -> None:
    results = Results("standard", TINY, "mnist", [made_up(better, steadier)] * 5)
    if verdict == HELD:  # ahead of the other network's end as soon as that is within 5 points of it
        assert experiment.reached(results.outcomes[0]) == pytest.approx(0.5, abs=0.1)
    verdicts = {found.claim.name: found.verdict for found in judge(experiment.CLAIMS, results)}
    verdicts.pop("faster")
    assert set(verdicts.values()) == {verdict}


def test_a_network_that_never_gets_there_is_not_faster() -> None:
    assert experiment.reached(made_up(-3, 1)) == np.inf
    fast = made_up(30, 1)
    assert experiment.reached(fast) < 0.25


def test_the_least_lead_is_that_of_the_worst_twentieth() -> None:
    outcome = made_up(5, 1)
    accuracy = outcome[WITH]["accuracy"]["y"]
    for i in range(101, 111):
        accuracy[i] -= 6
    assert experiment.least_lead(outcome) == pytest.approx(-1)


def test_the_figure_is_drawn_and_the_table_has_numbers(pictures: Pictures) -> None:
    figures = pytest.importorskip("matplotlib.figure")
    outcomes = [
        Outcome(TINY, s, {arm: experiment.run(task(arm, pictures, s)) for arm in (WITHOUT, WITH)}) for s in (0, 1)
    ]
    figure = figures.Figure()
    experiment.draw(Results("quick", TINY, "digits", outcomes), figure)
    assert [panel.get_xlabel() for panel in figure.axes] == ["steps (thousands)"] * 3
    assert all(len(panel.lines) >= 2 for panel in figure.axes)
    for row in experiment.PUBLISHED:
        assert row.measure is not None
        assert not np.isnan(row.measure(outcomes[0])), row.what
