"""What γ and β are for: normalised inputs keep a sigmoid in its linear part, γ and β give the range back.

    x = Wu + b,   x̂ = (x - E[x]) / √Var[x],   y = γ x̂ + β,   g(y) = 1 / (1 + exp(-y))
    tangent at 0:  t(y) = 1/2 + y/4;   identity: γ = √Var[x], β = E[x]

Ioffe & Szegedy 2015 (arXiv:1502.03167), section 3: "Note that simply normalizing each input of a layer may change what
the layer can represent. For instance, normalizing the inputs of a sigmoid would constrain them to the linear regime of
the nonlinearity. To address this, we make sure that the transformation inserted in the network can represent the
identity transform."
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.experiments.runner.experiment import Claim, Experiment, Numbers, Published, Task, above, below, curve
from tinygrad_bn.experiments.runner.results import Outcome, Results

ARMS = ("before", "normalised", "identity", "learned")
LABELS = {
    "before": "before: x",
    "normalised": "normalised: x̂",
    "identity": "γ = √Var, β = E",
    "learned": "γ, β learned",
}
INPUT_BINS = np.linspace(-16, 16, 97)
OUTPUT_BINS = np.linspace(0, 1, 51)
NEAR_TANGENT = 0.05
"""The linear part of the sigmoid: where it is this near to its tangent, a twentieth of its range."""
FLAT = 0.1
"""The saturated part: where the slope is below this share of the largest one."""


@dataclass(frozen=True)
class Setting:
    """A layer of sigmoids whose weights have grown: inputs of standard deviation 4 about means of deviation 2.

    Attributes
    ----------
    samples, inputs, units : int
    weight_std, bias_std : float
        Of the layer's Gaussian weights and biases; its own inputs u are standard normal.
    steps : int
        For which γ and β are learned, by Adam at ``rate``.
    """

    samples: int
    steps: int
    inputs: int = 100
    units: int = 50
    weight_std: float = 0.4
    bias_std: float = 2.0
    rate: float = 0.05


def tangent(y: np.ndarray) -> np.ndarray:
    """Return t(y) = 1/2 + y/4."""
    return 0.5 + y / 4


def linear_share(inputs: np.ndarray, outputs: np.ndarray) -> float:
    """Return which share of the outputs' variance a straight line for each unit explains.

    Parameters
    ----------
    inputs, outputs : ndarray, shape (samples, units)
    """
    x, y = inputs - inputs.mean(0), outputs - outputs.mean(0)
    slope = (x * y).sum(0) / (x * x).sum(0)
    return float(1 - ((y - slope * x) ** 2).sum() / (y * y).sum())


def unexplained(outputs: np.ndarray, wanted: np.ndarray) -> float:
    """Return the squared deviation from the wanted outputs as a share of their variance."""
    return float(((outputs - wanted) ** 2).sum() / ((wanted - wanted.mean(0)) ** 2).sum())


def pre_activations(setting: Setting, seed: int, device: str) -> tb.Tensor:
    """Return x = Wu + b, shape (samples, units)."""
    tb.manual_seed(seed)
    layer = nn.Linear(setting.inputs, setting.units, device=device)
    for parameter, std in zip(layer.parameters(), (setting.weight_std, setting.bias_std)):
        nn.init.normal_(parameter, std=std)
    x: tb.Tensor = layer(tb.randn(setting.samples, setting.inputs, device=device)).detach()
    return x


def learn(norm: nn.BatchNorm1d, x: tb.Tensor, wanted: tb.Tensor, task: Task) -> list[float]:
    """Learn γ and β alone, so that g(BN(x)) becomes what the sigmoids had been without BN; return the losses."""
    adam = tb.optim.Adam(norm.parameters(), lr=task.setting.rate)

    @tb.capture
    def step(x: tb.Tensor, wanted: tb.Tensor) -> tb.Tensor:
        adam.zero_grad()
        loss = nn.functional.mse_loss(norm(x).sigmoid(), wanted)
        loss.backward()
        adam.step()
        return loss

    losses = []
    for _ in range(task.setting.steps):
        losses.append(step(x, wanted).item())
        task.tick()
    return losses


def run(task: Task) -> Numbers:
    """Put x through batch norm as the arm says, and see where on the sigmoid it comes to lie."""
    x = pre_activations(task.setting, task.seed, task.device)
    wanted = x.sigmoid()
    norm = nn.BatchNorm1d(task.setting.units, device=task.device)
    gamma, beta = norm.parameters()
    numbers: Numbers = {}
    if task.arm == "identity":
        with tb.no_grad():
            gamma.copy_(x.var(0, unbiased=False).sqrt())
            beta.copy_(x.mean(0))
    if task.arm == "learned":
        losses = learn(norm, x, wanted, task)
        relative = gamma.detach() / x.var(0, unbiased=False).sqrt()
        numbers = {"loss": curve(np.arange(len(losses)), losses), "gamma": relative.tolist()}
    else:
        task.tick()
    y = x if task.arm == "before" else norm(x).detach()
    largest_change = float(((y - x).abs().max() / x.abs().max()).item())
    return numbers | {"largest_change": largest_change} | where_on_sigmoid(y.cpu().numpy(), wanted.cpu().numpy())


def where_on_sigmoid(y: np.ndarray, wanted: np.ndarray) -> Numbers:
    """Return how the sigmoid's inputs are distributed, and how linear and how saturated it is on them."""
    y = y.astype(np.float64)
    outputs = 1 / (1 + np.exp(-y))
    off = np.abs(outputs - tangent(y))
    return {
        "inputs": _density(y, INPUT_BINS),
        "outputs": _density(outputs, OUTPUT_BINS),
        "linear_share": linear_share(y, outputs),
        "off_tangent": float(off.mean()),
        "off_tangent_within_1": float(off[np.abs(y) <= 1].max()),
        "in_linear_part": float((off < NEAR_TANGENT).mean()),
        "saturated": float((outputs * (1 - outputs) < FLAT / 4).mean()),
        "range": float(np.mean(np.quantile(outputs, 0.95, axis=0) - np.quantile(outputs, 0.05, axis=0))),
        "unexplained": unexplained(outputs, wanted.astype(np.float64)),
    }


