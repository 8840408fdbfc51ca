"""The networks: the papers' parameter counts, shapes, names, initial values, and that each of them learns."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import models
from tinygrad_bn.models.inception import TABLE
from tinygrad_bn.models.resnet import PadShortcut, ResNet
from tinygrad_bn.models.vgg import CONFIGURATIONS, VGG


def count(model: tb.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# -------------------------------------------------------------------------------------------------------------- counts


def conv(inputs: int, outputs: int, side: int, bias: bool = False) -> int:
    return inputs * outputs * side**2 + bias * outputs


def resnet_count(depth: int, shortcuts: int) -> int:
    """From section 4.2: 3×3 convolutions with batch norm, 2n a stage, and a linear layer; no bias ahead of a norm."""
    n = (depth - 2) // 6
    total = conv(3, 16, 3) + 2 * 16
    inputs = 16
    for width in (16, 32, 64):
        total += conv(inputs, width, 3) + (2 * n - 1) * conv(width, width, 3) + 2 * n * 2 * width
        if inputs != width:
            total += shortcuts * (conv(inputs, width, 1) + 2 * width)
        inputs = width
    return total + 64 * 10 + 10


RESNETS = {20: (269_722, 0.27), 32: (464_154, 0.46), 44: (658_586, 0.66), 56: (853_018, 0.85)}
"""The exact count, and millions in table 6 of arXiv:1512.03385."""


@pytest.mark.parametrize("depth", RESNETS)
def test_resnets_have_the_papers_parameters(depth: int) -> None:
    exact, millions = RESNETS[depth]
    model = getattr(models, f"resnet{depth}")()
    assert count(model) == exact == resnet_count(depth, 0)
    assert round(count(model) / 1e6, 2) == millions
    assert count(getattr(models, f"resnet{depth}")(shortcut="conv")) == exact + 2752 == resnet_count(depth, 1)


@pytest.mark.parametrize("depth", RESNETS)
def test_resnets_have_so_many_weighted_layers(depth: int) -> None:
    model = ResNet(depth)
    assert sum(isinstance(m, tb.nn.Conv2d | tb.nn.Linear) for m in model.modules()) == depth


TABLE_1 = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}
"""3×3 convolutions of 64, 128, 256, 512 and 512 channels: columns A and D of arXiv:1409.1556."""


def vgg_count(depth: int, head: list[int], batch_norm: bool) -> int:
    total, inputs = 0, 3
    for width, layers in zip((64, 128, 256, 512, 512), TABLE_1[depth]):
        for _ in range(layers):
            total += conv(inputs, width, 3, bias=True) + 2 * width * batch_norm
            inputs = width
    return total + sum(conv(a, b, 1, bias=True) for a, b in pairwise(head))


VGGS = {11: (132_863_336, 133), 16: (138_357_544, 138)}
"""The exact count, and millions in table 2 of arXiv:1409.1556."""


def unfilled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no initial values: half a gigabyte of them is nothing that a count needs."""
    for name in ("normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_"):
        monkeypatch.setattr(tb.nn.init, name, lambda tensor, *args, **kwargs: tensor)


@pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "bn"])
@pytest.mark.parametrize("depth", VGGS)
def test_vggs_have_the_papers_parameters(depth: int, batch_norm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    unfilled(monkeypatch)
    exact, millions = VGGS[depth]
    norms = 2 * sum(w * n for w, n in zip((64, 128, 256, 512, 512), TABLE_1[depth])) * batch_norm
    model = getattr(models, f"vgg{depth}_bn" if batch_norm else f"vgg{depth}")()
    assert count(model) == exact + norms
    assert vgg_count(depth, [512 * 49, 4096, 4096, 1000], batch_norm) == exact + norms
    assert round(exact / 1e6) == millions


@pytest.mark.parametrize("depth", VGGS)
def test_vggs_for_cifar(depth: int) -> None:
    model = getattr(models, f"vgg{depth}_bn")(10, input_size=32, head="linear")
    assert count(model) == vgg_count(depth, [512, 10], True)
    assert sum(isinstance(m, tb.nn.Conv2d) for m in model.modules()) == depth - 3


def test_inception_bn_has_the_parameters_of_figure_5(monkeypatch: pytest.MonkeyPatch) -> None:
    unfilled(monkeypatch)
    total, inputs = 7 * 7 * 3 * 8 + conv(24, 64, 1) + conv(64, 64, 1) + conv(64, 192, 3), 192
    norms = 64 + 64 + 192
    for row in TABLE.values():
        one, reduce3, three, reduce33, double, _, project, _ = row
        total += conv(inputs, one, 1) + conv(inputs, reduce3, 1) + conv(reduce3, three, 3) + conv(inputs, project, 1)
        total += conv(inputs, reduce33, 1) + conv(reduce33, double, 3) + conv(double, double, 3)
        norms += one + reduce3 + three + reduce33 + 2 * double + project
        inputs = row.outputs(inputs)
    total += 1024 * 1000 + 1000
    assert count(models.inception_bn()) == total + 2 * norms == 11_188_288
    assert norms == 9_952


def test_inception_modules_leave_the_channels_of_figure_5() -> None:
    column = {"3a": 256, "3b": 320, "3c": 576, "4a": 576, "4b": 576, "4c": 576, "4d": 576, "4e": 1024, "5a": 1024}
    channels = 192
    for name, row in TABLE.items():
        channels = row.outputs(channels)
        assert channels == column.get(name, 1024), name


def test_inception_small_has_the_papers_parameters() -> None:
    """1,649,402 in table 1 of arXiv:1611.03530, whose batch norms have no weights."""
    model = models.inception_small(scale=False)
    learnt = [p for p in model.parameters() if p.requires_grad]
    scales = [m.weight for m in model.modules() if isinstance(m, tb.nn.BatchNorm2d)]
    assert sum(p.numel() for p in learnt) == 1_649_402
    assert sum(p.numel() for p in scales) == 1_712
    assert count(models.inception_small()) == 1_649_402 + 1_712
    assert all(p.requires_grad for p in models.inception_small().parameters())
    assert not any(p.requires_grad for p in scales)


def test_cifar_cnn_has_the_parameters_of_its_layers() -> None:
    convolutions = conv(3, 32, 3) + conv(32, 32, 3) + conv(32, 64, 3) + conv(64, 64, 3)
    norms = 2 * (32 + 32 + 64 + 64 + 512)
    assert count(models.cifar_cnn()) == convolutions + norms + 4096 * 512 + 512 * 10 + 10 == 2_169_066


# --------------------------------------------------------------------------------------------- what the networks return

NETWORKS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "mlp": (lambda: models.mlp(3 * 8 * 8, (16,)), (3, 8, 8)),
    "cifar_cnn": (models.cifar_cnn, (3, 32, 32)),
    "resnet20": (models.resnet20, (3, 16, 16)),
    "resnet20_conv": (lambda: models.resnet20(shortcut="conv"), (3, 16, 16)),
    "vgg11_bn": (lambda: models.vgg11_bn(10, input_size=32, head="linear"), (3, 32, 32)),
    "inception_small": (models.inception_small, (3, 16, 16)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_learns(name: str) -> None:
    """A few steps on one batch lower the loss, and every parameter moves."""
    make, shape = NETWORKS[name]
    model = make()
    x, classes = tb.randn(8, *shape), tb.tensor(np.arange(8) % 4)
    optimizer = tb.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        scores = model(x)
        loss = tb.functional.cross_entropy(scores, classes)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert scores.shape == (8, 10)
    assert losses[-1] < losses[0]
    after = model.state_dict()
    assert [k for k in before if bool((before[k] == after[k]).all())] == []


def test_inception_bn_on_a_small_picture() -> None:
    """The extents of figure 5, at 64 × 64 instead of 224 × 224."""
    model = models.inception_bn(num_classes=5).eval()
    extents: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_modules():
        if name.count(".") <= 1 and name.split(".")[0] in ("pointwise", "conv", "maxpool1", "maxpool2", "inception"):
            module.register_forward_hook(lambda m, i, out, name=name: extents.__setitem__(name, out.shape[1:]))
    with tb.no_grad():
        assert model(tb.randn(1, 3, 64, 64)).shape == (1, 5)
    assert extents["pointwise"] == (64, 32, 32)
    assert extents["maxpool1"] == (64, 16, 16)
    assert extents["conv"] == (192, 16, 16)
    assert extents["maxpool2"] == (192, 8, 8)
    assert extents["inception.3c"] == (576, 4, 4)
    assert extents["inception.4e"] == (1024, 2, 2)
    assert extents["inception"] == (1024, 2, 2)


def test_the_papers_head_of_vgg(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.vgg11(7, input_size=32).eval()
    assert [type(m).__name__ for m in model.classifier] == ["Linear", "ReLU", "Dropout"] * 2 + ["Linear"]
    with tb.no_grad():
        assert model(tb.randn(2, 3, 32, 32)).shape == (2, 7)
        assert model(tb.randn(1, 3, 64, 64)).shape == (1, 7)  # averaged to what the first linear layer expects


@pytest.mark.parametrize("shortcut", ["pad", "conv"])
def test_other_classes_and_channels(shortcut: str) -> None:
    model = models.resnet20(num_classes=3, in_channels=1, shortcut=shortcut)
    assert model(tb.randn(2, 1, 12, 12)).shape == (2, 3)


def test_the_pad_shortcut_is_the_input_subsampled_and_zeros() -> None:
    x = tb.randn(2, 3, 5, 6)
    y = PadShortcut(3, 8, 2)(x).numpy()
    assert y.shape == (2, 8, 3, 3)
    np.testing.assert_array_equal(y[:, :3], x.numpy()[:, :, ::2, ::2])
    assert not y[:, 3:].any()


# ----------------------------------------------------------------------------------------------- initial values, errors


def test_resnets_start_from_he_normal_weights() -> None:
    for name, p in models.resnet20().named_parameters():
        a = p.detach().numpy()
        if a.ndim > 1 and a.size > 1000:
            std = math.sqrt(2 / math.prod(a.shape[1:]))
            assert abs(a.std() / std - 1) < 6 / math.sqrt(2 * a.size), name
            assert abs(a.mean()) < 5 * std / math.sqrt(a.size), name
        elif a.ndim == 1:
            assert (a == (name.endswith("weight"))).all(), name


def test_vggs_start_as_torchvisions() -> None:
    model = models.vgg11(10, input_size=32, head="paper")
    last = dict(model.named_parameters())["classifier.3.weight"].detach().numpy()
    assert abs(last.std() / 0.01 - 1) < 0.01
    weight = dict(model.named_parameters())["features.8.weight"].detach().numpy()
    assert abs(weight.std() / math.sqrt(2 / (256 * 9)) - 1) < 0.02


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ResNet(21), r"ResNet: 'depth' must be 6n \+ 2 with n of at least 1\. Got 21"),
        (lambda: ResNet(2), "'depth' must be 6n"),
        (lambda: models.resnet20(shortcut="option A"), "'shortcut' must be one of pad, conv"),
        (lambda: models.resnet20(num_classes=0), "'num_classes' must be an int of at least 1. Got 0"),
        (lambda: VGG(13), "'depth' must be one of 11, 16. Got 13"),
        (lambda: models.vgg11(input_size=31), "'input_size' must be an int of at least 32. Got 31"),
        (lambda: models.vgg11(head="none"), "'head' must be one of paper, linear"),
        (lambda: models.inception_small(in_channels=2.5), "'in_channels' must be an int of at least 1. Got 2.5"),
        (lambda: models.inception_bn(True), "'num_classes' must be an int"),
        (lambda: models.cifar_cnn(-1), "CifarCNN: 'num_classes'"),
    ],
)
def test_errors(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(tb.errors.ArgumentError, match=message):
        call()


# ------------------------------------------------------------------------------------------------------ beside PyTorch


def torch_vgg(torch: Any, depth: int, batch_norm: bool) -> Any:
    """The network as a PyTorch user writes it; the names are those of torchvision."""
    nn, layers, inputs = torch.nn, [], 3
    for width in CONFIGURATIONS[depth]:
        if width == "M":
            layers.append(nn.MaxPool2d(2, 2))
            continue
        layers.append(nn.Conv2d(inputs, width, 3, padding=1))
        layers += [nn.BatchNorm2d(width)] if batch_norm else []
        layers.append(nn.ReLU())
        inputs = width
    model = nn.Sequential()
    model.add_module("features", nn.Sequential(*layers))
    model.add_module("flatten", nn.Flatten())
    model.add_module("classifier", nn.Linear(512, 10))
    return model


@pytest.mark.peers
@pytest.mark.parametrize("batch_norm", [False, True])
def test_vgg_takes_a_state_dict_of_pytorch(batch_norm: bool) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = torch_vgg(torch, 11, batch_norm).double().eval()
    ours = VGG(11, 10, batch_norm, 32, "linear").double().eval()
    ours.load_state_dict({k: tb.tensor(v.numpy()) for k, v in theirs.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32))
    with tb.no_grad(), torch.no_grad():
        np.testing.assert_allclose(ours(tb.tensor(x)).numpy(), theirs(torch.tensor(x)).numpy(), rtol=1e-9, atol=1e-12)
