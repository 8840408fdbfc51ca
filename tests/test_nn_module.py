"""Module: registries, attributes, modes, conversion, state dicts, hooks, printing, copies."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.errors import ArgumentError, DTypeError, GradientError, IndexRangeError, StateDictError


class Scale(nn.Module):
    """y = x · gain + offset, with a counter that is not saved."""

    gain: nn.Parameter
    offset: tb.Tensor
    calls: tb.Tensor

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.gain = nn.Parameter(tb.ones(size))
        self.register_buffer("offset", tb.zeros(size))
        self.register_buffer("calls", tb.zeros((), dtype=tb.int64), persistent=False)

    def forward(self, x: tb.Tensor, shift: float = 0.0) -> tb.Tensor:
        return x * self.gain + self.offset + shift


class Net(nn.Module):
    """Two layers, one of which holds others."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Scale()
        self.rest = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU())
        self.bias = nn.Parameter(tb.zeros(4))

    def forward(self, x: tb.Tensor) -> tb.Tensor:
        out: tb.Tensor = self.rest(self.first(x)) + self.bias
        return out


KEYS = [
    "bias", "first.gain", "first.offset", "rest.0.weight", "rest.0.bias", "rest.1.weight", "rest.1.bias",
    "rest.1.running_mean", "rest.1.running_var", "rest.1.num_batches_tracked",
]  # fmt: skip


# ------------------------------------------------------------------------------------------ attributes


def consistent(module: nn.Module) -> None:
    """Registries and instance dictionaries agree, here and below."""
    for m in module.modules():
        for registry in (m._parameters, m._buffers, m._modules):
            for name, value in registry.items():  # type: ignore[attr-defined]
                assert m.__dict__[name] is value
        names = [*m._parameters, *m._buffers, *m._modules]
        assert len(names) == len(set(names))


def test_assignment_registers_and_replaces() -> None:
    m = Scale()
    p, q = m.gain, nn.Parameter(tb.zeros(3))
    assert dict(m.named_parameters()) == {"gain": p}
    m.gain = q
    assert next(m.parameters()) is q
    m.offset = new = tb.ones(3)
    assert next(m.buffers()) is new
    m.offset = nn.Parameter(tb.ones(3))  # a buffer becomes a parameter
    assert [name for name, _ in m.named_parameters()] == ["gain", "offset"]
    assert [name for name, _ in m.named_buffers()] == ["calls"]
    m.gain = nn.Identity()  # type: ignore[assignment]  # and a parameter a module
    assert [name for name, _ in m.named_children()] == ["gain"]
    consistent(m)


def test_none_keeps_the_place() -> None:
    m = Scale()
    m.gain = None  # type: ignore[assignment]
    assert list(m.parameters()) == []
    assert m.gain is None
    m.gain = nn.Parameter(tb.ones(3))
    assert len(list(m.parameters())) == 1
    consistent(m)


def test_deletion() -> None:
    m = Net()
    del m.first
    del m.bias
    assert "first" not in dict(m.named_children())
    with pytest.raises(AttributeError, match="Net has no attribute 'first'"):
        _ = m.first
    with pytest.raises(AttributeError):
        del m.first
    assert all(not k.startswith(("first", "bias")) for k in m.state_dict())
    consistent(m)


def test_reading_goes_through_the_instance() -> None:
    m = Net()
    assert {"first", "rest", "bias"} <= set(m.__dict__)
    assert {"gain", "offset", "calls"} <= set(m.first.__dict__)


def test_plain_attributes_and_tensors_are_not_registered() -> None:
    m = Scale()
    m.note = "text"
    m.constant = tb.ones(2)
    assert len(list(m.parameters())) == 1
    assert len(list(m.buffers())) == 2
    assert "constant" not in m.state_dict()


