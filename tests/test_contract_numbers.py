"""Numbers that the contract of batch normalisation promises: at large means beside PyTorch's, whatever the threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import nn
from tinygrad_bn.core import launch
from tinygrad_bn.nn.bn_tools import run_ranks

Array = np.ndarray[Any, Any]
MEAN = 1e6
"""Where numbers of float32 are 1 / 16 apart: a mean square would be off by far more than the variance."""


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# --------------------------------------------------------------------------------------- accuracy at large means


def exact(x: Array, gy: Array, w: Array, b: Array) -> dict[str, Array]:
    """All results in float64, by the formula, of the numbers as they are in float32."""
    rest = (0, *range(2, x.ndim))
    wide = (1, -1, *[1] * (x.ndim - 2))
    x, gy = x.astype(np.float64), gy.astype(np.float64)
    mean, var = x.mean(rest, keepdims=True), x.var(rest, keepdims=True)
    invstd = 1 / np.sqrt(var + 1e-5)
    hat = (x - mean) * invstd
    inner = gy - gy.mean(rest, keepdims=True) - hat * (gy * hat).mean(rest, keepdims=True)
    return {
        "output": hat * w.reshape(wide) + b.reshape(wide),
        "gradient of the input": w.reshape(wide) * invstd * inner,
        "gradient of the weight": (gy * hat).sum(rest),
        "gradient of the bias": gy.sum(rest),
        "running mean": mean.reshape(-1),
        "running variance": (var * x.size / (x.size - x.shape[1])).reshape(-1),
    }


def errors(found: dict[str, Array], want: dict[str, Array]) -> dict[str, float]:
    """The largest error of each result, as a part of the largest number of it."""
    return {k: float(np.abs(found[k].astype(np.float64) - v).max() / np.abs(v).max()) for k, v in want.items()}


def step(lib: Any, kind: str, x: Array, gy: Array, w: Array, b: Array, layout: str) -> dict[str, Array]:
    """A training step of a layer of either library, momentum 1."""
    make = tb.tensor if lib is tb else lib.tensor
    layer = getattr(lib.nn, kind)(x.shape[1], momentum=1.0)
    t = make(np.ascontiguousarray(x))
    if layout == "channels_last":
        t = t.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    t.requires_grad_()
    with lib.no_grad():
        layer.weight.copy_(make(w))
        layer.bias.copy_(make(b))
    y = layer(t)
    y.backward(make(gy))
    tensors = (y, t.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var)
    return dict(zip(exact(x, gy, w, b), (v.detach().numpy() for v in tensors), strict=True))


@pytest.mark.peers
@pytest.mark.parametrize(
    ("kind", "shape", "layout"),
    [("BatchNorm1d", (256, 8), "plain"), ("BatchNorm1d", (33, 5), "plain"), ("BatchNorm1d", (64, 8, 50), "plain"),
     ("BatchNorm2d", (32, 8, 16, 16), "plain"), ("BatchNorm2d", (32, 8, 16, 16), "channels_last"),
     ("BatchNorm2d", (2, 3, 5, 7), "plain"), ("BatchNorm3d", (8, 8, 4, 8, 8), "plain")],
)  # fmt: skip
def test_float32_at_a_large_mean_beside_pytorch(kind: str, shape: tuple[int, ...], layout: str) -> None:
    """Accuracy at large means: forward, backward and running statistics to 1e-3, and nearer than PyTorch."""
    torch = pytest.importorskip("torch")
    x, gy = normal(*shape) + np.float32(MEAN), normal(*shape, seed=1)
    w, b = normal(shape[1], seed=2) + 2, normal(shape[1], seed=3)
    want = exact(x, gy, w, b)
    ours, theirs = (errors(step(lib, kind, x, gy, w, b, layout), want) for lib in (tb, torch))
    for name, error in ours.items():
        assert error <= 1e-5, name  # two orders below what is promised
    for name in ("output", "gradient of the input", "gradient of the weight", "running variance"):
        assert ours[name] < theirs[name] / 10, name
    assert ours["running mean"] <= max(theirs["running mean"], 2.0**-24)  # half a unit: the nearest number there is


@pytest.mark.peers
def test_evaluation_in_float32_at_a_large_mean_beside_pytorch() -> None:
    """By the same buffers, which are numbers of float32."""
    torch = pytest.importorskip("torch")
    x, mean, var = normal(64, 4, 25) + np.float32(MEAN), normal(4) + np.float32(MEAN), np.abs(normal(4)) + 0.5
    want = (x.astype(np.float64) - mean[:, None]) / np.sqrt(var.astype(np.float64)[:, None] + 1e-5)
    found = []
    for lib, make in ((F, tb.tensor), (torch.nn.functional, torch.tensor)):
        y = lib.batch_norm(make(x), make(mean), make(var)).numpy()
        found.append(float(np.abs(y - want).max() / np.abs(want).max()))
    assert found[0] <= 1e-5
    assert found[0] < found[1] / 10


@pytest.mark.parametrize("form", ["mask", "axis -1", "axis (1, 3)", "axis 0"])
def test_float32_at_a_large_mean_over_other_axes_and_under_a_mask(form: str) -> None:
    x, gy = normal(16, 4, 30, 2) + np.float32(MEAN), normal(16, 4, 30, 2, seed=1)
    axis: Any = {"axis -1": -1, "axis (1, 3)": (1, 3), "axis 0": 0}.get(form, 1)
    kept = sorted(i % 4 for i in (axis if isinstance(axis, tuple) else (axis,)))
    rest = [i for i in range(4) if i not in kept]
    mask = np.ones([x.shape[i] for i in rest], bool) if form != "mask" else normal(16, 30, 2, seed=4) > 0
    t = tb.tensor(np.where(mask[:, None], x, np.float32(-9e9)) if form == "mask" else x, requires_grad=True)
    size = [x.shape[i] for i in kept]
    weight, bias, mean, var = (make(size) for make in (tb.ones, tb.zeros, tb.zeros, tb.ones))
    weight.requires_grad_()
    bias.requires_grad_()
    given = {"mask": tb.tensor(mask)} if form == "mask" else {}
    y = F.batch_norm(t, mean, var, weight, bias, True, 1.0, axis=axis, **given)
    y.backward(tb.tensor(gy))
    assert t.grad is not None
    assert weight.grad is not None
    assert bias.grad is not None

    def packed(a: Array) -> Array:
        return a.transpose(*rest, *kept)[mask].reshape(int(mask.sum()), -1)

    found = [packed(a) for a in (y.detach().numpy(), t.grad.numpy())]
    found += [v.numpy().reshape(-1) for v in (weight.grad, bias.grad, mean, var)]
    width = int(np.prod(size))
    want = exact(packed(x), packed(gy), np.ones(width), np.zeros(width))
    for name, error in errors(dict(zip(want, found, strict=True)), want).items():
        assert error <= 1e-5, name


# ------------------------------------------------------------------------------------------------------ threads

CHANNELS = 16
Make = Callable[[], Any]
IMAGES: dict[str, Make] = {
    "BatchNorm2d": lambda: nn.BatchNorm2d(CHANNELS),
    "BatchNorm2d, relu": lambda: nn.BatchNorm2d(CHANNELS, activation="relu"),
    "BatchNorm2d, sigmoid": lambda: nn.BatchNorm2d(CHANNELS, activation="sigmoid"),
    "BatchNormAct2d": lambda: nn.BatchNormAct2d(CHANNELS, "gelu"),
    "BatchNorm2d, axis -1": lambda: nn.BatchNorm2d(24, axis=-1),
    "BatchNorm2d, axis (1, 3)": lambda: nn.BatchNorm2d((CHANNELS, 24), axis=(1, 3)),
    "LazyBatchNorm2d": nn.LazyBatchNorm2d,
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(CHANNELS),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(CHANNELS, affine=True, track_running_stats=True),
    "GroupNorm": lambda: nn.GroupNorm(4, CHANNELS),
    "LayerNorm": lambda: nn.LayerNorm((24, 24)),
    "RMSNorm": lambda: nn.RMSNorm(24),
    "LocalResponseNorm": lambda: nn.LocalResponseNorm(3),
    "GhostBatchNorm": lambda: nn.GhostBatchNorm(CHANNELS, 4),
    "BatchRenorm": lambda: nn.BatchRenorm(CHANNELS),
    "LpBatchNorm, 1": lambda: nn.LpBatchNorm(CHANNELS, p=1),
    "LpBatchNorm, infinity": lambda: nn.LpBatchNorm(CHANNELS, p=float("inf")),
    "NoisyBatchNorm": lambda: nn.NoisyBatchNorm(CHANNELS),
    "DecorrelatedBatchNorm": lambda: nn.DecorrelatedBatchNorm(CHANNELS),
    "IterNorm": lambda: nn.IterNorm(CHANNELS),
    "FilterResponseNorm": lambda: nn.Sequential(nn.FilterResponseNorm(CHANNELS), nn.TLU(CHANNELS)),
}
ROWS: dict[str, Make] = {
    "BatchNorm1d": lambda: nn.BatchNorm1d(300),
    "SeparatedBatchNorm1d": lambda: nn.SeparatedBatchNorm1d(300, 3),
    "DomainSpecificBatchNorm1d": lambda: nn.DomainSpecificBatchNorm1d(300, 2),
}


def bits(layer: Any, x: Array, *arguments: Any, **options: Any) -> dict[str, bytes]:
    """Two training steps and an evaluation: the bytes of all that comes out of them."""
    found = {}
    for i in range(2):
        t = tb.tensor(x + np.float32(i), requires_grad=True)
        y = layer(t, *arguments, **options)
        y.backward(tb.tensor(normal(*y.shape, seed=1 + i)))
        assert t.grad is not None
        found |= {f"output {i}": y.detach().numpy().tobytes(), f"gradient {i}": t.grad.numpy().tobytes()}
    found |= {f"gradient of {n}": p.grad.numpy().tobytes() for n, p in layer.named_parameters() if p.grad is not None}
    found |= {name: v.numpy().tobytes() for name, v in layer.state_dict().items()}
    t = tb.tensor(x, requires_grad=True)
    y = layer.eval()(t, *arguments, **options)
    y.backward(tb.tensor(normal(*y.shape, seed=3)))
    assert t.grad is not None
    return found | {"evaluation": y.detach().numpy().tobytes(), "its gradient": t.grad.numpy().tobytes()}


def assert_the_same(make: Make, x: Array, *arguments: Any, **options: Any) -> None:
    """Bit for bit, for 1 and 2 threads."""
    if launch.pool.limit < 2:
        pytest.skip("one processor")
    found = []
    for threads in (1, 2):
        tb.set_num_threads(threads)
        tb.manual_seed(0)
        found.append(bits(make(), x, *arguments, **options))
    assert found[0].keys() == found[1].keys()
    assert [name for name, b in found[0].items() if found[1][name] != b] == []


@pytest.mark.parametrize("name", IMAGES)
def test_pictures_have_the_same_bits_for_1_and_2_threads(name: str) -> None:
    """Threads: each layer's output, gradients and buffers, in training and evaluation."""
    assert_the_same(IMAGES[name], normal(16, CHANNELS, 24, 24) + 3)


