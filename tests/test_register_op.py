"""``tb.register_op``: kernels of people's own as operations; what is checked when, and by ``check_op``."""

from __future__ import annotations

import copy
import doctest
import math
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

import tinygrad_bn as tb
from tinygrad_bn import errors
from tinygrad_bn.core.launch import observers, pool
from tinygrad_bn.ops import custom
from tinygrad_bn.testing import assert_close, check_op, own

Array = np.ndarray[Any, Any]
PAGE = Path(__file__).resolve().parents[1] / "docs" / "own-kernels.md"


@pytest.fixture(autouse=True)
def table_as_it_was() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    before = dict(custom.REGISTERED)
    yield
    custom.REGISTERED.clear()
    custom.REGISTERED.update(before)


def normal(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape)


# -------------------------------------------------------------------------------------------------- the kernels here


@njit
def rms_forward(x, weight, eps, y, scale):
    for i in range(x.shape[0]):
        total = 0.0
        for j in range(x.shape[1]):
            total += x[i, j] * x[i, j]
        scale[i] = 1.0 / math.sqrt(total / x.shape[1] + eps)
        for j in range(x.shape[1]):
            y[i, j] = x[i, j] * scale[i] * weight[j]


@njit
def rms_backward(gy, x, weight, scale, terms, gx, gweight):
    gweight[:] = 0.0
    n = x.shape[1]
    for i in range(x.shape[0]):
        for j in range(n):
            terms[j] = gy[i, j] * weight[j]
            gweight[j] += gy[i, j] * x[i, j] * scale[i]
        inner = 0.0
        for j in range(n):
            inner += terms[j] * x[i, j]
        for j in range(n):
            gx[i, j] = scale[i] * (terms[j] - x[i, j] * scale[i] * scale[i] * inner / n)


RMS: dict[str, Any] = {
    "inputs": {"x": None, "weight": lambda x: x[1:]},
    "scalars": {"eps": 1e-5},
    "outputs": {"y": "x", "scale": lambda x: x[:1]},
    "workspace": {"terms": "weight"},
    "returns": "y",
}
rms = tb.register_op("rms_of_tests", rms_forward, rms_backward, **RMS)


def power_forward(x, n, y):
    y[...] = x**n


def power_backward(gy, x, n, gx):
    gx[...] = n * x ** (n - 1) * gy


def power_backward_backward(dgx, gy, x, n, dgy, dx):
    dgy[...] = n * x ** (n - 1) * dgx
    dx[...] = n * (n - 1) * x ** (n - 2) * gy * dgx


def power_of(name: str) -> Any:
    back = tb.register_op(
        f"{name}_backward",
        power_backward,
        power_backward_backward,
        inputs="gy x",
        scalars="n",
        outputs="gx",
        prefix="d",
    )
    return tb.register_op(name, power_forward, back, inputs="x", scalars={"n": 2}, outputs="y")


# ------------------------------------------------------------------------------------------------------- generic suite


def rms_oracle(x: Array, weight: Array, eps: float = 1e-5) -> Array:
    return x / np.sqrt((x * x).mean(1, keepdims=True) + eps) * weight


def test_compiled_kernels() -> None:
    check_op(
        rms, [normal(3, 4), normal(4)], [normal(1, 1), normal(1), 0.1], [normal(0, 3), normal(3)], reference=rms_oracle
    )


def test_compiled_kernels_that_are_differentiated_once() -> None:
    assert rms.order == 1
    x, weight = tb.randn(2, 3, requires_grad=True), tb.ones(3)
    (g,) = tb.grad(rms(x, weight).sum(), x, create_graph=True)
    with pytest.raises(
        errors.GradientError, match="rms_of_tests: its backward is a kernel.*\nHint: register the backward"
    ):
        g.sum().backward()
    (again,) = tb.grad(rms(x, weight).sum(), x)
    assert g.tolist() == again.tolist()


