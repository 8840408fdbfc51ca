"""Transforms of batches of pictures: values by their formulas, what random numbers do, one seed for one batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn.data import CIFAR10_MEAN, CIFAR10_STD, DataLoader, TensorDataset, transforms
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError

Array = np.ndarray[Any, Any]
pytestmark = pytest.mark.jit_off

KINDS = ("uint8", "float32", "float64")


def pictures(n: int = 6, shape: tuple[int, ...] = (3, 8, 10), kind: str = "uint8", device: str = "cpu") -> tb.Tensor:
    """Random ones, from 1 on in bytes, so that a border of 0 can be told."""
    values = np.random.default_rng(5).integers(1, 256, (n, *shape)).astype(np.uint8)
    return tb.tensor(values if kind == "uint8" else (values / 255).astype(kind), device=device)


def seeded(seed: int = 3) -> tb.Generator:
    return tb.Generator().manual_seed(seed)


ALL: dict[str, transforms.Transform] = {
    "crop": transforms.RandomCrop(8, padding=4),
    "flip": transforms.RandomHorizontalFlip(),
    "normalise": transforms.Normalize(CIFAR10_MEAN, CIFAR10_STD),
    "jitter": transforms.ColorJitter(0.5, 0.5, 0.5),
    "lighting": transforms.Lighting(0.1),
    "photometric": transforms.PhotometricDistortion(),
    "all": transforms.Compose(
        [
            transforms.RandomCrop((8, 10), padding=2),
            transforms.RandomHorizontalFlip(),
            transforms.PhotometricDistortion(),
            transforms.Normalize(CIFAR10_MEAN, CIFAR10_STD),
        ]
    ),
}


# ------------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ALL)
def test_one_seed_one_batch(name: str, kind: str, device: str) -> None:
    x = pictures(kind=kind, device=device)
    before = x.numpy().copy()
    first = ALL[name](x, seeded())
    assert first.device == x.device
    np.testing.assert_array_equal(first.numpy(), ALL[name](x, seeded()).numpy())
    np.testing.assert_array_equal(x.numpy(), before)
    assert not np.shares_memory(first.numpy(), x.numpy())
    assert np.isfinite(first.numpy().astype(np.float64)).all()
    geometric = name in ("crop", "flip")
    assert first.dtype.name == (kind if geometric or kind != "uint8" else "float32")
    if name != "normalise":
        assert (first.numpy() != ALL[name](x, seeded(4)).numpy()).any()
        tb.manual_seed(3)
        np.testing.assert_array_equal(ALL[name](x).numpy(), first.numpy())


@pytest.mark.parametrize("name", ALL)
def test_devices_agree(name: str) -> None:
    ours, theirs = (ALL[name](pictures(device=d), seeded()).numpy() for d in ("cpu", "ref"))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-6)


@pytest.mark.parametrize("name", ALL)
def test_strided_pictures_and_no_pictures(name: str) -> None:
    turned = pictures(shape=(10, 8, 3)).permute(0, 3, 2, 1)
    assert turned.shape == (6, 3, 8, 10)
    copy = tb.tensor(np.ascontiguousarray(turned.numpy()))
    np.testing.assert_array_equal(ALL[name](turned, seeded()).numpy(), ALL[name](copy, seeded()).numpy())
    assert ALL[name](pictures(0)).shape[0] == 0


@pytest.mark.parametrize("name", ALL)
def test_what_is_no_batch_of_pictures(name: str) -> None:
    with pytest.raises(DTypeError, match="'images' must be a Tensor. Got ndarray."):
        ALL[name](np.zeros((1, 3, 8, 8)))  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"'images' must have shape \(N, C, H, W\). Got \(3, 8, 8\)."):
        ALL[name](tb.zeros(3, 8, 8))
    with pytest.raises(DTypeError, match="'images' must be uint8 or floating-point. Got int64."):
        ALL[name](tb.zeros(1, 3, 8, 8, dtype=tb.int64))


# -------------------------------------------------------------------------------------------------------- one by one


@pytest.mark.parametrize("kind", KINDS)
def test_crops_are_pieces_of_the_bordered_picture(kind: str) -> None:
    x = pictures(40, kind=kind)
    out = transforms.RandomCrop((6, 7), padding=(2, 1), fill=0)(x, seeded()).numpy()
    bordered = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (2, 2)))
    places = []
    for piece, whole in zip(out, bordered, strict=True):
        views = np.lib.stride_tricks.sliding_window_view(whole, (6, 7), (1, 2))
        found = np.argwhere((views == piece[:, None, None]).all((0, 3, 4)))
        assert len(found) == 1
        places.append(tuple(found[0]))
    assert {i for i, _ in places} == set(range(5))  # 8 + 2 - 6 = 4 is the last
    assert {j for _, j in places} == set(range(8))  # 10 + 4 - 7 = 7


def test_crops_are_drawn_evenly() -> None:
    x = tb.tensor(np.arange(25, dtype=np.float32).reshape(1, 1, 5, 5).repeat(4000, 0))
    corner = transforms.RandomCrop(3)(x, seeded()).numpy()[:, 0, 0, 0]
    counts = np.unique(corner, return_counts=True)
    assert counts[0].tolist() == [0, 1, 2, 5, 6, 7, 10, 11, 12]
    assert np.abs(counts[1] - 4000 / 9).max() < 5 * (4000 * 8 / 81) ** 0.5


def test_a_border_on_one_side_and_its_value() -> None:
    x = tb.full((3, 1, 2, 2), 0.5)
    out = transforms.RandomCrop((3, 4), padding=(0, 1, 2, 0), fill=9)(x).numpy()
    assert (out == np.float32([[9, 9, 9, 9], [0.5, 0.5, 9, 9], [0.5, 0.5, 9, 9]])).all()


@pytest.mark.parametrize("kind", KINDS)
def test_flips(kind: str) -> None:
    x = pictures(400, (2, 3, 5), kind)
    out = transforms.RandomHorizontalFlip(0.25)(x, seeded()).numpy()
    turned = (out == x.numpy()[..., ::-1]).all((1, 2, 3))
    kept = (out == x.numpy()).all((1, 2, 3))
    assert (turned ^ kept).all()
    assert 60 < turned.sum() < 140
    np.testing.assert_array_equal(transforms.RandomHorizontalFlip(1.0)(x).numpy(), x.numpy()[..., ::-1])
    np.testing.assert_array_equal(transforms.RandomHorizontalFlip(0.0)(x).numpy(), x.numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_normalised_values(kind: str) -> None:
    x = pictures(kind=kind)
    out = transforms.Normalize(CIFAR10_MEAN, CIFAR10_STD)(x).numpy()
    single = kind != "float64"
    values = x.numpy().astype(np.float32 if single else np.float64) / (255 if kind == "uint8" else 1)
    mean, std = (np.array(v, values.dtype)[:, None, None] for v in (CIFAR10_MEAN, CIFAR10_STD))
    np.testing.assert_array_equal(out, (values - mean) / std)
    out = transforms.Normalize(0.5, 0.25)(x).numpy()
    np.testing.assert_allclose(out, (values - 0.5) / 0.25, rtol=1e-6)


def by_hand(v: Array, factors: Array, order: tuple[int, ...]) -> Array:
    """Jitter of one picture (3, H, W), pixel by pixel."""
    v = v.copy()
    for step in order:
        grey = 0.299 * v[0] + 0.587 * v[1] + 0.114 * v[2]
        towards = [np.zeros_like(grey), np.full_like(grey, grey.mean()), grey][step]
        v = (factors[step] * v + (1 - factors[step]) * towards).clip(0, 1)
    return v


@pytest.mark.parametrize("step", [0, 1, 2])
def test_one_kind_of_jitter_alone(step: int) -> None:
    arguments: list[Any] = [0, 0, 0]
    arguments[step] = (1.7, 1.7)
    x = pictures()
    out = transforms.ColorJitter(*arguments)(x).numpy()
    factors = np.ones(3)
    factors[step] = 1.7
    for picture, found in zip(x.numpy() / 255, out, strict=True):
        np.testing.assert_allclose(found, by_hand(picture, factors, (0, 1, 2)), rtol=0, atol=2e-6)


def test_no_jitter() -> None:
    x = pictures()
    out = transforms.ColorJitter()(x).numpy()
    np.testing.assert_allclose(out, x.numpy() / 255, rtol=0, atol=2e-7)


def test_jitter_comes_in_every_order_and_amount() -> None:
    x = tb.tensor(np.broadcast_to(pictures(1, (3, 4, 4), "float64").numpy(), (300, 3, 4, 4)).copy())
    out = transforms.ColorJitter((0.3, 0.3), (1.9, 1.9), (0.2, 0.2))(x, seeded()).numpy()
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    expected = np.stack([by_hand(x.numpy()[0], np.array([0.3, 1.9, 0.2]), o) for o in orders])
    near = (np.abs(out[:, None] - expected) < 1e-9).all((2, 3, 4))
    assert near.any(1).all()
    assert near.any(0).all()
    levels = transforms.ColorJitter(brightness=0.4)(tb.full((500, 3, 2, 2), 0.5), seeded()).numpy()[:, 0, 0, 0]
    assert 0.3 <= levels.min() < 0.31
    assert 0.69 < levels.max() <= 0.7
    assert transforms.ColorJitter(brightness=3.0)(tb.full((99, 3, 1, 1), 0.5)).numpy().max() == 1.0


def test_lighting_adds_one_colour_a_picture() -> None:
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    x = pictures(3000, (3, 2, 2), "float64")
    out = transforms.Lighting(0.2, (3.0, 2.0, 1.0), vectors)(x, seeded()).numpy()
    added = out - x.numpy()
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :, :1, :1], added.shape), atol=1e-12)
    amounts = added[:, :, 0, 0] @ vectors
    np.testing.assert_allclose(amounts.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(amounts.std(0), [0.6, 0.4, 0.2], rtol=0.06)
    np.testing.assert_allclose(np.corrcoef(amounts.T), np.eye(3), atol=0.07)
    np.testing.assert_array_equal(transforms.Lighting(0.0)(x).numpy(), x.numpy())


def test_the_components_of_imagenet_are_orthonormal() -> None:
    vectors = np.array(transforms.IMAGENET_VECTORS)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=2e-4)


def test_compose_calls_other_functions_with_the_batch_alone() -> None:
    x = pictures(kind="float32")
    both = transforms.Compose([lambda v: v * 2, transforms.RandomHorizontalFlip(), transforms.RandomCrop(4)])
    generator = seeded()
    flipped = transforms.RandomHorizontalFlip()(x * 2, generator)
    expected = transforms.RandomCrop(4)(flipped, generator)
    np.testing.assert_array_equal(both(x, seeded()).numpy(), expected.numpy())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: transforms.RandomCrop(0), ArgumentError, "RandomCrop: 'size' must be 1 or 2 ints of at least 1"),
        (lambda: transforms.RandomCrop((1, 2, 3)), ArgumentError, "'size' must be 1 or 2 ints"),
        (lambda: transforms.RandomCrop(2, padding=-1), ArgumentError, "'padding' must be 1 or 2 or 4 ints"),
        (lambda: transforms.RandomCrop(2, padding=(1, 2, 3)), ArgumentError, "'padding' must be"),
        (lambda: transforms.RandomCrop(9)(pictures()), ShapeError, "'images' must have at least 9 × 9 pixels"),
        (lambda: transforms.RandomCrop(8, 1, 256)(pictures()), ArgumentError, "'fill' must be from 0 to 255"),
        (lambda: transforms.RandomHorizontalFlip(1.5), ArgumentError, "'p' must be from 0 to 1. Got 1.5."),
        (lambda: transforms.Normalize(0, 0), ArgumentError, "Normalize: 'std' must be above 0. Got 0."),
        (lambda: transforms.Normalize((0, 0), 1)(pictures()), ShapeError, "'mean' must have one number, .* 3"),
        (lambda: transforms.ColorJitter(-1), ArgumentError, "ColorJitter: 'brightness' must be at least 0, or a range"),
        (lambda: transforms.ColorJitter(contrast=(2, 1)), ArgumentError, "'contrast' must be"),
        (lambda: transforms.ColorJitter(1)(pictures(shape=(1, 4, 4))), ShapeError, "three channels"),
        (lambda: transforms.Lighting(-1), ArgumentError, "Lighting: 'std' must be at least 0"),
        (lambda: transforms.Lighting(1, (1, 2), np.ones((3, 2))), ShapeError, "'eigenvectors' must have shape"),
        (lambda: transforms.Lighting()(pictures(shape=(4, 4, 4))), ShapeError, "three channels"),
    ],
)  # fmt: skip
def test_transforms_refuse(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# ------------------------------------------------------------------------------------------------------- in a loader


def data_set(n: int = 22) -> TensorDataset:
    return TensorDataset(pictures(n), tb.from_numpy(np.arange(n)))


def epochs(loader: DataLoader, count: int = 2) -> list[tuple[Array, Array]]:
    return [(x.numpy(), y.numpy()) for _ in range(count) for x, y in loader]


def same(a: list[tuple[Array, Array]], b: list[tuple[Array, Array]]) -> bool:
    return all(np.array_equal(p, q) for one, other in zip(a, b, strict=True) for p, q in zip(one, other, strict=True))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("prefetch", [0, 1, 3, 50])
def test_batches_depend_on_the_seed_alone(prefetch: int, threads: int) -> None:
    if threads > tb.get_num_threads():
        pytest.skip("one processor")
    first = epochs(DataLoader(data_set(), 5, shuffle=True, seed=1, transform=ALL["all"]))
    tb.set_num_threads(threads)
    again = DataLoader(data_set(), 5, shuffle=True, seed=1, transform=ALL["all"], prefetch=prefetch)
    assert same(first, epochs(again))
    other = DataLoader(data_set(), 5, shuffle=True, seed=2, transform=ALL["all"], prefetch=prefetch)
    assert not same(first, epochs(other))
    assert first[0][0].dtype == np.float32


def test_epochs_and_batches_are_changed_differently() -> None:
    same_ones = TensorDataset(tb.tensor(pictures(1).numpy().repeat(8, 0)), tb.zeros(8))
    batches = epochs(DataLoader(same_ones, 4, seed=1, transform=ALL["photometric"]))
    for i, (x, _) in enumerate(batches):
        assert all(not np.array_equal(x, other) for other, _ in batches[:i])


def test_a_transform_draws_from_the_default_generator_unless_told() -> None:
    found = []
    for _ in range(2):
        tb.manual_seed(9)
        found.append(epochs(DataLoader(data_set(), 5, transform=ALL["crop"])))
    assert same(*found)
    tb.manual_seed(10)
    assert not same(found[0], epochs(DataLoader(data_set(), 5, transform=ALL["crop"])))


def test_what_draws_nothing_leaves_the_default_generator_alone() -> None:
    both = transforms.Compose([lambda v: v.float(), ALL["normalise"]])
    for transform, moves in ((ALL["normalise"], False), (both, False), (ALL["all"], True), (ALL["flip"], True)):
        before = tb.get_rng_state().tolist()
        list(DataLoader(data_set(4), 4, transform=transform))
        assert (tb.get_rng_state().tolist() != before) is moves


def test_other_functions_are_transforms_too() -> None:
    ((x, _),) = DataLoader(data_set(4), 4, transform=lambda v: v.float() * 2)
    np.testing.assert_array_equal(x.numpy(), pictures(4).numpy() * np.float32(2))


def test_batches_that_a_transform_does_not_fit() -> None:
    alone = [pictures(1).numpy()[0]] * 4
    (whole,) = DataLoader(alone, 4, transform=transforms.Normalize(0, 1))
    assert whole.shape == (4, 3, 8, 10)
    counted = lambda samples: (tb.tensor(np.stack(samples)), len(samples))  # noqa: E731
    (pair,) = DataLoader(alone, 4, transform=transforms.Normalize(0, 1), collate_fn=counted)
    assert isinstance(pair, tuple)
    assert (pair[0].dtype, pair[1]) == (tb.float32, 4)
    with pytest.raises(DTypeError, match="DataLoader: 'batch' must be a Tensor, or a list or tuple .* Got dict."):
        list(DataLoader([{"x": 1.0}], 1, transform=transforms.Normalize(0, 1)))
    with pytest.raises(ArgumentError, match="'transform' needs batches"):
        DataLoader(alone, None, transform=transforms.Normalize(0, 1))
