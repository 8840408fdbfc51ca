"""The experiment ``cs231n``: its checks, its nets and solver, its repeatability, its claims."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from experiment_pieces import drawn, verdict, without_clock

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.experiments.cs231n import EXPERIMENT, checks, nets
from tinygrad_bn.experiments.cs231n.claims import CLAIMS, spread
from tinygrad_bn.experiments.runner.experiment import CLOCK, Numbers, Task
from tinygrad_bn.experiments.runner.pictures import Pictures
from tinygrad_bn.experiments.runner.results import Outcome
from tinygrad_bn.experiments.runner.verdicts import HELD, NOT_HELD

TINY = nets.Setting(
    train=20, val=8, epochs=2, batch=10, hidden=(6, 5), sweep_hidden=(4, 4), scales=(1e-3, 1e-2, 1e-1), batches=(4, 10)
)
Array = np.ndarray[Any, Any]


def pictures(count: int = 40) -> Pictures:
    rng = np.random.default_rng(3)
    x = rng.random((count, 1, 3, 4)).astype(np.float32)
    y = rng.integers(10, size=count)
    return Pictures("digits", x, y, x[:4], y[:4])


def ran(arm: str, seed: int = 0) -> Numbers:
    """Return an arm's numbers; its ticks are as many as were said."""
    ticks: list[int] = []
    numbers = EXPERIMENT.run(Task(arm, TINY, seed, pictures(), "cpu", lambda n=1: ticks.append(n)))
    assert sum(ticks) == EXPERIMENT.steps(TINY, arm)
    return numbers


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return Outcome(TINY, 0, {arm: ran(arm) for arm in EXPERIMENT.arms(TINY)})


def test_relative_error() -> None:
    assert checks.rel_error(np.array([1.0, 2.0]), np.array([1.0, 3.0])) == pytest.approx(1 / 5)
    assert checks.rel_error(np.array([1e-10]), np.array([0.0])) == pytest.approx(1e-2), "1e-8 is the least denominator"


def test_numeric_gradient() -> None:
    """Of ⟨g, x³⟩: 3 g x²; the array comes back as it was."""
    x, g = np.array([[1.0, -2.0], [0.5, 3.0]]), np.array([[2.0, 1.0], [-1.0, 0.5]])
    before = x.copy()
    found = checks.numeric_gradient(lambda: checks.tensor(x) ** 3, x, g)
    np.testing.assert_allclose(found, 3 * g * x**2, rtol=1e-8)
    np.testing.assert_array_equal(x, before)