def test_plain_python_kernels_twice_differentiable() -> None:
    power = power_of("power_of_tests")
    assert power.order == 2
    check_op(power, [normal(3, 4)], [1.0 + np.abs(normal(5)), 3], reference=lambda x, n=2: x**n)


def test_several_outputs_indices_and_scalars() -> None:
    """Each row's chosen element and the sum of the others; the choice has no gradient, and neither has the count."""

    @njit
    def forward(x, index, slope, chosen, rest, count):
        count[0] = x.shape[0]
        for i in range(x.shape[0]):
            chosen[i] = x[i, index[i]] * slope
            rest[i] = x[i].sum() - x[i, index[i]]

    @njit
    def backward(gchosen, grest, index, slope, gx):
        for i in range(gx.shape[0]):
            gx[i, :] = grest[i]
            gx[i, index[i]] = gchosen[i] * slope

    op = tb.register_op(
        "choose_of_tests",
        forward,
        backward,
        inputs={"x": None, "index": (lambda x: x[0], "int64")},
        scalars="slope",
        outputs={"chosen": lambda x: x[0], "rest": "chosen", "count": (lambda: 1, "int64")},
    )
    x, index = normal(3, 4), np.array([1, 0, 3])
    check_op(op, [x, index, 2.0], layouts=("permuted", "sliced"))
    t = tb.tensor(x, requires_grad=True)
    chosen, _, count = op(t, tb.tensor(index), 2.0)
    assert (count.dtype, count.tolist(), count.requires_grad) == (tb.int64, [3], False)
    chosen.sum().backward()  # no gradient arrives at the others
    want = np.zeros((3, 4))
    want[np.arange(3), index] = 2.0
    np.testing.assert_array_equal(t.grad.numpy(), want)


def test_an_output_that_is_saved_for_a_second_derivative() -> None:
    """y = e^x, gx = gy y: the second derivative goes through the saved output to x."""

    def forward(x, y):
        np.exp(x, out=y)

    def backward(gy, y, gx):
        np.multiply(gy, y, out=gx)

    def twice(dgx, gy, y, dgy, dy):
        np.multiply(dgx, y, out=dgy)
        np.multiply(dgx, gy, out=dy)

    back = tb.register_op("exp_backward_of_tests", backward, twice, inputs="gy y", outputs="gx", prefix="d")
    op = tb.register_op("exp_of_tests", forward, back, inputs="x", outputs="y")
    check_op(op, [normal(3, 4)], reference=np.exp)
    x = tb.randn(3, requires_grad=True)
    y = op(x)
    assert y.node.inputs[0].saved[0].array is y.array
    assert y.node.inputs[0].saved[0] is not y  # or it would keep itself alive


def test_the_output_that_is_saved_by_a_kernel() -> None:
    @njit
    def forward(x, y):
        for i in range(x.size):
            y.flat[i] = math.tanh(x.flat[i])

    @njit
    def backward(gy, y, gx):
        for i in range(y.size):
            gx.flat[i] = gy.flat[i] * (1 - y.flat[i] * y.flat[i])

    op = tb.register_op("tanh_of_tests", forward, backward, inputs="x", outputs="y")
    check_op(op, [normal(3, 4)], reference=np.tanh)
    x = tb.randn(3, requires_grad=True)
    y = op(x)
    with tb.no_grad():
        y.mul_(2.0)
    with pytest.raises(errors.SavedTensorError, match="tanh_of_tests: a tensor of shape .3,. that backward needs"):
        y.sum().backward()


