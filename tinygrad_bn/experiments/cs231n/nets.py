"""The fully connected nets of CS231n's notebook: its data, its initialisation, its solver, and the three studies.

    net        (affine, [batch norm | layer norm], ReLU) × L, affine, softmax cross-entropy
    weights    N(0, weight_scale²), biases 0;  γ = 1, β = 0
    solver     Adam; every step draws its pictures anew, with replacement; accuracies after step 1 and each epoch

Stanford CS231n, assignment 2, ``BatchNormalization.ipynb`` with ``fc_net.py``, ``solver.py`` and ``data_utils.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.experiments.runner.experiment import Numbers, Task, curve
from tinygrad_bn.experiments.runner.pictures import Pictures

MATCHED = "matched"
"""Batch norm, and a rate for the weights ahead of it in proportion to their scale: not in the notebook."""


@dataclass(frozen=True)
class Setting:
    """Sizes; the defaults are the notebook's.

    Attributes
    ----------
    train, val : int
        Pictures to train on, and to validate with.
    epochs, batch : int
    lr : float
        Adam's rate in the studies of depth and of weight scales.
    hidden, scale : tuple of int, float
        Widths and weight scale of the six-layer nets.
    sweep_hidden, scales : tuple of int, tuple of float
        Widths and weight scales of the eight-layer nets.
    batches, batches_lr : tuple of int, float
        Batch sizes and Adam's rate in the study of batch sizes; it has six-layer nets.
    """

    train: int = 1000
    val: int = 1000
    epochs: int = 10
    batch: int = 50
    lr: float = 1e-3
    hidden: tuple[int, ...] = (100,) * 5
    scale: float = 2e-2
    sweep_hidden: tuple[int, ...] = (50,) * 7
    scales: tuple[float, ...] = tuple(np.logspace(-4, 0, 20).tolist())
    batches: tuple[int, ...] = (5, 10, 50)
    batches_lr: float = 10**-3.5

    def iterations(self, batch: int) -> int:
        """Steps of an epoch."""
        return max(self.train // batch, 1)


class Data(NamedTuple):
    """Rows of pixels less the mean picture, of -255 to 255, and classes."""

    train_x: tb.Tensor
    train_y: tb.Tensor
    val_x: tb.Tensor
    val_y: tb.Tensor


def load(pictures: Pictures, setting: Setting, device: str) -> Data:
    """Return the data as ``get_CIFAR10_data`` makes them: 0 … 255, the mean picture subtracted.

    The last ``val`` training pictures validate; the mean is that of all others, and the first ``train`` of these train.
    """
    x, y = pictures.train_x.reshape(len(pictures.train_x), -1), pictures.train_y
    held = min(setting.val, len(x) - setting.train)
    mean = x[:-held].mean(0, dtype=np.float64)
    parts = []
    for rows in (slice(setting.train), slice(-held, None)):
        pixels = (255 * (x[rows] - mean)).astype(np.float32)
        parts += [tb.from_numpy(pixels).to(device), tb.from_numpy(y[rows].copy()).to(device)]
    return Data(*parts)


def batch_norm(units: int, dtype: Any = None) -> nn.BatchNorm1d:
    """Return the notebook's batch norm: its running variance is biased and starts from 0."""
    layer = nn.BatchNorm1d(units, running_var="biased", dtype=dtype)
    nn.init.zeros_(cast(tb.Tensor, layer.running_var))
    return layer


def network(inputs: int, hidden: Sequence[int], norm: str, dtype: Any = None, classes: int = 10) -> nn.Sequential:
    """Return a net, {affine, norm, ReLU} × L and affine; as in the notebook, with biases ahead of norms too."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers.append(nn.Linear(inputs, width, dtype=dtype))
        if norm != "none":
            layers.append(batch_norm(width, dtype) if norm == "batch" else nn.LayerNorm(width, dtype=dtype))
        layers.append(nn.ReLU())
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes, dtype=dtype))


def affine_layers(net: nn.Sequential) -> list[nn.Linear]:
    """Return a net's affine layers in their order."""
    return [layer for layer in net if isinstance(layer, nn.Linear)]


def initialise(net: nn.Sequential, scale: float, seed: int) -> None:
    """Draw W ~ N(0, scale²); nets of one seed that differ in scale or norm have weights in proportion."""
    tb.manual_seed(seed)
    for layer in affine_layers(net):
        nn.init.normal_(layer.weight, 0, scale)
        nn.init.zeros_(cast(tb.Tensor, layer.bias))


