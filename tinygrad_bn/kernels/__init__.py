"""Kernels: functions on arrays and scalars that allocate nothing and return nothing.

A backend is a package of topic modules (``elementwise``, ``reduction`` …) whose functions have agreed names and
signatures. ``kernels.ref`` is the specification, in plain NumPy.
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType

from tinygrad_bn.kernels.spec import Kernel, Spec

TOPICS = (
    "elementwise",
    "reduction",
    "softmax",
    "matmul",
    "pointwise",
    "pointwise_weight",
    "batch_norm",
    "batch_norm_given",
    "batch_norm_residual",
    "bn_block",
    "group_norm",
    "half",
    "convolution",
    "direct_weight",
    "direct_weight_pixels",
    "direct",
    "depthwise",
    "depthwise_rows",
    "image",
    "indexing",
    "linear_norm",
    "random",
    "optim",
    "panels",
    "pieces",
    "pooling",
    "recurrent",
    "windows",
    "winograd",
    "winograd_weight",
)

CPU_ONLY = frozenset(
    {
        "bn_block",
        "depthwise_rows",
        "direct_weight_pixels",
        "linear_norm",
        "panels",
        "pieces",
        "pointwise_weight",
        "winograd",
        "winograd_weight",
    }
)
"""Topics that are ways of a processor with caches and vectors: a GPU does the same work by others' kernels."""


@cache
def catalogue() -> dict[str, tuple[str, Spec]]:
    """Map each kernel's name to its topic and its declaration."""
    found: dict[str, tuple[str, Spec]] = {}
    for topic in TOPICS:
        module = importlib.import_module(f"tinygrad_bn.kernels.ref.{topic}")
        for name, function in vars(module).items():
            declared = getattr(function, "spec", None)
            if isinstance(declared, Spec) and function.__module__ == module.__name__:
                found[name] = (topic, declared)
    return found


class Backend:
    """The kernels of one device type as attributes; a topic is imported when its first kernel is asked for."""

    def __init__(self, package: str) -> None:
        self._package = package

    def __getattr__(self, name: str) -> Kernel:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            topic, declared = catalogue()[name]
        except KeyError:
            raise AttributeError(f"no kernel is named {name!r}") from None
        made = self._make(self.module(topic), name, declared)
        setattr(self, name, made)
        return made

    def module(self, topic: str) -> ModuleType:
        """Import and return the module of a topic."""
        return importlib.import_module(f"tinygrad_bn.kernels.{self._package}.{topic}")

    def _make(self, module: ModuleType, name: str, declared: Spec) -> Kernel:
        function = getattr(module, name)
        driver = getattr(function, "driver", None)
        if driver is None:
            return Kernel(name, declared, function)
        return Kernel(name, declared, driver.serial, driver.parallel, driver.work, driver.grain)