@given(st.integers(0, 5), st.integers(1, 6), st.floats(1e-6, 1.0), st.booleans())
def test_problems_of_any_size(n: int, c: int, eps: float, swapped: bool) -> None:
    array = normal(c, n).T if swapped else normal(n, c)
    x, weight = tb.from_numpy(array), tb.from_numpy(normal(c))
    x.requires_grad = weight.requires_grad = True
    mean = (x * x).mean(1, keepdim=True)
    want = x / (mean + eps).sqrt() * weight
    out = rms(x, weight, eps)
    assert_close(out.detach().numpy(), want.detach().numpy(), 1e-12)
    cotangent = tb.from_numpy(normal(n, c))
    for ours, theirs in zip(tb.grad(out, (x, weight), cotangent), tb.grad(want, (x, weight), cotangent), strict=True):
        assert_close(ours.numpy(), theirs.numpy(), 1e-11)


def test_one_tensor_for_two_inputs() -> None:
    def forward(a, b, y):
        np.multiply(a, b, out=y)

    def backward(gy, a, b, ga, gb):
        ga[...] = gy * b
        gb[...] = gy * a

    op = tb.register_op("product_of_tests", forward, backward, inputs={"a": None, "b": "a"}, outputs="y")
    x = tb.tensor([2.0, 3.0], requires_grad=True)
    op(x, x).sum().backward()
    assert x.grad.tolist() == [4.0, 6.0]
    check_op(op, [normal(3), normal(3)], reference=np.multiply)


# ------------------------------------------------------------------------------------------------- what it is made of


def test_kernels_go_through_the_door_serially_with_their_declaration() -> None:
    seen: list[Any] = []

    def watch(kernel: Any, arguments: tuple[Any, ...], run: Callable[[], None]) -> None:
        seen.append((kernel, [getattr(a, "shape", a) for a in arguments]))
        run()

    x, weight = tb.randn(2, 3, requires_grad=True), tb.ones(3)
    cotangent = tb.ones(2, 3)
    observers.append(watch)
    try:
        rms(x, weight, eps=1).backward(cotangent)
    finally:
        observers.remove(watch)
    (forward, given), (backward, taken) = seen
    assert (forward.name, forward.spec.writes, forward.parallel) == ("rms_of_tests", ("y", "scale"), None)
    assert given == [(2, 3), (3,), 1.0, (2, 3), (2,)]
    assert (backward.name, backward.spec.writes) == ("rms_of_tests_backward", ("gx", "gweight"))
    assert (backward.spec.workspace, backward.parallel) == (("terms",), None)
    assert taken == [(2, 3), (2, 3), (3,), (2,), (3,), (2, 3), (3,)]


@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="nothing is compiled")
def test_ref_runs_python() -> None:
    names = rms.signature.kernels
    assert names["ref"].serial is not names["cpu"].serial
    assert power_of("power_of_tests").signature.kernels["ref"] is not None
    out = rms(tb.ones(2, 2, device="ref"), tb.ones(2, device="ref"))
    assert (str(out.device), out.dtype) == ("ref", tb.float32)


def test_no_grad_saves_nothing() -> None:
    x, weight = tb.randn(2, 3, requires_grad=True), tb.ones(3)
    with tb.no_grad():
        assert rms(x, weight).node is None
    assert rms(x.detach(), weight).node is None


def test_an_operation_without_backward() -> None:
    def forward(x, y):
        np.floor(x, out=y)

    op = tb.register_op("floor_of_tests", forward, inputs="x", outputs="y")
    assert op(tb.tensor([1.5])).tolist() == [1.0]
    assert op.order == 0
    check_op(op, [normal(4)], reference=np.floor, order=0)
    x = tb.tensor([1.5], requires_grad=True)
    with pytest.raises(errors.GradientError, match="floor_of_tests: no backward was registered.\nHint: pass a kernel"):
        op(x).sum().backward()


def test_nan_and_infinity_raise_nothing(device: str) -> None:
    def forward(x, y):
        np.divide(1.0, x, out=y)

    op = tb.register_op("inverse_of_tests", forward, inputs="x", outputs="y")
    np.testing.assert_array_equal(
        op(tb.tensor([0.0, math.nan, math.inf], device=device)).numpy(), [np.inf, np.nan, 0.0]
    )


