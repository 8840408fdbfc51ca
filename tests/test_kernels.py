"""Kernels of ``cpu`` against ``ref``, the specification: catalogue, values, accuracy, bits that no thread changes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from agreement import compare
from hypothesis import given
from hypothesis import strategies as st
from problems import HOT, MAKERS, ROUGH, SINGLE, WITH_TABLES, copied
from scipy import special

import tinygrad_bn as tb
from tinygrad_bn.core import launch
from tinygrad_bn.core.device import cpu, ref
from tinygrad_bn.core.dtype import float32
from tinygrad_bn.core.table import Table
from tinygrad_bn.errors import ArgumentError
from tinygrad_bn.kernels import TOPICS, Backend, catalogue
from tinygrad_bn.kernels.spec import Kernel, parameters_of, spec
from tinygrad_bn.ops.batch_norm import batch_norm_train
from tinygrad_bn.testing import assert_close

Array = np.ndarray[Any, Any]

REEXPORTED = {"arange", "copy", "fill", "linspace", "sum_int", "take_words"}
"""Kernels that cpu takes from ref on purpose: NumPy is as fast, and none is on a hot path but copies, NumPy's own."""

# ---------------------------------------------------------------------------------------------------------- catalogue


def _function(package: str, name: str) -> Any:
    return getattr(Backend(package).module(catalogue()[name][0]), name)


@pytest.mark.jit_off
@pytest.mark.parametrize("name", sorted(catalogue()))
def test_cpu_has_every_kernel_with_the_same_parameters(name: str) -> None:
    assert parameters_of(_function("cpu", name)) == parameters_of(_function("ref", name))


@pytest.mark.jit_off
def test_what_cpu_takes_from_ref_is_listed() -> None:
    same = {n for n in catalogue() if _function("cpu", n) is _function("ref", n)}
    assert same == REEXPORTED


@pytest.mark.jit_off
def test_no_kernel_of_cpu_is_missing_in_the_catalogue() -> None:
    """A driver that ref does not specify would never be tested."""
    for topic in TOPICS:
        module = cpu.kernels.module(topic)
        drivers = {n for n, f in vars(module).items() if hasattr(f, "driver") and not n.startswith("_")}
        assert drivers <= set(catalogue())


@pytest.mark.jit_off
def test_declarations() -> None:
    """Every kernel says what it writes, and nothing twice."""
    for name, (_, declared) in catalogue().items():
        parameters = parameters_of(_function("ref", name))
        named = declared.writes + declared.updates + declared.workspace
        assert declared.writes or declared.updates, name
        assert len(set(named)) == len(named), name
        assert set(named) <= set(parameters), name
        assert bool(declared.status) == (parameters[-1] == "status"), name


@pytest.mark.jit_off
def test_a_wrong_declaration_is_refused() -> None:
    with pytest.raises(TypeError, match="kernel f: no parameter named y"):

        @spec(writes="y")
        def f(x: Array, out: Array) -> None:
            out[...] = x


@pytest.mark.jit_off
def test_a_kernel_that_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="no kernel is named 'convolve'"):
        cpu.kernels.convolve  # noqa: B018


@pytest.mark.jit_off
def test_kernels_return_nothing_and_allocate_no_argument() -> None:
    for name in catalogue():
        signature = inspect.signature(_function("ref", name))
        assert signature.return_annotation in (None, "None"), name
        assert all(p.default is inspect.Parameter.empty for p in signature.parameters.values()), name


def test_every_kernel_has_a_problem() -> None:
    assert set(MAKERS) | WITH_TABLES == set(catalogue())


@pytest.mark.jit_off
@pytest.mark.bounds
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(n, d) for n in sorted(set(MAKERS) - REEXPORTED) for d in ("float32", "float64")[: 1 if n in SINGLE else 2]],
)
@given(data=st.data())
def test_cpu_agrees_with_ref(name: str, dtype: str, data: st.DataObject) -> None:
    """Whole problems: sizes 0 and 1, broadcasting, special values, large means, absent weights, any number of parts."""
    maker, rtol = MAKERS[name]
    before = data.draw(maker(name, dtype))
    rtol = ROUGH.get(name, rtol)
    ours, theirs = copied(before), copied(before)
    with np.errstate(all="ignore"):
        getattr(cpu.kernels, name).serial(*ours.values())
        getattr(ref.kernels, name).serial(*theirs.values())
    if name == "ravel_index" and ours["status"][0]:
        ours.pop("out")
        theirs.pop("out")
    compare(name, ours, theirs, before, rtol if dtype == "float32" else min(rtol, 1e-11))


