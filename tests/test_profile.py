"""The profiler: what it counts is what was done, it adds up, and nothing of it is left behind."""

from __future__ import annotations

import doctest
import json
import re
import threading
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.core import tape, watch
from tinygrad_bn.core.launch import observers
from tinygrad_bn.errors import ArgumentError
from tinygrad_bn.kernels import catalogue
from tinygrad_bn.profiler import Limits, _counts, _figure, _machine, record_function

F = tb.functional
PAGE = Path(__file__).resolve().parents[1] / "docs" / "profiling.md"
LIMITS = Limits(1, 1e9, {1 << 15: 4e9, 1 << 26: 1e9})


class Net(tb.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = tb.nn.Sequential(tb.nn.Linear(8, 16, bias=False), tb.nn.BatchNorm1d(16), tb.nn.ReLU())
        self.act = tb.nn.Tanh()
        self.head = tb.nn.Linear(16, 4)

    def forward(self, x: tb.Tensor) -> tb.Tensor:
        return self.head(self.act(self.body(x)))


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is always the same, and takes no time to measure."""
    monkeypatch.setattr(_machine, "limits", lambda: LIMITS)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Any:
    call, number = tb.nn.Module.__call__, tape._sequence
    yield
    assert tb.nn.Module.__call__ is call
    assert tape._sequence is number
    assert watch.watchers == []
    assert observers == []


def by(p: tb.profile, what: str) -> dict[str, Any]:
    return {row.name: row for row in p.rows(what)}


def step(net: tb.nn.Module, x: tb.Tensor, optimiser: Any = None) -> None:
    net.zero_grad()
    F.cross_entropy(net(x), tb.zeros(x.shape[0], dtype=tb.int64)).backward()
    if optimiser is not None:
        optimiser.step()


# ---------------------------------------------------------------------------------------------------------- counting


def test_calls_and_launches() -> None:
    net, x = Net(), tb.randn(32, 8)
    with tb.profile() as p:
        for _ in range(3):
            step(net, x)
    ops, layers, kernels = by(p, "op"), by(p, "layer"), by(p, "kernel")
    for name in ("linear_batch_norm", "tanh", "linear", "linear.backward", "tanh.backward"):
        assert ops[name].calls == 3, name
        assert ops[name].launches == 3, name
    assert kernels["linear"].calls == 3
    assert kernels["batch_norm_update"].calls == 3
    assert {n: r.calls for n, r in layers.items()} == {
        "Net": 3, "Net.body": 3, "Net.body.0+1": 3, "Net.act": 3, "Net.head": 3, "(outside layers)": 0,
    }  # fmt: skip


def test_everything_adds_up() -> None:
    net, x = Net(), tb.randn(32, 8)
    with tb.profile() as p:
        step(net, x)
        sleep(0.01)
        step(net, x)
    found = p.to_dict()
    assert found["wall_time"] == pytest.approx(found["kernel_time"] + found["python_time"])
    assert found["python_time"] > 0.01
    for what in ("by_op", "by_layer"):
        assert sum(r["total"] for r in found[what]) == pytest.approx(found["wall_time"], rel=0.01, abs=5e-5)
    for key in ("time", "flops", "nbytes", "launches", "floor", "backward_time"):
        sums = [sum(r[key] for r in found[what]) for what in ("by_op", "by_layer", "by_kernel")]
        assert sums == pytest.approx([sums[0]] * 3)
        assert sums[0] > 0
    assert json.loads(json.dumps(found)) == found


def test_backward_belongs_to_the_layer_of_its_forward() -> None:
    net, x = Net(), tb.randn(32, 8)
    with tb.profile() as p:
        step(net, x)
    layers = by(p, "layer")
    for name in ("Net.body.0+1", "Net.act", "Net.head"):
        assert 0 < layers[name].backward_time < layers[name].time
    assert layers["Net"].backward_time == 0
    with tb.profile():
        y = net(x)
    with tb.profile() as p:
        y.sum().backward()
    assert "Net.act" in by(p, "layer")
    y = net(x)
    with tb.profile() as p:
        y.sum().backward()
    assert set(by(p, "layer")) == {"(outside layers)"}  # recorded while nobody watched
    assert by(p, "op")["Linear.backward"].calls == 1


def test_the_layers_of_an_unregistered_call_are_named() -> None:
    layer, other = tb.nn.Linear(4, 4), tb.nn.Sigmoid()
    x = tb.randn(3, 4)

    class Odd(tb.nn.Module):
        def forward(self, x: tb.Tensor) -> tb.Tensor:
            return other(layer.forward(x))

    with tb.profile() as p:
        Odd()(x)
        layer(x)
    assert {"Odd.Linear", "Odd.Sigmoid", "Linear"} <= set(by(p, "layer"))


def test_optimisers_and_helpers_have_names() -> None:
    net, x = Net(), tb.randn(32, 8)
    optimiser = tb.optim.Adam(net.parameters())
    with tb.profile() as p:
        step(net, x, optimiser)
        tb.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    ops = by(p, "op")
    assert ops["Adam.step"].calls == 1
    assert "clip_grad_norm_" in ops
    assert "commit" in ops
    size = sum(q.numel() for q in net.parameters())
    assert by(p, "kernel")["adam"].flops == 14 * size


@pytest.mark.parametrize("algorithm", ["direct", "winograd", "im2col"])
def test_operations_of_a_convolution_do_not_depend_on_the_algorithm(algorithm: str) -> None:
    x, w = tb.randn(2, 8, 12, 12), tb.randn(16, 8, 3, 3)
    for t in (x, w):
        t.requires_grad = True
    before = tb.backends.cpu.conv_algorithm
    tb.backends.cpu.conv_algorithm = algorithm
    try:
        with tb.profile() as p:
            y = tb.conv2d(x, w, padding=1)
            y.backward(tb.ones(*y.shape))
    finally:
        tb.backends.cpu.conv_algorithm = before
    once = 2 * y.numel() * 8 * 9
    ops = by(p, "op")
    assert once <= ops["convolution"].flops <= 1.5 * once
    assert 2 * once <= sum(r.flops for n, r in ops.items() if n.endswith(".backward")) <= 2.6 * once


@pytest.mark.parametrize("place", ["cpu", "ref"])
def test_operations_and_bytes(place: str) -> None:
    def randn(*shape: int) -> tb.Tensor:
        return tb.randn(*shape, device=place)

    a, b, row, v = randn(7, 5), randn(5, 9), randn(9), randn(6, 1, 9).expand(6, 4, 9)
    with tb.profile() as p:
        c = a @ b
        c + row
        v.exp()
        b.t() @ a.t()
        randn(3, 7, 5) @ randn(3, 5, 2)
        F.linear(a, randn(4, 5), randn(4))
        a.sum()
        c.clone()
    done = [(e.name, e.flops, e.nbytes) for e in p._record.launches if e.name not in ("normal", "take_words")]
    products = [e for e in done if e[0].startswith("matmul")]
    assert products[0] == ("matmul_nn", 2 * 7 * 5 * 9, 4 * (35 + 45 + 63))
    assert products[1][1] == 2 * 7 * 5 * 9
    assert products[2][1:] == (2 * 3 * 7 * 5 * 2, 4 * (105 + 30 + 42))
    assert ("add", 63, 4 * (63 + 9 + 63)) in done
    assert ("copy", 0, 4 * (54 + 216)) in done  # expanded: one row is read four times
    assert ("linear", 2 * 7 * 5 * 4 + 28, 4 * (35 + 20 + 4 + 28)) in done
    assert ("copy", 0, 4 * 126) in done


def test_the_table_of_operations_names_kernels_that_exist() -> None:
    assert {*_counts.COUNTERS, *_counts.MOVES, *_counts.PICKED, *_counts.PUT} <= set(catalogue())


def test_the_floor() -> None:
    assert LIMITS.floor(2e9, 0) == 2.0
    assert LIMITS.floor(2e9, 0, wide=True) == 4.0
    assert LIMITS.floor(0, 1 << 15) == pytest.approx((1 << 15) / 4e9)
    assert LIMITS.floor(0, 1 << 28) == pytest.approx((1 << 28) / 1e9)
    x = tb.randn(64, 64, dtype=tb.float64)
    with tb.profile() as p:
        x @ x
    (row,) = p.rows("kernel")
    assert row.floor == pytest.approx(2 * 2 * 64**3 / 1e9)
    assert row.fraction == pytest.approx(row.floor / row.time)


def test_the_machine_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    found = _machine.limits()
    assert found is _machine.limits()
    assert found.threads == tb.get_num_threads()
    assert found.flops > 1e7
    assert all(rate > 1e6 for rate in found.copies.values())
    assert found.bandwidth(1) == found.copies[min(found.copies)]


def test_a_failing_kernel_and_a_failing_layer_are_noted() -> None:
    class Fails(tb.nn.Module):
        def forward(self, x: tb.Tensor) -> tb.Tensor:
            x.exp()
            raise ValueError("mine")

    x = tb.ones(3)
    with tb.profile() as p:
        with pytest.raises(ValueError, match="mine"):
            Fails()(x)
        with pytest.raises(IndexError):
            x[tb.tensor([7])]
        x.tanh()
    layers = by(p, "layer")
    assert layers["Fails"].calls == 1
    assert layers["(outside layers)"].launches >= 2
    assert by(p, "op")["tanh"].calls == 1
    with pytest.raises(ZeroDivisionError), tb.profile() as p:
        raise ZeroDivisionError(x.exp())
    assert by(p, "op")["exp"].calls == 1


def test_blocks_nest_and_cross() -> None:
    x, outer, inner = tb.ones(3), tb.profile(), tb.profile()
    with outer:
        x.exp()
        with inner:
            x.tanh()
        x.exp()
    assert {n: r.calls for n, r in by(outer, "kernel").items()} == {"exp": 2, "tanh": 1}
    assert {n: r.calls for n, r in by(inner, "kernel").items()} == {"tanh": 1}
    assert 0 < inner.wall_time < outer.wall_time
    outer.__enter__()
    inner.__enter__()
    x.exp()
    outer.__exit__(None, None, None)
    x.tanh()
    inner.__exit__(None, None, None)
    assert set(by(outer, "kernel")) == {"exp"}
    assert set(by(inner, "kernel")) == {"exp", "tanh"}
    with outer, pytest.raises(ArgumentError, match="being taken already"):
        outer.__enter__()


def test_a_block_may_begin_or_end_within_a_layer() -> None:
    p = tb.profile()

    class Begins(tb.nn.Module):
        def forward(self, x: tb.Tensor) -> tb.Tensor:
            p.__enter__()
            return x.exp()

    class Ends(tb.nn.Module):
        def forward(self, x: tb.Tensor) -> tb.Tensor:
            y = x.tanh()
            p.__exit__(None, None, None)
            return y.exp()

    Ends()(Begins()(tb.ones(3)))
    assert {n: r.launches for n, r in by(p, "layer").items() if r.launches} == {"Begins": 1, "Ends": 1}
    assert {n: r.calls for n, r in by(p, "kernel").items()} == {"exp": 1, "tanh": 1}


def test_other_threads_are_noted_as_such() -> None:
    net, x = Net(), tb.randn(32, 8)

    barrier = threading.Barrier(2)

    def work() -> None:
        for _ in range(5):
            barrier.wait()
            step(net, x)

    with tb.profile() as p:
        threads = [threading.Thread(target=work) for _ in range(2)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        x.exp()
    assert by(p, "op")["linear"].calls == 10
    assert by(p, "layer")["Net.head"].calls == 10
    assert len({e.thread for e in p._record.launches}) == 3
    assert p.kernel_time == pytest.approx(by(p, "kernel")["exp"].time)
    for what in ("op", "layer"):
        assert sum(r.python for r in p.rows(what)) == pytest.approx(p.python_time, rel=0.01, abs=5e-5)


def test_results_are_as_without() -> None:
    def slopes() -> list[Any]:
        tb.manual_seed(0)
        net = Net()
        optimiser = tb.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            step(net, tb.randn(16, 8), optimiser)
        return [p.detach().numpy() for p in net.parameters()] + [b.numpy() for b in net.buffers()]

    want = slopes()
    with tb.profile(), tb.detect_anomaly(), tb.profile():
        found = slopes()
    for a, b in zip(found, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_checkpoint_counts_for_the_layers_that_it_runs_again() -> None:
    net, x = Net(), tb.randn(32, 8)
    wrapped = tb.nn.Sequential(net)

    class Checked(tb.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: tb.Tensor) -> tb.Tensor:
            return tb.checkpoint(self.net, x)

    del wrapped
    with tb.profile() as p:
        Checked()(x).sum().backward()
    layers, ops = by(p, "layer"), by(p, "op")
    assert layers["Checked.net.head"].calls == 2
    assert layers["Checked.net.body.0+1"].launches == 4  # forward and commit, forward again, backward
    assert ops["linear"].calls == 2
    assert ops["linear.backward"].calls == 1
    assert by(p, "kernel")["batch_norm_update"].calls == 1


# ------------------------------------------------------------------------------------------------------------- output


def test_tables() -> None:
    net, x = Net(), tb.randn(32, 8)
    with tb.profile() as p:
        step(net, x)
    text = str(p)
    assert text.splitlines()[0].split()[:2] == ["operation", "calls"]
    assert "linear_batch_norm.backward" in text
    assert re.search(r"ms, of these .* in \d+ kernels and .* in Python", text)
    assert "Net.body.0+1" in p.table("layer")
    short = p.table("kernel", sort="flops", row_limit=2).splitlines()
    assert [line.split()[0] for line in short[2:4]] == ["linear_batch_norm_backward", "linear_batch_norm"]
    assert re.match(r"\(\d+ more\)", short[4])
    names = [r.name for r in p.rows("op", sort="name")]
    assert names == sorted(names)
    for sort in ("time", "python", "calls", "bytes", "fraction", "launches", "total"):
        values = [getattr(r, {"bytes": "nbytes"}.get(sort, sort)) for r in p.rows(sort=sort)]
        assert values == sorted(values, reverse=True)
    with pytest.raises(ArgumentError, match="'by' must be one of 'op', 'layer', 'kernel'"):
        p.table("module")
    with pytest.raises(ArgumentError, match="'sort' must be one of"):
        p.table(sort="beauty")


def test_an_empty_profile(tmp_path: Path) -> None:
    p = tb.profile()
    assert p.wall_time == p.kernel_time == p.python_time == 0
    assert p.rows() == []
    with p:
        pass
    assert p.kernel_time == 0
    assert "0 kernels" in str(p)
    p.export_chrome_trace(tmp_path / "trace.json")
    p.figure(tmp_path / "figure.png")
    assert p.to_dict()["by_kernel"] == []


def test_reading_within_the_block() -> None:
    with tb.profile() as p:
        tb.ones(3).exp()
        assert "exp" in str(p)
        assert by(p, "kernel")["exp"].calls == 1
        tb.ones(3).exp()
    assert by(p, "kernel")["exp"].calls == 2


def test_the_trace_nests_layers_operations_and_kernels(tmp_path: Path) -> None:
    net, x = Net(), tb.randn(32, 8)
    with tb.profile() as p, record_function("mine"):
        step(net, x)
        step(net, x)
    with record_function("outside"):
        pass
    path = tmp_path / "trace.json"
    p.export_chrome_trace(path)
    events = [e for e in json.loads(path.read_text())["traceEvents"] if e["ph"] == "X"]
    assert {e["cat"] for e in events} == {"range", "layer", "op", "kernel"}
    assert [e["name"] for e in events if e["cat"] == "range"] == ["profile", "mine"]
    assert all(e["dur"] >= 0 and e["ts"] >= 0 for e in events)

    open_: list[dict[str, Any]] = []
    around: dict[int, list[str]] = {}
    for e in events:  # in the order of their beginnings, outer ones first
        while open_ and open_[-1]["ts"] + open_[-1]["dur"] <= e["ts"]:
            open_.pop()
        if open_:
            assert e["ts"] + e["dur"] <= open_[-1]["ts"] + open_[-1]["dur"] + 1e-6, (e, open_[-1])
        around[id(e)] = [o["cat"] for o in open_]
        open_.append(e)
    kernels = [e for e in events if e["cat"] == "kernel"]
    for e in kernels:
        if e["args"]["layer"]:
            assert around[id(e)][-2:] == ["layer", "op"], e
        else:
            assert around[id(e)][-1:] == ["op"]
    names = {e["name"] for e in events if e["cat"] == "layer"}
    assert {"Net", "Net.act", "Net.body.0+1", "Net.act (backward)", "Net.body.0+1 (backward)"} <= names
    assert sum(e["name"] == "Net.act (backward)" for e in events) == 2
    assert all({"flops", "bytes", "op", "fraction_of_floor"} <= set(e["args"]) for e in kernels)


def test_the_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = Net(), tb.randn(32, 8)
    with tb.profile() as p:
        step(net, x)
    for what in ("op", "layer", "kernel"):
        path = tmp_path / f"{what}.png"
        p.figure(path, by=what)
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(_figure.FigureError, match="needs matplotlib"):
        p.figure(tmp_path / "none.png")


def test_the_page_runs() -> None:
    found = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 10
    assert found.failed == 0