# -------------------------------------------------------------------------------------------------------- registration


def copy_forward(x, y):
    y[...] = x


def copy_backward(gy, gx):
    gx[...] = gy


@njit(parallel=True)
def threads(x, y):
    y[...] = x


def register(**changes: Any) -> Any:
    given = {"forward": copy_forward, "backward": copy_backward, "inputs": "x", "outputs": "y"} | changes
    return tb.register_op(given.pop("name", "copy_of_tests"), given.pop("forward"), given.pop("backward"), **given)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"name": "tanh"}, "register_op: 'name' must be one that no operation has. Got 'tanh'."),
    ({"name": "rms_of_tests"}, "one that no operation has. Got 'rms_of_tests'.\nHint: pass replace=True"),
    ({"name": "a b"}, "register_op: 'name' must be a name, such as 'rms_norm'"),
    ({"name": 3}, "register_op: 'name' must be a name"),
    ({"forward": 3}, "'forward' must be a function, plain or compiled by njit. Got int."),
    ({"forward": threads}, "'forward' must be compiled without parallel=True. Got one that is.\nHint: leave out"),
    ({"forward": lambda x: None}, "'forward' must have a parameter named 'y'. Got (x)."),
    ({"forward": lambda y: None}, "'forward' must have a parameter named 'x'. Got (y)."),
    ({"forward": lambda x, y, z: None}, "'forward' must have parameters out of those declared: x, y. Got 'z'."),
    (
        {"forward": lambda x, y, z=1: None},
        "'forward' must be a kernel with plain parameters, without defaults. Got 'z=1'.",
    ),
    ({"forward": lambda *x: None}, "'forward' must be a kernel with plain parameters, without defaults. Got '*x'."),
    (
        {"backward": lambda gy, gx, z: None},
        "'backward' must have parameters out of those declared: gy, x, y, gx. Got 'z'.",
    ),
    ({"backward": lambda gy: None}, "a parameter named 'gx', the gradient of input 'x'. Got (gy).\nHint: or list 'x'"),
    (
        {"backward": lambda gx: None},
        "a parameter named 'gy', the gradient that arrives at output 'y'. Got (gx).\nHint: or",
    ),
    ({"inputs": ""}, "'inputs' must have at least one name. Got none."),
    ({"inputs": "x x"}, "'inputs' must be free of repeated names. Got x x."),
    ({"inputs": "x 1"}, "'inputs' must be made of names. Got '1'."),
    ({"inputs": "x y"}, "'y' must be one of inputs or outputs. Got both."),
    (
        {"inputs": "x gx"},
        "'gx' must be one of inputs or gradients, 'g' and a name,. Got both.\nHint: choose another prefix",
    ),
    ({"inputs": {"x": "w"}}, "inputs['x']' must be like one of x. Got 'w'."),
    ({"inputs": {"x": 3}}, "inputs['x']' must be the name of an argument, a function of shapes, or a pair"),
    ({"inputs": {"x": ("x", "float31")}}, "inputs['x']: 'dtype' must be one of"),
    ({"outputs": {"y": lambda w: w}}, "outputs['y']' must be a function of some of x, y. Got parameter 'w'."),
    ({"outputs": {"y": "z"}}, "outputs['y']' must be like one of x, y. Got 'z'."),
    ({"returns": "z"}, "'returns' must be names out of y. Got 'z'."),
    ({"nondifferentiable": "z"}, "'nondifferentiable' must be names out of x, y. Got 'z'."),
    ({"scalars": "a"}, "'forward' must have a parameter named 'a'. Got (x, y)."),
    ({"backward": rms}, "'backward' must have parameters out of those declared: gy, x, y, gx. Got 'weight'."),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[r[1][:50] for r in REFUSED])
def test_declarations_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.TinygradError, match=re.escape(message)):
        register(**changes)
    assert "copy_of_tests" not in custom.REGISTERED


