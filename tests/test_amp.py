"""Mixed precision in training: modules in low precision, ``autocast``, master weights, ``GradScaler``."""

from __future__ import annotations

import doctest
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.amp import GradScaler, autocast, get_autocast_dtype, is_autocast_enabled
from tinygrad_bn.errors import ArgumentError, DTypeError, GradientError, StateDictError

F = tb.functional
nn = tb.nn
LOW = [tb.float16, tb.bfloat16]
low = pytest.mark.parametrize("dtype", LOW, ids=[d.name for d in LOW])
PAGE = Path(__file__).resolve().parents[1] / "docs" / "mixed_precision.md"


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(72, 16, bias=False),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 4),
    )


def batch() -> tuple[tb.Tensor, tb.Tensor]:
    tb.manual_seed(1)
    return tb.randn(12, 3, 6, 6), tb.tensor([i % 4 for i in range(12)])


# ------------------------------------------------------------------------------------------------------ whole modules


@low
def test_a_whole_network_in_low_precision_is_near_the_one_in_float32(dtype: tb.dtype, device: str) -> None:
    x, t = (v.to(device=device) for v in batch())
    tb.manual_seed(0)
    net = network().to(device=device)
    want = net(x)
    F.cross_entropy(want, t).backward()
    gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            m.reset_running_stats()
    net.to(dtype)
    got = net(x.to(dtype))
    loss = F.cross_entropy(got, t)
    loss.backward()
    assert got.dtype is loss.dtype is dtype
    limit = 0.1 if dtype is tb.bfloat16 else 0.02
    np.testing.assert_allclose(got.detach().float().numpy(), want.detach().numpy(), atol=limit)
    for p, w in zip(net.parameters(), gradients, strict=True):
        assert p.grad is not None
        assert p.dtype is p.grad.dtype is dtype
        size = np.abs(w.numpy()).max()
        np.testing.assert_allclose(p.grad.float().numpy(), w.numpy(), atol=5 * limit * size + 1e-7)
    norm: Any = net[1]
    assert norm.running_mean.dtype is dtype
    assert norm.num_batches_tracked.item() == 1
    assert np.abs(norm.running_mean.float().numpy()).max() > 1e-4
    assert net.eval()(x.to(dtype)).dtype is dtype


@low
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_of_low_precision_has_statistics_and_parameters_in_float32(dtype: tb.dtype, training: bool) -> None:
    x = (tb.randn(16, 5, 3) + 100.0).to(dtype).requires_grad_()
    layer, same = nn.BatchNorm1d(5).train(training), nn.BatchNorm1d(5).train(training)
    y, want = layer(x), same(x.detach().float())
    assert y.dtype is dtype
    assert y.tolist() == want.to(dtype).tolist()
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.running_mean.dtype is tb.float32
    assert layer.running_mean.tolist() == same.running_mean.tolist()
    assert layer.running_var.tolist() == same.running_var.tolist()
    y.sum().backward()
    assert layer.weight is not None
    assert layer.weight.grad is not None
    assert x.grad is not None
    assert (layer.weight.grad.dtype, x.grad.dtype) == (tb.float32, dtype)


LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(4, 3), (5, 4)),
    "Conv1d": (lambda: nn.Conv1d(4, 3, 3), (2, 4, 7)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 3, 3, stride=2), (2, 4, 3, 3)),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(4), (3, 4, 2, 2, 2)),
    "BatchNormAct2d": (lambda: nn.BatchNormAct2d(4), (3, 4, 2, 2)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (2, 4, 5)),
    "LayerNorm": (lambda: nn.LayerNorm(5), (2, 4, 5)),
    "RMSNorm": (lambda: nn.RMSNorm(5), (2, 4, 5)),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(4, affine=True, track_running_stats=True), (2, 4, 5)),
    "GhostBatchNorm": (lambda: nn.GhostBatchNorm(4, 3), (6, 4)),
    "BatchRenorm": (lambda: nn.BatchRenorm(4), (6, 4)),
    "LpBatchNorm": (lambda: nn.LpBatchNorm(4, p=1), (6, 4)),
    "IterNorm": (lambda: nn.IterNorm(4), (9, 4)),
    "DecorrelatedBatchNorm": (lambda: nn.DecorrelatedBatchNorm(4), (9, 4)),
    "FilterResponseNorm": (lambda: nn.FilterResponseNorm(4), (2, 4, 3, 3)),
    "PReLU": (lambda: nn.PReLU(4), (3, 4)),
    "Dropout": (lambda: nn.Dropout(0.5), (3, 4)),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d(2), (2, 3, 5, 5)),
    "Softmax": (lambda: nn.Softmax(1), (2, 3)),
    "LSTM": (lambda: nn.LSTM(4, 3), (5, 2, 4)),
    "GRU": (lambda: nn.GRU(4, 3), (5, 2, 4)),
    "RNN": (lambda: nn.RNN(4, 3), (5, 2, 4)),
}


