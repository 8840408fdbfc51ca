"""What ported scripts ask before they choose a device. There is no GPU backend yet."""

from __future__ import annotations

from typing import Any

from tinygrad_bn.errors import nearest

__all__ = ["device_count", "is_available"]


def is_available() -> bool:
    """Return whether tensors can live on a GPU."""
    return False


def device_count() -> int:
    """Return how many GPUs tensors can live on."""
    return 0


def __getattr__(name: str) -> Any:
    raise AttributeError(nearest("tinygrad_bn.cuda", name, __all__))