def test_a_second_derivative_that_would_be_lost() -> None:
    """``inner`` is saved, but no gradient can reach it."""
    back = tb.register_op(
        "lost_backward_of_tests",
        lambda gy, inner, gx: None,
        lambda dgx, gy, inner, dgy, dinner: None,
        inputs="gy inner",
        outputs="gx",
        prefix="d",
    )
    with pytest.raises(errors.ArgumentError, match="second derivative is lost.\nHint: let backward take 'ginner'"):
        tb.register_op("lost_of_tests", lambda x, y, inner: None, back, inputs="x", outputs="y inner", returns="y")


def test_a_name_can_be_taken_over_on_purpose() -> None:
    first = register()
    assert register(replace=True) is not first
    with pytest.raises(errors.ArgumentError, match="one that no operation has"):
        register()


# -------------------------------------------------------------------------------------------------------------- calls

CALLS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: rms(tb.ones(2, 3)), errors.ArgumentError, "rms_of_tests: 'weight' must be given. Got nothing."),
    (lambda: rms(*[tb.ones(2)] * 4), errors.ArgumentError, "'args' must have 3 arguments at most. Got 4."),
    (lambda: rms(tb.ones(2, 3), x=1), errors.ArgumentError, "'x' must be given once. Got it twice."),
    (
        lambda: rms(tb.ones(2, 3), tb.ones(3), e=1),
        errors.ArgumentError,
        "'e' must be one of x, weight, eps. Got another",
    ),
    (lambda: rms([1.0], tb.ones(3)), errors.DTypeError, "'x' must be a Tensor. Got list.\nHint: convert it"),
    (lambda: rms(tb.ones(2, 3), tb.ones(3), "a"), errors.DTypeError, "'eps' must be a number. Got str."),
    (lambda: rms(tb.ones(2, 3), tb.ones(4)), errors.ShapeError, "'weight' must have shape (3,). Got (4,)."),
    (
        lambda: rms(tb.ones(2, 3), tb.ones(3, dtype=tb.float64)),
        errors.DTypeError,
        "'weight' must have dtype float32, as 'x' has. Got float64.",
    ),
    (
        lambda: rms(tb.ones(2, 3, dtype=tb.int64), tb.ones(3)),
        errors.DTypeError,
        "'x' must be a floating-point tensor. Got",
    ),
    (lambda: rms(tb.ones(2, 3), tb.ones(3, device="ref")), errors.DeviceError, "'weight' must be on device cpu"),
]


