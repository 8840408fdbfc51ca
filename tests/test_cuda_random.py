"""Random numbers of the GPU are the processor's: word for word, at any length and alignment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tinygrad_bn import cuda
from tinygrad_bn.core.device import as_device, cpu, ref

Array = np.ndarray[Any, Any]
pytestmark = pytest.mark.skipif(not cuda.is_available(), reason="no GPU, and NUMBA_ENABLE_CUDASIM is not 1")
KEYS = [(0, 0), (-5, 3), (2**63 - 1, 2**32 - 2), (-(2**63), 2**40)]
SIZES = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 33, 130, 259]


def there(array: Array, shift: int = 0) -> Array:
    """A copy on the GPU that begins ``shift`` elements behind a multiple of 16 bytes."""
    gpu = as_device("cuda")
    return gpu.array(np.concatenate([np.zeros(shift, array.dtype), array]))[shift:]


def both(name: str, key: tuple[int, int], out: Array, *numbers: float, first: Any = (), shift: int = 0) -> Any:
    """What the GPU and the processor draw."""
    gpu, words = as_device("cuda"), np.array(key)
    ours, theirs = there(out, shift), out.copy()
    getattr(gpu.kernels, name).serial(*[there(a, shift) for a in first], gpu.array(words), *numbers, ours)
    getattr(cpu.kernels, name).serial(*first, words, *numbers, theirs)
    return gpu.to_host(ours), theirs


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("low_high", [(0.0, 1.0), (-1.0, 1.0), (-0.25, 0.5), (0.0, 0.7), (-0.1, 0.30000000000000004)])
def test_uniform_float32_has_the_processors_bits(key: tuple[int, int], low_high: tuple[float, float]) -> None:
    for n in SIZES:
        ours, theirs = both("uniform", key, np.full(n, np.nan, np.float32), *low_high, shift=n % 3)
        assert ours.tobytes() == theirs.tobytes(), n


@pytest.mark.parametrize("key", KEYS)
def test_uniform_float64_has_the_processors_bits(key: tuple[int, int]) -> None:
    for n in SIZES:
        ours, theirs = both("uniform", key, np.full(n, np.nan), 0.0, 1.0)
        assert ours.tobytes() == theirs.tobytes(), n


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("key", KEYS)
def test_normal_numbers_are_a_few_units_of_the_last_place_off(key: tuple[int, int], dtype: Any) -> None:
    for n in SIZES:
        ours, theirs = both("normal", key, np.full(n, np.nan, dtype), 0.0, 1.0, shift=n % 3)
        np.testing.assert_allclose(ours, theirs, rtol=4 * float(np.finfo(dtype).eps), atol=0)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 5), (-(2**63), 2**63 - 1), (2**62, 2**63 - 1)])
def test_integers_are_the_processors(key: tuple[int, int], low: int, high: int) -> None:
    for n in SIZES:
        ours, theirs = both("integers", key, np.full(n, 77), low, high)
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 31, 32, 33, 34, 64, 65, 66, 300])
def test_a_permutation_is_the_processors(key: tuple[int, int], n: int) -> None:
    ours, theirs = both("permutation", key, np.full(n, -1))
    np.testing.assert_array_equal(ours, theirs)
    assert sorted(ours.tolist()) == list(range(n))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.999, 1.0])
def test_dropout_drops_what_the_processor_drops(p: float, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    for n, key in zip(SIZES, KEYS * 4, strict=False):
        x = rng.standard_normal(n).astype(dtype)
        ours, theirs = both_dropout(x, key, p, n % 4)
        assert ours.tobytes() == theirs.tobytes(), n


def both_dropout(x: Array, key: tuple[int, int], p: float, shift: int) -> Any:
    gpu, words = as_device("cuda"), np.array(key)
    ours, theirs = there(np.full_like(x, np.nan), shift), np.full_like(x, np.nan)
    gpu.kernels.dropout.serial(there(x, shift), gpu.array(words), p, ours)
    cpu.kernels.dropout.serial(x, words, p, theirs)
    return gpu.to_host(ours), theirs


def test_dropout_drops_nan_and_keeps_it() -> None:
    x = np.array([np.nan, np.inf, -np.inf, np.nan] * 8, np.float32)
    ours, theirs = both_dropout(x, (7, 7), 0.5, 0)
    np.testing.assert_array_equal(ours, theirs)
    assert np.isnan(ours).any()
    assert (ours == 0).any()


def test_a_generators_words_are_handed_out_once() -> None:
    gpu = as_device("cuda")
    state, key, mine, words = (
        gpu.array(np.array([9, 2])),
        gpu.array(np.zeros(2, np.int64)),
        np.array([9, 2]),
        np.zeros(2),
    )
    for count in (0, 1, 4, 5, 2**33 + 1):
        gpu.kernels.take_words.serial(state, count, key)
        ref.kernels.take_words.serial(mine, count, words)
        np.testing.assert_array_equal(gpu.to_host(key), words)
        np.testing.assert_array_equal(gpu.to_host(state), mine)
