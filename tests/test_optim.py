"""Optimisers and schedules against PyTorch, and against what they promise."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.errors import ArgumentError, DTypeError, GradientError, StateDictError
from tinygrad_bn.optim import lr_scheduler as schedules

SHAPES = ((5, 7), (7,), (), (3, 2, 4), (0, 3), (70, 80))
STEPS = 20
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}

SGD_OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.9, "nesterov": True},
    {"weight_decay": 0.1},
    {"momentum": 0.5, "weight_decay": 0.1, "nesterov": True},
    {"maximize": True, "momentum": 0.9, "weight_decay": 0.01},
]
ADAM_OPTIONS: list[dict[str, Any]] = [
    {},
    {"betas": (0.7, 0.9), "eps": 1e-3},
    {"weight_decay": 0.1},
    {"amsgrad": True},
    {"amsgrad": True, "maximize": True, "weight_decay": 0.1},
]
ADAGRAD_OPTIONS: list[dict[str, Any]] = [
    {},
    {"lr_decay": 0.1, "weight_decay": 0.1},
    {"initial_accumulator_value": 0.5, "eps": 1e-3, "maximize": True},
]
RMSPROP_OPTIONS: list[dict[str, Any]] = [
    {},
    {"alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1},
    {"momentum": 0.9, "maximize": True},
    {"centered": True, "alpha": 0.9},
    {"centered": True, "momentum": 0.5, "weight_decay": 0.1},
]
CASES = [
    *(("SGD", {"lr": 0.1} | o) for o in SGD_OPTIONS),
    *(("Adam", {"lr": 0.01} | o) for o in ADAM_OPTIONS),
    *(("AdamW", {"lr": 0.01} | o) for o in ADAM_OPTIONS),
    *(("Adagrad", {"lr": 0.1} | o) for o in ADAGRAD_OPTIONS),
    *(("RMSprop", {"lr": 0.01} | o) for o in RMSPROP_OPTIONS),
]
NAMES = [f"{name}-{'-'.join(f'{k}={v}' for k, v in o.items())}" for name, o in CASES]


def starts(dtype: str) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(3)
    return [np.asarray(rng.normal(size=s), dtype) for s in SHAPES]


def gradients(dtype: str, step: int) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(100 + step)
    return [np.asarray(rng.normal(size=s) * (1 + step % 3), dtype) for s in SHAPES]


def parameters(dtype: str, device: str = "cpu") -> list[tb.nn.Parameter]:
    return [tb.nn.Parameter(tb.tensor(a, device=device)) for a in starts(dtype)]


def set_gradients(params: list[Any], arrays: list[np.ndarray[Any, Any]]) -> None:
    for p, a in zip(params, arrays, strict=True):
        p.grad = tb.tensor(a, device=p.device)


def run(optimiser: tb.optim.Optimizer, params: list[Any], dtype: str, steps: range) -> None:
    for i in steps:
        set_gradients(params, gradients(dtype, i))
        optimiser.step()


def assert_near(ours: Any, theirs: Any, dtype: str) -> None:
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert a.shape == b.shape
    assert np.isfinite(a).all()
    scale = max(1.0, np.abs(b).max()) if b.size else 1.0
    assert (np.abs(a - b) <= TOLERANCE[dtype] * scale).all(), np.abs(a - b).max()


@pytest.mark.peers
@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
def test_follows_pytorch(name: str, options: dict[str, Any], dtype: str, device: str) -> None:
    torch = pytest.importorskip("torch")
    ours = parameters(dtype, device)
    theirs = [torch.nn.Parameter(torch.from_numpy(a)) for a in starts(dtype)]
    optimiser = getattr(tb.optim, name)(ours, **options)
    reference = getattr(torch.optim, name)(theirs, **options)
    run(optimiser, ours, dtype, range(STEPS))
    for i in range(STEPS):
        for p, a in zip(theirs, gradients(dtype, i), strict=True):
            p.grad = torch.from_numpy(a)
        reference.step()
    for p, q in zip(ours, theirs, strict=True):
        assert_near(p.detach().numpy(), q.detach().numpy(), dtype)
    assert_same_state(optimiser.state_dict(), reference.state_dict(), dtype)


def assert_same_state(ours: dict[str, Any], theirs: dict[str, Any], dtype: str) -> None:
    assert ours["state"].keys() == theirs["state"].keys()
    for i, values in theirs["state"].items():
        assert ours["state"][i].keys() == values.keys()
        for name, value in values.items():
            assert_near(ours["state"][i][name].numpy(), value.numpy(), dtype)
    for mine, group in zip(ours["param_groups"], theirs["param_groups"], strict=True):
        assert {k: v for k, v in group.items() if k in mine} == mine


@pytest.mark.peers
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"momentum": 0.9}),
        ("Adam", {}),
        ("AdamW", {"amsgrad": True}),
        ("Adagrad", {"lr_decay": 0.1}),
        ("RMSprop", {"momentum": 0.5, "centered": True}),
    ],
)
def test_state_of_pytorch_is_loaded(name: str, options: dict[str, Any], dtype: str) -> None:
    """With its options: the optimiser's own are replaced."""
    torch = pytest.importorskip("torch")
    theirs = [torch.nn.Parameter(torch.from_numpy(a)) for a in starts(dtype)]
    reference = getattr(torch.optim, name)(theirs, lr=0.01, **options)
    for i in range(STEPS):
        for p, a in zip(theirs, gradients(dtype, i), strict=True):
            p.grad = torch.from_numpy(a)
        reference.step()
        if i == 7:
            saved = copy.deepcopy(reference.state_dict())
            middle = [p.detach().numpy().copy() for p in theirs]
    saved["state"] = {i: {k: v.numpy() for k, v in values.items()} for i, values in saved["state"].items()}
    ours = [tb.nn.Parameter(tb.tensor(a)) for a in middle]
    optimiser = getattr(tb.optim, name)(ours, lr=5.0)
    optimiser.load_state_dict(saved)
    run(optimiser, ours, dtype, range(8, STEPS))
    for p, q in zip(ours, theirs, strict=True):
        assert_near(p.detach().numpy(), q.detach().numpy(), dtype)