def test_properties_work() -> None:
    class Half(Scale):
        @property
        def half(self) -> tb.Tensor:
            return self.gain / 2

        @half.setter
        def half(self, value: float) -> None:
            nn.init.constant_(self.gain, 2 * value)

        @property
        def broken(self) -> tb.Tensor:
            return self.gian

    m = Half()
    m.half = 3.0  # type: ignore[assignment]
    assert m.gain.tolist() == [6.0] * 3
    assert m.half.tolist() == [3.0] * 3
    with pytest.raises(AttributeError, match="no attribute 'gian'.\nHint: did you mean gain"):
        _ = m.broken


ASSIGNMENTS: list[tuple[str, Any, type[Exception], str]] = [
    ("parameter", lambda: setattr(Scale(), "gain", tb.ones(3)), DTypeError,
     "Scale: 'gain' must be a Parameter or None. Got Tensor.\nHint: delete the attribute first: del module.gain"),
    ("buffer", lambda: setattr(Scale(), "offset", 3), DTypeError, "Scale: 'offset' must be a Tensor or None. Got int."),
    ("module", lambda: setattr(Net(), "first", tb.ones(3)), DTypeError, "Net: 'first' must be a Module or None."),
    ("dot", lambda: Scale().register_buffer("a.b", tb.ones(3)), ArgumentError, "'name' must be a string"),
    ("empty", lambda: Scale().add_module("", nn.ReLU()), ArgumentError, "add_module: 'name' must be a string"),
    ("taken", lambda: Scale().register_parameter("forward", None), ArgumentError, "'name' must be free"),
    ("taken", lambda: Scale().register_buffer("gain", None), ArgumentError, "'name' must be free. Got 'gain'"),
    ("no parameter", lambda: Scale().register_parameter("p", tb.ones(2)), DTypeError,  # type: ignore[arg-type]
     "register_parameter: 'param' must be a Parameter or None. Got Tensor."),
    ("no tensor", lambda: Scale().register_buffer("b", 3), DTypeError,  # type: ignore[arg-type]
     "register_buffer: 'tensor' must be a Tensor or None. Got int."),
    ("no module", lambda: Scale().add_module("m", 3), DTypeError,  # type: ignore[arg-type]
     "add_module: 'module' must be a Module or None. Got int."),
    ("mode", lambda: Scale().train("yes"), ArgumentError, "'mode' must be True or False"),  # type: ignore[arg-type]
    ("integers", lambda: Scale().to(tb.int64), DTypeError, "to: 'dtype' must be a floating-point type. Got int64."),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), [a[1:] for a in ASSIGNMENTS], ids=[a[0] for a in ASSIGNMENTS])
