"""Who takes part: this package, and the peers where they are installed.

Nothing here imports a framework before it is asked to: the parent process stays free of them and of their thread pools.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np

OURS = "tinygrad_bn"
DEVICE = "TINYGRAD_BN_BENCH_DEVICE"
"""The environment variable that tells workers where tensors live: ``cpu``, where it is not set."""


def device() -> str:
    """Return where this process has its tensors."""
    return os.environ.get(DEVICE, "cpu")


def _same(result: Any) -> None:
    """The result is there when the step returns."""


def _prepare_ours(threads: int) -> None:
    import tinygrad_bn as tb

    tb.set_num_threads(threads)


def _describe_ours() -> dict[str, Any]:
    import tinygrad_bn as tb
    from tinygrad_bn.core.launch import pool

    return {"version": tb.__version__, "threads": tb.get_num_threads(), "layer": pool.layer}


def _wait_ours(result: Any) -> None:
    """Kernels of a GPU are launched and not waited for."""
    if device() == "cuda":
        from tinygrad_bn.core.device import as_device

        as_device("cuda").synchronize()


def _prepare_torch(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    if device() == "cuda":  # products of float32 are of float32, as ours are
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True


def _wait_torch(result: Any) -> None:
    if device() == "cuda":
        import torch

        torch.cuda.synchronize()


def _describe_torch() -> dict[str, Any]:
    import torch

    if device() == "cuda":
        return {
            "device": torch.cuda.get_device_name(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return {"threads": torch.get_num_threads(), "mkldnn": torch.backends.mkldnn.is_available()}


def _prepare_jax(threads: int) -> None:
    """XLA sizes its pool by the processors that the process may use: the worker has been bound to them."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def _describe_jax() -> dict[str, Any]:
    import jax

    return {"devices": [str(d) for d in jax.devices()]}


def _wait_jax(result: Any) -> None:
    import jax

    jax.block_until_ready(result)


def _detached(tensor: Any) -> np.ndarray[Any, Any]:
    tensor = tensor.detach()
    if device() == "cuda":
        tensor = tensor.float().cpu()
    return np.array(tensor.numpy())


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Attributes
    ----------
    name : str
        Also the name of the cases' methods.
    module : str
        What must be installed.
    prepare : callable
        Imports the framework and sets its number of threads.
    describe : callable
        What the framework says of itself: threads and the like.
    to_numpy : callable
        Copies one of its tensors into an array.
    wait : callable
        Returns when a step's result has been computed.
    """

    name: str
    module: str
    prepare: Callable[[int], None]
    describe: Callable[[], dict[str, Any]]
    to_numpy: Callable[[Any], np.ndarray[Any, Any]] = _detached
    wait: Callable[[Any], None] = field(default=_same)

    @property
    def installed(self) -> bool:
        """Whether the framework is there."""
        return find_spec(self.module) is not None


def _torch(name: str) -> Contender:
    return Contender(name, "torch", _prepare_torch, _describe_torch, wait=_wait_torch)


CONTENDERS = {
    c.name: c
    for c in (
        Contender(OURS, OURS, _prepare_ours, _describe_ours, wait=_wait_ours),
        _torch("torch"),
        _torch("torch_channels_last"),
        _torch("torch_fused"),
        _torch("torch_compile"),
        Contender("jax", "jax", _prepare_jax, _describe_jax, lambda a: np.array(a), _wait_jax),
    )
}
PEERS = tuple(name for name in CONTENDERS if name != OURS)
DEFAULT_PEERS = tuple(name for name in PEERS if name != "torch_compile")  # compiling takes it minutes


def parse_peers(text: str) -> tuple[str, ...]:
    """Return the peers that a comma-separated list names; ``none`` is none of them.

    Raises
    ------
    ValueError
        If a name is not known.
    """
    names = tuple(n.strip() for n in text.split(",") if n.strip())
    if names == ("none",):
        return ()
    unknown = [n for n in names if n not in PEERS]
    if unknown or not names:
        raise ValueError(f"peers: 'peers' must be 'none' or some of {', '.join(PEERS)}. Got {text!r}.")
    return tuple(dict.fromkeys(names))
