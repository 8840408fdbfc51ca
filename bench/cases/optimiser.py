"""An optimiser's update of all parameters, gradients given: SGD with momentum and Adam, for two networks."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.cases._numpy import normal, wide
from bench.harness.case import Answer, Array, Case, Inputs, Step

Shapes = list[tuple[int, ...]]
LR, MOMENTUM, BETA1, BETA2, EPS = 0.1, 0.9, 0.9, 0.999, 1e-8


def mlp_shapes() -> Shapes:
    """The parameters of 784-100-100-100-10 with batch norm: 11 tensors."""
    shapes: Shapes = []
    for features in (784, 100, 100):
        shapes += [(100, features), (100,), (100,)]
    return [*shapes, (10, 100), (10,)]


def resnet20_shapes() -> Shapes:
    """The parameters of ResNet-20 (arXiv:1512.03385) with 1 × 1 shortcuts: 65 tensors, 0.27 million numbers."""

    def conv(outputs: int, inputs: int, side: int) -> Shapes:
        return [(outputs, inputs, side, side), (outputs,), (outputs,)]

    shapes, width = conv(16, 3, 3), 16
    for stage in (16, 32, 64):
        for block in range(3):
            shapes += conv(stage, width, 3) + conv(stage, stage, 3)
            if block == 0 and width != stage:
                shapes += conv(stage, width, 1)
            width = stage
    return [*shapes, (10, 64), (10,)]


class Update(Case):
    """What an optimiser's ``step()`` does to the parameters."""

    steps = 3
    settings: dict[str, float]

    def __init__(self, name: str, network: str, shapes: Shapes, flops: int, arrays: int) -> None:
        size = sum(int(np.prod(s)) for s in shapes)
        super().__init__(f"optimiser/{name}/{network}", flops * size, 4 * arrays * size)
        self.shapes = shapes

    def inputs(self, rng: np.random.Generator) -> Inputs:
        named: Inputs = {}
        for i, shape in enumerate(self.shapes):
            named[f"p{i}"], named[f"g{i}"] = normal(rng, *shape), normal(rng, *shape)
        return named

    def reference(self, inputs: Inputs) -> Answer:
        return {f"p{i}": self.path(wide(inputs[f"p{i}"]), wide(inputs[f"g{i}"])) for i in range(len(self.shapes))}

    def path(self, p: Array, g: Array) -> Array:
        """Return a parameter after each of the first steps."""
        raise NotImplementedError  # abstract: each optimiser states its formula

    def optimiser(self, module: Any, parameters: list[Any], **options: bool) -> Any:
        """Return the optimiser of a framework's ``optim`` module."""
        raise NotImplementedError  # abstract

    def update(self, jnp: Any, p: Any, g: Any, state: Any, step: Any) -> tuple[Any, Any]:
        """Return a parameter and its state after one step, for JAX."""
        raise NotImplementedError  # abstract

    def _step(self, module: Any, inputs: Inputs, **options: bool) -> Step:
        parameters = [module.tensor(inputs[f"p{i}"]).requires_grad_() for i in range(len(self.shapes))]
        for i, p in enumerate(parameters):
            p.grad = module.tensor(inputs[f"g{i}"])
        optimiser = self.optimiser(module.optim, parameters, **options)

        def step() -> list[Any]:
            optimiser.step()
            return parameters

        return step

    def tinygrad_bn(self, inputs: Inputs) -> Step:
        import tinygrad_bn

        return self._step(tinygrad_bn, inputs)

    def torch(self, inputs: Inputs) -> Step:
        import torch

        return self._step(torch, inputs)

    def torch_fused(self, inputs: Inputs) -> Step:
        import torch

        return self._step(torch, inputs, fused=True)

    def jax(self, inputs: Inputs) -> Step:
        import jax
        from jax import numpy as jnp

        gradients = [jnp.asarray(inputs[f"g{i}"]) for i in range(len(self.shapes))]
        parameters = [jnp.asarray(inputs[f"p{i}"]) for i in range(len(self.shapes))]
        states = [(jnp.zeros_like(p), jnp.zeros_like(p)) for p in parameters]
        count = jnp.zeros((), jnp.float32)

        def all_of(parameters: Any, states: Any, gradients: Any, count: Any) -> Any:
            count = count + 1
            done = [self.update(jnp, *each, count) for each in zip(parameters, gradients, states, strict=True)]
            return [p for p, _ in done], [s for _, s in done], count

        compiled = jax.jit(all_of, donate_argnums=(0, 1, 3))

        def step() -> list[Any]:
            nonlocal parameters, states, count
            parameters, states, count = compiled(parameters, states, gradients, count)
            return parameters

        return step


class SGD(Update):
    """b ← momentum b + g, p ← p - lr b."""

    def path(self, p: Array, g: Array) -> Array:
        b, out = np.zeros_like(g), []
        for _ in range(self.steps):
            b = MOMENTUM * b + g
            p = p - LR * b
            out.append(p)
        return np.stack(out)

    def optimiser(self, module: Any, parameters: list[Any], **options: bool) -> Any:
        return module.SGD(parameters, lr=LR, momentum=MOMENTUM, **options)

    def update(self, jnp: Any, p: Any, g: Any, state: Any, step: Any) -> tuple[Any, Any]:
        b = MOMENTUM * state[0] + g
        return p - LR * b, (b, state[1])


class Adam(Update):
    """Kingma & Ba (arXiv:1412.6980), algorithm 1, with the corrections of both moments."""

    def path(self, p: Array, g: Array) -> Array:
        m, v, out = np.zeros_like(g), np.zeros_like(g), []
        for t in range(1, self.steps + 1):
            m = BETA1 * m + (1 - BETA1) * g
            v = BETA2 * v + (1 - BETA2) * g * g
            p = p - LR * (m / (1 - BETA1**t)) / (np.sqrt(v / (1 - BETA2**t)) + EPS)
            out.append(p)
        return np.stack(out)

    def optimiser(self, module: Any, parameters: list[Any], **options: bool) -> Any:
        return module.Adam(parameters, lr=LR, betas=(BETA1, BETA2), eps=EPS, **options)

    def update(self, jnp: Any, p: Any, g: Any, state: Any, step: Any) -> tuple[Any, Any]:
        m = BETA1 * state[0] + (1 - BETA1) * g
        v = BETA2 * state[1] + (1 - BETA2) * g * g
        return p - LR * (m / (1 - BETA1**step)) / (jnp.sqrt(v / (1 - BETA2**step)) + EPS), (m, v)


NETWORKS = {"mlp": mlp_shapes(), "resnet20": resnet20_shapes()}
CASES: list[Case] = [SGD("sgd_momentum", name, shapes, 4, 5) for name, shapes in NETWORKS.items()]
CASES += [Adam("adam", name, shapes, 12, 7) for name, shapes in NETWORKS.items()]