def test_errors(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert message in str(caught.value)


def test_without_init() -> None:
    class Forgot(nn.Module):
        def __init__(self) -> None:
            self.size = 3
            self.layer = nn.ReLU()

    with pytest.raises(AttributeError, match="'layer' cannot be assigned before.*\nHint: call super"):
        Forgot()
    with pytest.raises(NotImplementedError, match="Module: a module must define forward"):
        nn.Module()(1)


def test_a_wrong_name_names_the_nearest() -> None:
    with pytest.raises(AttributeError, match="Net has no attribute 'rset'.\nHint: did you mean rest"):
        _ = Net().rset
    with pytest.raises(AttributeError, match="did you mean BatchNorm1d"):
        _ = nn.BatchNorm1
    assert not hasattr(Net(), "nothing_like_it")
    assert getattr(Net(), "also_not", 5) == 5


# --------------------------------------------------------------------------------------------- walking


def test_walking() -> None:
    net = Net()
    assert [name for name, _ in net.named_modules()] == ["", "first", "rest", "rest.0", "rest.1", "rest.2"]
    assert [name for name, _ in net.named_children()] == ["first", "rest"]
    assert list(net.children()) == [net.first, net.rest]
    parameters = ["bias", "first.gain", "rest.0.weight", "rest.0.bias", "rest.1.weight", "rest.1.bias"]
    assert [name for name, _ in net.named_parameters()] == parameters
    assert [name for name, _ in net.named_parameters(prefix="net")] == [f"net.{name}" for name in parameters]
    assert [name for name, _ in net.named_parameters(recurse=False)] == ["bias"]
    assert [name for name, _ in net.first.named_buffers()] == ["offset", "calls"]
    assert len(list(net.buffers())) == 5


def test_shared_modules_and_parameters_come_once() -> None:
    net = Net()
    net.again = net.first
    net.same = net.bias
    assert [name for name, _ in net.named_modules()].count("first") == 1
    assert "again" not in dict(net.named_modules())
    assert "again" in dict(net.named_modules(remove_duplicate=False))
    assert len(list(net.parameters())) == 6
    assert len(list(net.named_parameters(remove_duplicate=False))) == 8
    assert {"again.gain", "same"} <= set(net.state_dict())


def test_looking_up() -> None:
    net = Net()
    assert net.get_submodule("") is net
    assert net.get_submodule("rest.1") is net.rest[1]
    assert net.get_parameter("rest.0.weight") is net.rest[0].weight
    assert net.get_buffer("first.offset") is net.first.offset
    with pytest.raises(AttributeError, match="get_submodule: Net has no attribute 'frist'.\nHint: did you mean first"):
        net.get_submodule("frist.gain")
    with pytest.raises(AttributeError, match="get_parameter: Linear has no attribute 'wieght'"):
        net.get_parameter("rest.0.wieght")


def test_modes_and_apply() -> None:
    net = Net()
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    net.rest.train()
    assert [m.training for m in net.modules()] == [False, False, True, True, True, True]
    seen: list[nn.Module] = []
    assert net.apply(seen.append) is net
    assert seen[-1] is net
    assert seen.index(net.rest[0]) < seen.index(net.rest)


def test_requires_grad_and_zero_grad() -> None:
    net = Net()
    assert net.requires_grad_(False) is net
    assert not any(p.requires_grad for p in net.parameters())
    net.requires_grad_()
    net(tb.randn(5, 3)).mean().backward()
    assert all(p.grad is not None for p in net.parameters())
    held = net.bias.grad
    net.zero_grad(set_to_none=False)
    assert net.bias.grad is held
    assert held is not None
    assert held.tolist() == [0.0] * 4
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


# ------------------------------------------------------------------------------------------ conversion


CONVERSIONS: list[Any] = [
    lambda m: m.double(),
    lambda m: m.to(tb.float64),
    lambda m: m.to("float64"),
    lambda m: m.to(dtype=tb.float64),
    lambda m: m.to(tb.ones(1, dtype=tb.float64)),
]


@pytest.mark.parametrize("convert", CONVERSIONS)
def test_conversion_keeps_the_tensors(convert: Any) -> None:
    net = Net()
    net(tb.randn(5, 3)).mean().backward()
    before = {name: (t, t.version, t.detach().numpy().copy()) for name, t in net.state_dict(keep_vars=True).items()}
    assert convert(net) is net
    for name, t in net.state_dict(keep_vars=True).items():
        old, version, values = before[name]
        assert t is old
        assert t.dtype is (tb.int64 if name.endswith("tracked") else tb.float64)
        assert t.version == version + (t.dtype is tb.float64)
        np.testing.assert_array_equal(t.detach().numpy(), values)
    assert all(p.grad is not None and p.grad.dtype is tb.float64 for p in net.parameters())
    assert net(tb.randn(5, 3, dtype=tb.float64)).dtype is tb.float64
    consistent(net)


def test_conversion_to_where_it_is_changes_nothing() -> None:
    net = Net()
    version = net.bias.version
    net.float().cpu().to("cpu", tb.float32)
    assert net.bias.version == version


def test_devices() -> None:
    net = Net().to("ref")
    assert {t.device.type for t in net.state_dict().values()} == {"ref"}
    x = tb.randn(5, 3)
    moved = net(x.to(device="ref"))
    moved.mean().backward()
    net.zero_grad()
    net.rest[1].reset_running_stats()
    home = net.to(device="cpu")(x)
    np.testing.assert_allclose(home.detach().numpy(), moved.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_graph_from_before_the_conversion_is_refused() -> None:
    layer = nn.Linear(3, 2)
    loss = layer(tb.randn(4, 3, requires_grad=True)).mean()
    layer.double()
    with pytest.raises(tb.errors.SavedTensorError, match="changed in place"):
        loss.backward()


# ----------------------------------------------------------------------------------------- state dicts


def test_state_dict_shares_memory() -> None:
    net = Net()
    state = net.state_dict()
    assert isinstance(state, OrderedDict)
    assert list(state) == KEYS
    assert all(type(t) is tb.Tensor and not t.requires_grad for t in state.values())
    nn.init.constant_(net.bias, 5.0)
    assert state["bias"].tolist() == [5.0] * 4
    assert net.state_dict(keep_vars=True)["bias"] is net.bias
    assert list(net.state_dict(prefix="net.")) == [f"net.{key}" for key in KEYS]
    collected: dict[str, Any] = {}
    assert net.state_dict(destination=collected) is collected
    assert list(collected) == KEYS


@pytest.mark.parametrize("form", ["tensors", "arrays"])
def test_loading(form: str) -> None:
    one, two = Net(), Net()
    one(tb.randn(6, 3))
    state: dict[str, Any] = dict(one.state_dict())
    if form == "arrays":
        state = {name: t.numpy().astype("float64" if t.dtype is tb.float32 else "int64") for name, t in state.items()}
    kept = two.bias
    version = kept.version
    result = two.load_state_dict(state)
    assert result.missing_keys == []
    assert result.unexpected_keys == []
    assert repr(result) == "<All keys matched successfully>"
    assert two.bias is kept
    assert two.bias.version == version + 1
    for name, t in two.state_dict().items():
        np.testing.assert_array_equal(t.numpy(), one.state_dict()[name].numpy())
        assert t.dtype is one.state_dict()[name].dtype
        assert not np.shares_memory(t.numpy(), one.state_dict()[name].numpy())


def test_loading_on_another_device() -> None:
    one, two = Net(), Net().to("ref")
    two.load_state_dict(one.state_dict())
    assert two.bias.device.type == "ref"
    assert tb.equal(two.rest[0].weight.detach().to(device="cpu"), one.rest[0].weight.detach())


def test_everything_wrong_is_named_and_nothing_written() -> None:
    net = Net()
    before = {name: t.numpy().copy() for name, t in net.state_dict().items()}
    state: dict[str, Any] = {name: t.clone() + 1 for name, t in net.state_dict().items()}
    del state["first.gain"]
    state["first.gian"] = tb.ones(3)
    state["rest.0.weight"] = tb.ones(3, 4)
    state["bias"] = "text"
    state["rest.0.bias"] = np.array(["a"] * 4)
    with pytest.raises(StateDictError) as caught:
        net.load_state_dict(state)
    assert str(caught.value).split("\n  ") == [
        "load_state_dict: 'state_dict' must fit Net. Nothing was loaded. Got",
        "missing: first.gain",
        "unexpected: first.gian (did you mean first.gain?)",
        "bias: must be a Tensor or a NumPy array of numbers, not str",
        "rest.0.weight: must have shape (4, 3), not (3, 4)",
        "rest.0.bias: must be a Tensor or a NumPy array of numbers, not an array of <U1",
    ]
    for name, t in net.state_dict().items():
        np.testing.assert_array_equal(t.numpy(), before[name])


def test_loading_without_strictness() -> None:
    net = Net()
    result = net.load_state_dict({"bias": tb.ones(4), "other": tb.ones(1)}, strict=False)
    absent = [key for key in KEYS if key != "bias" and not key.endswith("num_batches_tracked")]
    assert result.missing_keys == absent  # as in PyTorch: without a version, a state dict may lack the counter
    assert result.unexpected_keys == ["other"]
    assert "missing_keys" in repr(result)
    assert net.bias.tolist() == [1.0] * 4
    with pytest.raises(StateDictError, match=r"bias: must have shape \(4,\), not \(5,\)"):
        net.load_state_dict({"bias": tb.ones(5)}, strict=False)
    with pytest.raises(DTypeError, match="'state_dict' must be a mapping"):
        net.load_state_dict([1, 2])  # type: ignore[arg-type]


@pytest.mark.peers
def test_state_dict_keys_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch")

    def build(lib: Any) -> Any:
        return lib.nn.Sequential(
            OrderedDict(
                hidden=lib.nn.Linear(3, 4),
                norm=lib.nn.BatchNorm1d(4),
                act=lib.nn.Sigmoid(),
                drop=lib.nn.Dropout(0.5),
                rest=lib.nn.Sequential(lib.nn.Linear(4, 4, bias=False), lib.nn.BatchNorm1d(4, affine=False)),
                list=lib.nn.ModuleList([lib.nn.BatchNorm1d(4, track_running_stats=False), lib.nn.Tanh()]),
            )
        )

    ours, theirs = build(tb), build(torch)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, t in theirs.state_dict().items():
        assert ours.state_dict()[name].shape == tuple(t.shape)
        assert str(ours.state_dict()[name].dtype).split(".")[1] == str(t.dtype).split(".")[1]
    ours.load_state_dict({name: t.numpy() for name, t in theirs.state_dict().items()})
    theirs.load_state_dict({name: torch.from_numpy(t.numpy().copy()) for name, t in ours.state_dict().items()})


# ----------------------------------------------------------------------------------------------- hooks


def test_forward_hooks() -> None:
    m = Scale()
    x = tb.ones(2, 3)
    calls: list[Any] = []
    watch = m.register_forward_pre_hook(lambda module, args: calls.append((module, args)))
    double = m.register_forward_pre_hook(lambda module, args: args[0] * 2)
    more = m.register_forward_hook(lambda module, args, out: out + args[0])
    late = m.register_forward_hook(lambda module, args, out: calls.append(out))
    assert m(x).tolist() == [[4.0] * 3] * 2
    assert calls[0][0] is m
    assert calls[0][1] == (x,)
    assert calls[1].tolist() == [[4.0] * 3] * 2
    double.remove()
    double.remove()
    assert m(x).tolist() == [[2.0] * 3] * 2
    more.remove()
    with watch, late:
        assert m(x).tolist() == [[1.0] * 3] * 2
    count = len(calls)
    assert m(x).tolist() == [[1.0] * 3] * 2
    assert len(calls) == count


def test_hooks_with_keyword_arguments() -> None:
    m = Scale()
    m.register_forward_pre_hook(lambda module, args, kwargs: (args, {"shift": kwargs["shift"] + 1}), with_kwargs=True)
    seen: list[Any] = []
    m.register_forward_hook(lambda module, args, kwargs, out: seen.append(kwargs), with_kwargs=True)
    assert m(tb.zeros(3), shift=1.0).tolist() == [2.0] * 3
    assert seen == [{"shift": 2.0}]
    m.register_forward_pre_hook(lambda module, args, kwargs: args, with_kwargs=True)
    with pytest.raises(GradientError, match="'result' must be None or"):
        m(tb.zeros(3), shift=1.0)


class Two(nn.Module):
    """Two inputs, two outputs, one of them an integer tensor."""

    def forward(self, x: tb.Tensor, n: int, y: tb.Tensor) -> Any:
        return x * y * n, y * 2, tb.arange(3)


def test_backward_hooks() -> None:
    m = Two()
    x, y = tb.tensor([1.0, 2.0], requires_grad=True), tb.tensor([3.0, 5.0])
    calls: list[Any] = []
    handle = m.register_full_backward_hook(lambda *given: calls.append(given))
    a, b, c = m(x, 10, y)
    assert a.tolist() == [30.0, 100.0]
    assert c.tolist() == [0, 1, 2]
    assert not b.requires_grad
    (a + b).backward(tb.tensor([1.0, 2.0]))
    assert x.grad is not None
    assert x.grad.tolist() == [30.0, 100.0]
    ((module, inputs, outputs),) = calls
    assert module is m
    assert [None if g is None else g.tolist() for g in inputs] == [[30.0, 100.0], None, None]
    assert [None if g is None else g.tolist() for g in outputs] == [[1.0, 2.0], None, None]
    handle.remove()
    m(x, 1, y)[0].mean().backward()
    assert len(calls) == 1


def test_backward_hook_replaces() -> None:
    m = nn.Linear(3, 2)
    x = tb.randn(4, 3, requires_grad=True)
    m.register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * 0 + 7,))
    m(x).mean().backward()
    assert x.grad is not None
    assert set(x.grad.reshape(-1).tolist()) == {7.0}
    assert m.weight.grad is not None
    m.register_full_backward_hook(lambda module, inputs, outputs: (None, None))
    with pytest.raises(GradientError, match="'result' must be a tuple of 1 gradients"):
        m(x).mean().backward()