def _density(values: np.ndarray, bins: np.ndarray) -> list[float]:
    counts = np.histogram(np.clip(values, bins[0], bins[-1]), bins)[0]
    return [float(d) for d in counts / values.size / np.diff(bins)]


def arms(setting: Setting) -> Sequence[str]:
    return ARMS


def ticks(setting: Setting, arm: str) -> int:
    return setting.steps if arm == "learned" else 1


def gamma_error(outcome: Outcome) -> float:
    """The typical unit's |γ / √Var[x] - 1| after learning."""
    return float(np.median(np.abs(np.array(outcome["learned"]["gamma"]) - 1)))


def draw(results: Results, figure: Any) -> None:
    """The sigmoid with its derivative, and the distributions of its inputs and outputs."""
    axes = figure.subplots(1, 3)
    _draw_sigmoid(axes[0])
    _draw_densities(axes[1], results, "inputs", INPUT_BINS, ARMS)
    axes[1].axvspan(-linear_edge(), linear_edge(), color="C2", alpha=0.12, label="linear part")
    axes[1].set(xlabel="input of the sigmoid", ylabel="density", title="its inputs")
    _draw_densities(axes[2], results, "outputs", OUTPUT_BINS, ARMS)
    axes[2].set(xlabel="output of the sigmoid", ylabel="density", title="its outputs")
    for panel in axes:
        panel.title.set_fontsize(10)
        panel.legend(fontsize=7)


def linear_edge() -> float:
    """Return the y > 0 at which sigmoid and tangent are ``NEAR_TANGENT`` apart."""
    y = np.linspace(0, 4, 40_001)
    return float(y[np.argmax(tangent(y) - 1 / (1 + np.exp(-y)) >= NEAR_TANGENT)])


def _draw_sigmoid(axes: Any) -> None:
    y = np.linspace(-8, 8, 321)
    g = 1 / (1 + np.exp(-y))
    axes.plot(y, g, "C0", label="sigmoid g")
    axes.plot(y, g * (1 - g), "C1", label="derivative g′ = g (1 − g)")
    near = y[np.abs(y) <= 2]
    axes.plot(near, tangent(near), "k--", linewidth=0.9, label="tangent 1/2 + y/4")
    axes.axvspan(-linear_edge(), linear_edge(), color="C2", alpha=0.12, label=f"linear part: off by < {NEAR_TANGENT:g}")
    axes.set(xlabel="y", ylabel="g(y), g′(y)", title="the sigmoid", ylim=(-0.03, 1.35))


def _draw_densities(axes: Any, results: Results, name: str, bins: np.ndarray, arms: Sequence[str]) -> None:
    styles = {
        "before": {"fill": True, "color": "0.8"},
        "normalised": {"color": "C2", "linewidth": 1.4},
        "identity": {"color": "C3", "linewidth": 1.2},
        "learned": {"color": "C0", "linewidth": 2.2, "linestyle": ":"},
    }
    for arm in arms:
        axes.stairs(results.stack(arm, name).mean(0), bins, label=LABELS[arm], **styles[arm])


