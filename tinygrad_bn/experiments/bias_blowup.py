"""Why normalisation has to be part of the graph: outside of it the bias grows for ever; and why it is not whitening.

    x = u + b,   x̂ = x - E[x];   a step that ignores the dependence of E[x] on b:   Δb ∝ -∂ℓ/∂x̂
    u + (b + Δb) - E[u + (b + Δb)] = u + b - E[u + b]:   b has moved, output and loss have not
    with a scale:  x = a u + b,   x̂ = (x - E[x]) / √Var[x],   both statistics outside of the graph
    whitening:     x̂ = Cov[x]^(-1/2) (x - E[x])

Ioffe & Szegedy 2015 (arXiv:1502.03167), section 2, and the beginning of section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.experiments._blowup_networks import EPS, NETWORKS, run_network
from tinygrad_bn.experiments.runner.experiment import (
    CLOCK,
    Claim,
    Experiment,
    Numbers,
    Published,
    Task,
    above,
    below,
    curve,
)
from tinygrad_bn.experiments.runner.results import Outcome, Results


@dataclass(frozen=True)
class Setting:
    """Sizes; the paper gives none for its "initial experiments".

    Attributes
    ----------
    layer_steps, rate : int, float
        Gradient descent on the b (and a) of one layer of ``width`` units, on ``samples`` inputs.
    net_steps, rates : int, tuple of float
        SGD of networks with ``hidden`` layers, at each of the rates; the best one has to lie inside their range.
    interval : int
        After how many steps the arm "interval" computes the statistics anew.
    kappa : float
        The condition number of the covariance of the networks' inputs.
    """

    layer_steps: int
    net_steps: int
    samples: int = 256
    width: int = 32
    rate: float = 0.1
    rates: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0)
    interval: int = 20
    inputs: int = 32
    hidden: int = 3
    classes: int = 5
    train: int = 2048
    batch: int = 256
    kappa: float = 100.0


LAYERS = {
    "mean_outside": "x − E[x], outside",
    "mean_inside": "x − E[x], inside",
    "scale_outside": "(x − E[x]) / √Var[x], outside",
    "scale_inside": "(x − E[x]) / √Var[x], inside",
}


def normalise(x: tb.Tensor, scale: bool, outside: bool) -> tb.Tensor:
    """Return x - E[x], over √(Var[x] + eps) with a scale; outside: gradients take both statistics for constants."""
    if scale and not outside:
        return nn.functional.batch_norm(x, None, None, training=True, eps=EPS)
    mean = x.mean(0)
    centred = x - (mean.detach() if outside else mean)
    return centred / (x.detach().var(0, unbiased=False) + EPS).sqrt() if scale else centred


def train_layer(task: Task) -> Numbers:
    """Learn the b of x = u + b, or a and b of x = a u + b, below a fixed classifier, by full-batch gradient "
    "descent."""
    setting, scale, outside = task.setting, task.arm.startswith("scale"), task.arm.endswith("outside")
    tb.manual_seed(task.seed)
    u = tb.randn(setting.samples, setting.width, device=task.device)
    labels = tb.randint(0, setting.classes, (setting.samples,), device=task.device)
    classifier = nn.Linear(setting.width, setting.classes, device=task.device).requires_grad_(False)
    a, b = (nn.Parameter(start(setting.width, device=task.device)) for start in (tb.ones, tb.zeros))
    sgd = tb.optim.SGD([a, b] if scale else [b], lr=setting.rate)

    @tb.capture
    def step(u: tb.Tensor, labels: tb.Tensor) -> tuple[tb.Tensor, tb.Tensor]:
        sgd.zero_grad()
        x = a * u + b if scale else u + b
        loss = nn.functional.cross_entropy(classifier(normalise(x, scale, outside)), labels)
        loss.backward()
        sgd.step()
        return loss, (b.detach() ** 2).sum().sqrt()

    rows = []
    for _ in range(setting.layer_steps):
        rows.append([value.item() for value in step(u, labels)])
        task.tick()
    loss, norm = np.array(rows).T
    count = np.arange(1, len(rows) + 1)
    kept, last = np.unique(np.geomspace(1, len(rows), 120).astype(int)), count > len(rows) / 10
    return {
        "loss": curve(kept, loss[kept - 1]),
        "bias": curve(kept, norm[kept - 1]),
        "loss_moved": float(np.abs(loss / loss[0] - 1).max()),
        "loss_end": float(loss[-1] / loss[0] - 1),
        "bias_end": float(norm[-1]),
        "growth": float(np.polyfit(np.log(count[last]), np.log(np.maximum(norm[last], 1e-30)), 1)[0]),
    }


