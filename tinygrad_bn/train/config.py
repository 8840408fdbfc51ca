"""The settings of the main job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinygrad_bn.data import Split, digits, mnist
from tinygrad_bn.errors import DataError, wrong

DATA = ("digits", "mnist")
EPOCHS = {"digits": 40, "mnist": 5}
LEARNING_RATE = {"sgd": 0.1, "adam": 0.001}


@dataclass(frozen=True)
class Config:
    """How a run is set up; the names are those of the command line's flags.

    Attributes
    ----------
    data, data_dir : str, str or None
    model : str
    hidden : tuple of int
    norm, activation : str
    epochs, batch_size : int
    optimizer : str
    lr : float
    momentum : float or None
        None for Adam, which has none.
    seed : int
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
    seed: int = 0

    @staticmethod
    def of_dict(values: dict[str, Any]) -> Config:
        """Return the settings that a checkpoint holds.

        Raises
        ------
        DataError
            If they are not settings of this version.
        """
        try:
            return Config(**{**values, "hidden": tuple(values["hidden"])})
        except (TypeError, KeyError) as error:
            raise DataError(wrong("checkpoint", "config", "the settings of a training run", str(error))) from None


def load_data(name: str, folder: str | None) -> Split:
    """Return a data set by its name on the command line."""
    return digits() if name == "digits" else mnist(folder)