CLAIMS = (
    Claim(
        "linear_regime",
        "Normalising the inputs of a sigmoid constrains them to the linear regime of the nonlinearity (section 3).",
        lambda o: float(o["normalised"]["linear_share"]),
        above(0.95),
        "The share of the outputs' variance that a straight line for each unit explains; 5 % is the usual level below "
        "which something counts as absent.",
    ),
    Claim(
        "most_in_linear_part",
        "The same, as the figure shows it: the histogram of normalised inputs lies in the sigmoid's linear part.",
        lambda o: float(o["normalised"]["in_linear_part"]),
        above(0.8),
        "The share of inputs at which sigmoid and tangent differ by less than 0.05, |x̂| < 1.42. A normal distribution"
        " has 84 % there; without normalisation, at a standard deviation of 4.5, 25 %.",
    ),
    Claim(
        "not_saturated",
        "Normalised inputs do not get stuck in the saturated regime (section 1).",
        lambda o: float(o["normalised"]["saturated"]),
        below(0.01),
        "The share of inputs at which the slope is below a tenth of the largest, |x̂| > 3.6; a normal distribution has"
        " 0.03 % there, and 42 % at a standard deviation of 4.5.",
    ),
    Claim(
        "may_change_the_layer",
        "Simply normalising each input may change what the layer can represent (section 3).",
        lambda o: float(o["normalised"]["unexplained"]),
        above(0.1),
        "Squared difference of the outputs with x̂ from those with x, over the variance of the latter: a tenth is more"
        " than noise.",
    ),
    Claim(
        "identity",
        "With γ = √Var[x] and β = E[x] the original activations are recovered (section 3).",
        lambda o: float(o["identity"]["largest_change"]),
        below(1e-5),
        "The largest |y − x| over the largest |x|. Rounding in float32 is 1e-7, eps = 1e-5 beside a variance of 16 "
        "adds 3e-7; ten times that is still the identity.",
    ),
    Claim(
        "learned_restores",
        "Learned, γ and β restore the representation power (section 3).",
        lambda o: float(o["learned"]["unexplained"]),
        below(0.01),
        "As for may_change_the_layer, after γ and β alone were learned: a tenth of the threshold there.",
    ),
    Claim(
        "learned_is_identity",
        "The original activations are recovered if that is the optimal thing to do (section 3): then γ becomes "
        "√Var[x].",
        gamma_error,
        below(0.05),
        "The typical unit's |γ / √Var[x] − 1| after learning from γ = 1. The median, as units that are always "
        "saturated have no gradient to learn from.",
    ),
)

_FIGURE = "a figure without numbers"

PUBLISHED = (
    Published("normalised inputs in the linear part, share", "nearly all", _FIGURE, CLAIMS[1].measure),
    Published("the same before normalisation", "few", _FIGURE, lambda o: o["before"]["in_linear_part"]),
    Published("saturated before normalisation, share", "many", _FIGURE, lambda o: o["before"]["saturated"]),
    Published("saturated after normalisation, share", "none", _FIGURE, CLAIMS[2].measure, ".2g"),
    Published("mean distance from the tangent, normalised", "not given", "", lambda o: o["normalised"]["off_tangent"]),
    Published("largest distance at |x̂| ≤ 1", "not given", "", lambda o: o["normalised"]["off_tangent_within_1"]),
    Published("mean distance from the tangent, before", "not given", "", lambda o: o["before"]["off_tangent"]),
    Published("range of the outputs (5 % to 95 %), before", "0 to 1", _FIGURE, lambda o: o["before"]["range"]),
    Published("the same, normalised", "narrower", _FIGURE, lambda o: o["normalised"]["range"]),
    Published("the same, γ, β learned", "0 to 1 again", _FIGURE, lambda o: o["learned"]["range"]),
    Published("largest |y − x| / largest |x| at γ = √Var, β = E", "0", "section 3", CLAIMS[4].measure, ".1e"),
)

EXPERIMENT = Experiment(
    name="gamma_beta",
    title="γ and β give normalised sigmoids their range back",
    source="Ioffe & Szegedy 2015 (arXiv:1502.03167), section 3",
    question="""Normalised inputs of a sigmoid lie where it is nearly a straight line, and a layer that is linear adds
nothing to a network. Is that so, and do γ and β undo it? A layer of 50 sigmoids has inputs x = Wu + b of standard
deviation 4 about means of standard deviation 2, so that many are saturated. They go through `BatchNorm1d` with γ = 1,
β = 0; with γ = √Var[x], β = E[x]; and with γ and β learned by Adam from 1 and 0, so that the outputs become those of
the layer without batch norm.""",
    meaning="""Of the normalised inputs 85 % lie where the sigmoid is within 0.05 of its tangent, against 25 % before;
a straight line for each unit explains 98 % of the outputs' variance. No more than 3 in 10,000 are saturated, against
42 % before: that is what normalisation is for. The price: the middle 90 % of a unit's outputs cover 0.68 of the
range, where they had covered 0.98, and the layer's function is another one (half of its variance is off).

γ = √Var[x] and β = E[x] give back every input to 4e-7 of the largest; what is left is eps and rounding. Learned from
1 and 0, γ and β find these very values when the original outputs are what is wanted, also for units that were far in
saturation. Nearly linear is thus a matter of where a layer starts, not of what it can represent.""",
    scales={
        "quick": Setting(1000, 1000),
        "standard": Setting(5000, 1500),
        "paper": Setting(20_000, 3000, units=100),
    },
    arms=arms,
    steps=ticks,
    run=run,
    draw=draw,
    claims=CLAIMS,
    published=PUBLISHED,
    figsize=(10.8, 3.8),
)