@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
def test_state_dict_continues(name: str, options: dict[str, Any], device: str) -> None:
    whole, half = parameters("float64", device), parameters("float64", device)
    one, two = (getattr(tb.optim, name)(p, **options) for p in (whole, half))
    run(one, whole, "float64", range(8))
    run(two, half, "float64", range(4))
    resumed = getattr(tb.optim, name)(half, lr=7.0)
    resumed.load_state_dict(two.state_dict())
    run(resumed, half, "float64", range(4, 8))
    for p, q in zip(whole, half, strict=True):
        np.testing.assert_array_equal(p.detach().numpy(), q.detach().numpy())


def test_loaded_state_is_a_copy() -> None:
    params = parameters("float64")
    optimiser = tb.optim.SGD(params, momentum=0.9)
    run(optimiser, params, "float64", range(1))
    saved = optimiser.state_dict()
    other = tb.optim.SGD(parameters("float64"), momentum=0.9)
    other.load_state_dict(saved)
    kept = other.state_dict()["state"][0]["momentum_buffer"].clone()
    run(optimiser, params, "float64", range(1, 3))
    assert tb.equal(other.state_dict()["state"][0]["momentum_buffer"], kept)


def test_sgd_against_its_formula() -> None:
    p = tb.nn.Parameter(tb.tensor([1.0, -2.0], dtype=tb.float64))
    optimiser = tb.optim.SGD([p], lr=0.5, momentum=0.5, weight_decay=0.25)
    value, buffer = np.array([1.0, -2.0]), None
    for _ in range(3):
        p.grad = tb.tensor([3.0, 4.0], dtype=tb.float64)
        optimiser.step()
        d = np.array([3.0, 4.0]) + 0.25 * value
        buffer = d if buffer is None else 0.5 * buffer + d
        value = value - 0.5 * buffer
        np.testing.assert_allclose(p.detach().numpy(), value, rtol=1e-15)


