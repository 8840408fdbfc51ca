"""What the runner makes use of where it is installed: the extra ``experiments``."""

from __future__ import annotations

from importlib.util import find_spec

HINT = "pip install 'tinygrad_bn[experiments]'"
FILES = {"matplotlib": "figure", "tensorboardX": "TensorBoard files"}
"""By package what is not written without it."""


def missing(package: str) -> bool:
    """Whether a package is not installed."""
    return find_spec(package) is None


def lacking() -> list[str]:
    """Return what will not be written, and what to do about it, a line each."""
    return [
        f"no {what}: {package} is not installed.\nHint: {HINT}" for package, what in FILES.items() if missing(package)
    ]
