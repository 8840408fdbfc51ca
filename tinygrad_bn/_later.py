"""Public names that are imported when first asked for: importing the package costs little."""

from __future__ import annotations

import importlib
from typing import Any

from tinygrad_bn import errors

PACKAGES = (
    "amp",
    "autograd",
    "data",
    "doctor",
    "experiments",
    "models",
    "profiler",
    "replay",
    "testing",
    "train",
    "utils",
)
NAMES = {
    "autocast": "amp",
    "capture": "replay",
    "checkpoint": "utils.checkpoint",
    "detect_anomaly": "autograd",
    "diagnose": "doctor",
    "elementwise": "ops.elementwise",
    "from_dlpack": "ops.creation",
    "get_rng_state": "core.random",
    "hvp": "autograd",
    "initial_seed": "core.random",
    "is_anomaly_enabled": "autograd",
    "jvp": "autograd",
    "profile": "profiler",
    "register_op": "ops.custom",
    "seed": "core.random",
    "set_rng_state": "core.random",
    "summary": "nn.summary",
    "synchronize": "core.device",
    "value_and_grad": "autograd",
    "vjp": "autograd",
}
"""Of what stands in a module that is imported so: the module."""


def found(package: str, name: str, known: list[str]) -> Any:
    """Return what a package's name stands for.

    Raises
    ------
    AttributeError
        If there is no such name, with the nearest of those that are known.
    """
    if name in PACKAGES:
        return importlib.import_module(f"{package}.{name}")
    if name in NAMES:
        return getattr(importlib.import_module(f"{package}.{NAMES[name]}"), name)
    if name.startswith("__"):
        raise AttributeError(name)
    raise AttributeError(errors.nearest(package, name, known))