def test_first_adam_step_is_the_rate() -> None:
    p = tb.nn.Parameter(tb.zeros(4, dtype=tb.float64))
    p.grad = tb.tensor([1e-3, -5.0, 1e4, -1e-2], dtype=tb.float64)
    tb.optim.Adam([p], lr=0.25, eps=0.0).step()
    np.testing.assert_allclose(p.detach().numpy(), [-0.25, 0.25, -0.25, 0.25], rtol=1e-12)


def test_adagrad_against_its_formula() -> None:
    """Its state is there from the start, of groups added later too, and is made anew where it was cleared."""
    p, q = (tb.nn.Parameter(tb.tensor([1.0, -2.0], dtype=tb.float64)) for _ in range(2))
    optimiser = tb.optim.Adagrad([p], lr=0.5, lr_decay=0.5, initial_accumulator_value=2.0, eps=0.25)
    optimiser.add_param_group({"params": [q], "initial_accumulator_value": 7.0})
    assert optimiser.state_dict()["state"][0]["sum"].tolist() == [2.0, 2.0]
    assert optimiser.state_dict()["state"][1]["sum"].tolist() == [7.0, 7.0]
    value, total = np.array([1.0, -2.0]), np.array([2.0, 2.0])
    for t in range(3):
        p.grad = tb.tensor([3.0, 4.0], dtype=tb.float64)
        optimiser.step()
        total = total + np.array([9.0, 16.0])
        value = value - 0.5 / (1 + 0.5 * t) * np.array([3.0, 4.0]) / (np.sqrt(total) + 0.25)
        np.testing.assert_allclose(p.detach().numpy(), value, rtol=1e-15)
    optimiser.state.clear()
    q.grad = tb.zeros(2, dtype=tb.float64)
    optimiser.step()
    assert optimiser.state[q]["sum"].tolist() == [7.0, 7.0]
    assert optimiser.state[q]["step"].item() == 1.0


def test_centred_rmsprop_where_rounding_would_go_below_zero(device: str) -> None:
    """The variance of a gradient that stays the same is 0: no NaN, whatever the gradient."""
    p = tb.nn.Parameter(tb.zeros(64, device=device))
    optimiser = tb.optim.RMSprop([p], lr=1e-9, alpha=0.5, centered=True)
    g = tb.tensor(np.random.default_rng(0).normal(size=64).astype(np.float32), device=device)
    for _ in range(60):
        p.grad = g
        optimiser.step()
        assert np.isfinite(p.detach().numpy()).all()
    state = optimiser.state[p]
    assert (state["square_avg"] < state["grad_avg"] * state["grad_avg"]).any().item()