@pytest.mark.jit_off
@pytest.mark.parametrize("name", sorted(REEXPORTED))
@given(data=st.data())
def test_what_is_shared_writes_all_it_promises(name: str, data: st.DataObject) -> None:
    before = data.draw((MAKERS[name][0])(name, "float64"))
    after = copied(before)
    getattr(cpu.kernels, name).serial(*after.values())
    declared = catalogue()[name][1]
    for key, value in after.items():
        if key in declared.writes and value.dtype.kind == "f":
            assert np.isfinite(value).all()
        elif key not in declared.updates + declared.writes and isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, before[key])


# --------------------------------------------------------------------------------------------------- kernels on tables

TABLES: dict[str, tuple[int, list[list[float]]]] = {
    # number of arrays in a row besides the steps, and settings of hyper
    "sgd": (
        3,
        [
            [0.1, 0.0, 0.0, 0.0, 0, 0],
            [0.1, 0.9, 0.0, 1e-2, 0, 0],
            [0.1, 0.9, 0.0, 1e-2, 1, 0],
            [0.05, 0.8, 0.3, 0.0, 0, 1],
        ],
    ),
    "adam": (
        5,
        [
            [1e-2, 0.9, 0.99, 1e-8, 0.0, 0, 0, 0],
            [1e-2, 0.9, 0.99, 1e-8, 0.1, 0, 1, 0],
            [1e-2, 0.9, 0.99, 1e-8, 0.1, 1, 0, 1],
        ],
    ),
    "adagrad": (3, [[0.1, 0.0, 1e-10, 0.0, 0], [0.1, 0.5, 1e-3, 1e-2, 1]]),
    "rmsprop": (
        5,
        [
            [1e-2, 0.99, 1e-8, 0.0, 0.0, 0, 0],
            [1e-2, 0.9, 1e-3, 0.1, 0.9, 0, 1],
            [1e-2, 0.9, 1e-8, 0.0, 0.0, 1, 0],
            [1e-2, 0.9, 1e-8, 0.1, 0.5, 1, 0],
        ],
    ),
}


def _tables(name: str, count: int, dtype: str, device: Any) -> tuple[Table, list[list[Array]]]:
    rng = np.random.default_rng(0)
    rows_ = []
    for size in (1, 7, 4096, 5003):
        arrays = [rng.standard_normal(size).astype(dtype) for _ in range(count)]
        if name == "adam":
            arrays[3:] = [np.abs(a) for a in arrays[3:]]
        if name in ("adagrad", "rmsprop"):  # squares, well above those of the mean gradient, the last array
            arrays[2] = np.abs(arrays[2]) + 1 + 2 * arrays[-1] ** 2
        rows_.append(arrays + ([np.zeros(1, dtype)] if name in TABLES else []))
    return Table(rows_, getattr(tb, dtype), device), rows_


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "hyper"), [(n, h) for n, (_, hs) in TABLES.items() for h in hs])
def test_optimiser_kernels(name: str, hyper: list[float], dtype: str) -> None:
    """Three steps over small and large parameters."""
    found = []
    for device in (cpu, ref):
        table, arrays = _tables(name, TABLES[name][0], dtype, device)
        for _ in range(3):
            getattr(device.kernels, name).serial(table.data, table.like, np.array([*hyper, 9107]))
        found.append(arrays)
    for ours, theirs in zip(*found, strict=True):
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if name == "adam" and i == 4 and not hyper[6]:
                continue  # the largest second moment is not kept
            assert_close(a, b, 3e-6 if dtype == "float32" else 1e-12, f"{name}: array {i}")
        assert ours[-1].tolist() == [3.0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_of_squares_and_scaling(dtype: str) -> None:
    sums = []
    for device in (cpu, ref):
        table, arrays = _tables("scale", 1, dtype, device)
        out = np.full(4, np.nan)
        device.kernels.square_sums.serial(table.data, table.like, out)
        np.testing.assert_allclose(out, [(a[0].astype(np.float64) ** 2).sum() for a in arrays], rtol=1e-12)
        device.kernels.scale.serial(table.data, table.like, np.array([0.25]))
        sums.append(arrays)
    for ours, theirs in zip(*sums, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])


# ----------------------------------------------------------------------------------------------------- bits and threads


@pytest.mark.parametrize("case", HOT)
def test_the_pool_changes_no_bit(case: str) -> None:
    """The parallel driver, on one thread and on two, gives what the serial one gives."""
    kernel: Kernel = getattr(cpu.kernels, case.split()[0])
    if kernel.parallel is None:
        pytest.skip("kernels are not compiled")
    serial = HOT[case]()
    assert kernel.amount(list(serial.values())) >= kernel.grain, "too small for the pool"
    tries = [copied(serial) for _ in range(1, launch.pool.limit + 1)]
    kernel.serial(*serial.values())
    for threads, arguments in enumerate(tries, 1):
        launch.pool.threads = threads
        launch.pool.enter()
        kernel.parallel(*arguments.values())
        for key in kernel.spec.writes:
            assert serial[key].tobytes() == arguments[key].tobytes(), (key, threads)


