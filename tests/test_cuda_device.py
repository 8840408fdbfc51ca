"""The device ``cuda`` from without: tensors, random numbers, streams, memory. On a GPU where there is one, else
simulated."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import cuda, nn
from tinygrad_bn.errors import DeviceError, IndexRangeError, OutOfMemoryError

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
pytestmark = pytest.mark.skipif(not cuda.is_available(), reason="no GPU, and NUMBA_ENABLE_CUDASIM is not 1")
simulated = pytest.mark.skipif(not SIMULATED, reason="looks into the simulator")


def on_gpu(*shape: int, dtype: Any = None) -> tb.Tensor:
    return tb.arange(int(np.prod(shape)), device="cuda", dtype=dtype or tb.float32).reshape(*shape)


# -------------------------------------------------------------------------------------------------------------- tensors


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64", "float16", "float32", "float64"])
def test_data_goes_to_the_gpu_and_back(dtype: str) -> None:
    array = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
    for x in (tb.tensor(array, device="cuda"), tb.from_numpy(array).to("cuda"), tb.from_numpy(array).cuda()):
        assert x.is_cuda
        assert x.device == "cuda"
        assert x.dtype.name == dtype
        assert x.cpu().numpy().tolist() == x.tolist() == array.tolist()
    assert not x.cpu().is_cuda


def test_bfloat16_goes_there_and_back() -> None:
    x = tb.tensor([1.5, -2.0, 3.25], dtype=tb.bfloat16)
    assert x.cuda().dtype is tb.bfloat16
    assert x.cuda().cpu().float().tolist() == [1.5, -2.0, 3.25]


def test_tensors_are_made_there() -> None:
    assert tb.zeros(2, 3, device="cuda").tolist() == [[0.0] * 3] * 2
    assert tb.full((2,), 7, device="cuda").tolist() == [7, 7]
    assert tb.eye(2, device="cuda").tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert tb.ones_like(tb.empty(3, device="cuda")).device == "cuda"
    assert tb.tensor(tb.ones(2, device="cuda")).device == "cuda"
    assert tb.tensor([tb.ones(2, device="cuda"), [2.0, 3.0]]).tolist() == [[1.0, 1.0], [2.0, 3.0]]


def test_one_element_is_a_number() -> None:
    x = tb.tensor([2.0], device="cuda")
    assert (x.item(), float(x), int(x), bool(x), f"{x:.1f}") == (2.0, 2.0, 2, True, "2.0")
    assert 2.0 in x
    assert 3.0 not in x
    assert tb.equal(x, x)
    assert not tb.allclose(x, x + 1)


def test_a_tensor_prints_its_elements_and_its_device() -> None:
    x = on_gpu(2, 2)
    assert repr(x) == repr(x.cpu())[:-1] + ", device='cuda')"
    assert "[2., 3.]" in repr(x)


def test_numpy_is_refused_with_the_remedy() -> None:
    with pytest.raises(DeviceError, match=r"x\.cpu\(\)\.numpy\(\)"):
        on_gpu(2).numpy()


def test_tensors_of_two_devices_do_not_mix() -> None:
    with pytest.raises(DeviceError, match="must be on device cuda"):
        on_gpu(2) + tb.ones(2)


INDICES: list[Any] = [0, -1, slice(1, None), (slice(None), 1), (slice(None, None, 2), None), [2, 0], ([0, 1], [2, 3])]


@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_indexing_is_numpy_s(index: Any) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    x = tb.tensor(array, device="cuda")
    assert x[index].tolist() == array[index].tolist()
    x[index] = 5.0
    array[index] = 5.0
    assert x.tolist() == array.tolist()


def test_masks_and_indices_of_either_device_select() -> None:
    x = on_gpu(2, 3)
    assert x[x > 2].tolist() == [3.0, 4.0, 5.0]
    assert x[tb.tensor([1])].tolist() == x[tb.tensor([1], device="cuda")].tolist() == [[3.0, 4.0, 5.0]]
    assert x[tb.tensor(1, device="cuda")].tolist() == [3.0, 4.0, 5.0]


def test_views_share_memory_and_changes_in_place_are_seen() -> None:
    x = on_gpu(2, 3)
    row = x[1]
    row += 10
    x.T[0].mul_(2)
    assert x.tolist() == [[0.0, 1.0, 2.0], [26.0, 14.0, 15.0]]
    assert x.T.contiguous().tolist() == x.cpu().T.tolist()


def test_copies_of_tensors_live_where_the_tensors_do() -> None:
    x = on_gpu(2, 3)
    for other in (copy.deepcopy(x), pickle.loads(pickle.dumps(x)), x.clone(), copy.deepcopy(x.T).T):
        assert other.device == "cuda"
        assert other.tolist() == x.tolist()
        other += 1
        assert x.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


def test_gradients_cross_between_devices() -> None:
    x = tb.ones(3, requires_grad=True)
    y = x.cuda() * tb.tensor([1.0, 2.0, 3.0], device="cuda")
    (y.cpu() * 2).sum().backward()
    assert x.grad is not None
    assert x.grad.device == "cpu"
    assert x.grad.tolist() == [2.0, 4.0, 6.0]


def test_a_saved_tensor_is_loaded_to_the_device_asked_for(tmp_path: Path) -> None:
    tb.save({"a": on_gpu(2, 2).T}, tmp_path / "a.safetensors")
    assert tb.load(tmp_path / "a.safetensors")["a"].tolist() == [[0.0, 2.0], [1.0, 3.0]]
    assert tb.load(tmp_path / "a.safetensors", map_location="cuda")["a"].device == "cuda"


def test_a_module_moves_with_its_buffers_and_counts() -> None:
    layer = nn.BatchNorm1d(2).cuda()
    assert {t.device.type for t in layer.state_dict().values()} == {"cuda"}
    layer(tb.tensor([[1.0, 2.0], [3.0, float("nan")]], device="cuda"))
    assert layer.skipped_batches == 1
    assert copy.deepcopy(layer).skipped_batches == 1
    assert layer.cpu().skipped_batches == 1
    layer(tb.ones(2, 2))
    layer.reset_running_stats()
    assert layer.skipped_batches == 0


def test_an_index_out_of_range_is_reported_where_the_host_waits() -> None:
    at = tb.tensor([0, 7], device="cuda")
    y = on_gpu(3, 2)[at]
    with pytest.raises(IndexRangeError, match="7"):
        y.cpu()
    tb.synchronize()  # and only once
    on_gpu(3, 2)[at]
    with pytest.raises(IndexRangeError, match="7"):
        tb.synchronize("cuda")


# ------------------------------------------------------------------------------------------------------ random numbers


@pytest.mark.parametrize("draw", ["rand", "randn", "randint", "randperm"])
def test_random_numbers_are_the_cpu_s(draw: str) -> None:
    arguments: Any = {"randint": (9, (5,)), "randperm": (7,)}.get(draw, (3, 3))
    tb.manual_seed(11)
    ours = [getattr(tb, draw)(*arguments, device="cuda").cpu() for _ in range(2)]
    theirs = [getattr(tb, draw)(*arguments) for _ in range(2)]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6, atol=1e-6)


def test_dropout_is_the_cpu_s_bit_for_bit() -> None:
    x = tb.rand(6, 7)
    tb.manual_seed(2)
    ours = [tb.dropout(x.cuda(), 0.4).cpu().numpy() for _ in range(2)]
    theirs = [tb.dropout(x, 0.4).numpy() for _ in range(2)]
    np.testing.assert_array_equal(ours, theirs)


def test_generators_have_a_device_and_a_state() -> None:
    generator = tb.Generator("cuda").manual_seed(5)
    assert generator.initial_seed() == 5
    state = generator.get_state()
    first = tb.rand(4, generator=generator, device="cuda").tolist()
    again = pickle.loads(pickle.dumps(generator))
    generator.set_state(state)
    assert tb.rand(4, generator=generator, device="cuda").tolist() == first
    assert again.get_state().tolist() == generator.get_state().tolist()
    for device, other in (("cpu", generator), ("cuda", tb.Generator())):
        with pytest.raises(DeviceError, match="'generator' must be on device"):
            tb.rand(4, generator=other, device=device)


def test_the_gpu_s_default_generator_has_a_state_of_its_own() -> None:
    tb.manual_seed(4)
    cpu = tb.get_rng_state().tolist()
    state = cuda.get_rng_state()
    first = tb.rand(3, device="cuda").tolist()
    assert tb.get_rng_state().tolist() == cpu
    cuda.set_rng_state(state)
    assert tb.rand(3, device="cuda").tolist() == first
    cuda.manual_seed(9)
    assert (cuda.initial_seed(), tb.initial_seed()) == (9, 4)


# ------------------------------------------------------------------------------------------------- the GPU, its streams


def test_the_gpu_is_described() -> None:
    properties = cuda.get_device_properties()
    assert (cuda.device_count(), cuda.current_device()) == (1, 0)
    assert cuda.get_device_name() == properties.name
    assert cuda.get_device_capability(0) == properties[1:3]
    free, total = cuda.mem_get_info("cuda")
    assert 0 <= free <= total == properties.total_memory
    with pytest.raises(DeviceError, match="the GPU"):
        cuda.get_device_name("cpu")
    with pytest.raises(tb.errors.ArgumentError, match="the only GPU"):
        cuda.synchronize(1)


def test_a_stream_is_current_within_its_block_and_thread() -> None:
    main, side = cuda.current_stream(), cuda.Stream()
    assert main == cuda.current_stream()
    assert main != side
    with cuda.stream(side):
        assert cuda.current_stream() == side
        side.wait_stream(main)
        y = on_gpu(3) + 1
    main.wait_stream(side)
    y.record_stream(main)
    assert cuda.current_stream() == main
    assert y.tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(tb.errors.DTypeError, match="a Stream"):
        main.wait_stream(0)  # type: ignore[arg-type]
    with cuda.stream(None):
        side.synchronize()


def test_memory_of_a_stream_is_handed_out_on_that_stream_alone() -> None:
    from tinygrad_bn.core.cuda_device import address

    side = cuda.Stream()
    with cuda.stream(side):
        lent = address(tb.empty(1000, device="cuda").array)  # gone at once
    here = tb.empty(1000, device="cuda")
    with cuda.stream(side):
        there = tb.empty(1000, device="cuda")
    assert address(there.array) == lent != address(here.array)


def test_memory_that_another_stream_uses_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own stream waits for the other before the buffer is handed out again."""
    from tinygrad_bn.core.cuda_device import address
    from tinygrad_bn.kernels.cuda.driver import driver

    waits: list[tuple[Any, Any]] = []
    monkeypatch.setattr(driver(), "wait", lambda stream, other: waits.append((stream, other)))
    side = cuda.Stream()
    x = tb.empty(12345, device="cuda")
    x[5:].record_stream(side)
    x.record_stream(cuda.current_stream())
    lent = address(x.array)
    del x
    gc.collect()
    assert waits == []
    again = tb.empty(12345, device="cuda")
    assert address(again.array) == lent
    assert [(cuda.Stream._of(a), cuda.Stream._of(b)) for a, b in waits] == [(cuda.current_stream(), side)]