def test_momentum_switched_on_later() -> None:
    torch = pytest.importorskip("torch")
    ours = parameters("float64")
    theirs = [torch.nn.Parameter(torch.from_numpy(a)) for a in starts("float64")]
    pair: tuple[Any, Any] = (tb.optim.SGD(ours, lr=0.1), torch.optim.SGD(theirs, lr=0.1))
    for i in range(9):
        for optimiser in pair:
            optimiser.param_groups[0]["momentum"] = (0.0, 0.9, 0.0)[i // 3] if i < 6 else 0.5
            optimiser.param_groups[0]["dampening"] = 0.25
        set_gradients(ours, gradients("float64", i))
        for p, a in zip(theirs, gradients("float64", i), strict=True):
            p.grad = torch.from_numpy(a)
        for optimiser in pair:
            optimiser.step()
    for p, q in zip(ours, theirs, strict=True):
        assert_near(p.detach().numpy(), q.detach().numpy(), "float64")


@pytest.mark.parametrize("name", ["SGD", "Adam", "Adagrad", "RMSprop"])
def test_only_parameters_with_a_gradient_move(name: str, device: str) -> None:
    params = [tb.nn.Parameter(tb.ones(3, device=device)) for _ in range(3)]
    optimiser = getattr(tb.optim, name)(params, lr=0.1)
    for chosen in (0, 2, 1):
        before = [p.detach().numpy().copy() for p in params]
        optimiser.zero_grad()
        params[chosen].grad = tb.ones(3, device=device)
        optimiser.step()
        moved = [bool((p.detach().numpy() != b).any()) for p, b in zip(params, before, strict=True)]
        assert moved == [i == chosen for i in range(3)]


def test_no_gradient_at_all_is_no_error() -> None:
    p = tb.nn.Parameter(tb.ones(3))
    tb.optim.SGD([p], lr=0.1).step()
    assert p.tolist() == [1.0, 1.0, 1.0]


def test_mixed_dtypes_and_devices_in_one_group() -> None:
    kinds = [("float32", "cpu"), ("float64", "cpu"), ("float32", "ref"), ("float64", "ref")]
    params = [tb.nn.Parameter(tb.ones(3, dtype=t, device=d)) for t, d in kinds]
    optimiser = tb.optim.SGD(params, lr=0.25, momentum=0.5)
    for _ in range(2):
        for p in params:
            p.grad = tb.ones(3, dtype=p.dtype, device=p.device)
        optimiser.step()
    for p in params:
        assert p.tolist() == [1 - 0.25 - 0.375] * 3


@pytest.mark.parametrize("name", ["SGD", "Adam", "Adagrad", "RMSprop"])
def test_strided_parameters_and_gradients(name: str, dtype: str, device: str) -> None:
    rng = np.random.default_rng(0)
    a, g = (np.asarray(rng.normal(size=(4, 6)), dtype) for _ in range(2))
    plain = tb.nn.Parameter(tb.tensor(a, device=device))
    strided = tb.nn.Parameter(tb.tensor(np.ascontiguousarray(a.T), device=device).T)
    assert not strided.is_contiguous()
    one, two = (getattr(tb.optim, name)([p], lr=0.1, weight_decay=0.1) for p in (plain, strided))
    for _ in range(3):
        plain.grad = tb.tensor(g, device=device)
        strided.grad = tb.tensor(np.ascontiguousarray(g.T), device=device).T
        kept = strided.grad.numpy().copy()
        one.step()
        two.step()
        np.testing.assert_array_equal(strided.grad.numpy(), kept)
    np.testing.assert_array_equal(plain.detach().numpy(), strided.detach().numpy())


def test_step_bumps_versions_and_is_not_recorded() -> None:
    p = tb.nn.Parameter(tb.ones(3))
    loss = (p * p).mean()
    p.grad = tb.ones(3)
    version = p.version
    tb.optim.SGD([p], lr=0.1).step()
    assert p.version == version + 1
    assert p.is_leaf
    assert p.requires_grad
    with pytest.raises(tb.errors.SavedTensorError, match="changed in place"):
        loss.backward()


def test_a_new_array_or_state_is_seen() -> None:
    p = tb.nn.Parameter(tb.ones(3))
    optimiser = tb.optim.SGD([p], lr=1.0, momentum=0.5)
    p.grad = tb.ones(3)
    optimiser.step()
    optimiser.state[p]["momentum_buffer"] = tb.zeros(3)
    p.grad = tb.ones(3)
    optimiser.step()
    assert p.tolist() == [-1.0, -1.0, -1.0]
    optimiser.state.clear()
    p.array = np.full(3, 5.0, np.float32)
    p.grad = tb.ones(3)
    optimiser.step()
    assert p.tolist() == [4.0, 4.0, 4.0]


def test_state_follows_a_module_to_another_dtype() -> None:
    layer = tb.nn.Linear(3, 2)
    optimiser = tb.optim.Adam(layer.parameters(), lr=0.1)
    layer(tb.ones(4, 3)).mean().backward()
    optimiser.step()
    layer.double()
    optimiser.zero_grad()
    layer(tb.ones(4, 3, dtype=tb.float64)).mean().backward()
    before = layer.weight.detach().numpy().copy()
    optimiser.step()
    assert optimiser.state[layer.weight]["exp_avg"].dtype is tb.float64
    np.testing.assert_allclose(before - layer.weight.detach().numpy(), 0.1, rtol=1e-4)


def test_closure_runs_with_gradients() -> None:
    p = tb.nn.Parameter(tb.ones(()))
    optimiser = tb.optim.SGD([p], lr=0.5)

    def closure() -> tb.Tensor:
        optimiser.zero_grad()
        loss = p * p
        loss.backward()
        return loss

    with tb.no_grad():
        loss = optimiser.step(closure)
    assert loss.item() == 1.0
    assert p.item() == 0.0


def test_zero_grad() -> None:
    p = tb.nn.Parameter(tb.ones(3))
    optimiser = tb.optim.SGD([p], lr=0.1)
    p.grad = held = tb.ones(3)
    optimiser.zero_grad(set_to_none=False)
    assert p.grad is held
    assert held.tolist() == [0.0, 0.0, 0.0]
    optimiser.zero_grad()
    assert p.grad is None


def test_groups_have_options_of_their_own() -> None:
    a, b, c = (tb.nn.Parameter(tb.zeros(1)) for _ in range(3))
    optimiser = tb.optim.SGD([{"params": [a]}, {"params": b, "lr": 0.5}], lr=0.1)
    optimiser.add_param_group({"params": [c], "lr": 2.0, "momentum": 0.5})
    for p in (a, b, c):
        p.grad = tb.ones(1)
    optimiser.step()
    optimiser.step()
    np.testing.assert_allclose([p.item() for p in (a, b, c)], [-0.2, -1.0, -5.0], rtol=1e-6)


def test_pickle_and_deepcopy() -> None:
    params = parameters("float64")
    optimiser = tb.optim.Adam(params, lr=0.1)
    run(optimiser, params, "float64", range(2))
    for clone in (pickle.loads(pickle.dumps(optimiser)), copy.deepcopy(optimiser)):
        theirs = clone.param_groups[0]["params"]
        run(clone, theirs, "float64", range(2, 4))
        expected = parameters("float64")
        run(tb.optim.Adam(expected, lr=0.1), expected, "float64", range(4))
        for p, q in zip(theirs, expected, strict=True):
            np.testing.assert_array_equal(p.detach().numpy(), q.detach().numpy())


def test_result_does_not_depend_on_threads() -> None:
    results = []
    for threads in (1, min(2, tb.get_num_threads())):
        tb.set_num_threads(threads)
        p = tb.nn.Parameter(tb.tensor(np.linspace(-1, 1, 90_000, dtype=np.float32)))
        optimiser = tb.optim.Adam([p], lr=0.1)
        for i in range(3):
            p.grad = tb.tensor(np.linspace(-2, 1, 90_000, dtype=np.float32) * (i + 1))
            optimiser.step()
        results.append(p.detach().numpy())
    np.testing.assert_array_equal(results[0], results[-1])


def leaf() -> tb.nn.Parameter:
    return tb.nn.Parameter(tb.ones(3))


TWICE = leaf()
ERRORS: list[tuple[str, Any, type[Exception], str]] = [
    ("rate", lambda: tb.optim.SGD([leaf()], lr=-1), ArgumentError, "SGD: 'lr' must be at least 0. Got -1."),
    ("rate nan", lambda: tb.optim.Adam([leaf()], lr=math.nan), ArgumentError, "Adam: 'lr' must be at least 0. Got nan"),
    ("momentum", lambda: tb.optim.SGD([leaf()], momentum=-0.1), ArgumentError, "SGD: 'momentum' must be at least 0"),
    ("decay", lambda: tb.optim.AdamW([leaf()], weight_decay=-1), ArgumentError, "AdamW: 'weight_decay' must be"),
    ("eps", lambda: tb.optim.Adam([leaf()], eps=-1), ArgumentError, "Adam: 'eps' must be at least 0"),
    ("betas", lambda: tb.optim.Adam([leaf()], betas=(0.9, 1.0)), ArgumentError, "Adam: 'betas' must be two numbers"),
    ("lr decay", lambda: tb.optim.Adagrad([leaf()], lr_decay=-1), ArgumentError, "Adagrad: 'lr_decay' must be at"),
    ("alpha", lambda: tb.optim.RMSprop([leaf()], alpha=-1), ArgumentError, "RMSprop: 'alpha' must be at least 0"),
    ("nesterov", lambda: tb.optim.SGD([leaf()], nesterov=True), ArgumentError, "SGD: 'nesterov' wants momentum"),
    ("empty", lambda: tb.optim.SGD([]), ArgumentError, "SGD: 'params' must have at least one parameter"),
    ("one tensor", lambda: tb.optim.SGD(leaf()), DTypeError, "must be a list of Tensors or of dicts. Got P"),
    ("a set", lambda: tb.optim.SGD({leaf()}), DTypeError, "SGD: 'params' must be a list of Tensors"),
    ("no tensor", lambda: tb.optim.SGD([np.ones(3)]), DTypeError, "SGD: 'params' must be Tensors. Got ndarray."),
    ("integers", lambda: tb.optim.SGD([tb.arange(3)]), DTypeError, "SGD: 'params' must be floating-point tensors. Got"),
    ("no leaf", lambda: tb.optim.SGD([leaf() * 2]), ArgumentError, "SGD: 'params' must be leaves"),
    ("twice", lambda: tb.optim.SGD([TWICE, TWICE]), ArgumentError, "SGD: 'params' must be free of repetition"),
    ("in two groups", lambda: tb.optim.SGD([{"params": [TWICE]}, {"params": [TWICE]}]), ArgumentError, "repetition"),
    ("no params", lambda: tb.optim.SGD([{"lr": 1.0}]), DTypeError, "SGD: 'param_group' must be a dict with 'params'"),
    ("in a group", lambda: tb.optim.SGD([{"params": leaf(), "lr": -2}]), ArgumentError, "SGD: 'lr' must be at"),
    ("step size", lambda: schedules.StepLR(tb.optim.SGD([leaf()]), 0), ArgumentError, "StepLR: 'step_size'"),
    ("T_max", lambda: schedules.CosineAnnealingLR(tb.optim.SGD([leaf()]), 0), ArgumentError, "T_max"),
    ("no optimiser", lambda: schedules.StepLR(3, 1), DTypeError, "StepLR: 'optimizer' must be an Opt"),
    ("lambdas", lambda: schedules.LambdaLR(tb.optim.SGD([leaf()]), [abs, abs]), ArgumentError, "one function"),
    ("resumed", lambda: schedules.StepLR(tb.optim.SGD([leaf()]), 1, last_epoch=3), ArgumentError, "initial_lr"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS])
def test_errors(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert message in str(caught.value)


def test_names_that_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="did you mean Adam, AdamW"):
        _ = tb.optim.AdamV
    with pytest.raises(AttributeError, match="did you mean .*CosineAnnealingLR"):
        _ = tb.optim.lr_scheduler.CosineAnnealing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["param_groups"][0]["params"].pop(), "groups of [6] parameters. Got [5]"),
        (
            lambda s: s["state"][0].update(momentum_buffer=tb.ones(2)),
            "shape (5, 7) in 'momentum_buffer' of parameter 0",
        ),
        (lambda s: s.pop("state"), "keys 'state' and 'param_groups'"),
    ],
)
def test_state_that_does_not_fit_changes_nothing(change: Any, message: str) -> None:
    params = parameters("float64")
    optimiser = tb.optim.SGD(params, lr=0.1, momentum=0.9)
    run(optimiser, params, "float64", range(1))
    saved = optimiser.state_dict()
    other = tb.optim.SGD(params, lr=0.5, momentum=0.9)
    change(saved)
    with pytest.raises(StateDictError) as caught:
        other.load_state_dict(saved)
    assert message in str(caught.value)
    assert not other.state
    assert other.param_groups[0]["lr"] == 0.5


