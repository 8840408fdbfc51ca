"""The settings of the main job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinygrad_bn.core.dtype import uint8
from tinygrad_bn.data import Split, cifar10, digits, mnist
from tinygrad_bn.errors import DataError, wrong

DATA = ("digits", "mnist", "cifar10")
PICTURES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
CONVOLUTIONAL = ("cifar_cnn", "resnet20", "resnet32", "resnet44", "resnet56")
"""Networks for the pictures of CIFAR-10."""
MODELS = ("mlp", *CONVOLUTIONAL)
MODEL = {"digits": "mlp", "mnist": "mlp", "cifar10": "cifar_cnn"}
EPOCHS = {"digits": 40, "mnist": 5, "cifar10": 10}
BATCH_SIZE = {"digits": 60, "mnist": 60, "cifar10": 128}
PREFETCH = {"digits": 0, "mnist": 0, "cifar10": 2}
LEARNING_RATE = {"sgd": 0.1, "adam": 0.001, "adamw": 0.001}
WEIGHT_DECAY = {"sgd": 0.0, "adam": 0.0, "adamw": 0.01}
DEVICES = ("cpu", "cuda")
SCHEDULES = ("constant", "step", "multistep", "exponential", "cosine")
AUGMENT = ("none", "standard", "photometric")


@dataclass(frozen=True)
class Config:
    """How a run is set up; the names are those of the command line's flags.

    Attributes
    ----------
    data, data_dir : str, str or None
    model : str
    hidden : tuple of int
        Of ``mlp``, as are ``norm`` and ``activation``.
    norm, activation : str
    epochs, batch_size : int
    optimizer : str
    lr, weight_decay : float
    momentum : float or None
        None for Adam and AdamW, which have none.
    lr_schedule : str
    step_size : int or None
        Of ``step``.
    milestones : tuple of int
        Of ``multistep``: epochs of the run, warm-up included.
    gamma : float or None
        Of ``step``, ``multistep`` and ``exponential``.
    warmup_epochs : int
    augment : str
    seed : int
    device : str
        Where the network is: ``cpu`` or ``cuda``.
    """

    data: str = "digits"
    data_dir: str | None = None
    model: str = "mlp"
    hidden: tuple[int, ...] = (100, 100, 100)
    norm: str = "batch"
    activation: str = "sigmoid"
    epochs: int = 40
    batch_size: int = 60
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float | None = 0.9
    weight_decay: float = 0.0
    lr_schedule: str = "constant"
    step_size: int | None = None
    milestones: tuple[int, ...] = ()
    gamma: float | None = None
    warmup_epochs: int = 0
    augment: str = "none"
    seed: int = 0
    device: str = "cpu"

    @staticmethod
    def of_dict(values: dict[str, Any]) -> Config:
        """Return the settings that a checkpoint holds; those that it lacks, an older one, are the defaults.

        Raises
        ------
        DataError
            If they are not settings of this version.
        """
        try:
            lists: dict[str, Any] = {name: tuple(values[name]) for name in ("hidden", "milestones") if name in values}
            return Config(**{**values, **lists})
        except (TypeError, KeyError) as error:
            raise DataError(wrong("checkpoint", "config", "the settings of a training run", str(error))) from None


def load_data(name: str, folder: str | None) -> Split:
    """Return a data set by its name on the command line; that of CIFAR-10 in unsigned bytes."""
    if name == "cifar10":
        return cifar10(folder, uint8)
    return digits() if name == "digits" else mnist(folder)
