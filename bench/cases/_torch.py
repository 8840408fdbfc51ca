"""The three ways in which cases run PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.harness.case import Inputs, Step


class InPyTorch:
    """For cases whose ``_torch`` sets the work up, given a compiler of functions and whether channels come last."""

    _torch: Callable[[Inputs, Callable[[Any], Any], bool], Step]

    def torch(self, inputs: Inputs) -> Step:
        return self._torch(inputs, lambda function: function, False)

    def torch_channels_last(self, inputs: Inputs) -> Step:
        return self._torch(inputs, lambda function: function, True)

    def torch_compile(self, inputs: Inputs) -> Step:
        import torch

        return self._torch(inputs, torch.compile, False)