def test_printing() -> None:
    text = repr(tb.optim.SGD([leaf()], lr=0.5))
    assert text.startswith("SGD (\nParameter Group 0\n    dampening: 0\n    lr: 0.5\n")
    assert text.endswith("\n)")


# ------------------------------------------------------------------------------------------- schedules


class Doubling:
    """A callable with state, which a schedule's state dict keeps."""

    def __init__(self) -> None:
        self.factor = 2.0

    def __call__(self, epoch: int) -> float:
        return self.factor**epoch


SCHEDULES: list[tuple[str, tuple[Any, ...]]] = [
    ("StepLR", (3, 0.5)),
    ("StepLR", (1,)),
    ("CosineAnnealingLR", (5,)),
    ("CosineAnnealingLR", (7, 0.01)),
    ("LambdaLR", (lambda epoch: 0.9**epoch,)),
    ("LambdaLR", ([lambda epoch: 1 / (1 + epoch), Doubling()],)),
]


@pytest.mark.peers
@pytest.mark.parametrize(("name", "arguments"), SCHEDULES)
def test_schedules_follow_pytorch(name: str, arguments: tuple[Any, ...]) -> None:
    torch = pytest.importorskip("torch")
    rates = []
    for lib, make in ((tb, tb.ones), (torch, torch.ones)):
        a, b = (lib.nn.Parameter(make(2)) for _ in range(2))
        optimiser = lib.optim.SGD([{"params": [a]}, {"params": [b], "lr": 0.7}], lr=0.3)
        schedule = getattr(lib.optim.lr_scheduler, name)(optimiser, *arguments)
        found = [schedule.get_last_lr()]
        for i in range(25):
            optimiser.step()
            schedule.step()
            if i == 11:  # a change from elsewhere is carried on
                optimiser.param_groups[0]["lr"] *= 0.5
            found.append([group["lr"] for group in optimiser.param_groups])
        rates.append((found, schedule.last_epoch, schedule.base_lrs))
    assert rates[0] == rates[1]


