"""Generators: a seed and an offset into a Philox stream, in a small array on the device."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from tinygrad_bn.core.device import Device, as_device
from tinygrad_bn.core.dtype import int64
from tinygrad_bn.core.launch import launch, reads_values
from tinygrad_bn.core.tensor import Array
from tinygrad_bn.errors import ArgumentError, DeviceError, wrong


class Generator:
    """A stream of random numbers; equal seeds give equal streams on every device.

    Parameters
    ----------
    device : Device or str
    """

    def __init__(self, device: str | Device | None = None) -> None:
        self.device = as_device(device, "Generator")
        self.state = self.device.array(np.zeros(2, np.int64))

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream of a seed from its beginning; return the generator."""
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise ArgumentError(wrong("manual_seed", "seed", "an int", type(seed).__name__))
        reads_values("manual_seed")
        self._write(np.array([int(seed) & 0xFFFFFFFFFFFFFFFF, 0], np.uint64).view(np.int64))
        return self

    def seed(self) -> int:
        """Start the stream of a seed that the operating system draws; return it."""
        drawn = int.from_bytes(os.urandom(7), "little")
        self.manual_seed(drawn)
        return drawn

    def initial_seed(self) -> int:
        """Return the seed."""
        reads_values("initial_seed")
        return int(self._read()[0])

    def get_state(self) -> Any:
        """Return the state, an int64 tensor of shape (2,) on the CPU."""
        from tinygrad_bn.core.tensor import wrap

        reads_values("get_state")
        return wrap(self._read())

    def set_state(self, state: Any) -> None:
        """Continue from a state that ``get_state`` returned."""
        reads_values("set_state")
        array = np.asarray(state.device.to_host(state.array) if hasattr(state, "array") else state)
        if array.shape != (2,) or array.dtype != np.int64:
            raise ArgumentError(wrong("set_state", "state", "int64 of shape (2,)", f"{array.dtype}, {array.shape}"))
        self._write(array)

    def _read(self) -> Array:
        """The state, in memory of the host's own."""
        return np.array(self.device.to_host(self.state))

    def _write(self, state: Array) -> None:
        self.device.write(self.state, state)

    def take(self, words: int) -> Array:
        """Return the key, (seed, offset), of the next ``words`` words."""
        key = self.device.empty((2,), int64)
        launch(self.device.kernels.take_words, self.state, words, key)
        return key

    def __reduce__(self) -> tuple[Any, ...]:
        return (_restore, (self.device.type, self._read()))


def _restore(device: str, state: Array) -> Generator:
    out = Generator(device)
    out._write(state)
    return out


default_generator = Generator()
defaults: dict[str, Generator] = {"cpu": default_generator, "ref": default_generator}
"""By device type, the generator that is drawn from unless another is given."""


def default_of(device: Device) -> Generator:
    """Return the default generator of a device; the GPU's is made at its first use, with the seed of the CPU's."""
    found = defaults.get(device.type)
    if found is None:
        found = defaults[device.type] = Generator(device)
        found._write(np.array([default_generator.state[0], 0]))
    return found


def source(op: str, device: Device, generator: Generator | None) -> Generator:
    """Return the generator that an operation draws from: the one given, or the device's default.

    Raises
    ------
    DeviceError
        If it is on the GPU and the numbers are wanted elsewhere, or the other way round.
    """
    if generator is None:
        return defaults.get(device.type) or default_of(device)
    if generator.device is not device and "cuda" in (generator.device.type, device.type):
        raise DeviceError(wrong(op, "generator", f"on device {device}, as the result is", str(generator.device)))
    return generator


def manual_seed(seed: int) -> Generator:
    """Seed the default generators of all devices, from which random operations draw unless given another.

    Each then gives the same numbers. Returns the CPU's.
    """
    for generator in set(defaults.values()):
        generator.manual_seed(seed)
    return default_generator


def seed() -> int:
    """Seed the default generators from the operating system; return the seed."""
    drawn = default_generator.seed()
    manual_seed(drawn)
    return drawn


def initial_seed() -> int:
    """Return the default generator's seed."""
    return default_generator.initial_seed()


def get_rng_state() -> Any:
    """Return the state of the CPU's default generator; ``tb.cuda.get_rng_state`` returns the GPU's."""
    return default_generator.get_state()


def set_rng_state(state: Any) -> None:
    """Continue the CPU's default generator from a state."""
    default_generator.set_state(state)
