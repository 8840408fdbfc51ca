"""What is going to be run: an experiment at a scale, with its seeds, data and place."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tinygrad_bn
from tinygrad_bn.errors import ArgumentError, DataError, expected, wrong
from tinygrad_bn.experiments.runner.experiment import SCALES, Experiment
from tinygrad_bn.experiments.runner.jsonable import encode
from tinygrad_bn.experiments.runner.pictures import Pictures


@dataclass(frozen=True)
class Plan:
    """The runs that are to be made.

    Attributes
    ----------
    experiment : Experiment
    scale : str
    seeds : tuple of int
    device : str
    pictures : Pictures or None
    folder : Path
        Of everything that is written: OUT/NAME/SCALE.
    """

    experiment: Experiment
    scale: str
    seeds: tuple[int, ...]
    device: str
    pictures: Pictures | None
    folder: Path

    @property
    def setting(self) -> Any:
        """The sizes of the scale."""
        return self.experiment.scales[self.scale]

    @property
    def arms(self) -> tuple[str, ...]:
        """What is compared."""
        return tuple(self.experiment.arms(self.setting))

    def runs(self) -> list[tuple[int, str]]:
        """Return seed and arm of each run in their order: a seed is finished before the next begins."""
        return [(seed, arm) for seed in self.seeds for arm in self.arms]

    def steps(self, arm: str) -> int:
        """Return how many steps a run of an arm has."""
        return self.experiment.steps(self.setting, arm)

    def file(self, seed: int, arm: str) -> Path:
        """Return where a finished run is kept."""
        return self.folder / "runs" / f"{slug(arm)}-{seed}.json"

    @cached_property
    def code(self) -> str:
        """The first 16 digits of the SHA-256 of the experiment's files, as they are now: what may have changed."""
        path = Path(self.experiment.run.__code__.co_filename)
        files = sorted(path.parent.glob("*.py")) if path.parent.name == self.experiment.name else [path]
        return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.is_file())).hexdigest()[:16]

    def facts(self) -> dict[str, Any]:
        """Return what all runs have in common, as it is recorded."""
        return {
            "experiment": self.experiment.name,
            "scale": self.scale,
            "setting": setting_of(self.experiment, self.scale),
            "data": None if self.pictures is None else self.pictures.facts(),
            "device": self.device,
            "version": tinygrad_bn.__version__,
        }

    def fingerprint(self, seed: int, arm: str) -> dict[str, Any]:
        """Return all that the numbers of a run follow from, but for the code."""
        return {**self.facts(), "arm": arm, "seed": seed}


def setting_of(experiment: Experiment, scale: str) -> dict[str, Any]:
    """Return the sizes of a scale by name, as they are recorded."""
    found = experiment.scales[scale]
    if not is_dataclass(found) or isinstance(found, type):
        raise ArgumentError(expected("experiments", "scales", "a dataclass for each scale", type(found).__name__))
    encoded: dict[str, Any] = encode(asdict(found), f"{experiment.name} setting")
    return encoded


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are not there.

    Raises
    ------
    DataError
        If it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"experiments: '{folder}' cannot be made: {error.strerror or error}.") from None


def slug(arm: str) -> str:
    """Return an arm's name as a part of file names."""
    return re.sub(r"[^A-Za-z0-9._+=-]", "_", arm)


def plan(
    experiment: Experiment, scale: str, seeds: int | None, device: str, pictures: Pictures | None, out: Path
) -> Plan:
    """Return the plan of an experiment at a scale, checked.

    Raises
    ------
    ArgumentError
        If scale, seeds, or the experiment's arms are wrong.
    DeviceError
        If there is no such device here.
    """
    if scale not in SCALES:
        raise ArgumentError(wrong("experiments", "scale", f"one of {', '.join(SCALES)}", repr(scale)))
    count = experiment.seeds[scale] if seeds is None else seeds
    if count < 1:
        raise ArgumentError(wrong("experiments", "seeds", "at least 1", count))
    setting_of(experiment, scale)
    tinygrad_bn.device(device)
    made = Plan(experiment, scale, tuple(range(count)), device, pictures, out / experiment.name / scale)
    if not made.arms or len({slug(arm).lower() for arm in made.arms}) < len(made.arms):
        want = "different names for its arms, also as names of files"
        raise ArgumentError(expected(experiment.name, "arms", want, ", ".join(made.arms) or "none"))
    return made
