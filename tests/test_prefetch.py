"""Loaders that work ahead: the same batches in the same order, errors, an early end; epochs continued in the middle."""

from __future__ import annotations

import gc
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_bn as tb
from tinygrad_bn.core import launch
from tinygrad_bn.data import DataLoader, Dataset, TensorDataset
from tinygrad_bn.errors import ArgumentError, StateDictError

pytestmark = pytest.mark.jit_off


def numbered(n: int) -> TensorDataset:
    return TensorDataset(tb.from_numpy(np.arange(n, dtype=np.float32)[:, None]), tb.from_numpy(np.arange(n)))


class Faulty(Dataset[int]):
    """Sample 5 cannot be read; who asked for which sample is noted."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def __getitem__(self, index: int) -> int:
        self.asked.append((threading.current_thread().name, index))
        if index == 5:
            raise KeyError("sample 5")
        return index

    def __len__(self) -> int:
        return 12


def loaders() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("tinygrad_bn-loader")]


# ------------------------------------------------------------------------------------------------------ working ahead


@given(
    n=st.integers(0, 20),
    size=st.one_of(st.none(), st.integers(1, 6)),
    shuffle=st.booleans(),
    seed=st.one_of(st.none(), st.just(4)),
    ahead=st.integers(1, 9),
)
def test_the_same_batches_in_the_same_order(
    n: int, size: int | None, shuffle: bool, seed: int | None, ahead: int
) -> None:
    found = []
    for prefetch in (0, ahead):
        tb.manual_seed(1)
        loader = DataLoader(numbered(n), size, shuffle=shuffle, seed=seed, prefetch=prefetch)
        labels = [np.atleast_1d(y.numpy()).tolist() for _ in range(2) for _, y in loader]
        found.append((labels, tb.rand(1).item()))  # what is drawn from the default generator is the same
    assert found[0] == found[1]
    assert not loaders()


def test_what_the_model_draws_in_between_changes_nothing() -> None:
    found = []
    for prefetch in (0, 3):
        tb.manual_seed(1)
        drawn = []
        for _, y in DataLoader(numbered(20), 4, shuffle=True, prefetch=prefetch):
            drawn.append((y.tolist(), tb.rand(1).item()))
        found.append(drawn)
    assert found[0] == found[1]


def test_a_thread_works_ahead_and_no_further() -> None:
    data = Faulty()
    batches = iter(DataLoader(data, 1, prefetch=2))
    assert not data.asked
    assert next(batches).tolist() == [0]
    with pytest.raises(KeyError):
        for _ in batches:
            pass
    assert {i for _, i in data.asked} <= {0, 1, 2, 3, 4, 5, 6, 7}
    assert all(name.startswith("tinygrad_bn-loader") for name, _ in data.asked)
    assert not loaders()


def test_without_prefetching_there_is_no_thread() -> None:
    data = Faulty()
    next(iter(DataLoader(data, 1)))
    assert data.asked == [(threading.current_thread().name, 0)]


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_an_error_comes_where_its_batch_would_have_been(prefetch: int) -> None:
    seen: list[Any] = []
    with pytest.raises(KeyError, match="sample 5") as caught:
        seen.extend(y.tolist() for y in DataLoader(Faulty(), 2, prefetch=prefetch))
    assert seen == [[0, 1], [2, 3]]
    frames = [f.name for f in traceback.extract_tb(caught.value.__traceback__)]
    assert frames[-1] == "__getitem__"
    assert not loaders()


def test_leaving_the_loop_ends_the_thread() -> None:
    for _ in DataLoader(numbered(40), 2, prefetch=3):
        assert len(loaders()) == 1
        break
    assert not loaders()
    with pytest.raises(ZeroDivisionError):
        [1 // 0 for _ in DataLoader(numbered(40), 2, prefetch=3)]
    gc.collect()
    assert not loaders()
    batches = iter(DataLoader(numbered(40), 2, prefetch=3))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert not loaders()


def test_two_iterations_at_once() -> None:
    loader = DataLoader(numbered(12), 3, prefetch=2)
    assert [(a.tolist(), b.tolist()) for (_, a), (_, b) in zip(loader, loader, strict=True)] == [
        ([i, i + 1, i + 2],) * 2 for i in (0, 3, 6, 9)
    ]
    assert not loaders()


def test_samplers_are_asked_on_the_calling_thread() -> None:
    asked = []

    class Sampler:
        def __iter__(self) -> Iterator[list[int]]:
            for i in range(4):
                asked.append(threading.current_thread())
                yield [i, i + 1]

    batches = [y.tolist() for _, y in DataLoader(numbered(5), batch_sampler=Sampler(), prefetch=2)]  # type: ignore[arg-type]
    assert batches == [[0, 1], [1, 2], [2, 3], [3, 4]]
    assert set(asked) == {threading.current_thread()}


def test_kernels_of_the_thread_are_serial(monkeypatch: pytest.MonkeyPatch) -> None:
    from tinygrad_bn.kernels import catalogue
    from tinygrad_bn.kernels.spec import Kernel

    calls: list[str] = []
    kernel = Kernel(
        "k", catalogue()["exp"][1], lambda x: calls.append("serial"), lambda x: calls.append("parallel"), "x", 1
    )
    monkeypatch.setattr(launch.pool, "threads", 2)
    monkeypatch.setattr(launch.pool, "enter", lambda: None)

    class Launching(Dataset[int]):
        def __getitem__(self, index: int) -> int:
            launch.launch(kernel, np.zeros(9))
            return index

        def __len__(self) -> int:
            return 1

    list(DataLoader(Launching(), 1, prefetch=1))
    list(DataLoader(Launching(), 1))
    assert calls == ["serial", "parallel"]


@pytest.mark.parametrize(
    ("arguments", "ahead"),
    [
        ({}, 0),
        ({"num_workers": 3}, 6),
        ({"num_workers": 3, "prefetch_factor": 5}, 15),
        ({"num_workers": 3, "prefetch": 0}, 0),
        ({"prefetch": 4, "persistent_workers": True}, 4),
    ],
)
def test_pytorchs_names_for_it(arguments: dict[str, Any], ahead: int) -> None:
    loader = DataLoader(numbered(9), 2, **arguments)
    assert loader.prefetch == ahead
    assert [y.tolist() for _, y in loader] == [[0, 1], [2, 3], [4, 5], [6, 7], [8]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prefetch": -1}, "'prefetch' must be an int of at least 0. Got -1."),
        ({"prefetch": True}, "'prefetch' must be an int of at least 0. Got True."),
        ({"num_workers": 1.5}, "'num_workers' must be an int of at least 0. Got 1.5."),
        ({"num_workers": 1, "prefetch_factor": 0}, "'prefetch_factor' must be an int of at least 1. Got 0."),
        ({"prefetch_factor": 2}, "'prefetch_factor' needs 'num_workers' above 0. Got 0."),
    ],
)
def test_loaders_refuse(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        DataLoader(numbered(9), 2, **arguments)


# ------------------------------------------------------------------------------------------- epochs continued


def make(prefetch: int, seed: int | None = 4) -> DataLoader:
    return DataLoader(numbered(20), 3, shuffle=True, seed=seed, prefetch=prefetch)


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("taken", range(0, 15))
def test_an_epoch_is_continued(taken: int, prefetch: int, tmp_path: Path) -> None:
    """After any number of batches; 7 make an epoch."""
    loader = make(0)
    whole = [y.tolist() for _ in range(3) for _, y in loader]
    cut = make(prefetch)
    seen: list[Any] = []
    while len(seen) < taken:
        for _, y in cut:
            seen.append(y.tolist())
            if len(seen) == taken:
                break
    tb.save(cut.state_dict(), tmp_path / "state")
    resumed = make(prefetch)
    resumed.load_state_dict(tb.load(tmp_path / "state"))
    assert {k: v if k == "batches" else v.tolist() for k, v in resumed.state_dict().items()} == {
        k: v if k == "batches" else v.tolist() for k, v in cut.state_dict().items()
    }
    while len(seen) < 21:
        seen += [y.tolist() for _, y in resumed]
    assert seen == whole


def test_a_loader_on_the_default_generator_is_continued() -> None:
    def run(stop: int | None) -> list[Any]:
        tb.manual_seed(3)
        seen = []
        loader = make(2, None)
        for _, y in loader:
            seen.append((y.tolist(), tb.rand(1).item()))
            if len(seen) == stop:
                break
        if stop is not None:
            state, generator = loader.state_dict(), tb.get_rng_state()
            tb.manual_seed(77)
            loader = make(0, None)
            loader.load_state_dict(state)
            tb.set_rng_state(generator)
            seen += [(y.tolist(), tb.rand(1).item()) for _, y in loader]
        return seen

    assert run(3) == run(None)


def test_a_new_iteration_is_a_new_epoch() -> None:
    loader = make(0)
    for _ in loader:
        break
    assert loader.state_dict()["batches"] == 1
    again = [y.tolist() for _, y in loader]
    assert len(again) == 7
    assert loader.state_dict()["batches"] == 0


def test_a_state_that_is_none() -> None:
    with pytest.raises(
        StateDictError, match=r"DataLoader: 'state_dict' must have keys 'generator' and 'batches'. Got \['x'\]"
    ):
        make(0).load_state_dict({"x": 1})
