"""The experiment ``gamma_beta``: its measures, its repeatability, its claims."""

from __future__ import annotations

import numpy as np
import pytest
from experiment_pieces import drawn, outcome_of, ran, verdict, without_clock

from tinygrad_bn.experiments.gamma_beta import (
    EXPERIMENT,
    Setting,
    linear_edge,
    linear_share,
    pre_activations,
    tangent,
    unexplained,
    where_on_sigmoid,
)

TINY = Setting(400, 300, inputs=10, units=6, rate=0.1)


def sigmoid(y: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-y)))


def test_the_linear_part_ends_where_the_tangent_is_a_twentieth_off() -> None:
    edge = linear_edge()
    assert tangent(np.array(edge)) - sigmoid(np.array(edge)) == pytest.approx(0.05, abs=1e-4)
    assert edge == pytest.approx(1.42, abs=0.02)


def test_linear_share() -> None:
    """1 for lines of any slope; x² of symmetric x has none; of x + x³ at ±1, ±2 the residual is written out."""
    x = np.linspace(-1, 1, 101)[:, None] * [1.0, 2.0] + [5.0, -3.0]
    assert linear_share(x, x * [2.0, -1.0] + 7) == pytest.approx(1)
    assert linear_share(x, (x - x.mean(0)) ** 2) == pytest.approx(0, abs=1e-12)
    points = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    slope = (2 * 1 * 2 + 2 * 2 * 10) / 10
    left = 2 * ((2 - slope) ** 2 + (10 - 2 * slope) ** 2)
    assert linear_share(points, points + points**3) == pytest.approx(1 - left / (2 * (2**2 + 10**2)))


def test_unexplained() -> None:
    wanted = np.array([[0.0], [1.0]])
    assert unexplained(wanted, wanted) == 0
    assert unexplained(np.full((2, 1), 0.5), wanted) == 1
    assert unexplained(1 - wanted, wanted) == 4


def test_where_on_sigmoid() -> None:
    """Of 0, ±1, ±4 three lie in the linear part and two, of slope 0.0177 = 0.07 / 4, are saturated."""
    y = np.array([[0.0], [1.0], [-1.0], [4.0], [-4.0]])
    found = where_on_sigmoid(y, sigmoid(y))
    assert found["in_linear_part"] == pytest.approx(0.6)
    assert found["saturated"] == pytest.approx(0.4)
    assert found["off_tangent_within_1"] == pytest.approx(0.75 - sigmoid(np.array(1.0)))
    assert found["unexplained"] == 0
    assert np.sum(found["outputs"]) / 50 == pytest.approx(1)


def test_inputs_have_the_distribution_that_the_setting_says() -> None:
    x = pre_activations(Setting(2000, 1, units=400), 0, "cpu").numpy()
    assert x.var(0).mean() == pytest.approx(16, rel=0.05)
    assert x.mean(0).std() == pytest.approx(2, rel=0.15)


def test_identity_and_learning() -> None:
    identity, learned = (ran(EXPERIMENT, TINY, arm) for arm in ("identity", "learned"))
    assert identity["largest_change"] < 5e-6
    losses = learned["loss"]["y"]
    assert len(losses) == 300
    assert losses[-1] < 0.01 * losses[0]
    assert losses[0] == pytest.approx(
        ran(EXPERIMENT, TINY, "normalised")["unexplained"] * np.var(sigmoid(x_of(0)), axis=0).mean(), rel=1e-3
    )


def x_of(seed: int) -> np.ndarray:
    return np.asarray(pre_activations(TINY, seed, "cpu").numpy().astype(np.float64))


def test_the_same_seed_gives_the_same_numbers_and_another_one_does_not() -> None:
    first, again, other = (outcome_of(EXPERIMENT, TINY, seed).runs for seed in (1, 1, 2))
    assert without_clock(first) == without_clock(again) != without_clock(other)


@pytest.mark.parametrize(
    ("claim", "arm", "number", "holds", "fails"),
    [
        ("linear_regime", "normalised", "linear_share", 0.98, 0.9),
        ("most_in_linear_part", "normalised", "in_linear_part", 0.85, 0.5),
        ("not_saturated", "normalised", "saturated", 0.001, 0.1),
        ("may_change_the_layer", "normalised", "unexplained", 0.5, 0.01),
        ("identity", "identity", "largest_change", 1e-7, 1e-3),
        ("learned_restores", "learned", "unexplained", 1e-4, 0.1),
        ("learned_is_identity", "learned", "gamma", [1.01, 0.99, 4.0], [1.2, 0.7, 1.0]),
    ],
)
def test_claims_decide(claim: str, arm: str, number: str, holds: object, fails: object) -> None:
    assert verdict(EXPERIMENT, claim, {arm: {number: holds}}) == "held"
    assert verdict(EXPERIMENT, claim, {arm: {number: fails}}) == "not held"


def test_figure() -> None:
    figure = drawn(EXPERIMENT, [outcome_of(EXPERIMENT, TINY, seed) for seed in (0, 1)])
    assert [axes.get_title() for axes in figure.axes] == ["the sigmoid", "its inputs", "its outputs"]
