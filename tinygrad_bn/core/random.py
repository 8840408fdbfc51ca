"""Generators: a seed and an offset into a Philox stream, in a small array on the device."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from tinygrad_bn.core.device import Device, as_device
from tinygrad_bn.core.dtype import int64
from tinygrad_bn.core.launch import launch, reads_values
from tinygrad_bn.core.tensor import Array
from tinygrad_bn.errors import ArgumentError, wrong


class Generator:
    """A stream of random numbers; equal seeds give equal streams on every device.

    Parameters
    ----------
    device : Device or str
    """

    def __init__(self, device: str | Device | None = None) -> None:
        self.device = as_device(device, "Generator")
        self.state = np.zeros(2, np.int64)
        self.manual_seed(0)

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream of a seed from its beginning; return the generator."""
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise ArgumentError(wrong("manual_seed", "seed", "an int", type(seed).__name__))
        reads_values("manual_seed")
        self.state[0] = np.uint64(int(seed) & 0xFFFFFFFFFFFFFFFF).astype(np.int64)
        self.state[1] = 0
        return self

    def seed(self) -> int:
        """Start the stream of a seed that the operating system draws; return it."""
        drawn = int.from_bytes(os.urandom(7), "little")
        self.manual_seed(drawn)
        return drawn

    def initial_seed(self) -> int:
        """Return the seed."""
        reads_values("initial_seed")
        return int(self.state[0])

    def get_state(self) -> Any:
        """Return the state, an int64 tensor of shape (2,)."""
        from tinygrad_bn.core.tensor import wrap

        reads_values("get_state")
        return wrap(self.state.copy())

    def set_state(self, state: Any) -> None:
        """Continue from a state that ``get_state`` returned."""
        reads_values("set_state")
        array = np.asarray(state.array if hasattr(state, "array") else state)
        if array.shape != (2,) or array.dtype != np.int64:
            raise ArgumentError(wrong("set_state", "state", "int64 of shape (2,)", f"{array.dtype}, {array.shape}"))
        self.state[:] = array

    def take(self, words: int) -> Array:
        """Return the key, (seed, offset), of the next ``words`` words."""
        key = self.device.empty((2,), int64)
        launch(self.device.kernels.take_words, self.state, words, key)
        return key

    def __reduce__(self) -> tuple[Any, ...]:
        return (_restore, (self.device.type, self.state.copy()))


def _restore(device: str, state: Array) -> Generator:
    out = Generator(device)
    out.state[:] = state
    return out


default_generator = Generator()


def manual_seed(seed: int) -> Generator:
    """Seed the default generator, from which all random operations draw unless given another; return it."""
    return default_generator.manual_seed(seed)


def seed() -> int:
    """Seed the default generator from the operating system; return the seed."""
    return default_generator.seed()


def initial_seed() -> int:
    """Return the default generator's seed."""
    return default_generator.initial_seed()


def get_rng_state() -> Any:
    """Return the default generator's state."""
    return default_generator.get_state()


def set_rng_state(state: Any) -> None:
    """Continue the default generator from a state."""
    default_generator.set_state(state)
