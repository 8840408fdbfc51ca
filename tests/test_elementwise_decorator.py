"""``tb.elementwise``: scalar Python functions as operations; their derivatives of any order; what cannot be one."""

from __future__ import annotations

import copy
import doctest
import itertools
import linecache
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_bn as tb
from tinygrad_bn import errors
from tinygrad_bn.core.launch import observers
from tinygrad_bn.kernels.cpu.program import source
from tinygrad_bn.kernels.formula import Formula, written
from tinygrad_bn.kernels.program import Program
from tinygrad_bn.kernels.ref.program import evaluator
from tinygrad_bn.testing import assert_close, check_op, check_vjp

Array = np.ndarray[Any, Any]
SLOPE = 0.25


@tb.elementwise
def swish(x, beta=1.0):
    """x / (1 + e^(-beta x))."""
    return x / (1.0 + math.exp(-beta * x))


@tb.elementwise
def leaky(x):
    return x if x > 0 else SLOPE * x


@tb.elementwise
def bump(x, y):
    r = x * x + y * y
    if r >= 1.0:
        return 0.0
    return math.exp(-1.0 / (1.0 - r))


@tb.elementwise
def gate(x, y, *, sharpness):
    """Two results."""
    s = 1 / (1 + np.exp(-sharpness * y))
    return x * s, s


@tb.elementwise(derivative=lambda x, y: (2 * x * y, x**2))
def own(x, y):
    return x**2 * y


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def away(shape: tuple[int, ...], *kinks: float) -> Array:
    """Normal numbers further than 0.05 from kinks."""
    x = rng().standard_normal(shape)
    for k in kinks:
        x = np.where(np.abs(x - k) < 0.05, x + 0.2, x)
    return x


@contextmanager
def launches() -> Iterator[list[str]]:
    """The names of the kernels that are launched."""
    seen: list[str] = []

    def watch(kernel: Any, arguments: Any, run: Callable[[], None]) -> None:
        seen.append(kernel.name)
        run()

    observers.append(watch)
    try:
        yield seen
    finally:
        observers.remove(watch)


# -------------------------------------------------------------------------------------------------------- generic suite


def test_one_operand() -> None:
    check_op(swish, [away((3, 4))], [away((5,)), 1.7], reference=lambda x, b=1.0: x / (1 + np.exp(-b * x)))


def test_a_kink() -> None:
    check_op(leaky, [away((3, 4), 0.0)], reference=lambda x: np.where(x > 0, x, 0.25 * x))


def test_two_operands_broadcast() -> None:
    x, y = away((2, 3, 4)) * 0.4, away((3, 1)) * 0.4
    check_op(bump, [x, y], layouts=("permuted", "sliced"))


def test_a_nan_that_is_swallowed_is_noticed() -> None:
    swallowing = tb.elementwise(lambda x: x if x > 0 else 0.0)
    with pytest.raises(AssertionError, match="a NaN in input 0 must show in the outputs .or pass nan=False"):
        check_op(swallowing, [away((3,), 0.0)], devices=("ref",), layouts=())
    check_op(swallowing, [away((3,), 0.0)], devices=("ref",), layouts=(), nan=False)


def test_several_results() -> None:
    check_op(lambda x, y: gate(x, y, sharpness=2.0), [away((3, 4)), away((4,))])


def test_a_derivative_of_ones_own() -> None:
    check_op(own, [away((3, 4)), away((4,))], reference=lambda x, y: x**2 * y)


def test_a_derivative_of_ones_own_is_what_is_used() -> None:
    odd = tb.elementwise(lambda x: 2 * x, derivative=lambda x: 7 * x)
    x = tb.tensor([1.0, 3.0], requires_grad=True)
    odd(x).sum().backward()
    assert x.grad.tolist() == [7.0, 21.0]


@tb.elementwise
def everywhere(x):
    """Functions that are smooth on (-0.9, 0.9)."""
    a = math.sin(x), math.cos(x), math.tan(x), math.sinh(x), math.cosh(x), math.tanh(x), math.asin(x), math.acos(x)
    b = math.atan(x), math.asinh(x), math.atanh(x), math.exp(x), math.expm1(x), math.log1p(x), math.erf(x), math.erfc(x)
    c = np.exp2(x), abs(x), math.fabs(x), x**3, x**-2, +x, float(x), np.square(x), max(x, -0.5 * x, 0.3 * x)
    return *a, *b, *c