def test_backward_hook_without_a_tracked_input() -> None:
    m = nn.Linear(3, 2)
    calls: list[Any] = []
    m.register_full_backward_hook(lambda module, inputs, outputs: calls.append((inputs, outputs)))
    m(tb.randn(4, 3)).backward(tb.ones(4, 2))
    assert calls[0][0] == (None,)
    assert calls[0][1][0].tolist() == [[1.0, 1.0]] * 4
    assert m.weight.grad is not None
    with tb.no_grad():
        assert not m(tb.randn(4, 3)).requires_grad


def test_backward_hook_on_an_input_used_twice() -> None:
    class Square(nn.Module):
        def forward(self, x: tb.Tensor) -> tb.Tensor:
            return x * x

    m = Square()
    seen: list[Any] = []
    m.register_full_backward_hook(lambda module, inputs, outputs: seen.append(inputs[0].tolist()))
    x = tb.tensor([3.0], requires_grad=True)
    (m(x) + x).backward()
    assert seen == [[6.0]]
    assert x.grad is not None
    assert x.grad.tolist() == [7.0]


def test_second_derivative_through_backward_hooks() -> None:
    m = nn.Tanh()
    m.register_full_backward_hook(lambda module, inputs, outputs: None)
    x = tb.tensor([0.3, -0.7], dtype=tb.float64, requires_grad=True)
    (g,) = tb.grad(m(x), x, tb.ones(2, dtype=tb.float64), create_graph=True)
    assert g is not None
    (h,) = tb.grad(g, x, tb.ones(2, dtype=tb.float64))
    assert h is not None
    t = np.tanh(x.detach().numpy())
    np.testing.assert_allclose(h.numpy(), -2 * t * (1 - t * t), rtol=1e-12)


