"""A training step of the network for MNIST: 784-100-100-100-10 with batch norm and sigmoid, batch 60.

Linear without bias, BatchNorm1d and Sigmoid three times, Linear with bias; cross-entropy; SGD 0.01, momentum 0.9. A
step is zero_grad, forward, backward, update; ours is eager code. The losses of the first 20 steps, each on a batch of
its own, must be those of float64. Running statistics are kept by all.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, pairwise
from typing import Any

import numpy as np

from bench.cases._numpy import EPS, batch_norm, batch_norm_backward, cross_entropy, normal, sigmoid, wide
from bench.harness.case import Answer, Array, Case, Inputs, Step

BATCH, WIDTHS, CLASSES = 60, (784, 100, 100, 100), 10
HIDDEN = len(WIDTHS) - 1
LR, MOMENTUM = 0.01, 0.9


def _names() -> list[str]:
    """The parameters in the network's order."""
    return [f"{what}{i}" for i in range(HIDDEN) for what in ("weight", "gamma", "beta")] + ["weight_out", "bias_out"]


def forward(p: dict[str, Array], x: Array) -> tuple[Array, list[tuple[Array, ...]]]:
    """Return the scores, and for each hidden layer its input, x̂, 1/σ and output."""
    kept: list[tuple[Array, ...]] = []
    for i in range(HIDDEN):
        z, hat, invstd = batch_norm(x @ p[f"weight{i}"].T, p[f"gamma{i}"], p[f"beta{i}"])
        kept.append((x, hat, invstd, x := sigmoid(z)))
    return x @ p["weight_out"].T + p["bias_out"], kept


def gradients(p: dict[str, Array], x: Array, classes: Array) -> tuple[float, dict[str, Array]]:
    """Return the loss and the gradient of each parameter."""
    scores, kept = forward(p, x)
    loss, g = cross_entropy(scores, classes)
    grads = {"weight_out": g.T @ kept[-1][3], "bias_out": g.sum(0)}
    g = g @ p["weight_out"]
    for i in reversed(range(HIDDEN)):
        x, hat, invstd, y = kept[i]
        gz, grads[f"gamma{i}"], grads[f"beta{i}"] = batch_norm_backward(g * y * (1 - y), hat, invstd, p[f"gamma{i}"])
        grads[f"weight{i}"] = gz.T @ x
        g = gz @ p[f"weight{i}"]
    return loss, grads


