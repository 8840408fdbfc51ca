"""The checks of CS231n's notebook: forward passes, gradients against differences, both backward passes of batch norm.

    numeric gradient   (⟨g, f(x + h e)⟩ - ⟨g, f(x - h e)⟩) / 2h,  h = 1e-5, float64
    relative error     max |a - b| / max(1e-8, |a| + |b|)

Stanford CS231n, assignment 2, ``BatchNormalization.ipynb`` and ``FullyConnectedNets.ipynb`` with ``gradient_check.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import Any, cast

import numpy as np

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.experiments.cs231n.nets import affine_layers, batch_norm, network
from tinygrad_bn.experiments.runner.experiment import CLOCK, Numbers, Task
from tinygrad_bn.functional import cs231n as backward

Array = np.ndarray[Any, Any]
SEED = 231
"""The notebook's."""
REGULARISATIONS = (0.0, 3.14)
RECORDED = {
    "before_mean": [-2.3814598, -13.18038246, 1.91780462],
    "before_std": [27.18502186, 34.21455511, 37.68611762],
    "batch_mean": [0.0, 0.0, 0.0],
    "batch_std": [0.99999999, 1.0, 1.0],
    "affine_mean": [11.0, 12.0, 13.0],
    "affine_std": [0.99999999, 1.99999999, 2.99999999],
    "eval_mean": [-0.03927354, -0.04349152, -0.10452688],
    "eval_std": [1.01531428, 1.01238373, 0.97819988],
    "layer_mean": [0.0, 0.0, 0.0, 0.0],
    "layer_std": [0.99999995, 0.99999999, 1.0, 0.99999969],
}
"""What cells that check a forward pass print, to eight decimals."""
RECORDED_LOSSES = {
    "none": [2.3004790897684924, 7.052114776533016],
    "batch": [2.2611955101340957, 6.996533220108303],
}
"""Initial losses of the nets whose gradients are checked, for each of ``REGULARISATIONS``."""


def rel_error(a: Array, b: Array) -> float:
    """Return the notebook's relative error."""
    return float((np.abs(a - b) / np.maximum(1e-8, np.abs(a) + np.abs(b))).max())


def numeric_gradient(f: Callable[[], tb.Tensor], x: Array, g: Any = 1.0, h: float = 1e-5) -> Array:
    """Return the gradient of ⟨g, f()⟩ with respect to x, an array that f looks at, by central differences."""
    gradient = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        kept = x[at]
        x[at] = kept + h
        ahead = f().cpu().numpy()
        x[at] = kept - h
        behind = f().cpu().numpy()
        x[at] = kept
        gradient[at] = ((ahead - behind) * g).sum() / (2 * h)
    return gradient


def tensor(array: Any, requires_grad: bool = False) -> tb.Tensor:
    return tb.tensor(array, dtype=tb.float64, requires_grad=requires_grad)


def normalised(norm: str, x: tb.Tensor, weight: tb.Tensor, bias: tb.Tensor) -> tb.Tensor:
    """Apply batch norm, as in training, or layer norm."""
    if norm == "batch":
        return nn.functional.batch_norm(x, None, None, weight, bias, training=True)
    return nn.functional.layer_norm(x, x.shape[1:], weight, bias)


def two_layers(x: Array, w1: Array, w2: Array) -> tb.Tensor:
    """Return what a two-layer net feeds to a norm."""
    return tensor(np.maximum(0, x @ w1) @ w2)


def forward() -> Numbers:
    """Means and deviations as the notebook prints them, on its own data."""
    found: dict[str, list[float]] = {}

    def note(name: str, values: tb.Tensor, axis: int = 0) -> None:
        found[f"{name}_mean"] = values.cpu().numpy().mean(axis).tolist()
        found[f"{name}_std"] = values.cpu().numpy().std(axis).tolist()

    rng = np.random.RandomState(SEED)
    a = two_layers(rng.randn(200, 50), rng.randn(50, 60), rng.randn(60, 3))
    note("before", a)
    note("batch", normalised("batch", a, tensor([1.0] * 3), tensor([0.0] * 3)))
    note("affine", normalised("batch", a, tensor([1.0, 2.0, 3.0]), tensor([11.0, 12.0, 13.0])))

    rng = np.random.RandomState(SEED)
    w1, w2, norm = rng.randn(50, 60), rng.randn(60, 3), batch_norm(3, tb.float64)
    with tb.no_grad():
        for _ in range(50):
            norm(two_layers(rng.randn(200, 50), w1, w2))
        note("eval", norm.eval()(two_layers(rng.randn(200, 50), w1, w2)))

    rng = np.random.RandomState(SEED)
    a = two_layers(rng.randn(4, 50), rng.randn(50, 60), rng.randn(60, 3))
    note("layer", normalised("layer", a, tensor([1.0] * 3), tensor([0.0] * 3)), axis=1)
    off = [np.abs(np.subtract(found[name], values)).max() for name, values in RECORDED.items()]
    return {"forward": found, "forward_off": float(max(off))}


def sample(rng: np.random.RandomState, n: int, d: int) -> tuple[Array, Array, Array, Array]:
    """Return x, γ, β and the gradient of y as the notebook draws them."""
    return 5 * rng.randn(n, d) + 12, rng.randn(d), rng.randn(d), rng.randn(n, d)