# ------------------------------------------------------------------------ printing, copies, parameters


def test_printing() -> None:
    assert repr(Net()) == (
        "Net(\n"
        "  (first): Scale()\n"
        "  (rest): Sequential(\n"
        "    (0): Linear(in_features=3, out_features=4, bias=True)\n"
        "    (1): BatchNorm1d(4, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)\n"
        "    (2): ReLU()\n"
        "  )\n"
        ")"
    )


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies(clone: Any) -> None:
    net = Net()
    net.same = net.bias
    net.eval()
    net.first.gain.requires_grad = False
    other = clone(net)
    consistent(other)
    assert other.same is other.bias
    assert not other.training
    assert not other.first.gain.requires_grad
    assert isinstance(other.bias, nn.Parameter)
    for name, t in net.state_dict().items():
        assert tb.equal(t, other.state_dict()[name])
        assert not np.shares_memory(t.numpy(), other.state_dict()[name].numpy())
    other.train()
    other(tb.randn(4, 3)).mean().backward()
    assert net.bias.grad is None
    assert other.bias.grad is not None
    assert net.rest[1].num_batches_tracked.item() == 0


def test_parameter() -> None:
    data = tb.ones(2, 3)
    p = nn.Parameter(data)
    assert isinstance(p, tb.Tensor)
    assert p.requires_grad
    assert p.is_leaf
    assert np.shares_memory(p.detach().numpy(), data.numpy())
    assert not nn.Parameter(data, requires_grad=False).requires_grad
    assert repr(p).startswith("Parameter containing:\ntensor([[1., 1., 1.],")
    for other in (pickle.loads(pickle.dumps(p)), copy.deepcopy(p)):
        assert type(other) is nn.Parameter
        assert other.requires_grad
        assert tb.equal(other.detach(), data)
    assert type(p * 2) is tb.Tensor
    assert type(p.detach()) is tb.Tensor
    strided = nn.Parameter(tb.ones(2, 3).T)
    assert not strided.is_contiguous()
    with pytest.raises(DTypeError, match="Parameter: 'data' must be a Tensor. Got list"):
        nn.Parameter([1.0])  # type: ignore[arg-type]
    with pytest.raises(GradientError, match="only floating-point"):
        nn.Parameter(tb.arange(3))
    with tb.no_grad():
        p.add_(1.0)
    assert data.tolist() == [[2.0] * 3] * 2
    assert data.version == p.version