@pytest.mark.parametrize(("call", "error", "message"), CALLS, ids=[c[2][:40] for c in CALLS])
def test_wrong_calls(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_a_declared_dtype_and_a_whole_scalar() -> None:
    op = tb.register_op(
        "take_of_tests",
        lambda x, i, n, y: y.__setitem__(..., x[i + n]),
        inputs={"x": None, "i": (None, "int64")},
        scalars={"n": 0},
        outputs={"y": ("i", "x")},
    )
    x = tb.tensor([1.0, 2.0, 3.0])
    assert op(x, tb.tensor([0, 1]), 1.0).tolist() == [2.0, 3.0]
    with pytest.raises(errors.DTypeError, match="take_of_tests: 'i' must have dtype int64. Got int32"):
        op(x, tb.tensor([0], dtype=tb.int32))
    with pytest.raises(errors.DTypeError, match="'n' must be a whole number. Got 0.5"):
        op(x, tb.tensor([0]), 0.5)


def test_a_shape_function_that_returns_no_shape() -> None:
    op = register(outputs={"y": lambda x: "a"})
    with pytest.raises(
        errors.ArgumentError, match="'y' must be declared with a function that returns a shape. Got 'a'"
    ):
        op(tb.ones(2))


def test_a_kernel_that_returns_something() -> None:
    op = register(forward=lambda x, y: x + 1)
    with pytest.raises(
        errors.ArgumentError, match="'kernel' must be a function that returns nothing.*\nHint: write into"
    ):
        op(tb.ones(2))


# ----------------------------------------------------------------------------------------------- what check_op notices


def halfway(x, y):
    y[: len(x) // 2] = x[: len(x) // 2]


def adding(gy, gx):
    gx += gy


def spoiling(x, y):
    y[...] = x
    x[0] = 7.0


def swallowing(x, y):
    y[...] = np.nan_to_num(x)


def counting(x, y):
    y[...] = x * tb.get_num_threads()


SPOILT: list[tuple[dict[str, Any], str]] = [
    ({"forward": halfway}, "a kernel uses what its results or workspace held before, or leaves some of it"),
    ({"backward": adding}, "a kernel uses what its results or workspace held before, or leaves some of it"),
    ({"forward": spoiling}, "kernel copy_of_tests changed 'x', which it only reads"),
    ({"forward": swallowing}, "a NaN in input 0 must show in the outputs"),
]


@pytest.mark.parametrize(("changes", "message"), SPOILT, ids=["forward", "backward", "input", "nan"])
def test_check_op_notices_what_kernels_do_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AssertionError, match=f"check_op on cpu in float32: {message}"):
        check_op(register(**changes), [np.ones(4)], reference=lambda x: x)


@pytest.mark.skipif(pool.limit == 1, reason="one processor")
def test_check_op_notices_what_depends_on_threads() -> None:
    op = register(forward=counting)
    with pytest.raises(AssertionError, match="here: results depend on the number of threads"):
        own.check_threads(op, op, [np.ones(4)], "cpu", 0, "here")


def test_check_op_notices_a_wrong_gradient() -> None:
    def wrong(gy, gx):
        gx[...] = 1.01 * gy

    with pytest.raises(AssertionError, match="check_vjp: the first derivative is wrong"):
        check_op(register(backward=wrong), [np.ones(4)])


def test_check_op_needs_a_sample() -> None:
    with pytest.raises(errors.ArgumentError, match="check_op: 'samples' must have at least one sequence"):
        check_op(rms)


# ---------------------------------------------------------------------------------------------- copies, other processes


class Layer(tb.nn.Module):
    """A layer that holds an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = tb.nn.Parameter(tb.randn(3))
        self.norm = rms

    def forward(self, x: tb.Tensor) -> tb.Tensor:
        return self.norm(x, self.weight)


def test_modules_that_hold_operations_are_copied_and_pickled() -> None:
    layer, x = Layer(), tb.randn(4, 3)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin.norm is rms
        assert twin(x).tolist() == layer(x).tolist()


MODULE = """
import numpy as np
import tinygrad_bn as tb

def forward(x, y):
    np.multiply(x, 3.0, out=y)

triple = tb.register_op("triple_elsewhere", forward, inputs="x", outputs="y")
"""


def test_another_process_finds_the_operation_by_its_module(tmp_path: Path) -> None:
    (tmp_path / "triples.py").write_text(MODULE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])}

    def process(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    process("import pickle, triples; pickle.dump(triples.triple, open('op', 'wb'))")
    code = "import pickle, tinygrad_bn as tb; print(pickle.load(open('op', 'rb'))(tb.ones(2)).tolist())"
    assert process(code) == "[3.0, 3.0]\n"


def test_the_docstring() -> None:
    found = doctest.testmod(custom)
    assert found.failed == 0
    assert found.attempted > 5


# ------------------------------------------------------------------------------------------------------------ the page


def test_the_page_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As one program, from a file: functions are read from their source."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 4
    program = tmp_path / "own_kernels.py"
    program.write_text("\n".join(blocks))
    names: dict[str, Any] = {"__name__": "own_kernels"}
    exec(compile(program.read_text(), str(program), "exec"), names)
    assert names["losses"][-1] < 0.5 * names["losses"][0]