@low
@pytest.mark.parametrize("name", LAYERS)
def test_layers_in_low_precision(name: str, dtype: tb.dtype) -> None:
    """Converted, and float32 ones on low-precision inputs: outputs near float32's, parameters with gradients of their
    own dtype."""
    make, shape = LAYERS[name]
    tb.manual_seed(0)
    layer, x = make(), tb.randn(*shape).to(dtype)
    tb.manual_seed(5)
    want = layer(x.float())
    want = want if isinstance(want, tb.Tensor) else want[0]
    for own in (tb.float32, dtype):
        layer.to(own)
        tb.manual_seed(5)
        given = x.detach().requires_grad_()
        out = layer(given)
        out = out if isinstance(out, tb.Tensor) else out[0]
        limit = 0.06 if dtype is tb.bfloat16 else 0.01
        np.testing.assert_allclose(out.detach().float().numpy(), want.detach().numpy(), atol=limit, rtol=limit)
        assert own is tb.float32 or out.dtype is dtype
        (out * tb.randn(*out.shape)).sum().backward()
        for p in layer.parameters():
            assert p.grad is not None
            assert p.grad.dtype is p.dtype is own
        layer.zero_grad()
    assert out.dtype is dtype


def test_convolution_and_normalisation_that_share_trips_take_low_precision_one_by_one() -> None:
    x = tb.randn(2, 8, 6, 6)
    tb.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    want = net(x).detach().numpy()
    norm: Any = net[1]
    norm.reset_running_stats()
    got = net(x.bfloat16())
    np.testing.assert_allclose(got.detach().float().numpy(), want, atol=0.05)
    w, given = tb.randn(4, 8, 3, 3), (tb.zeros(4), tb.ones(4))
    fused = F.conv2d_batch_norm_act(x.bfloat16(), w, *given, training=True)
    assert fused.dtype is tb.bfloat16
    assert given[0].tolist() != [0.0] * 4
    with autocast("cpu", tb.bfloat16):
        assert F.conv2d_batch_norm_act(x, w, *given, training=True).dtype is tb.bfloat16


@low
def test_tools_take_networks_of_low_precision(dtype: tb.dtype) -> None:
    x, t = batch()
    net = network().to(dtype)
    loader = [(x.to(dtype), t)] * 2
    nn.utils.update_bn(net, loader)
    assert str(tb.diagnose(net, loader)).startswith("2 batches")
    assert "BatchNorm2d" in str(tb.summary(net, (12, 3, 6, 6)))
    folded = nn.utils.fold_bn(net.eval(), x.to(dtype))
    got, want = (m(x.to(dtype)).detach().float().numpy() for m in (folded, net))
    np.testing.assert_allclose(got, want, atol=0.05)
    y = tb.checkpoint(net[0], x.to(dtype).requires_grad_())
    y.sum().backward()
    assert net[0].weight.grad.dtype is dtype
    tb.optim.swa_utils.AveragedModel(net).update_parameters(net)


# ------------------------------------------------------------------------------------------------------------ autocast


@low
def test_autocast_chooses_the_precision_of_each_operation(dtype: tb.dtype, device: str) -> None:
    x, w = tb.randn(4, 4, device=device), tb.randn(4, 4, device=device)
    image, filters = tb.randn(1, 2, 5, 5, device=device), tb.randn(3, 2, 3, 3, device=device)
    small, target = x.to(dtype), tb.zeros(4, dtype=tb.int64, device=device)
    with autocast(device, dtype):
        for low_one in (x @ w, F.linear(x, w), F.conv2d(image, filters), tb.bmm(x[None], w[None]), x @ small):
            assert low_one.dtype is dtype
        for single in (
            small.exp(),
            small.pow(2),
            small.sum(),
            tb.softmax(small, 1),
            F.layer_norm(small, (4,)),
            F.cross_entropy(small, target),
            F.mse_loss(small, x),
            F.cosine_similarity(small, small),
        ):
            assert single.dtype is tb.float32
        assert (small + small).dtype is small.relu().dtype is dtype
        assert (x + x).dtype is (small + x).dtype is tb.float32
        assert (x.double() @ w.double()).dtype is tb.float64
        assert tb.cat([small, x]).dtype is tb.float32
    assert (x @ w).dtype is tb.float32
    assert (small @ small).dtype is dtype