@pytest.mark.parametrize(("name", "arguments"), SCHEDULES)
def test_schedule_state_continues(name: str, arguments: tuple[Any, ...]) -> None:
    def begin() -> tuple[tb.optim.Optimizer, Any]:
        optimiser = tb.optim.SGD([{"params": [leaf()]}, {"params": [leaf()], "lr": 0.7}], lr=0.3)
        return optimiser, getattr(schedules, name)(optimiser, *copy.deepcopy(arguments))

    def advance(optimiser: tb.optim.Optimizer, schedule: Any, steps: int) -> None:
        for _ in range(steps):
            optimiser.step()
            schedule.step()

    whole, half, resumed = begin(), begin(), begin()
    advance(*whole, 9)
    advance(*half, 4)
    resumed[0].load_state_dict(half[0].state_dict())
    resumed[1].load_state_dict(copy.deepcopy(half[1].state_dict()))
    advance(*resumed, 5)
    assert resumed[1].get_last_lr() == whole[1].get_last_lr()
    assert [g["lr"] for g in resumed[0].param_groups] == [g["lr"] for g in whole[0].param_groups]


def test_callable_objects_keep_their_state() -> None:
    one, two = (schedules.LambdaLR(tb.optim.SGD([leaf()]), Doubling()) for _ in range(2))
    one.lr_lambdas[0].factor = 3.0  # type: ignore[attr-defined]
    two.load_state_dict(one.state_dict())
    assert two.lr_lambdas[0].factor == 3.0  # type: ignore[attr-defined]


