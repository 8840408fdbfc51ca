"""A training step of a convolutional network: zero_grad, forward, backward, update by SGD with momentum.

The losses of the first steps, each on a batch of its own, must be those of float64. Running statistics are kept by all.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np

from bench.cases._networks import Chain, Flow, Parameters
from bench.cases._numpy import cross_entropy, normal, wide
from bench.harness.case import Answer, Array, Case, Inputs, Step

CLASSES = 10
LR, MOMENTUM = 0.01, 0.9
PICTURE = (3, 32, 32)


def gradients(network: Chain, arrays: list[Array], x: Array, classes: Array) -> tuple[float, list[Array]]:
    """Return the loss and the gradient of each parameter, in float64."""
    parameters = Parameters(arrays)
    scores, back = network.numpy(x, parameters)
    loss, g = cross_entropy(scores, classes)
    back(g)
    return loss, [parameters.gradients[i] for i in range(len(arrays))]


class NetworkStep(Case):
    """The whole step.

    Attributes
    ----------
    network : Chain
        The description that the answer and the peers are made of.
    ours : callable
        Returns this package's model, whose parameters have the same order.
    batch : int
    """

    tolerance = 1e-4
    device = "cpu"
    picture = PICTURE

    def __init__(self, name: str, network: Chain, ours: Callable[[Any], Any], batch: int, steps: int) -> None:
        first = network.layers[0].size(self.picture)[1]  # no gradient of the pictures
        super().__init__(f"{name}/step", 2 * batch * (3 * network.size(self.picture)[1] - first))
        self.network = network
        self.ours = ours
        self.batch = batch
        self.steps = steps

    def inputs(self, rng: np.random.Generator) -> Inputs:
        named: Inputs = {f"p{i}": array for i, array in enumerate(self.network.start(rng))}
        named["x"] = normal(rng, self.steps, self.batch, *self.picture)
        return named | {"classes": rng.integers(0, CLASSES, (self.steps, self.batch))}

    def reference(self, inputs: Inputs) -> Answer:
        p = [wide(a) for a in _parameters(inputs)]
        b = [np.zeros_like(a) for a in p]
        losses = []
        for x, classes in zip(inputs["x"], inputs["classes"]):
            loss, grads = gradients(self.network, p, wide(x), classes)
            losses.append(loss)
            b = [MOMENTUM * buffer + g for buffer, g in zip(b, grads)]
            p = [a - LR * buffer for a, buffer in zip(p, b)]
        return {"loss": np.array(losses)}

    def _step(
        self,
        module: Any,
        inputs: Inputs,
        model: Any,
        network: Any,
        batches: list[Any],
        wrap: Callable[[Any], Any] = lambda step: step,
        **options: bool,
    ) -> Step:
        """The step in PyTorch's names, ours as well as theirs; ``network`` is the model or what was compiled of it."""
        with module.no_grad():
            for parameter, array in zip(model.parameters(), _parameters(inputs), strict=True):
                parameter.copy_(module.from_numpy(array).to(self.device))
        optimiser = module.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, **options)
        given, cross_entropy = cycle(batches), module.nn.functional.cross_entropy

        def train(x: Any, classes: Any) -> tuple[Any]:
            optimiser.zero_grad()
            loss = cross_entropy(network(x), classes)
            loss.backward()
            optimiser.step()
            return (loss,)

        step = wrap(train)
        return lambda: step(*next(given))

    def tinygrad_bn(self, inputs: Inputs) -> Step:
        import tinygrad_bn as tb

        model = self.ours(tb.models)
        return self._step(tb, inputs, model, model, _batches(inputs, tb.tensor))

    def torch(self, inputs: Inputs) -> Step:
        return self._torch(inputs)

    def torch_channels_last(self, inputs: Inputs) -> Step:
        return self._torch(inputs, channels_last=True)

    def torch_fused(self, inputs: Inputs) -> Step:
        return self._torch(inputs, channels_last=True, fused=True)

    def torch_compile(self, inputs: Inputs) -> Step:
        import torch

        return self._torch(inputs, torch.compile)

    def _torch(
        self,
        inputs: Inputs,
        compiler: Callable[[Any], Any] = lambda model: model,
        channels_last: bool = False,
        **options: bool,
    ) -> Step:
        import torch

        model, batches = self.network.torch(torch.nn), _batches(inputs, torch.tensor)
        if channels_last:
            layout = torch.channels_last
            model = model.to(memory_format=layout)
            batches = [(x.contiguous(memory_format=layout), classes) for x, classes in batches]
        return self._step(torch, inputs, model, compiler(model), batches, **options)

    def jax(self, inputs: Inputs) -> Step:
        import jax
        from jax import numpy as jnp

        parameters = [jnp.asarray(a) for a in _parameters(inputs)]
        running = [(jnp.zeros(c), jnp.ones(c)) for c in self.network.norms()]
        state = parameters, [jnp.zeros_like(p) for p in parameters], running
        given = cycle(_batches(inputs, jnp.asarray))
        compiled = jax.jit(self._jax_step, donate_argnums=0)

        def step() -> tuple[Any]:
            nonlocal state
            loss, state = compiled(state, *next(given))
            return (loss,)

        return step

    def _jax_loss(self, parameters: Any, running: Any, x: Any, classes: Any) -> Any:
        """The loss and the running statistics after it."""
        import jax
        from jax import numpy as jnp

        flow = Flow(iter(parameters), iter(running))
        log = jax.nn.log_softmax(self.network.jax(x, flow))
        return -jnp.take_along_axis(log, classes[:, None], 1).mean(), flow.after

    def _jax_step(self, state: Any, x: Any, classes: Any) -> Any:
        """The loss, and parameters, momenta and running statistics after the update."""
        import jax

        p, b, running = state
        (loss, running), grads = jax.value_and_grad(self._jax_loss, has_aux=True)(p, running, x, classes)
        b = jax.tree.map(lambda b, g: MOMENTUM * b + g, b, grads)
        return loss, (jax.tree.map(lambda p, b: p - LR * b, p, b), b, running)


class CapturedStep(NetworkStep):
    """The same step, recorded and run again; the peers do what they do in the eager row."""

    def __init__(self, of: NetworkStep) -> None:
        super().__init__(of.name.removesuffix("/step"), of.network, of.ours, of.batch, of.steps)
        self.name = of.name.removesuffix("/step") + "/captured"

    def tinygrad_bn(self, inputs: Inputs) -> Step:
        import tinygrad_bn as tb

        model = self.ours(tb.models)
        return self._step(tb, inputs, model, model, _batches(inputs, tb.tensor), wrap=tb.capture)


def _parameters(inputs: Inputs) -> list[Array]:
    """The parameters in their order."""
    return [inputs[f"p{i}"] for i in range(len(inputs) - 2)]


def _batches(inputs: Inputs, tensor: Callable[[Array], Any]) -> list[Any]:
    """Pictures and classes of each step."""
    return [(tensor(x), tensor(classes)) for x, classes in zip(inputs["x"], inputs["classes"])]
