"""Training steps of two networks, eager and captured: ResNet-20 on 512 pictures, and W1's layers on 60 digits.

Float32 throughout, TensorFloat-32 switched off for everybody. Beside the captured step PyTorch's compiled one replays a
CUDA graph as well ("reduce-overhead").
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from bench.cases import w1, w3
from bench.cases._networks import Chain, Layer, Linear, Norm
from bench.cases._numpy import sigmoid
from bench.cases._training import NetworkStep
from bench.cases_gpu._device import TINY
from bench.harness.case import Array, Inputs, Step
from bench.harness.contenders import device


class Sigmoid(Layer):
    """1 / (1 + e^-x)."""

    def numpy(self, x: Array, p: Any) -> tuple[Array, Any]:
        y = sigmoid(x)
        return y, lambda g: g * y * (1 - y)

    def torch(self, nn: Any) -> Any:
        return nn.Sigmoid()


class OnDevice(NetworkStep):
    """A step whose model and batches live on the device; ``wrap`` is what is captured, of ours."""

    def __init__(self, name: str, network: Chain, picture: tuple[int, ...], batch: int, captured: bool) -> None:
        self.picture = picture
        super().__init__(name, network, lambda models: None, batch, steps=2)
        self.name = f"{name}/{'captured' if captured else 'eager'}"
        self.captured = captured
        self.device = device()

    def takes_part(self, contender: str) -> bool:
        return contender in ("tinygrad_bn", "torch", "torch_compile")

    def tinygrad_bn(self, inputs: Inputs) -> Step:
        import tinygrad_bn as tb

        return self._on_device(tb, inputs, wrap=tb.capture if self.captured else lambda step: step)

    def torch(self, inputs: Inputs) -> Step:
        import torch

        return self._on_device(torch, inputs, fused=True)

    def torch_compile(self, inputs: Inputs) -> Step:
        import torch

        mode = "reduce-overhead" if self.captured else "default"
        return self._on_device(torch, inputs, lambda model: torch.compile(model, mode=mode), fused=True)

    def _on_device(
        self,
        module: Any,
        inputs: Inputs,
        compiler: Callable[[Any], Any] = lambda model: model,
        wrap: Callable[[Any], Any] = lambda step: step,
        **options: bool,
    ) -> Step:
        model = self.network.torch(module.nn).to(self.device)
        pairs = zip(inputs["x"], inputs["classes"])
        batches = [tuple(module.from_numpy(a).to(self.device) for a in pair) for pair in pairs]
        return self._step(module, inputs, model, compiler(model), batches, wrap, **options)


def _mlp() -> Chain:
    widths = (16, 8, 8) if TINY else w1.WIDTHS
    layers: list[Layer] = []
    for inputs, outputs in pairwise(widths):
        layers += [Linear(inputs, outputs, bias=False), Norm(outputs, pictures=False), Sigmoid()]
    return Chain(*layers, Linear(widths[-1], w1.CLASSES))


def _resnet() -> Chain:
    if not TINY:
        return w3.network()
    from bench.cases._networks import Conv, Flatten, Mean, ReLU

    return Chain(Conv(3, 4), Norm(4), ReLU(), *w3.block(4, 8), Mean(), Flatten(), Linear(8, 10))


CASES = [
    OnDevice(name, network(), picture, 3 if TINY else batch, captured)
    for name, network, picture, batch in (
        ("w1_mnist_mlp", _mlp, (16,) if TINY else (784,), w1.BATCH),
        ("resnet20", _resnet, (3, 4, 4) if TINY else (3, 32, 32), 512),
    )
    for captured in (False, True)
]
