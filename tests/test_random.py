"""Random numbers: the right generator, the same stream everywhere, the right distributions."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_bn as tb
from tinygrad_bn.core.device import cpu, ref
from tinygrad_bn.errors import ArgumentError, DTypeError
from tinygrad_bn.kernels.ref.random import words

pytestmark = pytest.mark.jit_off

# Known answers of Random123's philox4x32-10 (kat_vectors), counter words 2 and 3 and key as here: counter, key, output.
KNOWN = ((0, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),)


@pytest.mark.parametrize(("counter", "key", "want"), KNOWN)
def test_philox_gives_the_published_words(counter: int, key: int, want: tuple[int, ...]) -> None:
    assert tuple(int(w) for w in words(np.array([key, counter]), 4)) == want


def test_philox_is_philox() -> None:
    """Against a transcription of the paper's round function in plain integers, for any counter and key."""

    def block(counter: int, key: int) -> list[int]:
        c = [counter & 0xFFFFFFFF, counter >> 32, 0, 0]
        k = [key & 0xFFFFFFFF, key >> 32]
        for _ in range(10):
            p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
            c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
            k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
        return c

    for counter, key in ((0, 0), (1, 0), (0, 1), (2**40 + 3, 2**62 + 12345), (7, 2**33 - 1)):
        assert [int(w) for w in words(np.array([key, counter]), 4)] == block(counter, key)


def _uniform_bits(device: Any, key: Any, n: int) -> Any:
    out = np.empty(n)
    device.kernels.uniform.serial(key, 0.0, 1.0, out)
    return out


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**40), st.integers(0, 50))
def test_every_device_draws_the_same_stream(seed: int, offset: int, n: int) -> None:
    key = np.array([seed, offset])
    np.testing.assert_array_equal(_uniform_bits(cpu, key, n), _uniform_bits(ref, key, n))


DRAWS: dict[str, Callable[..., tb.Tensor]] = {
    "rand": lambda **k: tb.rand(7, 11, **k),
    "randn": lambda **k: tb.randn(7, 11, **k),
    "randint": lambda **k: tb.randint(-5, 90, (7, 11), **k),
    "randperm": lambda **k: tb.randperm(77, **k),
    "rand_like": lambda **k: tb.rand_like(tb.zeros(7, 11), **k),
    "randn_like": lambda **k: tb.randn_like(tb.zeros(7, 11), **k),
}


@pytest.mark.parametrize("name", DRAWS)
def test_seeds(name: str) -> None:
    """A seed repeats, on every device; another seed and a later draw differ."""
    draw = DRAWS[name]
    tb.manual_seed(1)
    a, b = draw(), draw()
    tb.manual_seed(1)
    on_ref = draw(device="ref")
    tb.manual_seed(2)
    other = draw()
    np.testing.assert_allclose(a.numpy(), on_ref.numpy(), rtol=1e-6, atol=1e-7)
    assert (a != b).any()
    assert (a != other).any()
    tb.manual_seed(1)
    np.testing.assert_array_equal(draw().numpy(), a.numpy())


@pytest.mark.parametrize("name", DRAWS)
def test_generators(name: str) -> None:
    """A generator of its own draws its own stream and leaves the default one alone."""
    tb.manual_seed(5)
    state = tb.get_rng_state().tolist()
    a = DRAWS[name](generator=tb.Generator().manual_seed(1))
    assert tb.get_rng_state().tolist() == state
    tb.manual_seed(1)
    np.testing.assert_array_equal(DRAWS[name]().numpy(), a.numpy())


def test_states_can_be_kept() -> None:
    tb.manual_seed(3)
    tb.rand(10)
    state = tb.get_rng_state()
    a = tb.rand(5)
    tb.set_rng_state(state)
    np.testing.assert_array_equal(tb.rand(5).numpy(), a.numpy())
    generator = tb.Generator().manual_seed(9)
    tb.rand(3, generator=generator)
    again = pickle.loads(pickle.dumps(generator))
    np.testing.assert_array_equal(tb.rand(3, generator=generator).numpy(), tb.rand(3, generator=again).numpy())
    assert generator.initial_seed() == 9
    with pytest.raises(
        ArgumentError, match=r"set_state: 'state' must be int64 of shape \(2,\)\. Got float64, \(2,\)\."
    ):
        generator.set_state(np.zeros(2))


def test_seeding() -> None:
    assert tb.manual_seed(12).initial_seed() == 12
    assert tb.initial_seed() == 12
    assert tb.seed() == tb.initial_seed()
    tb.manual_seed(-1)
    tb.rand(1)
    tb.manual_seed(2**64 - 1)
    with pytest.raises(ArgumentError, match=r"manual_seed: 'seed' must be an int\. Got str\."):
        tb.manual_seed("one")  # type: ignore[arg-type]


def test_consecutive_draws_do_not_overlap() -> None:
    """Whatever the sizes: two draws in a row hold different numbers."""
    for first in (1, 2, 3, 4, 5, 8):
        tb.manual_seed(0)
        a = tb.rand(first, dtype=tb.float64).tolist() + tb.rand(5, dtype=tb.float64).tolist()
        assert len(set(a)) == len(a)