class TrainingStep(Case):
    """The whole step."""

    steps = 20
    tolerance = 1e-4

    def __init__(self) -> None:
        sizes = [100 * features for features in WIDTHS[:-1]] + [100 * CLASSES]
        flops = 2 * BATCH * (3 * sum(sizes) - sizes[0])  # forward, both gradients; none of the pictures
        traffic = BATCH * WIDTHS[0] + 7 * sum(sizes)  # a weight: forward 1, its gradient 1, update 5
        super().__init__("w1_mnist_mlp/step", flops, 4 * traffic)

    def inputs(self, rng: np.random.Generator) -> Inputs:
        named: Inputs = {}
        for i, (features, width) in enumerate(pairwise(WIDTHS)):
            bound = features**-0.5
            named[f"weight{i}"] = rng.uniform(-bound, bound, (width, features)).astype(np.float32)
            named[f"gamma{i}"], named[f"beta{i}"] = np.ones(width, np.float32), np.zeros(width, np.float32)
        named["weight_out"] = rng.uniform(-0.1, 0.1, (CLASSES, WIDTHS[-1])).astype(np.float32)
        named["bias_out"] = rng.uniform(-0.1, 0.1, CLASSES).astype(np.float32)
        named["x"] = normal(rng, self.steps, BATCH, WIDTHS[0])
        return named | {"classes": rng.integers(0, CLASSES, (self.steps, BATCH))}

    def reference(self, inputs: Inputs) -> Answer:
        p = {name: wide(inputs[name]) for name in _names()}
        b = {name: np.zeros_like(a) for name, a in p.items()}
        losses = []
        for x, classes in zip(inputs["x"], inputs["classes"], strict=True):
            loss, grads = gradients(p, wide(x), classes)
            losses.append(loss)
            for name in p:
                b[name] = MOMENTUM * b[name] + grads[name]
                p[name] = p[name] - LR * b[name]
        return {"loss": np.array(losses)}

    def _step(
        self,
        module: Any,
        inputs: Inputs,
        compiler: Callable[[Any], Any] = lambda model: model,
        wrap: Callable[[Any], Any] = lambda step: step,
        **options: bool,
    ) -> Step:
        """The step in PyTorch's names, ours as well as theirs."""
        nn, layers = module.nn, []
        for features, width in pairwise(WIDTHS):
            layers += [nn.Linear(features, width, bias=False), nn.BatchNorm1d(width, eps=EPS), nn.Sigmoid()]
        model = nn.Sequential(*layers, nn.Linear(WIDTHS[-1], CLASSES))
        with module.no_grad():
            for name, parameter in zip(_names(), model.parameters(), strict=True):
                parameter.copy_(module.from_numpy(inputs[name]))
        optimiser = module.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, **options)
        pairs = zip(inputs["x"], inputs["classes"], strict=True)
        batches = cycle([(module.tensor(x), module.tensor(classes)) for x, classes in pairs])
        network, cross_entropy = compiler(model), nn.functional.cross_entropy

        def train(x: Any, classes: Any) -> tuple[Any]:
            optimiser.zero_grad()
            loss = cross_entropy(network(x), classes)
            loss.backward()
            optimiser.step()
            return (loss,)

        step = wrap(train)
        return lambda: step(*next(batches))

    def tinygrad_bn(self, inputs: Inputs) -> Step:
        import tinygrad_bn

        return self._step(tinygrad_bn, inputs)

    def torch(self, inputs: Inputs) -> Step:
        import torch

        return self._step(torch, inputs)

    def torch_fused(self, inputs: Inputs) -> Step:
        import torch

        return self._step(torch, inputs, fused=True)

    def torch_compile(self, inputs: Inputs) -> Step:
        import torch

        return self._step(torch, inputs, torch.compile)

    def jax(self, inputs: Inputs) -> Step:
        import jax
        from jax import numpy as jnp

        parameters = {name: jnp.asarray(inputs[name]) for name in _names()}
        state = parameters, jax.tree.map(jnp.zeros_like, parameters), [(jnp.zeros(w), jnp.ones(w)) for w in WIDTHS[1:]]
        pairs = zip(inputs["x"], inputs["classes"], strict=True)
        batches = cycle([(jnp.asarray(x), jnp.asarray(classes)) for x, classes in pairs])
        compiled = jax.jit(_jax_step, donate_argnums=0)

        def step() -> tuple[Any]:
            nonlocal state
            loss, state = compiled(state, *next(batches))
            return (loss,)

        return step


class CapturedStep(TrainingStep):
    """The same step, recorded and run again; the peers do what they do in the eager row."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "w1_mnist_mlp/captured"

    def tinygrad_bn(self, inputs: Inputs) -> Step:
        import tinygrad_bn as tb

        return self._step(tb, inputs, wrap=tb.capture)


def _jax_loss(p: Any, running: Any, x: Any, classes: Any) -> Any:
    """The loss and the running statistics after it."""
    import jax
    from jax import numpy as jnp

    after = []
    for i, (running_mean, running_var) in enumerate(running):
        h = x @ p[f"weight{i}"].T
        mean, var = h.mean(0), h.var(0)
        after.append((0.9 * running_mean + 0.1 * mean, 0.9 * running_var + 0.1 * var * (BATCH / (BATCH - 1))))
        x = jax.nn.sigmoid((h - mean) * jax.lax.rsqrt(var + EPS) * p[f"gamma{i}"] + p[f"beta{i}"])
    log = jax.nn.log_softmax(x @ p["weight_out"].T + p["bias_out"])
    return -jnp.take_along_axis(log, classes[:, None], 1).mean(), after


def _jax_step(state: Any, x: Any, classes: Any) -> Any:
    """The loss, and parameters, momenta and running statistics after the update."""
    import jax

    p, b, running = state
    (loss, running), grads = jax.value_and_grad(_jax_loss, has_aux=True)(p, running, x, classes)
    b = jax.tree.map(lambda b, g: MOMENTUM * b + g, b, grads)
    return loss, (jax.tree.map(lambda p, b: p - LR * b, p, b), b, running)


CASES = [TrainingStep(), CapturedStep()]