def test_forward_is_as_recorded() -> None:
    assert checks.forward()["forward_off"] < 1e-8
    assert sum(map(len, checks.RECORDED.values())) == 32


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_gradients_of_layers(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert max(checks.layer_errors(norm, 231)) < 1e-8
    right = checks.normalised

    def wrong(norm: str, x: tb.Tensor, weight: tb.Tensor, bias: tb.Tensor) -> tb.Tensor:
        return right(norm, x, weight, bias) + 1e-3 * (x - x.detach())  # the same values, another gradient

    monkeypatch.setattr(checks, "normalised", wrong)
    assert checks.layer_errors(norm, 231)[0] > 1e-4


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_gradients_of_nets(norm: str) -> None:
    found = checks.net_errors(norm)
    np.testing.assert_allclose(found["loss"], checks.RECORDED_LOSSES[norm], rtol=1e-14)
    assert found["errors"]["b3"] < 3e-8
    assert found["idle"] < 1e-10
    assert len(found["errors"]) == {"none": 6, "batch": 10}[norm]


def test_backward_passes_agree() -> None:
    found = checks.backward_passes(231)
    assert max(found["alt"]) < 1e-11
    assert max(found["fused"]) < 1e-11
    assert set(found[CLOCK]) == {"steps", "alt", "fused"}


def test_data_are_as_in_the_course() -> None:
    """0 … 255; the last pictures validate, and have no part in the mean that is subtracted from all."""
    given = pictures()
    data = nets.load(given, TINY, "cpu")
    rows = given.train_x.reshape(40, -1).astype(np.float64)
    mean = rows[:32].mean(0)
    np.testing.assert_allclose(data.train_x.numpy(), 255 * (rows[:20] - mean), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(data.val_x.numpy(), 255 * (rows[32:] - mean), rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(data.train_y.numpy(), given.train_y[:20])
    np.testing.assert_array_equal(data.val_y.numpy(), given.train_y[32:])


def test_running_variance_is_that_of_the_course() -> None:
    x = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    layer = nets.batch_norm(3)
    layer(tb.from_numpy(x))
    assert layer.running_var is not None
    np.testing.assert_allclose(layer.running_var.numpy(), 0.1 * x.var(0), rtol=1e-5)


def test_weights_are_in_proportion() -> None:
    first, second = (nets.network(12, (6, 5), norm) for norm in ("none", "layer"))
    nets.initialise(first, 1e-2, seed=4)
    nets.initialise(second, 2e-2, seed=4)
    for a, b in zip(nets.affine_layers(first), nets.affine_layers(second), strict=True):
        np.testing.assert_allclose(2 * a.weight.detach().numpy(), b.weight.detach().numpy(), rtol=1e-6)
        assert b.bias is not None
        assert not b.bias.detach().numpy().any()
    assert [type(layer).__name__ for layer in second] == [*("Linear", "LayerNorm", "ReLU") * 2, "Linear"]


def test_matched_rates() -> None:
    net = nets.network(12, (6, 5), "batch")
    nets.initialise(net, 1e-3, seed=0)
    last = nets.affine_layers(net)[-1].weight.detach().numpy().copy()
    scaled, others = nets.matched(net, 0.05, 1e-3)
    assert scaled["lr"] == pytest.approx(5e-5)
    assert [p.shape for p in scaled["params"]] == [(6, 12), (6,), (5, 6), (5,)]
    assert len(scaled["params"]) + len(others["params"]) == len(list(net.parameters()))
    np.testing.assert_allclose(nets.affine_layers(net)[-1].weight.detach().numpy(), last / 0.05, rtol=1e-6)


def test_matched_rates_take_scales_away() -> None:
    """With weights times a and their rate times a, batch norm without eps lets the same loss be, but for rounding."""
    data = nets.load(pictures(), TINY, "cpu")
    task = Task("scale_matched", TINY, 0, None, "cpu", lambda n=1: None)
    losses = [nets.solve(task, data, (6, 5), nets.MATCHED, a, 10, 1e-3).loss for a in (2e-2, 1.0)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-2)
    plain = nets.solve(task, data, (6, 5), "batch", 1.0, 10, 1e-3).loss
    assert abs(plain[-1] - losses[0][-1]) > abs(losses[1][-1] - losses[0][-1])


def test_a_study_notes_what_the_solver_notes(outcome: Outcome) -> None:
    depth, sweep, size = outcome["depth_batch"], outcome["scale_none"], outcome["size_layer"]
    assert depth["loss"]["x"] == [1, 2, 3, 4]
    assert depth["train"]["x"] == depth["val"]["x"] == [0, 1, 2]
    assert sweep["best_train"]["x"] == sweep["final_loss"]["x"] == list(TINY.scales)
    assert set(size) == {"train_4", "val_4", "train_10", "val_10"}
    assert set(outcome["size_none"]) == {"train_4", "val_4"}
    assert all(0 <= y <= 1 for y in depth["train"]["y"] + sweep["best_val"]["y"])


def test_the_same_seed_gives_the_same_numbers(outcome: Outcome) -> None:
    for arm in ("checks", "depth_batch", "scale_matched", "size_layer"):
        tb.manual_seed(99)
        tb.rand(7)
        assert without_clock(ran(arm)) == without_clock(outcome[arm])
    assert ran("depth_none", seed=1)["loss"] != outcome["depth_none"]["loss"]


def line(*y: float) -> dict[str, list[float]]:
    return {"x": list(range(len(y))), "y": list(y)}


def made_up() -> dict[str, Numbers]:
    """What the notebook's numbers would come to: every claim holds."""
    scales = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    errors = {"W1": 1e-4, "W2": 1e-6, "W3": 1e-9, "b1": 1e-9, "b2": 1e-9, "b3": 1e-10}
    normed = errors | {"b1": 1.0, "b2": 1.0, "gamma1": 8e-9, "beta1": 8e-9}
    return {
        "checks": {
            "forward_off": 5e-9,
            "losses_off": 0.0,
            "batch_errors": [2e-9, 1e-12, 1e-12],
            "layer_errors": [2e-9, 1e-12, 1e-12],
            "alt": [1.3e-12, 0.0, 0.0],
            "nets": {"none": {"errors": errors}, "batch": {"errors": normed}},
        },
        "depth_batch": {"train": line(0.1, 0.5, 0.801), "val": line(0.1, 0.3, 0.357)},
        "depth_none": {"train": line(0.1, 0.4, 0.726), "val": line(0.1, 0.3, 0.335)},
        "scale_batch": {"best_train": {"x": scales, "y": [0.4, 0.6, 0.7, 0.6, 0.1]}},
        "scale_none": {"best_train": {"x": scales, "y": [0.1, 0.1, 0.2, 0.7, 0.1]}},
        "size_batch": {"train_5": line(0.4), "train_50": line(0.7), "val_5": line(0.2), "val_50": line(0.3)},
        "size_layer": {"train_5": line(0.6), "train_50": line(0.7), "val_5": line(0.3), "val_50": line(0.3)},
    }


def decided(runs: dict[str, Numbers]) -> dict[str, str]:
    sized = replace(EXPERIMENT, claims=[replace(c, measure=_with_setting(c.measure)) for c in CLAIMS])
    return {claim.name: verdict(sized, claim.name, runs) for claim in CLAIMS}


def _with_setting(measure: Any) -> Any:
    return lambda o: measure(Outcome(nets.Setting(), o.seed, o.runs))


def test_claims_hold_for_the_recorded_numbers() -> None:
    assert set(decided(made_up()).values()) == {HELD}


BAD: dict[str, tuple[str, str, Any]] = {
    "forward_as_recorded": ("checks", "forward_off", 1e-7),
    "losses_as_recorded": ("checks", "losses_off", 1e-9),
    "batch_norm_gradients": ("checks", "batch_errors", [1e-7, 0.0, 0.0]),
    "layer_norm_gradients": ("checks", "layer_errors", [0.0, 1e-7, 0.0]),
    "net_gradients": ("checks", "nets", {n: {"errors": {"W1": 1e-9, "b3": 1e-6}} for n in ("none", "batch")}),
    "alternative_backward": ("checks", "alt", [0.0, 0.0, 1e-11]),
    "converges_faster": ("depth_none", "train", line(0.1, 0.6, 0.726)),
    "trains_higher": ("depth_none", "train", line(0.1, 0.1, 0.802)),
    "train_batch_as_recorded": ("depth_batch", "train", line(0.1, 0.9, 0.93)),
    "train_none_as_recorded": ("depth_none", "train", line(0.1, 0.1, 0.6)),
    "val_batch_as_recorded": ("depth_batch", "val", line(0.1, 0.1, 0.3)),
    "val_none_as_recorded": ("depth_none", "val", line(0.1, 0.1, 0.28)),
    "batch_norm_needs_large_batches": ("size_batch", "train_5", line(0.8)),
    "small_batches_hurt_batch_norm_more_in_training": ("size_layer", "train_5", line(0.1)),
    "small_batches_hurt_batch_norm_more_in_validation": ("size_layer", "val_5", line(0.1)),
}


@pytest.mark.parametrize("name", BAD)
def test_a_claim_does_not_hold_for_numbers_that_contradict_it(name: str) -> None:
    arm, key, value = BAD[name]
    runs = made_up()
    runs[arm][key] = value
    assert decided(runs)[name] == NOT_HELD


@pytest.mark.parametrize(
    ("name", "arm", "at", "value"),
    [
        ("hardly_cares_for_scale", "scale_batch", 1, 0.2),
        ("small_weights_stop_the_baseline", "scale_none", 0, 0.3),
        ("small_weights_with_batch_norm", "scale_batch", 0, 0.15),
    ],
)
def test_a_claim_on_scales_does_not_hold(name: str, arm: str, at: int, value: float) -> None:
    runs = made_up()
    runs[arm]["best_train"]["y"][at] = value
    assert decided(runs)[name] == NOT_HELD


def test_spread_looks_at_the_middle_two_decades() -> None:
    assert spread(Outcome(None, 0, made_up()), "batch") == pytest.approx(0.1)
    assert spread(Outcome(None, 0, made_up()), "none") == pytest.approx(0.6)
    assert sum(1e-3 <= scale <= 1e-1 for scale in nets.Setting().scales) == 10


def test_figure(outcome: Outcome) -> None:
    figure = drawn(EXPERIMENT, [outcome, replace(outcome, seed=1)])
    assert len(figure.axes) == 9
    published = [line.get_ydata()[0] for line in figure.axes[1].lines if line.get_linestyle() == ":"]
    assert published == [0.801, 0.726]


@pytest.mark.peers
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_losses_are_those_of_pytorch(norm: str) -> None:
    """The same weights and batches give the same losses over two epochs."""
    torch = pytest.importorskip("torch")
    data, task = nets.load(pictures(), TINY, "cpu"), Task(norm, TINY, 5, None, "cpu", lambda n=1: None)
    ours = nets.network(12, TINY.hidden, norm)
    nets.initialise(ours, 2e-2, seed=5)
    theirs = torch.nn.Sequential(*(_twin(torch, layer) for layer in ours))
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-3)
    rng, losses = np.random.default_rng([5, 10]), []
    for _ in range(4):
        rows = rng.choice(20, 10)
        x, y = (torch.from_numpy(part.numpy()[rows]) for part in (data.train_x, data.train_y))
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(theirs(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    found = nets.solve(task, data, TINY.hidden, norm, 2e-2, 10, 1e-3)
    np.testing.assert_allclose(found.loss, losses, rtol=2e-5)


def _twin(torch: Any, layer: nn.Module) -> Any:
    if isinstance(layer, nn.ReLU):
        return torch.nn.ReLU()
    width = next(iter(layer.parameters())).shape
    kinds = {"Linear": torch.nn.Linear, "BatchNorm1d": torch.nn.BatchNorm1d, "LayerNorm": torch.nn.LayerNorm}
    twin = kinds[type(layer).__name__](*reversed(width))
    with torch.no_grad():
        for a, b in zip(twin.parameters(), layer.parameters(), strict=True):
            a.copy_(torch.from_numpy(b.detach().numpy().copy()))
    return twin