@pytest.mark.slow
def test_a_training_step_has_the_same_bits_for_1_and_2_threads() -> None:
    """Through the public face: convolution-sized batch norm, wide products, softmax, reductions."""
    if launch.pool.limit < 2:
        pytest.skip("one processor")
    found = []
    for threads in (1, 2):
        tb.set_num_threads(threads)
        tb.manual_seed(0)
        x = tb.randn(64, 8, 20, 20, requires_grad=True)
        w, b = tb.randn(8, requires_grad=True), tb.randn(8, requires_grad=True)
        v = tb.randn(300, 3200, requires_grad=True)
        y, _ = batch_norm_train(x, w, b, activation="relu")
        hidden = tb.nn.functional.linear(y.flatten(1), v)
        flat, _ = batch_norm_train(hidden)
        out = tb.softmax(tb.dropout(flat, 0.3).tanh() @ tb.randn(300, 200), 1)
        out.backward(tb.randn(64, 200))
        tensors = [y, hidden, out, *[t.grad for t in (x, w, b, v)], flat.mean(0), x.var((0, 2, 3))]
        found.append([t.detach().numpy().tobytes() for t in tensors if t is not None])
    assert found[0] == found[1]
    assert len(found[0]) == 9


# ------------------------------------------------------------------------------------------------------------- accuracy


def ulps(got: Array, exact: Array) -> float:
    """The largest error in units of the last place of the exact value, in float32."""
    nearest = exact.astype(np.float32)
    with np.errstate(all="ignore"):
        unit = np.spacing(np.abs(nearest)).astype(np.float64)
        error = np.abs(got.astype(np.float64) - exact) / unit
    return float(error[np.isfinite(exact) & np.isfinite(nearest)].max())


@pytest.mark.parametrize(
    ("name", "low", "high", "exact", "limit"),
    [
        ("exp", -87.0, 88.7, np.exp, 2.0),
        ("exp", -1.0, 1.0, np.exp, 1.5),
        ("log", 1e-6, 1e6, np.log, 2.0),
        ("log", 0.5, 2.0, np.log, 2.0),
        ("tanh", -10.0, 10.0, np.tanh, 3.0),
        ("tanh", -0.7, 0.7, np.tanh, 2.0),
        ("erf", -4.0, 4.0, special.erf, 2.0),
        ("erf", -0.01, 0.01, special.erf, 1.5),
        ("expm1", -80.0, 88.0, np.expm1, 2.0),
        ("expm1", -0.5, 0.5, np.expm1, 2.0),
        ("log1p", -0.99, 10.0, np.log1p, 2.0),
        ("log1p", -1e-3, 1e-3, np.log1p, 2.0),
        ("gelu", -4.0, 9.0, lambda x: x * special.ndtr(x), 8.0),
        ("gelu", -12.0, -4.0, lambda x: x * special.ndtr(x), 20.0),
        ("silu", -80.0, 80.0, lambda x: x * special.expit(x), 4.0),
        ("mish", -80.0, 80.0, lambda x: x * np.tanh(np.logaddexp(0, x)), 6.0),
        ("logsigmoid", -80.0, 80.0, special.log_expit, 3.0),
        ("sigmoid", -80.0, 80.0, lambda x: 1 / (1 + np.exp(-x)), 4.0),
        ("sigmoid", -3.0, 3.0, lambda x: 1 / (1 + np.exp(-x)), 3.0),
    ],
)
def test_accuracy_of_float32_functions(
    name: str, low: float, high: float, exact: Callable[[Array], Array], limit: float
) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(low, high, 300_000).astype(np.float32)
    if name == "log" and high > 2:
        x = np.exp(rng.uniform(np.log(low), np.log(high), 300_000)).astype(np.float32)
    out = np.empty_like(x)
    getattr(cpu.kernels, name).serial(x, out)
    assert ulps(out, exact(x.astype(np.float64))) <= limit


def test_exp_goes_through_the_subnormals() -> None:
    x = np.linspace(-104.5, -87.0, 5000).astype(np.float32)
    out = np.empty_like(x)
    cpu.kernels.exp.serial(x, out)
    np.testing.assert_allclose(out, np.exp(x.astype(np.float64)), rtol=3e-7, atol=1.5e-45)