def run(task: Task) -> Numbers:
    """Train one layer's parameters, or a network."""
    return train_layer(task) if task.arm in LAYERS else run_network(task)


def at_bn_rate(outcome: Outcome, arm: str) -> Numbers:
    """Return an arm's numbers at the rate that is batch norm's best."""
    found: Numbers = outcome[arm]["by_rate"][outcome["bn"]["rate"]]
    return found


def fall(outcome: Outcome, arm: str) -> float:
    """The loss in the end over the first, at batch norm's best rate; infinite after an overflow."""
    return float(at_bn_rate(outcome, arm)["final"] / at_bn_rate(outcome, arm)["first"])


def ratio(outcome: Outcome, arm: str, other: str, name: str = "final") -> float:
    """An arm's number over another's; final losses are each of its own best rate."""
    of, to = (outcome[a][CLOCK] if name == "ms_per_step" else outcome[a] for a in (arm, other))
    return float(of[name] / to[name])


def draw(results: Results, figure: Any) -> None:
    """Bias and loss of one layer above; loss of the networks, and cost against effect below."""
    from matplotlib.ticker import LogLocator

    (bias, loss), (networks, costs) = axes = figure.subplots(2, 2)
    for i, (arm, label) in enumerate(LAYERS.items()):
        style = {"color": f"C{i}", "linestyle": "--" if arm.endswith("inside") else "-", "label": label}
        _band(bias, results, arm, "bias", style)
        _band(loss, results, arm, "loss", style, to_first=True)
    x, first = results.x("mean_outside", "bias"), results.stack("mean_outside", "bias").mean(0)[0]
    bias.plot(x, first * x, "k:", linewidth=1.6, label="derived: ‖b‖ ∝ steps")
    bias.set_yscale("symlog", linthresh=1e-6)
    bias.set(xscale="log", xlabel="step", ylabel="‖b‖", title="one layer: the bias")
    loss.set(xscale="log", xlabel="step", ylabel="cross-entropy / first cross-entropy")
    loss.set_title("one layer: the loss")
    colours = dict(zip(NETWORKS, ("0.55", "C0", "C2", "C3", "C1", "k")))  # few hues, so that a small palette keeps them
    for (arm, (label, _)), marker in zip(NETWORKS.items(), "os^vDx"):
        _band(networks, results, arm, "loss", {"color": colours[arm], "label": label})
        ms = [run[CLOCK]["ms_per_step"] for run in results.runs(arm)]
        label = f"{label}: {results.runs(arm)[0]['flops'] / 1e6:.2g} Mflop"
        costs.plot(ms, results.stack(arm, "final"), marker, color=colours[arm], markersize=4, label=label)
    networks.set(
        ylim=(0.2, 40),
        yscale="log",
        xlabel="step",
        ylabel="cross-entropy (nats)",
        title="networks, each at its best rate, two at batch norm's",
    )
    costs.set(xscale="log", yscale="log", xlabel="time of a training step (ms)", ylabel="final cross-entropy (nats)")
    costs.set_title("cost against effect (flops: normalisation, forward)")
    for arm in ("outside", "interval"):
        lines = [at_bn_rate(outcome, arm)["loss"] for outcome in results]
        label = f"{NETWORKS[arm][0]}, batch norm's rate"
        mean = np.mean([line["y"] for line in lines], 0)
        networks.plot(lines[0]["x"], mean, ":", color=colours[arm], linewidth=1.3, label=label)
    for axis in (networks.yaxis, costs.yaxis, costs.xaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    for panel in axes.flat:
        panel.title.set_fontsize(10)
        panel.legend(fontsize=6.5, ncols=2 if panel is networks else 1)
        panel.grid(alpha=0.3)


def _band(axes: Any, results: Results, arm: str, name: str, style: dict[str, Any], to_first: bool = False) -> None:
    x, y = results.x(arm, name), results.stack(arm, name)
    y = y / y[:, :1] if to_first else y
    axes.plot(x, y.mean(0), linewidth=1.3, **style)
    axes.fill_between(x, y.min(0), y.max(0), color=style["color"], alpha=0.15, linewidth=0)


CLAIMS = (
    Claim(
        "bias_grows",
        "b will grow indefinitely (section 2).",
        lambda o: float(o["mean_outside"]["growth"]),
        above(0.9),
        "Exponent of the step in ‖b‖, over the last nine tenths. A fixed output has a fixed gradient: 1; less levels "
        "off.",
    ),
    Claim(
        "loss_fixed",
        "… while the loss remains fixed (section 2).",
        lambda o: float(o["mean_outside"]["loss_moved"]),
        below(1e-3),
        "Largest relative change of the loss; rounding is 1e-7 of x, and b may become a thousand times as large as u.",
    ),
    Claim(
        "inside_stays",
        "It does not happen where gradients account for the normalisation and its dependence on b (section 2).",
        lambda o: ratio(o, "mean_inside", "mean_outside", "bias_end"),
        below(1e-3),
        "The last ‖b‖ with the mean inside over that with it outside. The gradient is 0 but for rounding.",
    ),
    Claim(
        "scale_is_worse",
        "This problem can get worse if the normalization not only centers but also scales the activations (section 2).",
        lambda o: o["scale_outside"]["loss_end"],
        above(0.1),
        "The loss in the end less the first, over the first. With the mean alone it stays: worse is a loss that rises.",
        "‖b‖ grows many times as much as without a scale, so that worse it is, but the loss falls: see below.",
    ),
    Claim(
        "model_blows_up",
        "The model blows up when the normalization parameters are computed outside the gradient descent step (section "
        "2).",
        lambda o: fall(o, "outside"),
        above(1),
        "Final over first loss at batch norm's best rate: blown up, it is no better than untrained, or infinite.",
        "We think, but have not tested: in this network W and b do grow without need, but x̂ does not depend on the "
        "length of W, so that a longer W makes the next steps smaller: a brake that the b of section 2 lacks. What is "
        "left of the step still descends. The paper names neither the network nor the rate of its initial experiments.",
    ),
    Claim(
        "interval_blows_up",
        "The same for normalisation at some interval, interspersed with the optimization steps (section 2).",
        lambda o: fall(o, "interval"),
        above(1),
        "As before.",
        "The seeds differ: the loss ended at 4.2 of the first one in one of them, at 0.6 to 0.8 in four. Between two "
        "renewals nothing holds back the growth of x̂; at rate 10 all five ended above 1.5.",
    ),
    Claim(
        "bn_does_not",
        "With batch norm inside the graph the model trains.",
        lambda o: fall(o, "bn"),
        below(0.5),
        "The same ratio at the same rate: at least half of the first loss is gone.",
    ),
    Claim(
        "whitening_costs",
        "The full whitening of each layer's inputs is costly (section 3).",
        lambda o: ratio(o, "decorrelated", "bn", "ms_per_step"),
        above(2),
        "Time of a whole training step over that with batch norm: more than double.",
    ),
    Claim(
        "whitening_converges_faster",
        "The network training converges faster if its inputs are whitened (section 2).",
        lambda o: ratio(o, "decorrelated", "none"),
        below(1),
        "Final training loss after equally many steps over that without normalisation, each at its best rate.",
    ),
    Claim(
        "bn_converges_faster",
        "Such normalization speeds up convergence, even when the features are not decorrelated (section 3).",
        lambda o: ratio(o, "bn", "none"),
        below(1),
        "The same for batch norm.",
    ),
)

PUBLISHED = (
    Published("exponent of ‖b‖ in the step", "1", "section 2, derived", CLAIMS[0].measure, ".4f"),
    Published("largest relative change of the loss", "0", "section 2, derived", CLAIMS[1].measure, ".1e"),
    Published("‖b‖ in the end, E outside", "grows indefinitely", "section 2", lambda o: o["mean_outside"]["bias_end"]),
    Published("‖b‖ in the end, E inside", "0", "follows", lambda o: o["mean_inside"]["bias_end"], ".1e"),
    Published(
        "‖b‖, scale outside / mean outside",
        "can get worse",
        "section 2",
        lambda o: ratio(o, "scale_outside", "mean_outside", "bias_end"),
    ),
    Published("loss with a scale, relative change", "can get worse", "section 2", CLAIMS[3].measure),
    Published("final / first loss, outside at each step", "the model blows up", "section 2", CLAIMS[4].measure),
    Published("the same, outside at intervals", "the model blows up", "section 2", CLAIMS[5].measure),
    Published("‖b‖ of that network, end / start", "not said", "", lambda o: at_bn_rate(o, "outside")["bias_growth"]),
    Published("‖W‖ of that network, end / start", "not said", "", lambda o: at_bn_rate(o, "outside")["weight_growth"]),
    Published("‖b‖ with batch norm, end / start", "1", "follows", lambda o: at_bn_rate(o, "bn")["bias_growth"]),
    Published("‖W‖ with batch norm, end / start", "not said", "", lambda o: at_bn_rate(o, "bn")["weight_growth"]),
    Published("batch norm's best rate", "not said", "", lambda o: float(o["bn"]["rate"])),
    Published("step time, whitening by eigenvalues / batch norm", "costly", "section 3", CLAIMS[7].measure),
    Published("step time, IterNorm / batch norm", "not said", "", lambda o: ratio(o, "iter_norm", "bn", "ms_per_step")),
    Published(
        "flops, whitening / batch norm", "costly", "section 3", lambda o: ratio(o, "decorrelated", "bn", "flops")
    ),
    Published("final loss, whitening / batch norm", "not said", "", lambda o: ratio(o, "decorrelated", "bn")),
    Published("final loss, IterNorm / batch norm", "not said", "", lambda o: ratio(o, "iter_norm", "bn")),
)

EXPERIMENT = Experiment(
    name="bias_blowup",
    title="Normalisation outside of the gradient blows up",
    source="Ioffe & Szegedy 2015 (arXiv:1502.03167), sections 2 and 3",
    question="""Batch norm takes gradients through the mean and the variance. Section 2 says why: a step that ignores
how E[x] depends on b moves b, the next normalisation takes the move back, and so on for ever. Here b is learned in x
= u + b, x̂ = x − E[x], below a fixed classifier, with E[x] inside the graph and outside; the same with a scale, x = a
u + b and x̂ = (x − E[x]) / √Var[x], a and b learned.

Then networks of three layers of sigmoids on correlated inputs (κ = 100) are trained by SGD at the rates 0.3, 1, 3 and
10: without normalisation, with `BatchNorm1d`, with E and Var over the training set computed outside of the gradient
step, before each step or every 20 steps, and with whitening, `DecorrelatedBatchNorm` (Cov^(−1/2) by eigenvalues) and
`IterNorm` (five of Newton's iterations).""",
    meaning="""One layer does what section 2 derives: ‖b‖ grows in proportion to the steps (exponent 1.0000) while the
loss moves by rounding only, and with E[x] inside the graph b stays at 6e-6. With a scale b becomes 21 times as large,
and not by more of the same: ∂ℓ/∂a ∝ 1/a, so that an a that shrinks goes as a² = 1 − 2cηn and is at 0 after finitely
many steps, where gradients are up to 1/√eps = 316 times as large. In the three seeds that we looked into, 24 to 30 of
the 32 a shrink at first; the first ones cross 0 after 180 to 280 steps, and are then thrown back and forth across it,
a thousand times each. We had expected that to raise the loss. It falls by 7 %, probably as features that are turned
or small were what the gradient had asked for.

The networks blow up in their parameters: with the statistics taken outside before each step, at batch norm's best
rate, 3, their biases become 38 times as long (18 to 90, by seed) and their weights 16 times, against 1 and 2.7 with
batch norm inside. The loss does not quite: it ends at 0.56 of the first one, three times that of batch norm, but
below that of the untrained network. At rates up to 1 the network even trains as well as with batch norm. With
statistics renewed every 20 steps the loss ends above the first one in one seed of five at rate 3, and in all of them
at rate 10, where batch norm still trains. So the reason to put the normalisation into the graph shows here from batch
norm's best rate on, not below it.

Whitening takes 25 times the operations of batch norm and nine times the time of a whole step in layers of 32 units;
its cost per row grows with the square of the width, and the root's with the cube. What it gains over batch norm after
as many steps is little: 0.93 of its final loss by eigenvalues, 0.77 by IterNorm (perhaps as it leaves small, noisy
directions alone); both about halve the loss without normalisation, as does batch norm. Section 3's simplification
costs little. Losses are those of training batches. **Changed after first looks**, thresholds apart: statistics outside
are of all inputs (had been a batch's), 32 units (64), rates to 10 (up to 1: interval_blows_up was not held).""",
    scales={
        "quick": Setting(1000, 100, rates=(1.0,)),
        "standard": Setting(10_000, 500),
        "paper": Setting(100_000, 5000, width=100),
    },
    arms=lambda setting: (*LAYERS, *NETWORKS),
    steps=lambda setting, arm: setting.layer_steps if arm in LAYERS else setting.net_steps * len(setting.rates),
    run=run,
    draw=draw,
    claims=CLAIMS,
    published=PUBLISHED,
    figsize=(9.6, 6.8),
)