@tb.elementwise
def above_one(x, y):
    """Functions that are smooth for x > 1 and y > 0.5."""
    a = math.log(x), math.log2(x), math.log10(x), math.sqrt(x), math.acosh(x), x**2.5, pow(x, y), np.power(y, x)
    b = math.atan2(y, x), math.hypot(x, y), math.copysign(x, -y), math.fmod(x, 1.9 * y), x % (1.9 * y)
    steps = math.floor(x) + math.ceil(y) + np.rint(x) + math.trunc(x) + x // y + np.sign(y)
    return *a, *b, steps, min(x, 3 * y), np.where(x > 2.0 and y > 0.7, x, y)


def test_every_function_of_one_number() -> None:
    x = np.array([-0.83, -0.41, 0.17, 0.64])

    def reference(x: Array) -> list[Array]:
        erf = np.vectorize(math.erf)(x)
        a = [np.sin(x), np.cos(x), np.tan(x), np.sinh(x), np.cosh(x), np.tanh(x), np.arcsin(x), np.arccos(x)]
        b = [np.arctan(x), np.arcsinh(x), np.arctanh(x), np.exp(x), np.expm1(x), np.log1p(x), erf, 1 - erf]
        larger = np.maximum(np.maximum(x, -0.5 * x), 0.3 * x)
        return [*a, *b, np.exp2(x), np.abs(x), np.abs(x), x**3, x**-2, x, x, x * x, larger]

    check_op(everywhere, [x], reference=reference, layouts=(), rtol=1e-5)


def test_every_function_of_numbers_above_one() -> None:
    x, y = np.array([1.27, 2.31, 3.44]), np.array([0.62, 0.81, 1.36])

    def reference(x: Array, y: Array) -> list[Array]:
        a = [np.log(x), np.log2(x), np.log10(x), np.sqrt(x), np.arccosh(x), x**2.5, x**y, y**x]
        b = [np.arctan2(y, x), np.hypot(x, y), -x, np.fmod(x, 1.9 * y), np.mod(x, 1.9 * y)]
        steps = np.floor(x) + np.ceil(y) + np.rint(x) + np.trunc(x) + x // y + np.sign(y)
        return [*a, *b, steps, np.minimum(x, 3 * y), np.where((x > 2) & (y > 0.7), x, y)]

    check_op(above_one, [x, y], reference=reference, layouts=(), rtol=1e-5)


# --------------------------------------------------------------------------------------------------- random expressions

_numbered = itertools.count()


def function_of(text: str, **around: Any) -> Any:
    """A function from source, in a file that exists in memory."""
    name = f"<expression {next(_numbered)}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    names: dict[str, Any] = {"math": math, "np": np, "tb": tb, **around}
    exec(compile(text, name, "exec"), names)
    return names["f"]


def leaves() -> st.SearchStrategy[str]:
    return st.sampled_from(["x", "y", "s", "0.5", "2", "c"])


def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    one = st.sampled_from(
        ["math.sin({})", "math.exp(-abs({}))", "math.tanh({})", "abs({})", "-{}", "({}) ** 2", "h({})"]
    )
    two = st.sampled_from(
        ["({} + {})", "({} - {})", "({} * {})", "({} / {})", "max({}, {})", "min({}, {})", "math.atan2({}, {})"]
    )
    four = st.sampled_from(["({} if {} < {} else {})", "({} if not {} >= {} else {})"])
    return st.one_of(
        st.builds(lambda t, a: t.format(a), one, inner),
        st.builds(lambda t, a, b: t.format(a, b), two, inner, inner),
        st.builds(lambda t, a, b, c, d: t.format(a, b, c, d), four, inner, inner, inner, inner),
    )


expressions = st.recursive(leaves(), larger, max_leaves=12)
numbers = st.floats(-3, 3).filter(lambda v: v == 0 or abs(v) > 1e-3)
TEXT = """
c = 1.5
def h(z):
    return z / (1 + z * z)
def f(x, y, s=2.0):
    t = {}
    if x > y:
        t = t + {}
    else:
        t -= x
    for k in (1.0, 0.5):
        t = t * k + y
    return t, {} * x
"""