@pytest.mark.parametrize("name", ROWS)
def test_rows_have_the_same_bits_for_1_and_2_threads(name: str) -> None:
    arguments = () if name == "BatchNorm1d" else (1,)
    assert_the_same(ROWS[name], normal(400, 300) + 3, *arguments)


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm3d])
def test_other_shapes_have_the_same_bits_for_1_and_2_threads(kind: Any) -> None:
    shape = (6, 3, 8, 31, 33) if kind.__name__.endswith("3d") else (40, 3, 3000)
    assert_the_same(lambda: kind(3), normal(*shape) + 3)


def test_masks_and_residuals_have_the_same_bits_for_1_and_2_threads() -> None:
    x = normal(16, CHANNELS, 24, 24)
    mask = tb.tensor(normal(16, 24, 24, seed=5) > 0)
    assert_the_same(lambda: nn.BatchNorm2d(CHANNELS), x, mask=mask)
    residual = tb.tensor(normal(*x.shape, seed=6))
    assert_the_same(lambda: nn.BatchNorm2d(CHANNELS, activation="relu"), x, residual)


def test_recurrent_cells_have_the_same_bits_for_1_and_2_threads() -> None:
    assert_the_same(lambda: _Unrolled(nn.BNRNNCell(16, 32, 3)), normal(3, 300, 16))
    assert_the_same(lambda: _Unrolled(nn.BNLSTMCell(16, 32, 3)), normal(3, 300, 16))


class _Unrolled(nn.Module):
    def __init__(self, cell: Any) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: tb.Tensor) -> Any:
        return self.cell.unroll(x)[0]


def test_ranks_have_the_same_bits_for_1_and_2_threads() -> None:
    """SyncBatchNorm over two ranks: what each has is the same for any number of threads."""
    if launch.pool.limit < 2:
        pytest.skip("one processor")
    x = normal(2, 16, 4, 24, 24)
    found = []
    for threads in (1, 2):
        tb.set_num_threads(threads)
        found.append(run_ranks(2, lambda group: bits(nn.SyncBatchNorm(4, process_group=group), x[group.rank])))
    assert found[0] == found[1]


def test_every_norm_layer_of_the_package_is_among_them() -> None:
    """A new member of the family has to be put into a list above."""
    named = {name.partition(",")[0] for name in (*IMAGES, *ROWS)}
    named |= {"BatchNorm3d", "InstanceNorm1d", "InstanceNorm3d"}
    others = {f"{kind}{n}d" for kind in ("DomainSpecificBatchNorm", "LazyBatchNorm") for n in (1, 2, 3)}
    norms = {name for name in nn.__all__ if "Norm" in name}
    assert norms - named - others == set()
