"""The table of a model's modules: shapes, parameters, operations; the model is left as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.errors import ArgumentError, DTypeError

nn = tb.nn


class Net(nn.Module):
    """A block that is used twice, a frozen layer, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.shared = nn.Linear(8, 8, bias=False)
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
        self.head[2].bias.requires_grad = False

    def forward(self, x: tb.Tensor) -> tb.Tensor:
        x = self.norm(self.first(x))
        out: tb.Tensor = self.head(self.shared(self.shared(x)))
        return out


def test_rows_and_totals() -> None:
    s = tb.summary(Net(), (5, 6))
    assert [(r.name, r.kind, r.depth, r.output_shape, r.parameters, r.trainable) for r in s.rows] == [
        ("", "Net", 0, (5, 2), 154, 152),
        ("first", "Linear", 1, (5, 8), 56, 56),
        ("norm", "BatchNorm1d", 1, (5, 8), 16, 16),
        ("shared", "Linear", 1, (5, 8), 64, 64),
        ("shared", "Linear", 1, (5, 8), 0, 0),
        ("head", "Sequential", 1, (5, 2), 18, 16),
        ("head.0", "ReLU", 2, (5, 8), 0, 0),
        ("head.1", "Dropout", 2, (5, 8), 0, 0),
        ("head.2", "Linear", 2, (5, 2), 18, 16),
    ]
    assert (s.total_params, s.trainable_params, s.non_trainable_params, s.total_buffers) == (154, 152, 2, 17)
    assert s.mult_adds == 5 * (6 * 8 + 2 * 8 * 8 + 8 * 2)
    assert s.flops == 2 * s.mult_adds + 5 * (8 + 4 * 8 + 8 + 2)  # biases, norm, relu, bias
    assert s.output_shape == (5, 2)
    assert s.input_shapes == [(5, 6)]
    assert s.param_bytes == 154 * 4


def test_the_batch_may_be_given_apart() -> None:
    assert tb.summary(Net(), (6,), batch_size=5).mult_adds == tb.summary(Net(), (5, 6)).mult_adds


def test_the_text() -> None:
    text = str(tb.summary(nn.Sequential(nn.Linear(784, 10), nn.ReLU()), (1, 784)))
    lines = text.splitlines()
    assert lines[0].split() == ["Layer", "(name)", "Output", "shape", "Parameters", "Trainable", "Mult-adds", "Flops"]
    assert lines[2].split() == ["Sequential", "(1,", "10)", "7,850", "yes", "7,840", "15,700"]
    assert lines[3].split() == ["Linear", "(0)", "(1,", "10)", "7,850", "yes", "7,840", "15,690"]
    assert lines[4].split() == ["ReLU", "(1)", "(1,", "10)", "-", "-", "-", "10"]
    assert lines[6:] == [
        "Input shape: (1, 784)",
        "Parameters: 7,850 (0.03 MiB), trainable: 7,850, not trainable: 0; buffers: 0",
        "Multiply-adds: 7,840; floating-point operations: 15,700",
    ]
    assert " partly " in str(tb.summary(Net(), (5, 6)))
    frozen = nn.Linear(2, 2).requires_grad_(False)
    assert " no " in str(tb.summary(frozen, (1, 2)))


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    """Mode (of each module), running statistics, hooks, random state, gradients."""
    net = Net().train(training)
    net.norm.eval()
    before = {k: v.numpy().copy() for k, v in net.state_dict().items()}
    state = tb.get_rng_state().tolist()
    tb.summary(net, (5, 6))
    assert [m.training for m in net.modules()] == [training, training, False, *[training] * 5]
    assert all(np.array_equal(v.numpy(), before[k]) for k, v in net.state_dict().items())
    assert tb.get_rng_state().tolist() == state
    assert all(m._hooks is None for m in net.modules())
    assert all(p.grad is None for p in net.parameters())


def test_the_model_is_left_as_it_was_after_an_error() -> None:
    net = Net()
    with pytest.raises(tb.errors.ShapeError):
        tb.summary(net, (5, 7))
    assert net.training
    assert all(m._hooks is None for m in net.modules())


def test_own_hooks_stay() -> None:
    net = Net()
    seen: list[Any] = []
    net.norm.register_forward_hook(lambda *given: seen.append(given))
    tb.summary(net, (5, 6))
    net(tb.ones(5, 6))
    assert len(seen) == 2