def run(program: Program, operands: list[float], settings: list[float]) -> list[float]:
    """The generated scalar function, as Python."""
    text = source("f", program, (True,) * program.operands)
    body = text[text.index("def scalar") : text.index("\n\n\n@jit()\ndef flat")]
    quiet = {"math": np, "special": np, "np": np, "library": math}
    exec(body, quiet)
    with np.errstate(all="ignore"):
        found = quiet["scalar"](*[np.float64(v) for v in (*operands, *settings)])
    return list(found) if isinstance(found, tuple) else [found]


def agree(formula: Formula, operands: list[float], settings: list[float]) -> None:
    ours = run(formula.program, operands, settings)
    with np.errstate(all="ignore"):
        theirs = evaluator(formula)([np.float64(v) for v in operands], [np.float64(v) for v in settings])
    size = max([1.0, *[abs(v) for v in theirs if np.isfinite(v)]])
    np.testing.assert_allclose(ours, np.array(theirs, np.float64), rtol=1e-9, atol=1e-9 * size)


@pytest.mark.jit_off
@given(expressions, expressions, expressions, numbers, numbers, numbers, numbers, numbers)
def test_programs_compute_what_python_does(
    a: str, b: str, c: str, x: float, y: float, s: float, g: float, h: float
) -> None:
    """A function's program, and those of its first and second derivatives, against Python and dual numbers."""
    formula = written("f", function_of(TEXT.format(a, b, c)), 2, ("s",), None)
    agree(formula, [x, y], [s])
    first, used = formula.gradient((0, 1), (0, 1))
    operands = [g, h, *[(x, y)[i] for i in used]]
    agree(first, operands, [s])
    second, used = first.gradient((0,), (0, 1))
    agree(second, [h, g, *[operands[i] for i in used]], [s])


# ---------------------------------------------------------------------------------------------------- shapes and dtypes


@tb.elementwise
def mixed(x, y, z):
    return x * y - z * (1.0 + x)


def composed(x: tb.Tensor, y: tb.Tensor, z: tb.Tensor) -> tb.Tensor:
    return x * y - z * (1.0 + x)


@given(st.data())
def test_shapes_and_strides(data: st.DataObject) -> None:
    """Broadcasting, axes in any order, sizes 0 and 1; gradients are summed over what was broadcast."""
    shapes = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=3, min_dims=0, max_dims=5, min_side=0, max_side=3))
    tensors = []
    for shape in shapes.input_shapes:
        array = np.asarray(rng().standard_normal(shape))
        if data.draw(st.booleans()):
            array = array.copy(order="F")
        x = tb.from_numpy(array)
        x.requires_grad = True
        tensors.append(x)
    out, want = mixed(*tensors), composed(*tensors)
    assert out.shape == shapes.result_shape
    assert_close(out.detach().numpy(), want.detach().numpy(), 1e-12)
    weight = tb.from_numpy(rng().standard_normal(out.shape))
    for ours, theirs in zip(tb.grad(out, tensors, weight), tb.grad(want, tensors, weight), strict=True):
        assert_close(ours.numpy(), theirs.numpy(), 1e-12)


def test_channels_last_stays_channels_last() -> None:
    x = tb.randn(2, 5, 6, 4).permute(0, 3, 1, 2)
    assert swish(x).array.strides == x.array.strides
    assert_close(swish(x).numpy(), (x / (1 + (-x).exp())).numpy(), 1e-5)


DTYPES = ("bool", "uint8", "int64", "float32", "float64")