def test_schedule_before_the_optimiser_warns() -> None:
    optimiser = tb.optim.SGD([leaf()], lr=0.1)
    schedule = schedules.StepLR(optimiser, 2)
    with pytest.warns(UserWarning, match="before the optimiser's"):
        schedule.step()
    other = schedules.StepLR(optimiser, 2)
    optimiser.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.step()


def test_the_rate_of_a_schedule_is_used() -> None:
    p = tb.nn.Parameter(tb.zeros(()))
    optimiser = tb.optim.SGD([p], lr=1.0)
    schedule = schedules.StepLR(optimiser, 1, 0.5)
    for _ in range(3):
        p.grad = tb.ones(())
        optimiser.step()
        schedule.step()
    assert p.item() == -1.75


# -------------------------------------------------------------------------------------------- clipping


@pytest.mark.peers
@pytest.mark.parametrize("order", [2.0, 1.0, 3.5, math.inf])
@pytest.mark.parametrize("limit", [0.5, 1e3, 0.0])
def test_clipping_follows_pytorch(order: float, limit: float, dtype: str, device: str) -> None:
    torch = pytest.importorskip("torch")
    ours = parameters(dtype, device)
    set_gradients(ours, gradients(dtype, 1))
    theirs = [torch.from_numpy(a).requires_grad_() for a in starts(dtype) if a.size]
    for p, a in zip(theirs, [a for a in gradients(dtype, 1) if a.size], strict=True):
        p.grad = torch.from_numpy(a)
    norm = tb.nn.utils.clip_grad_norm_(ours, limit, order)
    reference = torch.nn.utils.clip_grad_norm_(theirs, limit, order)
    assert norm.dtype is getattr(tb, dtype)
    np.testing.assert_allclose(norm.item(), reference.item(), rtol=1e-5 if dtype == "float32" else 1e-12)
    for p, q in zip([p for p in ours if p.numel()], theirs, strict=True):
        assert p.grad is not None
        np.testing.assert_allclose(
            p.grad.numpy(), q.grad.numpy(), rtol=1e-5 if dtype == "float32" else 1e-12, atol=1e-12
        )


