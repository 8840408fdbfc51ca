"""Lists of kernels that compiled code runs, by a team of threads that is there from the first to the last."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.core import launch
from tinygrad_bn.core.launch import pool
from tinygrad_bn.errors import IndexRangeError
from tinygrad_bn.kernels.cpu._jit import ENABLED, jit
from tinygrad_bn.kernels.spec import Kernel, Spec
from tinygrad_bn.replay.calls import Bound, Call
from tinygrad_bn.replay.native import List
from tinygrad_bn.replay.runs import Runs, Views

pytestmark = pytest.mark.skipif(not ENABLED, reason="kernels are plain Python")

if ENABLED:
    import numba

    from tinygrad_bn.kernels.cpu import _regions, team
    from tinygrad_bn.kernels.cpu._atomics import running_thread, store_word, team_address


def _who(out: Any) -> None:
    for i in numba.prange(out.size):
        x = 0.0
        for _ in range(20_000):  # time for the others to come
            x = x * 0.5 + i
        out[i] = numba.get_thread_id() + (x < 0)


def _add(x: Any, number: Any, flag: Any, out: Any) -> None:
    for i in numba.prange(out.size):
        out[i] += x[i] * number if flag else 0.0


def _strict(x: Any) -> None:
    if x[0] > 0:
        raise ValueError("above zero")


def _kernel(function: Any, status: str = "") -> Kernel:
    return Kernel(function.__name__, Spec((), status=status), jit()(function), jit(parallel=True)(function), "out", 1)


@pytest.fixture
def two_threads():
    before = tb.get_num_threads()
    pool.enter()
    if pool.limit < 2 or pool.layer != "omp":
        pytest.skip("there is one thread, or no OpenMP")
    tb.set_num_threads(2)
    pool.enter()
    yield
    tb.set_num_threads(before)
    pool.enter()


def _runs(calls: list[tuple[Kernel, tuple[Any, ...]]], threads: int = 2, bound: Any = ()) -> Runs:
    """Calls of kernels, compiled before, as a recording makes them ready; ``bound`` by the number of a call."""
    found = []
    for i, (kernel, arguments) in enumerate(calls):
        found.append(Call(kernel, arguments, "here"))
        found[-1].bound = tuple(b for n, b in bound if n == i)
    return Runs(found, Views(found), threads)


def _compile(kernel: Kernel, *arguments: Any) -> None:
    kernel.serial(*arguments)
    if kernel.parallel is not None:
        kernel.parallel(*arguments)


def test_a_list_runs_each_loop_on_the_threads_that_are_there(two_threads):
    who, outs = _kernel(_who), [np.full(4, -1.0) for _ in range(5)]
    _compile(who, outs[0].copy())
    runs = _runs([(who, (out,)) for out in outs])
    assert [type(step) for step in runs._steps] == [List]
    seen, deadline = set(), time.monotonic() + 20
    while 1.0 not in seen and time.monotonic() < deadline:  # a member that is late leaves its part to the owner
        assert runs.run([]) is None
        assert all(out.tolist() in ([0, 0, 1, 1], [0, 0, 0, 0]) for out in outs)
        seen |= {out[3] for out in outs}
    assert 1.0 in seen


def test_numbers_flags_and_arrays_of_any_shape_come_through_the_door():
    add = _kernel(_add)
    x, out = np.arange(6.0)[::2], np.zeros(3)
    for number in (2, 0.5, np.float32(0.25)):
        for flag in (True, False):
            _compile(add, x, number, flag, np.zeros(3))
            _runs([(add, (x, number, flag, out)), (add, (x, number, flag, out))], 1).run([])
    np.testing.assert_array_equal(out, 2 * 2.75 * x)


def test_sources_are_looked_up_in_each_run():
    add, out = _kernel(_add), np.zeros(2)
    first, second = np.arange(6.0), np.arange(10.0, 16.0)
    _compile(add, first[2:4], 1.0, True, np.zeros(2))
    part, whole = Bound(0, 1, False, 16), Bound(0, 0, True, 0)
    calls = [(add, (first[2:4], 1.0, True, out)), (add, (first[:2], 1.0, True, out))]
    runs = _runs(calls, 1, [(0, part), (1, whole)])
    for source in (first, second, np.arange(20.0, 26.0)):
        out[:] = 0
        runs.run([np.array([0.5, 0.25]), source])
        assert out.tolist() == [source[2] + 0.5, source[3] + 0.25]


def test_a_kernel_of_plain_python_parts_the_list_and_holds_no_source():
    add, out = _kernel(_add), np.zeros(2)
    _compile(add, out, 1.0, True, np.zeros(2))
    seen = []

    def plain(x: Any) -> None:
        seen.append(x.tolist())
        x += 1.0

    python = Kernel("plain", Spec(()), plain)
    x = np.ones(2)
    source = np.array([3.0, 4.0])
    calls = [(add, (x, 1.0, True, out)), (python, (source,)), (add, (source, 2.0, True, out))]
    runs = _runs(calls, 1, [(1, Bound(0, 0, True, 0)), (2, Bound(0, 0, True, 0))])
    assert len(runs._steps) == 3
    fresh = np.array([5.0, 6.0])
    runs.run([fresh])
    assert seen == [[5.0, 6.0]]
    assert out.tolist() == [13.0, 15.0]
    held = weakref.ref(fresh)
    del fresh
    assert held() is None


def test_what_a_kernel_raises_ends_the_list(two_threads):
    add, strict, out, x = _kernel(_add), Kernel("strict", Spec(()), jit()(_strict)), np.zeros(2), np.zeros(1)
    strict.serial(x)
    _compile(add, np.ones(2), 1.0, True, np.zeros(2))
    step = add, (np.ones(2), 1.0, True, out)
    runs = _runs([step, step, (strict, (x,)), step])
    runs.run([])
    assert out.tolist() == [3.0, 3.0]
    x[0] = 1.0
    with pytest.raises(ValueError, match="above zero"):
        runs.run([])
    assert out.tolist() == [5.0, 5.0]
    x[0] = 0.0
    runs.run([])
    assert out.tolist() == [8.0, 8.0]
    assert _words()[0] == _words()[2] == 0


def _words() -> Any:
    """The team's first line: who is its owner, where ``share`` is, whether it is taken."""
    return (ctypes.c_int64 * 8).from_address(_regions._address)