@pytest.mark.parametrize("axes", [((2,), (2,)), ((2,), ()), ((), (2,)), ((), ())], ids=str)
def test_promotion_is_that_of_a_quotient(axes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    f = tb.elementwise(lambda x, y: x / y)
    for a, b in itertools.product(DTYPES, DTYPES):
        x = tb.ones(*axes[0], dtype=getattr(tb, a), device="ref") if axes[0] else tb.tensor(1, dtype=a, device="ref")
        y = tb.ones(*axes[1], dtype=getattr(tb, b), device="ref") if axes[1] else tb.tensor(1, dtype=b, device="ref")
        assert f(x, y).dtype is (x / y).dtype, (a, b)


def test_numbers_for_operands() -> None:
    x = tb.tensor([1.0, 2.0], requires_grad=True)
    for y in (3, 3.0, True, np.float64(3.0), np.array(3.0)):
        out = own(x, y)
        assert out.dtype is tb.float32
        assert out.tolist() == [float(y), 4 * float(y)]
    assert own(2, x).tolist() == [4.0, 8.0]
    (g,) = tb.grad(own(2, x).sum(), x)
    assert g.tolist() == [4.0, 4.0]


def test_integers_become_floats_and_gradients_go_back_to_their_dtype() -> None:
    assert swish(tb.tensor([0, 1])).dtype is tb.float32
    x, y = tb.tensor([1.0], requires_grad=True), tb.tensor([2.0], dtype=tb.float64, requires_grad=True)
    own(x, y).sum().backward()
    assert (x.grad.dtype, y.grad.dtype) == (tb.float32, tb.float64)


# ------------------------------------------------------------------------------------------------- values that are hard


def test_a_branch_that_is_not_taken_leaves_no_trace(device: str, dtype: str) -> None:
    """Neither its NaN nor its infinite derivative; nor an infinite gradient times 0."""
    root = tb.elementwise(lambda x: math.sqrt(x) if x > 0 else 0.0)
    clipped = tb.elementwise(lambda x: math.sqrt(max(x, 0.0)))
    for f in (root, clipped):
        x = tb.tensor([-1.0, 4.0], dtype=dtype, device=device, requires_grad=True)
        y = f(x)
        assert y.tolist() == [0.0, 2.0]
        y.sum().backward()
        assert x.grad.tolist() == [0.0, 0.25]
    x = tb.tensor([-1.0, 4.0], dtype=dtype, device=device, requires_grad=True)
    tb.elementwise(lambda x: x if x > 0 else 0.0)(x).backward(tb.full((2,), math.inf, dtype=dtype, device=device))
    assert x.grad.tolist() == [0.0, math.inf]


def test_special_values(device: str, dtype: str) -> None:
    values = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-39, 89.5]
    x = tb.tensor(values, dtype=dtype, device=device)
    np.testing.assert_array_equal(tb.elementwise(lambda x: 1 / x)(x).numpy(), (1 / x).numpy())
    np.testing.assert_array_equal(
        tb.elementwise(lambda x: max(x, 1.0))(x).numpy(), tb.maximum(x, tb.ones_like(x)).numpy()
    )
    np.testing.assert_array_equal(tb.elementwise(lambda x: math.isnan(x))(x).numpy(), tb.isnan(x).numpy())
    np.testing.assert_array_equal(tb.elementwise(lambda x: math.isinf(x))(x).numpy(), tb.isinf(x).numpy())
    np.testing.assert_array_equal(tb.elementwise(lambda x: np.isfinite(x))(x).numpy(), tb.isfinite(x).numpy())
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(tb.elementwise(lambda x: math.log(x))(x).numpy(), np.log(x.numpy()), rtol=1e-6)


def test_ties_share(device: str) -> None:
    x, y = (tb.tensor([1.0, 2.0, 3.0], device=device, requires_grad=True) for _ in range(2))
    tb.elementwise(lambda x, y: max(x, y))(x, y).sum().backward()
    assert (x.grad.tolist(), y.grad.tolist()) == ([0.5] * 3, [0.5] * 3)


def test_the_derivative_at_a_kink_of_abs_is_zero(device: str) -> None:
    x = tb.tensor([-2.0, 0.0, 2.0], device=device, requires_grad=True)
    tb.elementwise(lambda x: abs(x))(x).sum().backward()
    assert x.grad.tolist() == [-1.0, 0.0, 1.0]


def test_a_function_that_is_constant_in_steps(device: str) -> None:
    x = tb.tensor([0.5, 1.5], device=device, requires_grad=True)
    tb.elementwise(lambda x: math.floor(x))(x).backward(tb.tensor([math.inf, 1.0], device=device))
    assert x.grad.tolist() == [0.0, 0.0]


def test_third_derivatives() -> None:
    x = tb.tensor([0.3, 0.7], dtype=tb.float64, requires_grad=True)
    y = tb.elementwise(lambda x: math.sin(x))(x)
    for _ in range(3):
        (y,) = tb.grad(y.sum(), x, create_graph=True)
    np.testing.assert_allclose(y.detach().numpy(), -np.cos([0.3, 0.7]), rtol=1e-12)


