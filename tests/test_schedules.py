"""Learning-rate schedules: against PyTorch, continued from their state, and what they refuse."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

import tinygrad_bn as tb
from tinygrad_bn.errors import ArgumentError, DTypeError
from tinygrad_bn.optim import lr_scheduler as schedules

SCHEDULES: list[tuple[str, dict[str, Any]]] = [
    ("MultiStepLR", {"milestones": [3, 7, 7, 20], "gamma": 0.3}),
    ("MultiStepLR", {"milestones": [0, 5]}),
    ("ExponentialLR", {"gamma": 0.9}),
    ("LinearLR", {}),
    ("LinearLR", {"start_factor": 0.2, "end_factor": 0.6, "total_iters": 9}),
    ("OneCycleLR", {"max_lr": 0.4, "total_steps": 40}),
    ("OneCycleLR", {"max_lr": [0.4, 0.2], "epochs": 6, "steps_per_epoch": 5, "anneal_strategy": "linear"}),
    ("OneCycleLR", {"max_lr": 1.0, "total_steps": 27, "three_phase": True, "pct_start": 0.4, "cycle_momentum": False}),
    ("OneCycleLR", {"max_lr": 1.0, "total_steps": 25, "max_momentum": [0.9, 0.8], "div_factor": 5.0}),
]


def make(lib: Any, name: str, arguments: dict[str, Any], kind: str = "SGD") -> tuple[Any, Any]:
    a, b = (lib.nn.Parameter(lib.ones(2)) for _ in range(2))
    optimiser = getattr(lib.optim, kind)([{"params": [a]}, {"params": [b], "lr": 0.7}], lr=0.3)
    return optimiser, getattr(lib.optim.lr_scheduler, name)(optimiser, **copy.deepcopy(arguments))


def sequence(lib: Any, nested: bool = False) -> tuple[Any, Any]:
    """A warm-up, then a cosine, then steps: the parts that the train command puts together."""
    optimiser = lib.optim.SGD([lib.nn.Parameter(lib.ones(2))], lr=0.3)
    kinds = lib.optim.lr_scheduler
    parts = [
        kinds.LinearLR(optimiser, start_factor=0.25, total_iters=3),
        kinds.CosineAnnealingLR(optimiser, 6),
        kinds.MultiStepLR(optimiser, [4, 6]),
        kinds.LambdaLR(optimiser, lambda epoch: 0.9**epoch),
    ]
    return optimiser, kinds.SequentialLR(optimiser, parts, [3, 9, 17])


def advance(optimiser: Any, schedule: Any, steps: int) -> list[Any]:
    found = [[g["lr"] for g in optimiser.param_groups], list(schedule.get_last_lr())]
    for _ in range(steps):
        optimiser.step()
        schedule.step()
        found.append([(g["lr"], g["momentum"] if "momentum" in g else g["betas"]) for g in optimiser.param_groups])
    return found


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize(("name", "arguments"), SCHEDULES)
def test_schedules_follow_pytorch(name: str, arguments: dict[str, Any], kind: str) -> None:
    torch = pytest.importorskip("torch")
    assert advance(*make(tb, name, arguments, kind), 25) == advance(*make(torch, name, arguments, kind), 25)


@pytest.mark.peers
def test_a_sequence_follows_pytorch() -> None:
    torch = pytest.importorskip("torch")
    assert advance(*sequence(tb), 25) == advance(*sequence(torch), 25)


PLATEAUS: list[dict[str, Any]] = [
    {"patience": 2},
    {"patience": 0, "factor": 0.5, "cooldown": 2},
    {"mode": "max", "patience": 1, "threshold": 0.05},
    {"mode": "max", "patience": 1, "threshold": 0.3, "threshold_mode": "abs"},
    {"patience": 1, "threshold": 0.3, "threshold_mode": "abs", "min_lr": [0.05, 0.01]},
    {"patience": 0, "factor": 0.1, "eps": 1e-3},
]
NUMBERS = [3.0, 2.0, 2.0, 1.9, 1.95, 2.2, 1.9, 1.0, 1.1, 1.2, 0.99, 1.0, 1.0, 1.0, 5.0, 4.0, 4.1, 0.1, 0.2, 0.3]


@pytest.mark.peers
@pytest.mark.parametrize("arguments", PLATEAUS)
def test_plateaus_follow_pytorch(arguments: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    rates = []
    for lib in (tb, torch):
        optimiser, schedule = make(lib, "ReduceLROnPlateau", arguments)
        found = []
        for number in NUMBERS:
            optimiser.step()
            schedule.step(lib.tensor(number))
            found.append(([g["lr"] for g in optimiser.param_groups], schedule.get_last_lr(), schedule.num_bad_epochs))
        rates.append(found)
    assert rates[0] == rates[1]
    assert rates[0][-1] != rates[0][0]


def continued(begin: Any, tmp_path: Path, steps: int, first: int) -> None:
    """A run cut after ``first`` steps and continued from what was written to a file ends as the whole one does."""
    whole, half, resumed = begin(), begin(), begin()
    advance(*whole, steps)
    advance(*half, first)
    tb.save({"optimiser": half[0].state_dict(), "schedule": half[1].state_dict()}, tmp_path / "state")
    state = tb.load(tmp_path / "state")
    resumed[0].load_state_dict(state["optimiser"])
    resumed[1].load_state_dict(state["schedule"])
    advance(*resumed, steps - first)
    assert resumed[1].get_last_lr() == whole[1].get_last_lr()
    assert [g["lr"] for g in resumed[0].param_groups] == [g["lr"] for g in whole[0].param_groups]


@pytest.mark.parametrize("first", [2, 3, 10])
@pytest.mark.parametrize(("name", "arguments"), SCHEDULES)
def test_schedules_continue_from_a_file(name: str, arguments: dict[str, Any], first: int, tmp_path: Path) -> None:
    continued(lambda: make(tb, name, arguments), tmp_path, 15, first)


@pytest.mark.parametrize("first", [2, 3, 8, 12])
def test_a_sequence_continues_from_a_file(first: int, tmp_path: Path) -> None:
    continued(lambda: sequence(tb), tmp_path, 15, first)


def test_a_plateau_continues_from_a_file(tmp_path: Path) -> None:
    whole, resumed = (make(tb, "ReduceLROnPlateau", {"patience": 1}) for _ in range(2))
    for number in NUMBERS[:5]:
        whole[1].step(number)
    tb.save([whole[0].state_dict(), whole[1].state_dict()], tmp_path / "state")
    for part, state in zip(resumed, tb.load(tmp_path / "state"), strict=True):
        part.load_state_dict(state)
    for number in NUMBERS[5:]:
        whole[1].step(number)
        resumed[1].step(number)
    assert resumed[1].get_last_lr() == whole[1].get_last_lr()


def test_a_sequence_within_a_sequence() -> None:
    optimiser, inner = sequence(tb)
    first = schedules.ExponentialLR(optimiser, 0.5)
    outer = schedules.SequentialLR(optimiser, [first, inner], [2])
    rates = [r for r, *_ in (f for f in advance(optimiser, outer, 8)[2:])]
    alone = [r for r, *_ in (f for f in advance(*sequence(tb), 6)[2:])]
    assert rates[0][0] == 0.15
    assert rates[1][0] == 0.25 * 0.3
    assert rates[2:] == alone


def test_errors() -> None:
    S: Any = schedules
    optimiser, other = (tb.optim.SGD([tb.nn.Parameter(tb.ones(1))], lr=0.1, momentum=0.5) for _ in range(2))
    one, far = S.ExponentialLR(optimiser, 0.5), S.ExponentialLR(other, 0.5)
    plateau = S.ReduceLROnPlateau(optimiser)
    cases: list[tuple[type[Exception], str, Any]] = [
        (ArgumentError, "LinearLR: 'start_factor' must be above 0", lambda: S.LinearLR(optimiser, 0.0)),
        (ArgumentError, "LinearLR: 'end_factor' must be from 0 to 1", lambda: S.LinearLR(optimiser, 0.5, 1.5)),
        (ArgumentError, "'milestones' must have one .* Got 0 for 2", lambda: S.SequentialLR(optimiser, [one, one], [])),
        (ArgumentError, "'milestones' must have one .* Got 0 for 0", lambda: S.SequentialLR(optimiser, [], [])),
        (ArgumentError, r"'schedulers\[1\]' must be a schedule", lambda: S.SequentialLR(optimiser, [one, far], [1])),
        (ArgumentError, r"'schedulers\[0\]' must be a schedule by", lambda: S.SequentialLR(optimiser, [plateau], [])),
        (DTypeError, r"'schedulers\[0\]' must be an LRScheduler", lambda: S.SequentialLR(optimiser, [1], [])),
        (ArgumentError, "'factor' must be below 1", lambda: S.ReduceLROnPlateau(optimiser, factor=1.0)),
        (ArgumentError, "'mode' must be 'min' or", lambda: S.ReduceLROnPlateau(optimiser, "least")),
        (ArgumentError, "'threshold_mode' must be", lambda: S.ReduceLROnPlateau(optimiser, threshold_mode="x")),
        (ArgumentError, "'min_lr' must have one rate a group", lambda: S.ReduceLROnPlateau(optimiser, min_lr=[0, 0])),
        (ArgumentError, "'metrics' must be the number", lambda: plateau.step()),
        (DTypeError, "'optimizer' must be an Optimizer", lambda: S.ReduceLROnPlateau(3)),
        (DTypeError, "'optimizer' must be an Optimizer", lambda: S.OneCycleLR(3, 1.0, 5)),
        (ArgumentError, "'total_steps' must be an int", lambda: S.OneCycleLR(optimiser, 1.0)),
        (ArgumentError, "'total_steps' must be an int", lambda: S.OneCycleLR(optimiser, 1.0, epochs=3)),
        (ArgumentError, "'total_steps' must be an int", lambda: S.OneCycleLR(optimiser, 1.0, 0)),
        (ArgumentError, "'pct_start' must be from 0 to 1", lambda: S.OneCycleLR(optimiser, 1.0, 5, pct_start=2)),
        (ArgumentError, "'anneal_strategy' must be", lambda: S.OneCycleLR(optimiser, 1.0, 5, anneal_strategy="x")),
        (ArgumentError, "'max_lr' must have one number a group", lambda: S.OneCycleLR(optimiser, [1.0, 2.0], 5)),
    ]  # fmt: skip
    for kind, message, call in cases:
        with pytest.raises(kind, match=message):
            call()


def test_one_cycle_ends() -> None:
    optimiser, schedule = make(tb, "OneCycleLR", {"max_lr": 1.0, "total_steps": 3})
    advance(optimiser, schedule, 3)
    with pytest.raises(ArgumentError, match="'step' must be called for 3 steps at most. Got 4."):
        schedule.step()