def layer_errors(norm: str, seed: int) -> list[float]:
    """Return the relative errors of dx, dγ and dβ, that autograd returns, against differences."""
    *arrays, g = sample(np.random.RandomState(seed), 4, 5)
    leaves = [tensor(array, requires_grad=True) for array in arrays]
    normalised(norm, *leaves).backward(tensor(g))
    differences = [numeric_gradient(lambda: normalised(norm, *map(tensor, arrays)), a, g) for a in arrays]
    gradients = [cast(tb.Tensor, leaf.grad).cpu().numpy() for leaf in leaves]
    return [rel_error(*pair) for pair in zip(differences, gradients, strict=True)]


def backward_passes(seed: int) -> Numbers:
    """Compare ``batchnorm_backward`` with ``batchnorm_backward_alt``, and with the kernel that layers run."""
    x, weight, bias, g = map(tensor, sample(np.random.RandomState(seed), 100, 500))
    forms: dict[str, Any] = {"steps": backward.backward_step_by_step, "alt": backward.backward_simplified}
    forms["fused"] = backward.backward_fused
    found = {name: [part.cpu().numpy() for part in form(g, x, weight, bias)] for name, form in forms.items()}
    with one_thread():
        seconds = {name: best_of(200, partial(form, g, x, weight, bias)) for name, form in forms.items()}
    errors = {name: [rel_error(*pair) for pair in zip(found["steps"], found[name])] for name in ("alt", "fused")}
    return {**errors, CLOCK: seconds}


@contextmanager
def one_thread() -> Iterator[None]:
    """Let kernels run on one thread, as NumPy does: what shares the machine has less of a part in the time."""
    threads = tb.get_num_threads()
    tb.set_num_threads(1)
    try:
        yield
    finally:
        tb.set_num_threads(threads)


def best_of(times: int, action: Callable[[], object]) -> float:
    """Return the least time that an action takes, in seconds."""
    seconds = []
    for _ in range(times):
        begun = perf_counter()
        action()
        seconds.append(perf_counter() - begun)
    return min(seconds)


def net_errors(norm: str) -> Numbers:
    """Check all gradients of a three-layer net on the notebook's data, without and with L2 regularisation.

    Returns
    -------
    Numbers
        ``loss``: the initial losses. ``errors``: by parameter (W1, b1, gamma1, beta1, …) the larger of its
        relative errors. ``idle``: the largest gradient, analytic or numeric, of a bias ahead of batch norm.
    """
    rng = np.random.RandomState(SEED)
    x, y = tensor(rng.randn(2, 15)), tb.tensor(rng.randint(10, size=2))
    losses, errors, idle = [], dict[str, float](), 0.0
    for reg in REGULARISATIONS:
        net = network(15, (20, 30), norm, tb.float64)
        names = fill(net, 5e-2, rng)
        initial = net_loss(net, x, y, reg)
        initial.backward()
        losses.append(initial.item())
        loss = partial(net_loss, net, x, y, reg)
        for name, parameter in names.items():
            with tb.no_grad():
                difference = numeric_gradient(loss, parameter.detach().cpu().numpy())
            gradient = cast(tb.Tensor, parameter.grad).cpu().numpy()
            if norm == "batch" and name in ("b1", "b2"):
                idle = max(idle, float(np.abs([difference, gradient]).max()))
            errors[name] = max(errors.get(name, 0.0), rel_error(difference, gradient))
    return {"loss": losses, "errors": errors, "idle": idle}


def net_loss(net: nn.Sequential, x: tb.Tensor, y: tb.Tensor, reg: float) -> tb.Tensor:
    """Return cross-entropy + reg / 2 · Σ W²."""
    loss = nn.functional.cross_entropy(net(x), y)
    for layer in affine_layers(net):
        loss = loss + 0.5 * reg * (layer.weight**2).sum()
    return loss


def fill(net: nn.Sequential, scale: float, rng: np.random.RandomState) -> dict[str, nn.Parameter]:
    """Draw a net's weights in the notebook's order, and return its parameters by the notebook's names."""
    named: dict[str, nn.Parameter] = {}
    depth = 0
    for layer in net:
        if isinstance(layer, nn.Linear):
            depth += 1
            drawn = scale * rng.randn(layer.in_features, layer.out_features)
            with tb.no_grad():
                layer.weight.copy_(tensor(drawn.T.copy()))
                cast(tb.Tensor, layer.bias).zero_()
        letters = ("W", "b") if isinstance(layer, nn.Linear) else ("gamma", "beta")
        found = zip(letters, layer.parameters(), strict=False)
        named |= {f"{letter}{depth}": parameter for letter, parameter in found}
    return named


def checks(task: Task) -> Numbers:
    """Run all checks. Seed 0 has the notebook's data; others draw those of the layers anew."""
    numbers = forward()
    numbers |= {f"{norm}_errors": layer_errors(norm, SEED + task.seed) for norm in ("batch", "layer")}
    numbers |= backward_passes(SEED + task.seed)
    nets = {norm: net_errors(norm) for norm in ("none", "batch", "layer")}
    off = [np.abs(np.subtract(nets[norm]["loss"], losses)).max() for norm, losses in RECORDED_LOSSES.items()]
    task.tick()
    return numbers | {"nets": nets, "losses_off": float(max(off))}