# ------------------------------------------------------------------------------------------------------------ one pass


def test_however_long_it_is_one_kernel_and_one_for_all_gradients() -> None:
    f = tb.elementwise(lambda x, y, z: math.tanh(x * y + z) * math.exp(-x * x) + (y if y > z else z * z))
    tensors = [tb.randn(4, 5, requires_grad=True) for _ in range(3)]
    with launches() as seen:
        out = f(*tensors)
    assert seen == ["function"]
    weight = tb.ones(4, 5)
    with launches() as seen:
        tb.grad(out, tensors, weight)
    assert seen == ["function_backward"]


def test_nothing_is_saved_that_no_gradient_needs() -> None:
    x, y = (tb.randn(3, requires_grad=True) for _ in range(2))
    assert tb.elementwise(lambda x, y: 2 * x + y)(x, y).node.saved == ()
    out = tb.elementwise(lambda x, y: x * y)(x, y.detach())
    assert len(out.node.saved) == 1


def test_a_saved_tensor_that_was_changed_is_noticed() -> None:
    x = tb.randn(3, requires_grad=True)
    h = x * 1.0
    out = swish(h)
    h.mul_(2.0)
    with pytest.raises(errors.SavedTensorError, match="swishBackward"):
        out.sum().backward()


def test_no_grad_and_constants_leave_no_node() -> None:
    assert swish(tb.randn(3)).node is None
    with tb.no_grad():
        assert swish(tb.randn(3, requires_grad=True)).node is None


def test_gradients_of_some_operands_and_some_results() -> None:
    x, y = tb.randn(3, dtype=tb.float64), tb.randn(3, dtype=tb.float64, requires_grad=True)
    first, second = gate(x, y, sharpness=2.0)
    check_vjp(lambda y: gate(x, y, sharpness=2.0)[1], [y.detach()], order=2)
    (g,) = tb.grad(second.sum(), y, retain_graph=True)
    s = second.detach()
    assert_close(g.numpy(), (2 * s * (1 - s)).numpy(), 1e-12)
    (g,) = tb.grad(first.sum(), y)
    assert_close(g.numpy(), (2 * x * s * (1 - s)).numpy(), 1e-12)


# ------------------------------------------------------------------------------------------------------------- language


def test_functions_call_functions() -> None:
    def inner(z, power=2):
        return z**power

    def factorial(n):
        return 1 if n <= 1 else n * factorial(n - 1)

    f = tb.elementwise(lambda x: inner(swish(x), power=3) / factorial(4) + leaky(x))
    x = away((4,), 0.0)
    check_op(f, [x], layouts=(), reference=lambda x: (x / (1 + np.exp(-x))) ** 3 / 24 + np.where(x > 0, x, 0.25 * x))


def test_tables_and_loops() -> None:
    table = (1.0, -0.5, 0.25)

    def horner(x):
        total: float = 0.0
        for i, c in enumerate(reversed(table)):
            total = total * x + c * (1 if i >= 0 else 2)
        low, high = -1.0, +1.0
        if total < low or total > high:
            total *= 0.5
        elif low <= x < 0 and x != -1:
            total += 1
        return total

    x = np.array([-3.0, -0.4, 0.2, 5.0])
    inside = 1 - 0.5 * x + 0.25 * x * x
    wanted = np.where(np.abs(inside) > 1, inside * 0.5, np.where((x < 0) & (x >= -1), inside + 1, inside))
    for device in ("cpu", "ref"):
        found = tb.elementwise(horner)(tb.tensor(x, device=device))
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6)


def test_settings_do_not_compile_anew() -> None:
    from tinygrad_bn.kernels.folder import activity

    x = tb.tensor([1.0, -2.0])
    swish(x, 0.5)
    before = activity.compiled
    for beta in (1.5, 2, np.float32(0.1)):
        assert_close(swish(x, beta).numpy(), (x / (1 + (-float(beta) * x).exp())).numpy(), 1e-6)
        assert_close(swish(x=x, beta=beta).numpy(), swish(x, beta).numpy(), 0.0)
    assert activity.compiled == before