CONVOLUTIONS = [
    (lambda: nn.Conv2d(3, 8, 3, padding=1), (2, 3, 5, 7), 2 * 8 * 5 * 7 * 27, 2 * 8 * 5 * 7),
    (lambda: nn.Conv2d(4, 8, (3, 1), stride=2, groups=2, bias=False), (1, 4, 9, 9), 8 * 4 * 5 * 6, 0),
    (lambda: nn.Conv1d(4, 6, 5), (2, 4, 9), 2 * 6 * 5 * 20, 2 * 6 * 5),
    (lambda: nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 3, 3), 4 * 9 * 6 * 4, 6 * 36),
]


@pytest.mark.parametrize(("make", "shape", "mult_adds", "bias"), CONVOLUTIONS)
def test_convolutions(make: Any, shape: tuple[int, ...], mult_adds: int, bias: int) -> None:
    s = tb.summary(make(), shape)
    assert (s.mult_adds, s.flops) == (mult_adds, 2 * mult_adds + bias)


@pytest.mark.parametrize(
    ("make", "shape", "flops"),
    [
        (lambda: nn.MaxPool2d(2), (1, 3, 8, 8), 3 * 16 * 4),
        (lambda: nn.AvgPool2d((2, 4)), (1, 3, 8, 8), 3 * 8 * 8),
        (lambda: nn.MaxPool1d(3), (2, 3, 9), 6 * 3 * 3),
        (lambda: nn.AdaptiveAvgPool2d(1), (1, 3, 8, 8), 192),
        (lambda: nn.BatchNorm2d(3, affine=False), (1, 3, 8, 8), 384),
        (lambda: nn.LayerNorm(8), (2, 8), 64),
        (lambda: nn.GroupNorm(2, 4), (2, 4, 3), 96),
        (lambda: nn.GELU(), (2, 4), 8),
        (lambda: nn.Identity(), (2, 4), 0),
    ],
)
def test_other_layers(make: Any, shape: tuple[int, ...], flops: int) -> None:
    s = tb.summary(make(), shape)
    assert (s.mult_adds, s.flops) == (0, flops)


def test_recurrent_layers() -> None:
    """The multiply-adds are the weights' numbers, a time each step; a cell is a layer of one step."""
    for make in (nn.RNN, nn.LSTM, nn.GRU):
        layer = make(3, 4, num_layers=3, bidirectional=True)
        s = tb.summary(layer, (5, 2, 3))
        assert s.mult_adds == 5 * 2 * sum(p.numel() for n, p in layer.named_parameters() if "weight" in n)
        assert s.output_shape[0] == (5, 2, 8)
        one, cell = make(3, 4), getattr(nn, f"{make.__name__}Cell")(3, 4)
        assert tb.summary(one, (1, 2, 3)).flops == tb.summary(cell, (2, 3)).flops > 0
    s = tb.summary(nn.LSTM(3, 4), (5, 2, 3))
    assert s.flops == 10 * (2 * 16 * 7 + 2 * 16 + 13 * 4)


def test_inputs_of_other_kinds() -> None:
    words = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2))
    assert tb.summary(words, (3, 5), dtype="int64").output_shape == (3, 5, 2)
    assert tb.summary(words, input_data=tb.tensor([[1, 2]])).output_shape == (1, 2, 2)

    class Two(nn.Module):
        def forward(self, x: tb.Tensor, i: tb.Tensor) -> dict[str, tb.Tensor]:
            return {"picked": x[i]}

    s = tb.summary(Two(), [(4, 3), (2,)], dtype=[None, "int64"])
    assert s.input_shapes == [(4, 3), (2,)]
    assert s.output_shape == (2, 3)
    assert tb.summary(nn.Linear(2, 3, dtype=tb.float64, device="ref"), (1, 2)).param_bytes == 72


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tb.summary(len, (1,)), DTypeError, r"^summary: 'model' must be a Module\. Got builtin_function"),
        (lambda: tb.summary(nn.ReLU()), ArgumentError, "exactly one of 'input_shape' and 'input_data'"),
        (lambda: tb.summary(nn.ReLU(), 3), ArgumentError, "'input_shape' must be a shape, or a list of shapes"),
        (lambda: tb.summary(nn.ReLU(), (1, -1)), ArgumentError, "'input_shape' must be made of ints of at least 0"),
        (
            lambda: tb.summary(nn.ReLU(), (1,), dtype=["float32", "int64"]),
            ArgumentError,
            r"'dtype' must have one dtype, or one an input, 1\. Got 2",
        ),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