@pytest.mark.peers
def test_autocast_gives_what_pytorch_gives() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((6, 6)).astype(np.float32) for _ in range(2))
    found = []
    for lib, make in ((tb, tb.from_numpy), (torch, torch.from_numpy)):
        x, w = make(a.copy()).requires_grad_(), make(b.copy()).requires_grad_()
        with lib.autocast(device_type="cpu", dtype=lib.bfloat16):
            y = (x @ w).relu() @ w
            z = lib.softmax(y.float(), 1)
        (z * z).sum().backward()
        found.append([v.detach().float().numpy() for v in (y, z, x.grad, w.grad)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0.03, atol=0.03 * np.abs(theirs).max())


def test_autocast_as_a_decorator_nested_and_switched_off() -> None:
    x = tb.ones(2, 2)

    @autocast("cpu", tb.float16)
    def step() -> tuple[tb.dtype, tb.dtype]:
        with autocast("cpu", enabled=False):
            inner = (x @ x).dtype
        return inner, (x @ x).dtype

    assert step() == (tb.float32, tb.float16)
    assert not is_autocast_enabled()
    with autocast("cpu"):
        assert is_autocast_enabled()
        assert get_autocast_dtype() is tb.bfloat16
        with autocast("cpu", tb.float16):
            assert (x @ x).dtype is tb.float16
        assert (x @ x).dtype is tb.bfloat16
    with autocast("ref", tb.float16):
        assert (x @ x).dtype is tb.float32
    with pytest.raises(ZeroDivisionError), autocast("cpu"):
        _ = 1 / 0
    assert (x @ x).dtype is tb.float32


def test_autocast_leaves_other_threads_alone() -> None:
    from threading import Thread

    found: list[tb.dtype] = []
    with autocast("cpu"):
        thread = Thread(target=lambda: found.append((tb.ones(2, 2) @ tb.ones(2, 2)).dtype))
        thread.start()
        thread.join()
    assert found == [tb.float32]


@pytest.mark.parametrize("inside", [True, False])
def test_gradients_under_autocast_are_the_parameters(inside: bool) -> None:
    x, t = batch()
    net = network()
    with autocast("cpu", tb.bfloat16):
        loss = F.cross_entropy(net(x), t)
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    assert loss.dtype is tb.float32
    assert all(p.grad is not None and p.grad.dtype is tb.float32 for p in net.parameters())
    norm: Any = net[1]
    assert norm.running_var.dtype is tb.float32


def test_a_parameter_is_converted_once_until_it_changes() -> None:
    seen: list[str] = []

    def watch(kernel: Any, arguments: Any, run: Any) -> None:
        seen.append(kernel.name)
        run()

    from tinygrad_bn.core import launch

    w, x = nn.Parameter(tb.ones(3, 3)), tb.ones(2, 3)
    for cached, want in ((True, 4), (False, 5)):
        seen.clear()
        launch.observers.append(watch)
        try:
            with autocast("cpu", tb.bfloat16, cache_enabled=cached):
                y = F.linear(F.linear(x, w), w)
        finally:
            launch.observers.remove(watch)
        assert seen.count("narrow") == want  # x, each result, and w once or twice
    with autocast("cpu", tb.bfloat16):
        before = F.linear(x, w)
        with tb.no_grad():
            w.mul_(2.0)
        assert F.linear(x, w).tolist() == (before * 2.0).tolist()
    y.sum().backward()
    assert w.grad is not None
    assert w.grad.tolist() == [[12.0] * 3] * 3


def test_what_autocast_does_not_take() -> None:
    with pytest.raises(ArgumentError, match=r"autocast: 'device_type' must be 'cpu', 'cuda' or 'ref'\. Got 'tpu'\."):
        autocast("tpu")
    with pytest.raises(DTypeError, match=r"autocast: 'dtype' must be bfloat16 or float16\. Got float32\."):
        autocast("cpu", tb.float32)


# ------------------------------------------------------------------------------------------------------ master weights

OPTIMISERS: dict[str, Any] = {
    "SGD": lambda p: tb.optim.SGD(p, lr=1e-4, momentum=0.9),
    "Adam": lambda p: tb.optim.Adam(p, lr=1e-4, amsgrad=True),
    "AdamW": lambda p: tb.optim.AdamW(p, lr=1e-4),
    "Adagrad": lambda p: tb.optim.Adagrad(p, lr=1e-3),
    "RMSprop": lambda p: tb.optim.RMSprop(p, lr=1e-4, momentum=0.5, centered=True),
}


@low
@pytest.mark.parametrize("name", OPTIMISERS)
def test_tiny_updates_add_up_as_in_float32(name: str, dtype: tb.dtype, device: str) -> None:
    """A step far below the last place of the parameter: after many, it has moved as float32's has."""
    start = tb.tensor([[1.0, -2.0], [64.0, 0.5]], device=device)
    single, small = nn.Parameter(start.clone()), nn.Parameter(start.to(dtype))
    mixed = OPTIMISERS[name]([small, nn.Parameter(start.clone())])
    plain = OPTIMISERS[name]([single])
    g = tb.tensor([[1.0, 2.0], [-0.5, 1.0]], device=device)
    for _ in range(60):
        single.grad, small.grad = g.clone(), g.to(dtype)
        plain.step()
        mixed.step()
    state = mixed.state[small]
    assert state["master"].tolist() == single.tolist()
    assert small.tolist() == single.to(dtype).tolist()
    assert small[0, 0].item() != 1.0
    assert {v.dtype for v in state.values()} == {tb.float32}


def test_a_master_copy_follows_a_parameter_that_others_change() -> None:
    p = nn.Parameter(tb.ones(3, dtype=tb.bfloat16))
    optimizer = tb.optim.SGD([p], lr=2.0**-12)
    g = tb.ones(3, dtype=tb.bfloat16)
    p.grad = g.clone()
    optimizer.step()
    with tb.no_grad():
        p[0] = 5.0
    optimizer.step()
    assert optimizer.state[p]["master"].tolist() == [5 - 2.0**-12, 1 - 2.0**-11, 1 - 2.0**-11]


def test_master_weights_go_on_from_a_state_dict(tmp_path: Path) -> None:
    def steps(p: nn.Parameter, optimizer: Any, n: int) -> None:
        for i in range(n):
            p.grad = tb.full((4,), 1.0 + i, dtype=tb.bfloat16)
            optimizer.step()

    make = lambda p: tb.optim.Adam([p], lr=1e-3)  # noqa: E731
    p = nn.Parameter(tb.ones(4, dtype=tb.bfloat16))
    first = make(p)
    steps(p, first, 3)
    tb.save({"p": p.detach(), "state": first.state_dict()}, tmp_path / "f.safetensors")
    found = tb.load(tmp_path / "f.safetensors")
    q = nn.Parameter(found["p"])
    second = make(q)
    second.load_state_dict(found["state"])
    steps(p, first, 2)
    steps(q, second, 2)
    assert second.state[q]["master"].tolist() == first.state[p]["master"].tolist()


def test_a_parameter_that_is_not_contiguous() -> None:
    p = nn.Parameter(tb.ones(3, 2, dtype=tb.float16).T)
    p.grad = tb.ones(2, 3, dtype=tb.float16)
    tb.optim.SGD([p], lr=0.5).step()
    assert p.tolist() == [[0.5] * 3] * 2


@low
def test_gradients_are_clipped(dtype: tb.dtype) -> None:
    p = nn.Parameter(tb.zeros(2, dtype=dtype))
    p.grad = tb.tensor([3.0, 4.0], dtype=dtype)
    norm = nn.utils.clip_grad_norm_([p], 1.0)
    assert norm.item() == 5.0
    assert p.grad.dtype is dtype
    np.testing.assert_allclose(p.grad.tolist(), [0.6, 0.8], rtol=0.01)


# ---------------------------------------------------------------------------------------------------------- GradScaler


def test_the_scale_grows_shrinks_and_steps_are_skipped_whole(device: str) -> None:
    """Both groups, state and parameters, stay where a single gradient of one is not finite."""
    a, b = (nn.Parameter(tb.ones(2, device=device)) for _ in range(2))
    optimizer = tb.optim.Adam([{"params": [a]}, {"params": [b], "lr": 0.5}], lr=0.1)
    scaler = GradScaler(init_scale=8.0, growth_interval=2)
    scales = []
    for factor in (1.0, math.inf, 1.0, 1.0, math.nan):
        before = [[v.tolist() for v in (p, *optimizer.state[p].values())] for p in (a, b)]
        optimizer.zero_grad()
        scaler.scale((a * 2.0).sum() + (b * tb.tensor([1.0, factor], device=device)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        after = [[v.tolist() for v in (p, *optimizer.state[p].values())] for p in (a, b)]
        scales.append(scaler.get_scale())
        assert (before == after) is (not math.isfinite(factor))
        if math.isfinite(factor):
            assert a.grad is not None
            assert a.grad.tolist() == [2.0, 2.0]
    assert scales == [8.0, 4.0, 4.0, 8.0, 4.0]
    assert optimizer.state[a]["step"].item() == 3


@pytest.mark.peers
def test_scales_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    found = []
    for lib in (tb, torch):
        w = lib.nn.Parameter(lib.ones(2))
        optimizer = lib.optim.SGD([w], lr=0.125)
        scaler = lib.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3, growth_factor=4.0, backoff_factor=0.25)
        seen = []
        for i in range(12):
            optimizer.zero_grad()
            scaler.scale((w * (math.inf if i in (1, 6) else 1.0)).sum()).backward()
            scaler.unscale_(optimizer)
            lib.nn.utils.clip_grad_norm_([w], 1.0)
            scaler.step(optimizer)
            scaler.update()
            seen.append((scaler.get_scale(), w.tolist()))
        found.append((seen, scaler.state_dict()))
    for (scale, ours), (wanted, theirs) in zip(found[0][0], found[1][0], strict=True):
        assert scale == wanted
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert found[0][1] == found[1][1]


def test_a_scale_that_would_overflow_stays() -> None:
    w = nn.Parameter(tb.ones(1))
    optimizer = tb.optim.SGD([w], lr=0.0)
    scaler = GradScaler(init_scale=2.0**127, growth_interval=1)
    w.grad = tb.zeros(1)
    scaler.scale(w)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**127


def test_gradients_of_float16_are_unscaled_into_float32() -> None:
    """What would underflow in float16 reaches the master copy."""
    p = nn.Parameter(tb.ones(1, dtype=tb.float16))
    optimizer = tb.optim.SGD([p], lr=1.0)
    scaler = GradScaler(init_scale=2.0**14)
    scaler.scale((p.float() * 2.0**-26).sum()).backward()
    assert p.grad is not None
    assert p.grad.item() == 2.0**-12
    scaler.unscale_(optimizer)
    assert p.grad.dtype is tb.float32
    assert p.grad.item() == 2.0**-26
    scaler.step(optimizer)
    assert optimizer.state[p]["master"].item() == np.float32(1 - 2.0**-26)


def test_an_optimiser_of_ones_own_steps_only_where_it_may() -> None:
    class Own(tb.optim.Optimizer):
        def step(self, closure: Any = None) -> str:
            return "stepped"

    w = nn.Parameter(tb.ones(1))
    optimizer, scaler = Own([w], {}), GradScaler(init_scale=2.0)
    for factor, want in ((1.0, "stepped"), (math.inf, None)):
        optimizer.zero_grad()
        scaler.scale((w * factor).sum()).backward()
        assert scaler.step(optimizer) == want
        scaler.update()


def test_two_optimisers_share_a_scale() -> None:
    a, b = nn.Parameter(tb.ones(1)), nn.Parameter(tb.ones(1))
    one, two = tb.optim.SGD([a], lr=0.5), tb.optim.SGD([b], lr=0.5)
    scaler = GradScaler(init_scale=4.0)
    scaler.scale([(a * math.inf).sum(), b.sum()])[0].backward()
    scaler.scale(b.sum()).backward()
    scaler.step(one)
    scaler.step(two)
    scaler.update()
    assert (a.item(), b.item(), scaler.get_scale()) == (1.0, 0.5, 2.0)


def test_state_dicts_of_scalers() -> None:
    w = nn.Parameter(tb.ones(1))
    optimizer, scaler = tb.optim.SGD([w], lr=0.1), GradScaler(init_scale=4.0, growth_interval=5)
    scaler.scale(w.sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    state = scaler.state_dict()
    assert state == {
        "scale": 4.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 5, "_growth_tracker": 1,
    }  # fmt: skip
    for other in (GradScaler(), scaler):
        other.load_state_dict(state | {"scale": 16.0})
        assert other.state_dict() == state | {"scale": 16.0}
        assert other.scale(tb.ones(())).item() == 16.0
    with pytest.raises(StateDictError, match="GradScaler: 'state_dict' must have keys|GradScaler"):
        scaler.load_state_dict({})
    scaler.update(3.0)
    assert scaler.get_scale() == 3.0


def test_a_scaler_that_is_not_enabled_does_nothing() -> None:
    w = nn.Parameter(tb.ones(1))
    optimizer, scaler = tb.optim.SGD([w], lr=0.5), GradScaler(enabled=False)
    loss = w.sum()
    assert scaler.scale(loss) is loss
    loss.backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert (w.item(), scaler.get_scale(), scaler.state_dict()) == (0.5, 1.0, {})


def test_steps_out_of_order_are_refused() -> None:
    w = nn.Parameter(tb.ones(1))
    optimizer, scaler = tb.optim.SGD([w], lr=0.5), GradScaler()
    with pytest.raises(GradientError, match="nothing has been scaled"):
        scaler.step(optimizer)
    scaler.scale(w.sum()).backward()
    with pytest.raises(GradientError, match="no step was taken"):
        scaler.update()
    scaler.unscale_(optimizer)
    with pytest.raises(GradientError, match=r"unscale_\(\) has been called for this optimiser since"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(GradientError, match=r"step\(\) has been called for this optimiser since"):
        scaler.step(optimizer)
    scaler.update()
    with pytest.raises(ArgumentError, match="closures"):
        scaler.step(optimizer, lambda: None)
    for wrong in ({"init_scale": 0.0}, {"growth_factor": 1.0}, {"backoff_factor": 1.0}, {"growth_interval": 0}):
        with pytest.raises(ArgumentError, match=f"GradScaler: '{next(iter(wrong))}' must be"):
            GradScaler(**wrong)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------ captured


def _train(capture: bool, poison: int) -> tuple[list[float], list[Any], list[float]]:
    """Losses, parameters and scales of steps of which one has an infinite gradient."""
    tb.manual_seed(0)
    net, scaler = network(), GradScaler(init_scale=128.0, growth_interval=4)
    optimizer = tb.optim.Adam(net.parameters(), lr=1e-2)
    x, t = batch()

    def step(x: tb.Tensor, t: tb.Tensor, factor: tb.Tensor) -> tb.Tensor:
        optimizer.zero_grad()
        with autocast("cpu", tb.bfloat16):
            loss = F.cross_entropy(net(x), t)
        scaler.scale(loss * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    run: Any = tb.capture(step) if capture else step
    losses, scales = [], []
    for i in range(10):
        losses.append(run(x, t, tb.tensor(math.inf if i == poison else 1.0)).item())
        scales.append(scaler.get_scale())
    assert not capture or run.replays
    return losses, [p.tolist() for p in net.parameters()], scales


def test_a_captured_step_with_autocast_and_a_scaler_does_what_eager_code_does() -> None:
    eager, captured = _train(False, 7), _train(True, 7)
    assert captured == eager
    assert eager[2][6:8] == [256.0, 128.0]
    assert eager[0][7] == eager[0][8]


def test_a_captured_step_in_low_precision_does_what_eager_code_does() -> None:
    found = []
    for capture in (False, True):
        tb.manual_seed(0)
        net = network().bfloat16()
        optimizer = tb.optim.SGD(net.parameters(), lr=1e-2, momentum=0.9)
        x, t = batch()

        def step(x: tb.Tensor, t: tb.Tensor, net: Any = net, optimizer: Any = optimizer) -> tb.Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x.bfloat16()), t)
            loss.backward()
            optimizer.step()
            return loss

        run: Any = tb.capture(step) if capture else step
        losses = [run(x, t).item() for _ in range(8)]
        assert not capture or run.replays
        found.append((losses, [p.tolist() for p in net.parameters()], [b.tolist() for b in net.buffers()]))
    assert found[0] == found[1]
    assert found[0][0][-1] < found[0][0][0]


def test_the_page() -> None:
    failed, tried = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert (failed, tried > 5) == (0, True)


@pytest.mark.parametrize("module", ["autocast", "grad_scaler"])
def test_the_docstrings(module: str) -> None:
    import importlib

    failed, tried = doctest.testmod(importlib.import_module(f"tinygrad_bn.amp.{module}"))
    assert (failed, tried > 3) == (0, True)
