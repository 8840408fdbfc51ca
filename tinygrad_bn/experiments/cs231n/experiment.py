"""Batch normalisation as Stanford's CS231n teaches it: its notebook's checks, and its three studies of deep nets.

    checks   forward passes, gradients, the alternative backward pass
    depth    six-layer nets with and without batch norm
    scale    eight-layer nets over 20 scales of the initial weights
    size     batches of 5, 10 and 50 with batch norm and with layer norm, rate 10^-3.5

Stanford CS231n, assignment 2, ``BatchNormalization.ipynb``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinygrad_bn.experiments.cs231n import checks, nets
from tinygrad_bn.experiments.cs231n.claims import CLAIMS, drop, final, speedup, spread
from tinygrad_bn.experiments.cs231n.figure import draw
from tinygrad_bn.experiments.cs231n.nets import Setting
from tinygrad_bn.experiments.runner.experiment import Experiment, Numbers, Published, Task

STUDIES = (
    *("depth_none", "depth_batch"),
    *("scale_none", "scale_batch", "scale_matched"),
    *("size_none", "size_batch", "size_layer"),
)
NOTEBOOK = "BatchNormalization.ipynb"


def arms(setting: Setting) -> Sequence[str]:
    return ("checks", *STUDIES)


def steps(setting: Setting, arm: str) -> int:
    return 1 if arm == "checks" else nets.steps(setting, arm)


def run(task: Task) -> Numbers:
    """Run the checks, or a study with one norm."""
    return checks.checks(task) if task.arm == "checks" else nets.study(task)


def _forward(what: str, name: str, feature: int) -> Published:
    value = f"{checks.RECORDED[name][feature]:.8f}"
    where = f"{NOTEBOOK}, forward"
    return Published(what, value, where, lambda o: o["checks"]["forward"][name][feature], ".8f")


def _errors(norm: str, label: str, values: Sequence[str]) -> list[Published]:
    where = f"{NOTEBOOK}, backward"
    return [
        Published(f"{label}: relative error of {of}", value, where, _error(f"{norm}_errors", i), ".1e")
        for i, (of, value) in enumerate(zip(("dx", "dγ", "dβ"), values, strict=True))
    ]


def _error(name: str, i: int) -> Any:
    return lambda o: o["checks"][name][i]


def _net(norm: str, label: str, name: str, value: str) -> Published:
    where = f"{NOTEBOOK if norm == 'batch' else 'FullyConnectedNets.ipynb'}, gradient check"
    return Published(f"{label}: relative error of {name}", value, where, _net_error(norm, name), ".1e")


def _net_error(norm: str, name: str) -> Any:
    return lambda o: o["checks"]["nets"][norm]["errors"][name]


def _accuracy(what: str, value: str, arm: str, name: str) -> Published:
    return Published(what, value, f"{NOTEBOOK}, deep networks", lambda o: final(o, arm, name), ".3f")


def _loss(norm: str, label: str, i: int) -> Published:
    where = f"{NOTEBOOK if norm == 'batch' else 'FullyConnectedNets.ipynb'}, initial loss"
    what = f"{label}: initial loss, L2 {checks.REGULARISATIONS[i]:g}"
    value = f"{checks.RECORDED_LOSSES[norm][i]:.12f}"
    return Published(what, value, where, lambda o: o["checks"]["nets"][norm]["loss"][i], ".12f")


FIGURE = "a figure"
PUBLISHED = (
    _forward("batch norm, γ = 3, β = 13: deviation of feature 3", "affine_std", 2),
    _forward("batch norm, evaluation: mean of feature 1", "eval_mean", 0),
    _forward("batch norm, evaluation: deviation of feature 1", "eval_std", 0),
    _forward("layer norm: deviation of sample 4", "layer_std", 3),
    *_errors("batch", "batch norm", ("1.7e-09", "7.4e-13", "2.9e-12")),
    *_errors("layer", "layer norm", ("1.4e-09", "4.5e-12", "2.3e-12")),
    Published(
        "alternative backward: difference of dx",
        "9.2e-13 to 1.3e-12",
        f"{NOTEBOOK}, alternative backward",
        _error("alt", 0),
        ".1e",
    ),
    Published(
        "alternative backward: speedup",
        "0.50 to 1.75",
        f"{NOTEBOOK}, alternative backward",
        lambda o: speedup(o, "alt"),
        ".2f",
    ),
    Published("this package's kernel instead: speedup", "–", "ours", lambda o: speedup(o, "fused"), ".2f"),
    *(_loss(norm, label, i) for norm, label in (("none", "net"), ("batch", "net with batch norm")) for i in (0, 1)),
    _net("none", "net", "W2", "2.2e-05"),
    _net("none", "net", "b1", "1.5e-08"),
    _net("batch", "net with batch norm", "W1", "1.1e-04"),
    _net("batch", "net with batch norm", "gamma1", "7.6e-09"),
    _net("batch", "net with batch norm", "beta1", "7.3e-09"),
    Published(
        "largest gradient of a bias ahead of batch norm",
        "0",
        "derivation",
        lambda o: o["checks"]["nets"]["batch"]["idle"],
        ".0e",
    ),
    _accuracy("batch norm: training accuracy", ".801", "depth_batch", "train"),
    _accuracy("no norm: training accuracy", ".726", "depth_none", "train"),
    _accuracy("batch norm: validation accuracy", ".357", "depth_batch", "val"),
    _accuracy("no norm: validation accuracy", ".335", "depth_none", "val"),
    Published(
        "batch norm: spread of best training accuracy, scales 1e-3 to 1e-1",
        FIGURE,
        f"{NOTEBOOK}, initialization",
        lambda o: spread(o, "batch"),
    ),
    Published("no norm: the same spread", FIGURE, f"{NOTEBOOK}, initialization", lambda o: spread(o, "none")),
    Published("batch norm, rate ∝ scale: the same spread", "–", "ours", lambda o: spread(o, "matched")),
    Published(
        "batch norm: training accuracy lost from batches of 50 to 5",
        FIGURE,
        f"{NOTEBOOK}, batch size",
        lambda o: drop(o, "batch"),
        ".3f",
    ),
    Published("layer norm: the same loss", FIGURE, f"{NOTEBOOK}, batch size", lambda o: drop(o, "layer"), ".3f"),
)

EXPERIMENT = Experiment(
    name="cs231n",
    title="The notebook of CS231n: checks, depth, initial scale, batch size",
    source="Stanford CS231n, assignment 2, BatchNormalization.ipynb and FullyConnectedNets.ipynb, recorded by students",
    question="""A course has its students write batch norm and layer norm, checks them by numbers, and lets
