"""Derivatives as values: products with Jacobians and Hessians, both in full, and values with their gradients."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_bn as tb
from tinygrad_bn.errors import ArgumentError, DTypeError, GradientError, ShapeError, StateDictError

AF = tb.autograd.functional
F = tb.functional


def numbers(*shape: int, seed: int = 0) -> Any:
    return tb.from_numpy(np.random.default_rng(seed).normal(size=shape))


def scaled(x: tb.Tensor, y: tb.Tensor) -> tb.Tensor:
    """Of two inputs, with a full Hessian, mixed parts included."""
    return (x.exp() * y.sum() + (x * x).sum() * y.tanh().sum()).sum()


def several(x: tb.Tensor, y: tb.Tensor) -> tuple[tb.Tensor, tb.Tensor]:
    return x.tanh() * y.sum(), (y * y * x.sum()).reshape(-1)


def central(f: Callable[..., Any], at: tuple[Any, ...], v: tuple[Any, ...], h: float = 1e-5) -> Any:
    """A directional derivative by differences."""
    plus = f(*[x + h * d for x, d in zip(at, v, strict=True)])
    minus = f(*[x - h * d for x, d in zip(at, v, strict=True)])
    pairs = zip(plus, minus, strict=True) if isinstance(plus, tuple) else [(plus, minus)]
    return [(p.numpy() - m.numpy()) / (2 * h) for p, m in pairs]


# ------------------------------------------------------------------------------------------------------ products


def test_jvp_is_the_directional_derivative() -> None:
    x, y, u, w = numbers(3), numbers(2, 2, seed=1), numbers(3, seed=2), numbers(2, 2, seed=3)
    outputs, found = tb.jvp(several, (x, y), (u, w))
    for f, want, out, value in zip(found, central(several, (x, y), (u, w)), outputs, several(x, y), strict=True):
        assert_allclose(f.numpy(), want, rtol=1e-6, atol=1e-8)
        assert_array_equal(out.numpy(), value.numpy())
        assert f.node is None
        assert out.node is None


def test_vjp_is_the_adjoint_of_jvp() -> None:
    x, y, u, w = numbers(3), numbers(2, 2, seed=1), numbers(3, seed=2), numbers(2, 2, seed=3)
    a, b = numbers(3, seed=4), numbers(4, seed=5)
    _, (p, q) = tb.jvp(several, (x, y), (u, w))
    _, (gx, gy) = tb.vjp(several, (x, y), (a, b))
    left = (p * a).sum().item() + (q * b).sum().item()
    assert left == pytest.approx((gx * u).sum().item() + (gy * w).sum().item(), rel=1e-12)
    assert abs(left) > 1e-3


@pytest.mark.parametrize("product", ["hvp", "vhp"])
def test_the_hessian_product_is_the_derivative_of_the_gradient(product: str) -> None:
    x, y, u, w = numbers(3), numbers(2, seed=1), numbers(3, seed=2), numbers(2, seed=3)

    def slopes(*given: tb.Tensor) -> Any:
        return tb.vjp(scaled, given)[1]

    value, found = getattr(AF, product)(scaled, (x, y), (u, w))
    assert value.item() == scaled(x, y).item()
    for f, want in zip(found, central(slopes, (x, y), (u, w)), strict=True):
        assert_allclose(f.numpy(), want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
def test_jacobian_and_hessian_agree_with_the_products(strategy: str) -> None:
    x, y, u, w = numbers(3), numbers(2, 2, seed=1), numbers(3, seed=2), numbers(2, 2, seed=3)
    jacobian = AF.jacobian(several, (x, y), strategy=strategy)
    _, pushed = tb.jvp(several, (x, y), (u, w))
    for (by_x, by_y), want in zip(jacobian, pushed, strict=True):
        assert by_x.shape == (*want.shape, 3)
        assert by_y.shape == (*want.shape, 2, 2)
        found = by_x.numpy() @ u.numpy() + np.tensordot(by_y.numpy(), w.numpy(), 2)
        assert_allclose(found, want.numpy(), rtol=1e-10)
    hessian = AF.hessian(scaled, (x, y), outer_jacobian_strategy=strategy)
    _, products = tb.hvp(scaled, (x, y), (u, w))
    for (by_x, by_y), want in zip(hessian, products, strict=True):
        found = by_x.numpy() @ u.numpy() + np.tensordot(by_y.numpy(), w.numpy(), 2)
        assert_allclose(found, want.numpy(), rtol=1e-10)
    assert_allclose(hessian[0][1].numpy().reshape(3, 4), hessian[1][0].numpy().reshape(4, 3).T, rtol=1e-12)


@pytest.mark.peers
@pytest.mark.parametrize("several_inputs", [False, True])
def test_as_torch(several_inputs: bool) -> None:
    torch = pytest.importorskip("torch")

    def f(x: Any, y: Any = None) -> Any:
        return (x.exp() * (1.0 if y is None else y.sum())).sum()

    def g(x: Any, y: Any = None) -> Any:
        return (x * x, x.exp() * (1.0 if y is None else y.sum()))

    arrays = [np.random.default_rng(i).normal(size=s) for i, s in enumerate([(2, 3), (4,)])][: 1 + several_inputs]
    directions = [np.random.default_rng(9 + i).normal(size=a.shape) for i, a in enumerate(arrays)]
    ours = tuple(tb.from_numpy(a) for a in arrays)
    theirs = tuple(torch.from_numpy(a) for a in arrays)
    v, w = tuple(tb.from_numpy(d) for d in directions), tuple(torch.from_numpy(d) for d in directions)
    if not several_inputs:
        (ours, theirs, v, w) = ours[0], theirs[0], v[0], w[0]  # type: ignore[assignment]

    def flat(t: Any) -> list[Any]:
        return [a for part in t for a in flat(part)] if isinstance(t, tuple) else [np.asarray(t.numpy())]

    def shape(t: Any) -> Any:
        return tuple(map(shape, t)) if isinstance(t, tuple) else tuple(t.shape)

    torch_f = torch.autograd.functional
    pairs = [
        (AF.vjp(f, ours), torch_f.vjp(f, theirs)),
        (AF.jvp(g, ours, v), torch_f.jvp(g, theirs, w)),
        (AF.hvp(f, ours, v), torch_f.hvp(f, theirs, w)),
        (AF.vhp(f, ours, v), torch_f.vhp(f, theirs, w)),
        (AF.jacobian(g, ours), torch_f.jacobian(g, theirs)),
        (AF.hessian(f, ours), torch_f.hessian(f, theirs)),
    ]
    for found, want in pairs:
        assert shape(found) == shape(want)
        for a, b in zip(flat(found), flat(want), strict=True):
            assert_allclose(a, b, rtol=1e-12)


def test_create_graph_lets_results_be_differentiated() -> None:
    x = numbers(3)
    x.requires_grad = True
    _, g = AF.vjp(lambda t: (t**3).sum(), x, create_graph=True)
    g.sum().backward()
    assert_allclose(x.grad.numpy(), 6 * x.detach().numpy(), rtol=1e-12)


def test_no_grad_is_touched_and_no_grad_mode_does_not_matter() -> None:
    w = numbers(3, seed=1)
    w.requires_grad = True
    x = numbers(3)
    with tb.no_grad():
        _, g = tb.vjp(lambda t: (t * w).sum(), x)
        assert not tb.is_grad_enabled()
    assert_array_equal(g.numpy(), w.detach().numpy())
    assert w.grad is None
    assert x.node is None


def test_independent_outputs_give_zeros_or_an_error() -> None:
    x, y = numbers(2), numbers(3, seed=1)
    _, (gx, gy) = tb.vjp(lambda a, b: a.sum(), (x, y))
    assert_array_equal(gx.numpy(), np.ones(2))
    assert_array_equal(gy.numpy(), np.zeros(3))
    with pytest.raises(GradientError, match="do not depend on input 1"):
        AF.vjp(lambda a, b: a.sum(), (x, y), strict=True)
    with pytest.raises(GradientError, match="output 0 of 'func' does not depend"):
        AF.vjp(lambda a: tb.ones(2).sum(), x, strict=True)
    assert_array_equal(AF.hessian(lambda a: a.sum(), x).numpy(), np.zeros((2, 2)))


def test_jacobian_of_nothing() -> None:
    assert AF.jacobian(lambda x: x * 2, tb.zeros(0)).shape == (0, 0)
    assert AF.jacobian(lambda x: tb.ones(3) * x.sum(), tb.zeros(0, 2)).shape == (3, 0, 2)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: AF.vjp(lambda x: x, tb.ones(2)), ArgumentError, "'v' must be given where the outputs"),
        (lambda: AF.vjp(lambda x: x, tb.ones(2), tb.ones(3)), ShapeError, r"'v\[0\]' must have shape \(2,\)"),
        (lambda: AF.jvp(lambda x: x, tb.ones(2), (tb.ones(2), tb.ones(2))), ArgumentError, "one tensor for each"),
        (lambda: AF.hvp(lambda x: x, tb.ones(2), tb.ones(2)), ShapeError, "one output of one element"),
        (lambda: AF.vjp(lambda x: x, tb.arange(3)), DTypeError, "floating-point"),
        (lambda: AF.vjp(lambda x: 1.0, tb.ones(2)), DTypeError, "must be a Tensor"),
        (lambda: AF.vjp(lambda x: x, 3.0), DTypeError, r"'inputs\[0\]' must be a Tensor"),
        (lambda: AF.jacobian(lambda x: x, tb.ones(2), strategy="sideways"), ArgumentError, "'strategy'"),
        (lambda: tb.value_and_grad(3), ArgumentError, "'f' must be callable"),
        (lambda: tb.value_and_grad(scaled, argnums=()), ArgumentError, "'argnums'"),
        (lambda: tb.value_and_grad(scaled, argnums=2)(tb.ones(1), tb.ones(1)), ArgumentError, "'argnums'"),
        (lambda: tb.value_and_grad(lambda x: x)(tb.ones(2)), ShapeError, "one floating-point element"),
        (lambda: tb.value_and_grad(lambda x: 2.0)(tb.ones(2)), DTypeError, "must be a Tensor"),
        (lambda: tb.value_and_grad(lambda x: x.sum())({"n": tb.arange(3)}), DTypeError, "int64"),
        (lambda: tb.value_and_grad(lambda x: x.sum())([1.0]), DTypeError, "made of Tensors"),
        (lambda: tb.value_and_grad(lambda x: x.sum(), has_aux=True)(tb.ones(2)), ArgumentError, "a pair"),
    ],
)
def test_errors(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


# ------------------------------------------------------------------------------------------------- value and gradient


def test_value_and_grad_of_trees() -> None:
    Pair = namedtuple("Pair", "a b")
    tree = {"w": [numbers(2), Pair(numbers(3, seed=1), None)], "o": OrderedDict(z=numbers(1, seed=2))}

    def f(t: Any, scale: float, power: int = 2) -> tb.Tensor:
        return scale * ((t["w"][0] ** power).sum() + t["w"][1].a.exp().sum()) + 0.0 * t["o"]["z"].sum()

    value, slopes = tb.value_and_grad(f)(tree, 3.0, power=3)
    assert value.item() == f(tree, 3.0, power=3).item()
    assert_allclose(slopes["w"][0].numpy(), 9 * tree["w"][0].numpy() ** 2, rtol=1e-12)
    assert type(slopes["w"][1]).__name__ == "Pair"
    assert_allclose(slopes["w"][1].a.numpy(), 3 * np.exp(tree["w"][1].a.numpy()), rtol=1e-12)
    assert slopes["w"][1].b is None
    assert isinstance(slopes["o"], OrderedDict)
    assert value.node is None
    assert slopes["w"][0].node is None


def test_value_and_grad_by_several_arguments_with_aux() -> None:
    x, y = numbers(3), numbers(3, seed=1)
    (value, aux), (gy, gx) = tb.value_and_grad(lambda a, b: ((a * b * b).sum(), {"y": a * 2}), (-1, 0), True)(x, y)
    assert value.item() == pytest.approx((x.numpy() * y.numpy() ** 2).sum())
    assert_array_equal(aux["y"].numpy(), 2 * x.numpy())
    assert aux["y"].node is None
    assert_allclose(gy.numpy(), 2 * x.numpy() * y.numpy(), rtol=1e-12)
    assert_allclose(gx.numpy(), y.numpy() ** 2, rtol=1e-12)


def test_one_tensor_in_two_places_has_two_gradients() -> None:
    x = numbers(3)
    _, (first, second) = tb.value_and_grad(lambda p: (p[0] * 2 + p[1] * 3).sum())((x, x))
    assert_array_equal(first.numpy(), np.full(3, 2.0))
    assert_array_equal(second.numpy(), np.full(3, 3.0))


def test_transforms_nest() -> None:
    def slope(t: tb.Tensor) -> tb.Tensor:
        return tb.value_and_grad(lambda u: u**4)(t)[1]

    x = tb.tensor(2.0, dtype=tb.float64)
    assert slope(x).item() == 32.0
    assert tb.value_and_grad(slope)(x)[1].item() == 48.0
    assert tb.value_and_grad(lambda t: tb.value_and_grad(slope)(t)[1])(x)[1].item() == 48.0
    assert tb.jvp(slope, x)[1].item() == 48.0
    assert tb.value_and_grad(lambda t: tb.hvp(lambda u: u**4, t)[1])(x)[1].item() == 48.0


def test_a_failure_leaves_the_modes_as_they_were() -> None:
    def fails(x: tb.Tensor) -> tb.Tensor:
        raise ValueError("mine")

    with tb.no_grad():
        with pytest.raises(ValueError, match="mine"):
            tb.value_and_grad(fails)(tb.ones(1))
        assert not tb.is_grad_enabled()
    value, slope = tb.value_and_grad(lambda x: (x * x).sum())(tb.ones(2))
    assert value.node is None
    assert slope.node is None


# ---------------------------------------------------------------------------------------------------- functional_call


def network() -> tb.nn.Sequential:
    return tb.nn.Sequential(tb.nn.Linear(4, 6, bias=False), tb.nn.BatchNorm1d(6), tb.nn.ReLU(), tb.nn.Linear(6, 1))


def test_functional_call_differentiates_by_what_it_is_given() -> None:
    net, x = network(), tb.randn(8, 4)
    parameters = {k: (v * 1.5).detach() for k, v in net.named_parameters()}
    buffers = {k: v.clone() for k, v in net.named_buffers()}
    before = {k: v.numpy().copy() for k, v in net.state_dict().items()}

    def loss(p: dict[str, tb.Tensor], x: tb.Tensor) -> tb.Tensor:
        return (tb.nn.utils.functional_call(net, (p, buffers), (x,)) ** 2).mean()

    value, slopes = tb.value_and_grad(loss)(parameters, x)
    for name, v in net.state_dict().items():
        assert_array_equal(v.numpy(), before[name])
    assert all(p.grad is None for p in net.parameters())
    assert buffers["1.num_batches_tracked"].item() == 1

    twin = network()
    twin.load_state_dict({**net.state_dict(), **parameters})
    want = (twin(x) ** 2).mean()
    want.backward()
    assert value.item() == want.item()
    for name, p in twin.named_parameters():
        assert_array_equal(slopes[name].numpy(), p.grad.numpy())


def test_functional_call_of_tied_weights_and_errors() -> None:
    net = tb.nn.Sequential(tb.nn.Linear(3, 3), tb.nn.Linear(3, 3))
    net[1].weight = net[0].weight
    x, w = tb.randn(2, 3), tb.randn(3, 3)
    call = tb.nn.utils.functional_call
    tied, untied = call(net, {"0.weight": w}, x), call(net, {"0.weight": w}, x, tie_weights=False)
    both = call(net, {"0.weight": w, "1.weight": w}, x)
    assert_array_equal(both.detach().numpy(), tied.detach().numpy())
    assert not np.array_equal(tied.detach().numpy(), untied.detach().numpy())
    assert net[1].weight is net[0].weight
    assert isinstance(net[0].weight, tb.nn.Parameter)
    with pytest.raises(StateDictError, match="unexpected: 0.wait"):
        call(net, {"0.wait": w}, x)
    with pytest.raises(StateDictError, match=r"missing: 0.bias, 1.bias\."):
        call(net, {"0.weight": w}, x, strict=True)
    with pytest.raises(StateDictError, match="given twice"):
        call(net, [{"0.weight": w}, {"0.weight": w}], x)
    with pytest.raises(DTypeError, match="a Tensor"):
        call(net, {"0.weight": 3}, x)  # type: ignore[dict-item]
    with pytest.raises(ShapeError):
        call(net, {"0.weight": tb.ones(7, 7)}, x)
    assert isinstance(net[0].weight, tb.nn.Parameter)
    assert net[0].weight.shape == (3, 3)


def test_functional_call_with_keywords_and_no_arguments() -> None:
    class Net(tb.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = tb.nn.Parameter(tb.ones(2))

        def forward(self, scale: float = 1.0) -> tb.Tensor:
            return self.w * scale

    assert tb.nn.utils.functional_call(Net(), {"w": tb.zeros(2)}).tolist() == [0.0, 0.0]
    assert tb.nn.utils.functional_call(Net(), {"w": tb.ones(2)}, kwargs={"scale": 3.0}).tolist() == [3.0, 3.0]