def matched(net: nn.Sequential, factor: float, lr: float) -> list[dict[str, Any]]:
    """Return Adam's groups with ``factor`` as the rate's in all affine layers but the last, and take it off that one.

    Batch norm takes the scale of weights ahead of it away again, and Adam that of their gradient: with the rate in
    proportion a step turns the weights by the same angle at every scale. The last layer is as at a factor of 1.
    """
    *ahead, last = affine_layers(net)
    with tb.no_grad():
        last.weight.div_(factor)
    scaled = [parameter for layer in ahead for parameter in layer.parameters()]
    known = {id(parameter) for parameter in scaled}
    others = [parameter for parameter in net.parameters() if id(parameter) not in known]
    return [{"params": scaled, "lr": lr * factor}, {"params": others}]


@dataclass
class History:
    """What the notebook's solver notes: a loss for each step, accuracies after the first step and each epoch."""

    loss: list[float]
    train: list[float]
    val: list[float]

    def look(self, net: nn.Sequential, data: Data) -> None:
        """Note both accuracies of inference."""
        net.eval()
        with tb.no_grad():
            for x, y, kept in ((data.train_x, data.train_y, self.train), (data.val_x, data.val_y, self.val)):
                kept.append(float((net(x).argmax(1).cpu().numpy() == y.cpu().numpy()).mean()))
        net.train()

    def accuracies(self) -> Numbers:
        """Return both curves over epochs."""
        epochs = range(len(self.train))
        return {"train": curve(epochs, self.train), "val": curve(epochs, self.val)}


def solve(task: Task, data: Data, hidden: Sequence[int], norm: str, scale: float, batch: int, lr: float) -> History:
    """Train a net as the notebook's ``Solver`` does."""
    setting: Setting = task.setting
    net = network(data.train_x.shape[1], hidden, "batch" if norm == MATCHED else norm).to(task.device)
    initialise(net, scale, task.seed)
    groups = matched(net, scale / setting.scale, lr) if norm == MATCHED else net.parameters()
    optimizer = tb.optim.Adam(groups, lr=lr)

    @tb.capture
    def step(x: tb.Tensor, y: tb.Tensor) -> tb.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    rng = np.random.default_rng([task.seed, batch])
    x, y = data.train_x.cpu().numpy(), data.train_y.cpu().numpy()
    history, iterations = History([], [], []), setting.iterations(batch)
    for i in range(setting.epochs * iterations):
        rows = rng.choice(len(x), batch)
        found = step(tb.from_numpy(x[rows]).to(task.device), tb.from_numpy(y[rows]).to(task.device))
        history.loss.append(found.item())
        if i == 0 or (i + 1) % iterations == 0:
            history.look(net, data)
            task.tick(iterations if i else 0)
    return history


def depth(task: Task, data: Data, norm: str) -> Numbers:
    """Batchnorm for deep networks: a six-layer net."""
    s: Setting = task.setting
    history = solve(task, data, s.hidden, norm, s.scale, s.batch, s.lr)
    return {"loss": curve(range(1, len(history.loss) + 1), history.loss), **history.accuracies()}


def initialisation(task: Task, data: Data, norm: str) -> Numbers:
    """Batch normalization and initialization: eight-layer nets over weight scales."""
    s: Setting = task.setting
    train, val, loss = [], [], []
    for scale in s.scales:
        history = solve(task, data, s.sweep_hidden, norm, scale, s.batch, s.lr)
        train.append(max(history.train))
        val.append(max(history.val))
        loss.append(float(np.mean(history.loss[-100:])))
    return {"best_train": curve(s.scales, train), "best_val": curve(s.scales, val), "final_loss": curve(s.scales, loss)}


def batch_size(task: Task, data: Data, norm: str) -> Numbers:
    """Batch normalization and batch size: six-layer nets; the baseline without a norm has the smallest batches."""
    s: Setting = task.setting
    found: Numbers = {}
    for size in sizes(s, norm):
        history = solve(task, data, s.hidden, norm, s.scale, size, s.batches_lr)
        found |= {f"{name}_{size}": values for name, values in history.accuracies().items()}
    return found


def sizes(setting: Setting, norm: str) -> tuple[int, ...]:
    """Return the batch sizes that a norm is trained with."""
    return setting.batches[:1] if norm == "none" else setting.batches


STUDIES = {"depth": depth, "scale": initialisation, "size": batch_size}


def study(task: Task) -> Numbers:
    """Run an arm: a study's name and a norm's, "depth_batch"."""
    name, norm = task.arm.split("_")
    return STUDIES[name](task, load(cast(Pictures, task.pictures), task.setting, task.device), norm)


def steps(setting: Setting, arm: str) -> int:
    """Return how many steps of training an arm takes."""
    name, norm = arm.split("_")
    one = setting.epochs * setting.iterations(setting.batch)
    if name == "size":
        return sum(setting.epochs * setting.iterations(size) for size in sizes(setting, norm))
    return one * len(setting.scales) if name == "scale" else one