def test_a_method() -> None:
    class Scaled(tb.nn.Module):
        @staticmethod
        @tb.elementwise
        def activation(x, y):
            return x * y

        def forward(self, x: tb.Tensor) -> tb.Tensor:
            return self.activation(x, 3.0)

    assert Scaled()(tb.ones(2)).tolist() == [3.0, 3.0]


# --------------------------------------------------------------------------------------------------------------- errors

FAULTS = [
    ("def f(x):\n    while x > 0:\n        x = x - 1\n    return x", "statement.*While.*line 2: while x > 0:"),
    ("def f(x):\n    return math.gamma(x)", r"a call of math\.gamma.*line 2.*\nHint: functions of math"),
    ("def f(x):\n    return x[0]", r"a part of a number \(x\[0\]\).*line 2"),
    ("def f(x):\n    return x.real", r"a part of a number \(x\.real\)"),
    ("def f(x):\n    if x > 0:\n        return x", "a path without return.*line 2: if x > 0"),
    ("def f(x):\n    y = x", "a path without return"),
    ("def f(x):\n    return", "a return of nothing"),
    ("def f(x):\n    return x + missing", "the name 'missing', which has no value there.*line 2"),
    ("def f(x):\n    if x > 0:\n        y = 1.0\n    return x * y", "the name 'y', which has no value"),
    ("def f(x):\n    return 'a' if x > 0 else x", "a str where a number is needed"),
    ("def f(x):\n    return x + table\ntable = [1.0]", "a list where a number is needed.*\nHint: make what differs"),
    ("def f(x):\n    return x @ x", r"an operator.*\(MatMult\)"),
    ("def f(x):\n    return x in (1, 2)", r"a comparison.*\(In\)"),
    ("def f(x):\n    return ~x", "Invert"),
    ("def f(x):\n    return {x: 1}", "an expression that has no meaning here .Dict."),
    ("def f(x):\n    return x + 1 / 0", r"ZeroDivisionError \(division by zero\).*line 2"),
    ("def f(x):\n    for i in x:\n        pass\n    return x", "a loop over something else than constants"),
    ("def f(x):\n    return g(x)\ndef g(x):\n    return g(x)", "a function that calls itself, 64 deep"),
    ("def f(x):\n    return g(x, 2)\ndef g(x):\n    return x", r"TypeError \(too many positional arguments\).*line 2"),
    ("def f(x):\n    return math.sin(*(x,))", r"a call with \* or \*\*"),
    ("def f(x):\n    return math.sin(x, x)", "sin of 2 numbers"),
    ("def f(x):\n    return (x, 1) if x > 0 else (x, 1, 2)", "branches with different numbers of results"),
    ("def f(x):\n    t.a = x\n    return x", "an assignment to something else than names"),
    ("def f(x):\n    for i in range(30000):\n        x = x * 1.5\n    return x", "more operations than 20000"),
    ("def f(*x):\n    return x", "'f' must have parameters of fixed number. Got '.x'"),
    ("def f(x=1.0):\n    return x", "'f' must have a parameter without default, for a tensor. Got none."),
]


@pytest.mark.jit_off
@pytest.mark.parametrize(("text", "message"), FAULTS, ids=lambda v: v.splitlines()[-1].strip() if "def" in v else "")
def test_what_cannot_be_read_is_an_error_that_names_the_line(text: str, message: str) -> None:
    with pytest.raises(
        errors.ArgumentError, match=f"(?s)elementwise: {message if message[0] == chr(39) else '.*' + message}"
    ):
        tb.elementwise(function_of(text))


@pytest.mark.jit_off
def test_derivatives_that_do_not_fit() -> None:
    with pytest.raises(errors.ArgumentError, match="'derivative' must have one result for each of the 2 operands"):
        tb.elementwise(
            function_of("def f(x, y):\n    return x * y"), derivative=function_of("def f(x, y):\n    return y")
        )
    with pytest.raises(errors.ArgumentError, match="'derivative' must be a Python function. Got float"):
        tb.elementwise(derivative=1.0)(function_of("def f(x):\n    return x"))
    with pytest.raises(errors.ArgumentError, match="'function' must be a Python function. Got builtin_function"):
        tb.elementwise(math.sin)