@pytest.mark.parametrize("shape", [(64, 5, 300), (3000, 20, 1), (4, 3, 5000)], ids=str)
@pytest.mark.parametrize("mean", [0.0, 1e2, 1e4, 1e6])
def test_accuracy_of_float32_statistics(mean: float, shape: tuple[int, int, int]) -> None:
    """At a mean of a million standard deviations the variance of the float32 values is right to 1e-6, the mean beyond
    float32's own last place; and so is what is normalised by them."""
    rng = np.random.default_rng(0)
    x = (mean + rng.standard_normal(shape)).astype(np.float32)
    c = shape[1]
    y, statistics = np.empty_like(x), np.empty((4, c), np.float32)
    none = np.empty(0, np.float32)
    cpu.kernels.batch_norm_train.serial(x, none, none, 1e-5, 0, 0, y, statistics, np.empty((c, 2, 3)))
    wide = x.astype(np.float64)
    m, v = wide.mean((0, 2)), wide.var((0, 2))
    np.testing.assert_allclose(statistics[2], v, rtol=1e-6)
    np.testing.assert_allclose(
        statistics[0].astype(np.float64) + statistics[1], m, rtol=0, atol=2e-7 * np.sqrt(v).max()
    )
    np.testing.assert_allclose(statistics[3], 1 / np.sqrt(v + 1e-5), rtol=1e-6)
    hat = (wide - m[:, None]) / np.sqrt(v + 1e-5)[:, None]
    np.testing.assert_allclose(y, hat, rtol=1e-6, atol=1e-6)


def test_accuracy_of_float32_sums() -> None:
    """A sum of a million numbers is as good as one in float64, rounded: along rows and along columns."""
    rng = np.random.default_rng(0)
    for shape in ((1, 1_000_000, 1), (1, 60_000, 16)):
        x = (rng.random(shape) + 1).astype(np.float32)
        out = np.empty((1, shape[2]), np.float32)
        cpu.kernels.sum.serial(x, 1.0, out)
        np.testing.assert_allclose(out, x.astype(np.float64).sum(1), rtol=3e-7)


def test_infinite_sums() -> None:
    x = np.ones((1, 70, 3), np.float32)
    x[0, 5, 0], x[0, 7, 1] = np.inf, np.nan
    x[0, 3, 2], x[0, 9, 2] = np.inf, -np.inf
    for width in (1, 3):
        out = np.empty((1, width), np.float32)
        cpu.kernels.sum.serial(np.ascontiguousarray(x[:, :, :width]), 1.0, out)
        assert out[0, 0] == np.inf
    assert np.isnan(out[0, 1:]).all()


# ------------------------------------------------------------------------------------------------------------- the door


def test_kernels_that_are_small_stay_on_the_calling_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    kernel = Kernel(
        "k",
        catalogue()["exp"][1],
        lambda x, out: calls.append("serial"),
        lambda x, out: calls.append("parallel"),
        "x",
        10,
    )
    monkeypatch.setattr(launch.pool, "threads", 2)
    monkeypatch.setattr(launch.pool, "enter", lambda: None)
    launch.launch(kernel, np.zeros(9), np.zeros(9))
    launch.launch(kernel, np.zeros(10), np.zeros(10))
    monkeypatch.setattr(launch.pool, "threads", 1)
    launch.launch(kernel, np.zeros(10), np.zeros(10))
    assert calls == ["serial", "parallel", "serial"]


def test_an_observer_sees_every_kernel() -> None:
    seen: list[str] = []

    def watch(kernel: Kernel, arguments: tuple[Any, ...], run: Callable[[], None]) -> None:
        seen.append(kernel.name)
        run()

    launch.observers.append(watch)
    try:
        y = tb.ones(3) + tb.ones(3)
        tb.exp(y)
    finally:
        launch.observers.remove(watch)
    assert seen == ["fill", "fill", "add", "exp"]
    assert y.tolist() == [2.0] * 3


def test_a_status_is_raised_once(device: str) -> None:
    x = tb.zeros(3, device=device)
    with pytest.raises(IndexError):
        x[tb.tensor([3])]
    assert not tb.zeros(1, device=device).device.status.any()
    assert x[tb.tensor([2])].tolist() == [0.0]


@pytest.mark.parametrize("n", [0, -1, 10_000, 1.0, True])
def test_numbers_of_threads(n: Any) -> None:
    with pytest.raises(ArgumentError, match=r"set_num_threads: 'n' must be an int from 1 to \d+\. Got "):
        tb.set_num_threads(n)


def test_set_num_threads() -> None:
    tb.set_num_threads(1)
    assert tb.get_num_threads() == 1
    assert float32.itemsize == 4