if ENABLED:

    @jit()
    def _deserted(calls: Any, outcome: Any) -> None:
        """Run a list whose team has members that never come."""
        address = team_address()
        store_word(address + team.SIZE, 3)
        store_word(address + team.OWNER, running_thread())
        team.run_calls(calls, outcome)
        store_word(address + team.OWNER, 0)


def test_what_no_member_begins_the_owner_does(two_threads):
    who, out = _kernel(_who), np.full(6, -1.0)
    _compile(who, out.copy())
    runs = _runs([(who, (out,)), (who, (out,))])
    outcome = np.zeros(2, np.int64)
    _deserted(runs._steps[0]._calls, outcome)
    assert out.tolist() == [0.0] * 6
    assert outcome.tolist() == [2, 0]


# ------------------------------------------------------------------------------------------------------ whole steps


def _trainer(captured: bool) -> tuple[Any, Any]:
    tb.manual_seed(5)
    model = nn.Sequential(nn.Linear(200, 96, bias=False), nn.BatchNorm1d(96), nn.Sigmoid(), nn.Linear(96, 10))
    optimizer = tb.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(x: Any, classes: Any) -> Any:
        optimizer.zero_grad()
        loss = tb.functional.cross_entropy(model(x), classes)
        loss.backward()
        optimizer.step()
        return loss

    return (tb.capture(step) if captured else step), model


def _batches(count: int) -> list[tuple[Any, Any]]:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((count, 64, 200)).astype(np.float32)
    return [(tb.tensor(a), tb.tensor(rng.integers(0, 10, 64))) for a in x]


def _weights(model: Any) -> bytes:
    return b"".join(p.detach().numpy().tobytes() for p in [*model.parameters(), *model.buffers()])


def _trained(count: int) -> bytes:
    step, model = _trainer(False)
    for batch in _batches(count):
        step(*batch)
    return _weights(model)


def test_two_python_threads_replay_at_once(two_threads):
    expected, found, errors = _trained(60), {}, []

    def work(number: int) -> None:
        try:
            for batch in _batches(60):
                trainers[number][0](*batch)
        except Exception as error:
            errors.append(error)
        found[number] = _weights(trainers[number][1])

    trainers = [_trainer(True) for _ in range(3)]
    for step, _ in trainers:
        assert step.replays == 0
    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [found[n] == expected for n in range(3)] == [True] * 3
    assert _words()[0] == _words()[2] == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_observers_that_come_and_go_between_replays_change_nothing(two_threads, threads):
    tb.set_num_threads(threads)
    expected = _trained(12)
    step, model = _trainer(True)
    seen = []

    def observer(kernel: Any, arguments: Any, run: Any) -> None:
        seen.append(kernel.name)
        run()

    for i, batch in enumerate(_batches(12)):
        if i % 2 and i > 4:
            launch.observers.append(observer)
        try:
            step(*batch)
        finally:
            launch.observers[:] = []
    assert step.replays >= 8
    assert "sgd" in seen
    assert _weights(model) == expected


def test_after_a_bad_class_in_the_middle_of_a_list_the_team_is_free(two_threads):
    step, _ = _trainer(True)
    batches = _batches(6)
    for batch in batches:
        step(*batch)
    bad = tb.tensor(np.full(64, 99))
    with pytest.raises(IndexRangeError, match="cross_entropy"):
        step(batches[0][0], bad)
    assert _words()[0] == _words()[2] == 0
    replays = step.replays
    for batch in batches:
        step(*batch)
    assert step.replays == replays + 6


def test_reset_gives_the_lists_back(two_threads):
    step, _ = _trainer(True)
    for batch in _batches(5):
        step(*batch)
    recording = next(iter(step._ready.values()))[0]
    runs = [weakref.ref(r) for r in recording._runs.values()]
    words = [weakref.ref(s._words) for r in recording._runs.values() for s in r._steps]
    assert runs
    assert words
    del recording
    step.reset()
    gc.collect()
    assert not any(r() for r in runs)
    assert not any(w() is not None for w in words)


_FORK = """
import os, sys
sys.path.insert(0, {tests!r})
import numpy as np
import tinygrad_bn as tb
from test_team import _batches, _trainer, _weights
step, model = _trainer(True)
batches = _batches(10)
for batch in batches[:6]:
    step(*batch)
pid = os.fork()
for batch in batches[6:]:
    step(*batch)
if pid == 0:
    open({path!r}, "wb").write(_weights(model))
    os._exit(0)
_, status = os.waitpid(pid, 0)
assert status == 0, status
assert open({path!r}, "rb").read() == _weights(model)
assert step.replays >= 7
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_goes_on_alone(tmp_path):
    code = _FORK.format(tests=os.path.dirname(__file__), path=str(tmp_path / "weights"))
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)