# ------------------------------------------------------------------------------------------ containers


def test_sequential() -> None:
    layers = [nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)]
    net = nn.Sequential(*layers)
    assert len(net) == 3
    assert list(net) == layers
    assert net[-1] is layers[2]
    x = tb.randn(5, 3)
    assert tb.equal(net(x), layers[2](layers[1](layers[0](x))))
    tail = net[1:]
    assert isinstance(tail, nn.Sequential)
    assert list(tail.state_dict()) == ["2.weight", "2.bias"]
    assert tail[1] is layers[2]
    tail.append(nn.Tanh())
    assert [type(m).__name__ for m in tail] == ["ReLU", "Linear", "Tanh"]
    net.insert(1, nn.Tanh()).extend([nn.Identity()])
    assert [type(m).__name__ for m in net] == ["Linear", "Tanh", "ReLU", "Linear", "Identity"]
    assert list(net._modules) == ["0", "1", "2", "3", "4"]
    net[1] = nn.Sigmoid()
    del net[4]
    del net[0:1]
    assert [type(m).__name__ for m in net] == ["Sigmoid", "ReLU", "Linear"]
    assert list(net._modules) == ["0", "1", "2"]
    consistent(net)
    with pytest.raises(IndexRangeError, match="Sequential: 'index' must be from -3 to 2. Got 3."):
        _ = net[3]
    with pytest.raises(DTypeError, match="Sequential: 'module' must be a Module. Got int."):
        nn.Sequential(3)
    assert nn.Sequential()(x) is x


def test_sequential_with_names() -> None:
    net = nn.Sequential(OrderedDict(a=nn.Linear(3, 4), b=nn.ReLU()))
    assert net.a is net[0]
    assert list(net[:1].state_dict()) == ["a.weight", "a.bias"]
    assert list(net.append(nn.Tanh())._modules) == ["a", "b", "2"]


def test_module_list() -> None:
    layers = nn.ModuleList(nn.Linear(i + 1, 2) for i in range(3))
    assert len(layers) == 3
    layers += [nn.ReLU()]
    assert isinstance(layers, nn.ModuleList)
    assert len(layers[1:]) == 3
    assert list(layers.state_dict())[-1] == "2.bias"
    assert [m.in_features for m in layers[:3]] == [1, 2, 3]
    assert nn.Linear not in [type(m) for m in nn.ModuleList()]
    with pytest.raises(NotImplementedError, match="ModuleList: a module must define forward"):
        layers(tb.ones(1))
    assert "(0): Linear(in_features=1" in repr(layers)