N = 200_000


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_uniform_numbers(dtype: str) -> None:
    x = tb.rand(N, dtype=dtype).numpy().astype(np.float64)
    assert x.min() >= 0
    assert x.max() < 1
    assert abs(x.mean() - 0.5) < 5 * np.sqrt(1 / 12 / N)
    assert abs(x.var() - 1 / 12) < 5 * np.sqrt(1 / 180 / N)
    counts = np.histogram(x, 64, (0, 1))[0]
    assert ((counts - N / 64) ** 2 / (N / 64)).sum() < 64 + 6 * np.sqrt(2 * 64)
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 5 / np.sqrt(N)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normal_numbers(dtype: str) -> None:
    x = tb.randn(N, dtype=dtype).numpy().astype(np.float64)
    assert np.isfinite(x).all()
    assert abs(x.mean()) < 5 / np.sqrt(N)
    assert abs(x.var() - 1) < 5 * np.sqrt(2 / N)
    assert abs((x**3).mean()) < 5 * np.sqrt(15 / N)
    assert abs((x**4).mean() - 3) < 5 * np.sqrt(96 / N)
    assert abs((np.abs(x) > 1.959964).mean() - 0.05) < 5 * np.sqrt(0.05 * 0.95 / N)
    assert abs(np.corrcoef(x[::2], x[1::2])[0, 1]) < 5 / np.sqrt(N / 2)


def test_integers() -> None:
    x = tb.randint(-3, 7, (N,)).numpy()
    counts = np.bincount(x + 3, minlength=10)
    assert len(counts) == 10
    assert ((counts - N / 10) ** 2 / (N / 10)).sum() < 10 + 6 * np.sqrt(20)
    assert tb.randint(5, (3, 2)).shape == (3, 2)
    assert tb.randint(1, (9,)).tolist() == [0] * 9
    assert tb.randint(0, 9, (2,), dtype=tb.int32).dtype is tb.int32


def test_permutations() -> None:
    for n in (0, 1, 2, 100):
        assert sorted(tb.randperm(n).tolist()) == list(range(n))
    firsts = np.bincount([tb.randperm(5)[0].item() for _ in range(2000)], minlength=5)
    assert ((firsts - 400) ** 2 / 400).sum() < 5 + 6 * np.sqrt(10)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_dropout(p: float, device: str) -> None:
    x = tb.ones(50_000, device=device)
    y = tb.dropout(x, p).numpy()
    kept = y != 0
    assert abs(kept.mean() - (1 - p)) <= 5 * np.sqrt(p * (1 - p) / 50_000)
    if kept.any():
        np.testing.assert_allclose(y[kept], 1 / (1 - p), rtol=1e-6)


def test_the_mask_of_dropout_is_the_same_in_backward(device: str, dtype: str) -> None:
    x = tb.tensor(np.linspace(1, 2, 1001), device=device, dtype=dtype, requires_grad=True)
    y = tb.dropout(x, 0.4)
    (g,) = tb.grad(y, x, tb.ones_like(y), create_graph=True)
    np.testing.assert_allclose(g.detach().numpy() * x.detach().numpy(), y.detach().numpy(), rtol=1e-6)
    assert 0 < (g.detach().numpy() == 0).mean() < 1


def test_the_mask_of_dropout_is_the_same_on_every_device() -> None:
    masks = []
    for device in ("cpu", "ref"):
        tb.manual_seed(4)
        masks.append(tb.dropout(tb.ones(999, device=device), 0.5).tolist())
    assert masks[0] == masks[1]


def test_dropout_of_strided_input() -> None:
    x = tb.tensor(np.arange(1.0, 13.0).reshape(3, 4)).t()
    tb.manual_seed(0)
    y = tb.dropout(x, 0.5)
    tb.manual_seed(0)
    assert y.tolist() == tb.dropout(x.contiguous(), 0.5).tolist()


def test_dropout_in_eval_mode_is_the_input() -> None:
    x = tb.ones(3)
    assert tb.dropout(x, 0.5, training=False) is x
    assert tb.dropout(x, 0.0) is x


def test_shapes() -> None:
    for shape in ((), (0,), (3, 0, 2), (1, 1)):
        assert tb.rand(shape).shape == shape
        assert tb.randn(*shape).shape == shape
    assert tb.rand_like(tb.zeros(2, dtype=tb.float64)).dtype is tb.float64
    assert tb.randn_like(tb.zeros(2), dtype=tb.float64).dtype is tb.float64


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tb.rand(2, dtype=tb.int64), DTypeError, r"rand: 'dtype' must be a floating-point type\. Got int64\."),
        (lambda: tb.randn(2, dtype=tb.bool), DTypeError, r"randn: 'dtype' must be a floating-point type\. Got bool\."),
        (lambda: tb.randint(3, 3, (2,)), ArgumentError, r"randint: 'high' must be an int above low = 3\. Got 3\."),
        (lambda: tb.randint(0, 1.5, (2,)), ArgumentError, r"randint: 'high' must be an int above low = 0\. Got 1\.5\."),
        (lambda: tb.randperm(-1), ArgumentError, r"randperm: 'n' must be an int of at least 0\. Got -1\."),
        (lambda: tb.rand(2.5), ArgumentError, r"rand: 'size' must be ints"),
        (lambda: tb.rand_like([1.0]), DTypeError, r"rand_like: 'input' must be a Tensor"),
        (lambda: tb.dropout(tb.ones(1), 2.0), ArgumentError, r"dropout: 'p' must be from 0 to 1\. Got 2\.0\."),
    ],
)
def test_errors(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