def test_clipped_norm_is_the_limit() -> None:
    params = [tb.nn.Parameter(tb.zeros(2, dtype=t, device=d)) for t, d in (("float32", "cpu"), ("float64", "ref"))]
    for p in params:
        p.grad = tb.full((2,), 3.0, dtype=p.dtype, device=p.device)
    params.append(leaf())
    version = params[0].grad.version if params[0].grad is not None else None
    assert tb.nn.utils.clip_grad_norm_(iter(params), 1.5).item() == 6.0
    for p in params[:2]:
        assert p.grad is not None
        np.testing.assert_allclose(p.grad.numpy(), 0.75, rtol=1e-6)
    assert params[0].grad is not None
    assert params[0].grad.version != version
    assert params[2].grad is None


def test_clipping_a_strided_gradient(device: str) -> None:
    p = tb.nn.Parameter(tb.zeros(2, 3, device=device))
    p.grad = tb.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]], device=device).T
    assert not p.grad.is_contiguous()
    tb.nn.utils.clip_grad_norm_(p, 1.0)
    np.testing.assert_allclose(p.grad.numpy(), [[0.6, 0, 0], [0, 0.8, 0]], rtol=1e-6)


def test_clipping_what_is_not_finite() -> None:
    p = leaf()
    p.grad = tb.tensor([1.0, math.inf, 2.0])
    with pytest.raises(GradientError, match="norm of the gradients is finite. Got inf"):
        tb.nn.utils.clip_grad_norm_([p], 1.0, error_if_nonfinite=True)
    assert p.grad.tolist() == [1.0, math.inf, 2.0]
    assert tb.nn.utils.clip_grad_norm_([p], 1.0).item() == math.inf
    assert p.grad.tolist()[0] == 0.0
    assert math.isnan(p.grad.tolist()[1])


def test_clipping_nothing() -> None:
    assert tb.nn.utils.clip_grad_norm_([leaf()], 1.0).item() == 0.0
    with pytest.raises(ArgumentError, match="'max_norm' must be at least 0"):
        tb.nn.utils.clip_grad_norm_([leaf()], -1.0)
    with pytest.raises(ArgumentError, match="'norm_type' must be above 0"):
        tb.nn.utils.clip_grad_norm_([leaf()], 1.0, 0.0)
    with pytest.raises(DTypeError, match="'parameters' must be Tensors. Got int"):
        tb.nn.utils.clip_grad_norm_([3], 1.0)  # type: ignore[list-item]