def test_lambdas_are_told_apart() -> None:
    f, g = tb.elementwise(lambda x: x + 1 if x > 0 else x), tb.elementwise(lambda x: x + 2 if x > 0 else x)
    makers = [lambda c: tb.elementwise(lambda x: x * c), lambda c: tb.elementwise(lambda x: (x
        - c))]  # fmt: skip
    x = tb.tensor([3.0], device="ref")
    assert [h(x).item() for h in (f, g, makers[0](2.0), makers[1](2.0))] == [4.0, 5.0, 6.0, 1.0]


def test_source_that_is_nowhere() -> None:
    names: dict[str, Any] = {}
    exec("def f(x):\n    return x", names)
    with pytest.raises(errors.ArgumentError, match="the source of 'f' must be in a file"):
        tb.elementwise(names["f"])


CALLS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: swish(), errors.ArgumentError, "swish: 'x' must be given. Got nothing"),
    (lambda: swish(tb.ones(2), 1.0, 2.0), errors.ArgumentError, "'args' must be 2 positional arguments at most. Got 3"),
    (lambda: swish(tb.ones(2), gamma=1.0), errors.ArgumentError, "'gamma' must be given once, one of x, beta"),
    (lambda: swish(tb.ones(2), x=tb.ones(2)), errors.ArgumentError, "'x' must be given once"),
    (lambda: swish(1.0), errors.DTypeError, "swish: 'x' must be a Tensor. Got float"),
    (lambda: swish("a"), errors.DTypeError, "swish: 'x' must be a Tensor. Got str"),
    (lambda: own(tb.ones(2), "a"), errors.DTypeError, "own: 'y' must be a Tensor or a number. Got str"),
    (
        lambda: swish(tb.ones(2), tb.ones(2)),
        errors.DTypeError,
        "'beta' must be a number. Got Tensor.\nHint: a parameter wi",
    ),
    (lambda: gate(tb.ones(2), 1.0), errors.DTypeError, "gate: 'sharpness' must be a number. Got nothing"),
    (lambda: own(tb.ones(2), tb.ones(3)), errors.ShapeError, r"own: shapes must broadcast.*\(2,\) and \(3,\)"),
    (lambda: own(tb.ones(2), tb.ones(2, device="ref")), errors.DeviceError, "own: 'y' must be on device cpu"),
]


@pytest.mark.parametrize(("call", "error", "message"), CALLS, ids=[c[2][:30] for c in CALLS])
def test_wrong_calls(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# ---------------------------------------------------------------------------------------------- copies, other processes


class Layer(tb.nn.Module):
    """A layer that holds an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = tb.nn.Linear(3, 2)
        self.activation = swish

    def forward(self, x: tb.Tensor) -> tb.Tensor:
        return self.activation(self.linear(x))


def test_modules_that_hold_operations_are_copied_and_pickled() -> None:
    layer, x = Layer(), tb.randn(4, 3)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin.activation is swish
        assert twin(x).tolist() == layer(x).tolist()


PROGRAM = """
import math
import tinygrad_bn as tb

@tb.elementwise
def cubic(x, y, a=1.0):
    return a * x * x * x + math.exp(y)

x = tb.tensor([[1.0, 2.0]], requires_grad=True)
y = tb.tensor([[0.5], [1.0]], requires_grad=True)
out = cubic(x, y, a=2.0)
gx, gy = tb.grad(out.sum(), (x, y), create_graph=True)
gx.sum().backward()
from tinygrad_bn.kernels.folder import activity
print(*out.detach().numpy().ravel().tolist(), *x.grad.numpy().ravel().tolist(), activity.compiled)
"""


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    environment = {**os.environ, "TINYGRAD_BN_CACHE": str(tmp_path / "cache")}
    found = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, timeout=300, env=environment
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(done.stdout.split())
    assert int(found[0][-1]) > 0 or os.environ.get("NUMBA_DISABLE_JIT") == "1"
    assert found[1] == [*found[0][:-1], "0"]
    script.write_text(PROGRAM.replace("a * x * x * x", "a * x * x * x + x"))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, env=environment)
    assert float(done.stdout.split()[0]) == pytest.approx(float(found[0][0]) + 1.0)


def test_the_docstring() -> None:
    from tinygrad_bn.ops import elementwise

    found = doctest.testmod(elementwise)
    assert found.failed == 0
    assert found.attempted > 2