them see in small nets what they are good for. Does this package print the same numbers?

The checks run on the notebook's own data (NumPy's generator, seed 231; gradients of the layers also on other
draws), in float64. The nets, {affine, norm, ReLU} × L and affine, train on 1,000 pictures of CIFAR-10 with pixels
of 0 … 255 less the mean picture, weights of N(0, scale²), Adam, 10 epochs. *Depth*: 6 layers of 100 units, scale
0.02, batches of 50, rate 1e-3. *Initial scale*: 8 layers of 50 units, scales from 1e-4 to 1; and, which is ours,
with a rate for all weights ahead of batch norm in proportion to their scale. *Batch size*: 6 layers, batches of 5,
10 and 50, rate 10^-3.5, with batch norm, with layer norm, and batches of 5 without a norm. Accuracies are those of
inference; 1,000 other training pictures validate.""",
    meaning="""**Checks.** The package prints the notebook's numbers: all 32 means and deviations to the last
of eight decimals, four initial losses to the last of sixteen digits, and errors of gradients of the recorded
orders. A bias ahead of batch norm has a gradient of 2e-17: none.
These claims were written after a development run of one seed; their thresholds are the notebook's own numbers.

**Depth.** Batch norm is ahead in every epoch and ends at .77 of the training pictures against .56. In validation
little of that is left, .31 against .29: a thousand pictures are learnt by heart.

**Initial scale.** Without a norm the net trains in a narrow window around 0.1, where it even beats batch norm (.70
against .64), and not at all from 1e-4. With batch norm it learns from every scale, but "hardly cares" says too
much: its best training accuracy goes from .27 at 1e-4 to .64 and back to .31 at 1. Batch norm makes the scale of
weights irrelevant for what a net computes, and so turns it into the inverse of a learning rate for Adam, whose
steps are of a fixed size. With the rate in proportion to the scale, the spread from 1e-3 to 1e-1 shrinks from .34
to .08.

**Batch size.** From batches of 50 to batches of 5 the net with batch norm loses .43 of training accuracy, and falls
behind the one without a norm; with layer norm .13 are lost. In validation the two losses differ by .02 only.""",
    scales={
        "quick": Setting(train=400, val=200, epochs=3, scales=(1e-4, 1e-3, 1e-2, 1e-1, 1.0), batches=(5, 50)),
        "standard": Setting(),
        "paper": Setting(),
    },
    arms=arms,
    steps=steps,
    run=run,
    draw=draw,
    claims=CLAIMS,
    published=PUBLISHED,
    data="cifar10",
    figsize=(10.0, 8.4),
)
