"""Softmax with the cross-entropy of class indices: the mean loss, and the gradient of the scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.cases._torch import InPyTorch
from bench.cases.softmax import CrossEntropy
from bench.cases_gpu._device import TINY, placed
from bench.harness.case import Inputs, Step

SHAPES = ((3, 5),) if TINY else ((4096, 1000), (8192, 32000))


class OnDevice(InPyTorch, CrossEntropy):
    """Scores and classes live on the device."""

    def takes_part(self, contender: str) -> bool:
        return contender in ("tinygrad_bn", "torch", "torch_compile")

    def _step(self, module: Any, inputs: Inputs, loss_of: Callable[..., Any], grad: Callable[..., Any]) -> Step:
        x, target = placed(module, inputs["x"]).requires_grad_(), placed(module, inputs["target"])

        def step() -> tuple[Any, ...]:
            loss = loss_of(x, target)
            return (loss, *grad(loss, (x,)))

        return step

    def tinygrad_bn(self, inputs: Inputs) -> Step:
        import tinygrad_bn as tb

        return self._step(tb, inputs, tb.nn.functional.cross_entropy, tb.grad)

    def _torch(self, inputs: Inputs, compiler: Callable[[Any], Any], channels_last: bool) -> Step:
        import torch

        return self._step(torch, inputs, compiler(torch.nn.functional.cross_entropy), torch.autograd.grad)


CASES = [OnDevice(*shape) for shape in SHAPES]
