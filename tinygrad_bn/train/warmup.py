"""``python -m tinygrad_bn warmup``: compile the kernels of usual work ahead, into the cache folder.

Small steps of the package's models are run, and every kernel that they launch is compiled for the arrays it is given:
its serial and its parallel driver, whichever the small step would have called.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

from tqdm import tqdm

from tinygrad_bn import functional as F
from tinygrad_bn import models, nn, optim
from tinygrad_bn.core import launch
from tinygrad_bn.core.dtype import DType, float32, float64
from tinygrad_bn.core.tape import no_grad
from tinygrad_bn.core.tensor import Tensor
from tinygrad_bn.kernels.spec import Kernel
from tinygrad_bn.ops import creation

BATCH = 4
CLASSES = 10
PICTURE = (3, 32, 32)
DTYPES = {"float32": (float32,), "float64": (float64,), "all": (float32, float64)}
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: models.mlp(784, (100, 100), CLASSES), (784,)),
    "cifar_cnn": (models.cifar_cnn, PICTURE),
    "resnet20": (models.resnet20, PICTURE),
    "resnet20 with convolutions as shortcuts": (lambda: models.resnet20(shortcut="conv"), PICTURE),
    "vgg11_bn": (lambda: models.vgg11_bn(CLASSES, 32, "linear"), PICTURE),
    "inception_small": (models.inception_small, PICTURE),
}


class Warmer:
    """An observer of launches that compiles both drivers of each kernel for the arguments it sees.

    Attributes
    ----------
    seen : set
        Drivers and the types of the arguments that they have been compiled for.
    say : callable
        Told the name of each kernel that is met for the first time.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.seen: set[tuple[Any, ...]] = set()
        self.say = say

    def __call__(self, kernel: Kernel, arguments: tuple[Any, ...], run: Callable[[], None]) -> None:
        """Compile, then run."""
        drivers: tuple[Any, ...] = (kernel.serial, kernel.parallel)
        for driver in drivers:
            if hasattr(driver, "typeof_pyval"):  # compiled by Numba
                kinds = tuple(driver.typeof_pyval(argument) for argument in arguments)
                if (driver, *kinds) not in self.seen:
                    self.seen.add((driver, *kinds))
                    self.say(kernel.name)
                    driver.compile(kinds)
        run()


def warmup(dtype: str = "float32") -> str:
    """Compile the kernels of the package's models ahead, with a progress bar on stderr.

    Parameters
    ----------
    dtype : {"float32", "float64", "all"}

    Returns
    -------
    str
        What was compiled, what was there already, and how long it took.
    """
    from tinygrad_bn.kernels.folder import activity, cache_root

    launch.pool.enter()  # the layer is part of what a parallel kernel is compiled with
    compiled, loaded, start = activity.compiled, activity.loaded, perf_counter()
    work = [(name, kind) for kind in DTYPES[dtype] for name in MODELS]
    interval = 0.1 if sys.stderr.isatty() else 10.0
    with tqdm(work, unit="model", mininterval=interval) as bar:
        warmer = Warmer(lambda kernel: bar.set_postfix_str(kernel))
        launch.observers.append(warmer)
        try:
            for name, kind in bar:
                bar.set_description_str(f"{name}, {kind.name}")
                _work(name, kind)
        finally:
            launch.observers.remove(warmer)
    drivers = len(warmer.seen)
    return (
        f"{drivers} kernels are ready: {activity.compiled - compiled} functions compiled, "
        f"{activity.loaded - loaded} loaded from {cache_root()}, {perf_counter() - start:.1f} s"
    )


def _work(name: str, dtype: DType) -> None:
    """A step of a model under each optimiser, and one evaluation."""
    make, shape = MODELS[name]
    model = make().to(dtype)
    classes = creation.arange(BATCH)
    x = creation.ones((BATCH, *shape), dtype=dtype)
    for optimiser in (optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=1e-4), optim.Adam(model.parameters())):
        optimiser.zero_grad()
        F.cross_entropy(model(x), classes).backward()
        optimiser.step()
    with no_grad():
        scores: Tensor = model.eval()(x)
        (scores.argmax(1) == classes).sum().item()