def test_threads_compute_side_by_side() -> None:
    found: list[Any] = []

    def work(n: int) -> None:
        with cuda.stream(cuda.Stream()):
            found.append(((tb.full((4,), float(n), device="cuda") * 2).sum().item(), n))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(found) == [(0.0, 0), (8.0, 1), (16.0, 2)]


# --------------------------------------------------------------------------------------------------------------- memory


def test_memory_in_use_is_counted_per_device() -> None:
    gc.collect()
    before, cpu = cuda.memory_allocated(), tb.memory_allocated()
    cuda.reset_peak_memory_stats()
    x = tb.empty(1 << 20, dtype=tb.uint8, device="cuda")
    assert cuda.memory_allocated() - before == 1 << 20 == tb.memory_allocated("cuda") - before
    assert tb.memory_allocated() == cpu
    view = x[7:]
    del x
    assert cuda.memory_allocated() - before == 1 << 20
    del view
    assert cuda.memory_allocated() == before
    assert cuda.max_memory_allocated() - before == 1 << 20 == tb.max_memory_allocated("cuda") - before
    assert cuda.memory_reserved() >= cuda.max_memory_allocated()


def test_idle_memory_is_given_back() -> None:
    big = tb.empty(cuda.memory_reserved() + (1 << 26), dtype=tb.uint8, device="cuda")
    held = cuda.memory_reserved()
    del big
    cuda.empty_cache()
    assert cuda.memory_reserved() < held
    tb.empty_cache()


def test_out_of_memory_says_what_was_asked_for_and_the_process_goes_on() -> None:
    with pytest.raises(OutOfMemoryError, match=rf"{1 << 48} bytes .* were asked for, \d+ of \d+ are free"):
        tb.empty(1 << 48, dtype=tb.uint8, device="cuda")
    assert cuda.OutOfMemoryError is OutOfMemoryError
    assert issubclass(OutOfMemoryError, MemoryError)
    assert (on_gpu(3) + 1).tolist() == [1.0, 2.0, 3.0]


@simulated
def test_what_lies_idle_on_other_streams_is_used_before_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from tinygrad_bn.kernels.cuda.driver import driver

    gpu: Any = driver()
    cuda.empty_cache()
    monkeypatch.setattr(gpu, "total", gpu.total - gpu.memory()[0] + (100 << 20))
    with cuda.stream(cuda.Stream()):
        tb.empty(70 << 20, dtype=tb.uint8, device="cuda")
    assert gpu.memory()[0] < 70 << 20
    x = tb.empty(70 << 20, dtype=tb.uint8, device="cuda")
    assert x.numel() == 70 << 20
    del x
    cuda.empty_cache()
