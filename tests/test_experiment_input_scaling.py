"""The experiment ``input_scaling``: its arithmetic, its repeatability, its claims."""

from __future__ import annotations

import numpy as np
import pytest
from experiment_pieces import drawn, outcome_of, ran, verdict, without_clock

from tinygrad_bn.experiments.input_scaling import EXPERIMENT, Setting, descend, gaussian, measured, scaled, theory
from tinygrad_bn.experiments.runner.results import Outcome

TINY = Setting((4.0, 16.0), 64, features=3, distance=0.1, limit=300)


def test_bowls_take_the_steps_that_powers_say() -> None:
    """0.91ⁿ and 0.8ⁿ, from 7 and 2 to below 0.01."""
    for arm, factors in (("stretched", (0.91, 0.8)), ("round", (0.8, 0.8))):
        numbers = ran(EXPERIMENT, TINY, arm)
        by_hand = next(n for n in range(200) if max(7 * factors[0] ** n, 2 * factors[1] ** n) < 0.01)
        assert numbers["steps"] == by_hand == {"stretched": 70, "round": 30}[arm]
        np.testing.assert_allclose(numbers["x"][1], -7 * (factors[0] if arm == "stretched" else -factors[0]), rtol=1e-6)
        np.testing.assert_allclose(numbers["y"][1], 2 * -factors[1], rtol=1e-6)


def test_descent_takes_the_steps_of_the_bound_where_all_decays_at_the_slowest_rate() -> None:
    """Two inputs of variances 9 and 1: ρ = 0.8 in both directions, 0.8¹¹ < 0.1 < 0.8¹⁰."""
    features = np.array([[3.0, 1.0], [3.0, -1.0], [-3.0, 1.0], [-3.0, -1.0]])
    kappa, steps = descend(features, features @ [[1.0], [2.0]], TINY, "cpu")
    assert kappa == pytest.approx(9)
    assert theory(9, 0.1) == pytest.approx(np.log(0.1) / np.log(0.8))
    assert steps == 11


def test_gaussian_inputs_have_the_condition_number_that_is_asked() -> None:
    inputs = gaussian(50.0, Setting((50.0,), 100_000), np.random.default_rng(0))
    values = np.linalg.eigvalsh(np.cov(inputs.T))
    np.testing.assert_allclose(values[[0, -1]], [1, 50], rtol=0.03)
    assert np.abs(np.corrcoef(inputs.T) - np.eye(8)).max() > 0.1  # in a basis of its own


def test_scalings() -> None:
    inputs = measured(TINY, np.random.default_rng(0), True)
    np.testing.assert_allclose(scaled(inputs, "z_score"), (inputs - inputs.mean(0)) / inputs.std(0), rtol=1e-4)
    np.testing.assert_allclose(scaled(inputs, "min_max").min(0), 0)
    np.testing.assert_allclose(scaled(inputs, "min_max").max(0), 1)
    np.testing.assert_array_equal(scaled(inputs, "raw"), inputs)


def test_each_feature_has_an_outlier_and_few_have_more() -> None:
    setting = Setting((10.0,), 5000)
    clean, spoilt = (measured(setting, np.random.default_rng(3), outliers) for outliers in (False, True))
    scales = np.geomspace(1, 10, setting.features)
    moved = clean != spoilt
    assert moved.any(0).all()
    assert 0.005 < moved.mean() < 0.02
    offsets = (spoilt - spoilt.mean(0)) / scales
    assert (np.abs(offsets[moved]) > 8).all()


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return [outcome_of(EXPERIMENT, TINY, seed) for seed in (1, 2)]


def test_the_same_seed_gives_the_same_numbers_and_another_one_does_not(outcomes: list[Outcome]) -> None:
    first, other = (without_clock(outcome.runs) for outcome in outcomes)
    assert without_clock(outcome_of(EXPERIMENT, TINY, 1).runs) == first != other


def test_claims_decide() -> None:
    def bowls(steps: int) -> dict[str, dict[str, int]]:
        return {"stretched": {"steps": steps}, "round": {"steps": 30}}

    assert verdict(EXPERIMENT, "more_than_twice", bowls(70)) == "held"
    assert verdict(EXPERIMENT, "more_than_twice", bowls(60)) == "not held"
    for slope, expected in ((1.0, "held"), (0.5, "not held"), (2.0, "not held")):
        assert verdict(EXPERIMENT, "steps_proportional_to_kappa", {"condition": {"slope": slope}}) == expected
    for ratio, expected in ((0.8, "held"), (1.1, "not held"), (0.4, "not held")):
        assert verdict(EXPERIMENT, "constant_as_in_theory", {"condition": {"to_theory": ratio}}) == expected
    spoilt, spared = ({"steps_clean": 100, "steps_outliers": n} for n in (300, 110))
    assert verdict(EXPERIMENT, "outliers_spoil_min_max", {"min_max": spoilt}) == "held"
    assert verdict(EXPERIMENT, "outliers_spoil_min_max", {"min_max": spared}) == "not held"
    assert verdict(EXPERIMENT, "outliers_spare_z_score", {"z_score": spared}) == "held"
    assert verdict(EXPERIMENT, "outliers_spare_z_score", {"z_score": spoilt}) == "not held"
    raw = {"raw": {"steps_clean": 300}}
    assert verdict(EXPERIMENT, "scaling_helps", {**raw, "z_score": {"steps_clean": 100}}) == "held"
    assert verdict(EXPERIMENT, "scaling_helps", {**raw, "z_score": {"steps_clean": 200}}) == "not held"


def test_figure(outcomes: list[Outcome]) -> None:
    figure = drawn(EXPERIMENT, outcomes)
    assert len(figure.axes) == 4
    assert "70 steps" in figure.axes[0].get_title()
    assert "30 steps" in figure.axes[1].get_title()
