"""The driver as it is called: by the real ``cuda.bindings``, in a driver library that only writes down what it is told.

``fake_driver/libcuda.c`` takes the place of NVIDIA's library. What is passed through the bindings, how arguments are
packed for a launch, and what is kept in the folder of machine code is checked without a GPU.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

COMPILER = shutil.which("cc") or shutil.which("gcc")
SOURCE = Path(__file__).parent / "fake_driver" / "libcuda.c"
pytestmark = [
    pytest.mark.skipif(find_spec("numba_cuda") is None, reason="numba-cuda is not installed"),
    pytest.mark.skipif(COMPILER is None or sys.platform != "linux", reason="no C compiler for the driver's stand-in"),
]

STREAM, CONTEXT = "0x500", "0xc0"

KERNELS = """
import sys
import numpy as np
from tinygrad_bn.kernels.cuda.driver import driver
from tinygrad_bn.kernels.cuda.entry import device, entry
from tinygrad_bn.kernels.cuda.target import cuda

@device
def inner(x):
    return 2.0 * x

@entry
def _mixed(x, a, i, b, h, n, u, s, d, places, out):
    j = cuda.grid(1)
    if j < n:
        out[j] = inner(x[j]) * a + real(i) + real(b) + real(h) + s + real(d) + real(u) + real(places[j])

@entry(static="mode", threads=64)
def _chosen(x, mode, out, n):
    j = cuda.grid(1)
    if j < n:
        out[j] = x[j] if mode == "copy" else -x[j]
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stand-in."""
    folder = tmp_path_factory.mktemp("fake_driver")
    command = [str(COMPILER), "-O1", "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return folder


class Machine:
    """A machine with the stand-in for its driver."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.log = folder / "calls.txt"
        self.folder = folder
        unset = ("NUMBA_ENABLE_CUDASIM", "NUMBA_DISABLE_JIT", "NUMBA_BOUNDSCHECK")
        self.environment = {k: v for k, v in os.environ.items() if k not in unset} | {
            "LD_LIBRARY_PATH": str(library),
            "FAKE_CUDA_LOG": str(self.log),
            "TINYGRAD_BN_CACHE": str(folder / "cache"),
        }

    def run(self, code: str, kernels: str = KERNELS, **environment: str) -> tuple[str, list[str]]:
        """Run a script; what it printed, and the calls of the driver from its start on."""
        script = self.folder / "script.py"
        script.write_text(kernels + code)
        self.log.write_text("")
        done = subprocess.run(
            [sys.executable, str(script)],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout, self.log.read_text().splitlines()


@pytest.fixture
def machine(library: Path, tmp_path: Path) -> Machine:
    return Machine(library, tmp_path)


def named(calls: list[str], *names: str) -> list[str]:
    return [c for c in calls if c.split()[0] in names]


def test_the_driver_is_started_once_and_asked_what_it_is(machine: Machine) -> None:
    told, calls = machine.run("d = driver(); print(d.name, d.capability, d.processors, d.l2_bytes, driver() is d)")
    assert told == f"a GPU that is not there (9, 0) 132 {50 << 20} True\n"
    assert calls[:6] == [
        "cuInit 0", "cuDeviceGetCount", "cuDeviceGet 0", "cuDevicePrimaryCtxRetain 40", f"cuCtxSetCurrent {CONTEXT}",
        f"cuStreamCreate 1 -> {STREAM}",
    ]  # fmt: skip  # 1 is CU_STREAM_NON_BLOCKING


def test_memory_goes_there_and_back_in_the_streams_order(machine: Machine) -> None:
    code = """
d = driver()
host, back = np.arange(5, dtype=np.float32), np.zeros(5, np.float32)
a, b = d.allocate(20), d.allocate(20)
d.copy_in(a, host.ctypes.data, 20)
d.copy(b, a, 20)
d.clear(a, 4)
d.copy_out(back.ctypes.data, b, 20)
print(back)
d.copy_out(back.ctypes.data, a, 20)
print(back, d.memory())
d.free(a)
large = np.zeros(20000, np.float32)
c = d.allocate(large.nbytes)
d.copy_in(c, large.ctypes.data, large.nbytes)
d.synchronize()
d.synchronize(d.current())
"""
    told, calls = machine.run(code)
    assert told == f"[0. 1. 2. 3. 4.]\n[0. 1. 2. 3. 4.] {(3 << 20, 4 << 20)}\n"
    first = next(i for i, c in enumerate(calls) if c.startswith("cuMemAlloc"))
    assert [c for c in calls[first:] if c.split()[0] != "cuCtxSetCurrent"] == [
        "cuMemAlloc 20", "cuMemAlloc 20", f"cuMemcpyHtoDAsync 20 {STREAM}", f"cuMemcpyDtoDAsync 20 {STREAM}",
        f"cuMemsetD8Async 0 4 {STREAM}", f"cuMemcpyDtoHAsync 20 {STREAM}", f"cuStreamSynchronize {STREAM}",
        f"cuMemcpyDtoHAsync 20 {STREAM}", f"cuStreamSynchronize {STREAM}", "cuMemGetInfo", "cuMemFree",
        "cuMemAlloc 80000", f"cuMemcpyHtoDAsync 80000 {STREAM}", f"cuStreamSynchronize {STREAM}", "cuCtxSynchronize",
        f"cuStreamSynchronize {STREAM}",
    ]  # fmt: skip


def test_too_much_memory_is_a_memory_error_and_other_failures_name_themselves(machine: Machine) -> None:
    code = """
from tinygrad_bn.errors import DeviceError
d = driver()
try:
    d.allocate(1000)
except MemoryError as error:
    print(error)
try:
    d.synchronize()
except DeviceError as error:
    print(error)
"""
    told, _ = machine.run(code, FAKE_CUDA_BYTES="999", FAKE_CUDA_FAIL="cuCtxSynchronize:719")
    assert told == (
        "CUDA_ERROR_OUT_OF_MEMORY: out of memory\n"
        "cuda: the driver reports CUDA_ERROR_LAUNCH_FAILED: something is wrong.\n"
    )


def test_without_a_gpu_the_error_says_what_to_do(machine: Machine) -> None:
    code = """
import tinygrad_bn as tb
from tinygrad_bn.errors import DeviceError
print(tb.cuda.is_available(), tb.cuda.device_count())
try:
    driver()
except DeviceError as error:
    print(error)
"""
    told, _ = machine.run(code, FAKE_CUDA_FAIL="cuInit:100")
    assert told.startswith("False 0\ndevice: 'cuda' needs an NVIDIA GPU: CUDA_ERROR_OTHER.\n")
    assert "Hint: install the extra" in told


def test_streams_wait_for_each_other_by_events(machine: Machine) -> None:
    code = """
d = driver()
main, other = d.current(), d.stream()
assert d.use(other) == main and d.current() == other
d.wait(other, main)
d.clear(d.allocate(8), 8)
assert d.use(main) == other
"""
    calls = machine.run(code)[1]
    at = calls.index("cuEventCreate 2 -> 0xe00")  # 2 is CU_EVENT_DISABLE_TIMING
    assert "cuStreamCreate 1 -> 0x501" in calls[:at]
    assert calls[at + 1 :] == [
        f"cuEventRecord 0xe00 {STREAM}", "cuStreamWaitEvent 0x501 0xe00 0", "cuEventDestroy 0xe00", "cuMemAlloc 8",
        "cuMemsetD8Async 0 8 0x501",
    ]  # fmt: skip


def test_each_thread_of_the_host_enters_the_context(machine: Machine) -> None:
    code = """
import threading
d = driver()
t = threading.Thread(target=lambda: d.clear(d.allocate(8), 8))
t.start()
t.join()
"""
    calls = machine.run(code)[1]
    at = calls.index("cuMemAlloc 8")
    assert calls[at - 1] == f"cuCtxSetCurrent {CONTEXT}"
    assert calls[at + 1] == f"cuMemsetD8Async 0 8 {STREAM}"


def test_a_graph_is_recorded_instantiated_launched_and_let_go(machine: Machine) -> None:
    code = """
from tinygrad_bn.errors import DeviceError
d = driver()
a = d.allocate(8)
d.begin()
d.clear(a, 8)
try:
    d.copy_in(a, np.zeros(2, np.float32).ctypes.data, 8)
except DeviceError as error:
    print(error)
graph = d.end()
d.replay(graph)
d.destroy(graph)
d.copy_in(a, np.zeros(2, np.float32).ctypes.data, 8)
"""
    told, calls = machine.run(code)
    assert told == "capture: a copy from the host's memory cannot be recorded.\n"
    at = next(i for i, c in enumerate(calls) if c.startswith("cuStreamBeginCapture"))
    assert calls[at:] == [
        f"cuStreamBeginCapture {STREAM} 1", f"cuMemsetD8Async 0 8 {STREAM}", f"cuStreamEndCapture {STREAM}",
        "cuGraphInstantiate 0x91 0", "cuGraphDestroy 0x91", f"cuGraphLaunch 0x92 {STREAM}", "cuGraphExecDestroy 0x92",
        f"cuMemcpyHtoDAsync 8 {STREAM}",
    ]  # fmt: skip  # 1 is CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


LAUNCH = """
from tinygrad_bn.core.cuda_device import address, leased
kind = np.dtype("float32")
x, out = leased((4,), kind, 4 * kind.itemsize), leased((4,), kind, 4 * kind.itemsize)
places = leased((4,), np.dtype(np.int64), 32)
print(address(x), address(places), address(out))
_mixed[3](x, 0.1, np.int32(-2), np.uint8(200), np.int16(-3), -5, np.int64(-6), np.float32(0.5), np.float64(1e300),
          places, out)
_mixed[1, 2, 3](x[1:], 1e39, np.int32(7), np.uint8(1), np.int16(1), True, np.int64(1 << 40), np.float32(np.inf),
                np.float64(0.1), places[::-1], out)
"""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_words_of_a_launch_are_what_the_machine_code_takes(machine: Machine, dtype: str) -> None:
    """The sizes of the words are the cubin's own."""
    told, calls = machine.run(LAUNCH.replace("float32", dtype, 1))
    x, places, out = map(int, told.split())
    real = "f" if dtype == "float32" else "d"
    first, second = (c.split() for c in named(calls, "cuLaunchKernel"))
    assert first[1:6] == ["3,1,1", "256,1,1", "0", STREAM, "(nil)"]
    assert second[1] == "1,2,3"
    codes = "Q" + real + "iBhqqfdQQ"
    size = np.dtype(dtype).itemsize
    wide = np.inf if dtype == "float32" else 1e39
    for words, values in (
        (first, (x, 0.1, -2, 200, -3, -5, -6, 0.5, 1e300, places, out)),
        (second, (x + size, wide, 7, 1, 1, 1, 1 << 40, np.inf, 0.1, places + 24, out)),
    ):
        assert words[6:] == [struct.pack("<" + c, v).hex() for c, v in zip(codes, values, strict=True)]


def test_static_parameters_are_no_arguments_and_threads_are_the_kernels(machine: Machine) -> None:
    code = """
from tinygrad_bn.core.cuda_device import address, leased
x = leased((4,), np.dtype(np.float32), 16)
print(address(x))
_chosen[1](x, "copy", x, 4)
_chosen[0](x, "copy", x, 4)
_chosen[2](x, "negated", x, 4)
"""
    told, calls = machine.run(code)
    at = struct.pack("<Q", int(told)).hex()
    four = struct.pack("<q", 4).hex()
    launches = [c.split() for c in named(calls, "cuLaunchKernel")]
    assert [c[1:3] for c in launches] == [["1,1,1", "64,1,1"], ["2,1,1", "64,1,1"]]  # no blocks: no launch
    assert all(c[6:] == [at, at, four] for c in launches)
    assert len(named(calls, "cuModuleLoadData")) == 2


NO_COMPILER = """
from tinygrad_bn.kernels.cuda import target
def ptx_of(*arguments):
    raise AssertionError("compiled")
target.ptx_of = ptx_of
"""


def test_machine_code_is_kept_and_loaded_without_compiling(machine: Machine) -> None:
    machine.run(LAUNCH)
    files = sorted((machine.folder / "cache" / "cuda" / "sm_90").iterdir())
    assert [f.name.split("-")[0] for f in files] == ["_mixed"]
    assert len(named(machine.run(NO_COMPILER + LAUNCH)[1], "cuLaunchKernel")) == 2


def test_a_damaged_file_is_made_anew(machine: Machine) -> None:
    machine.run(LAUNCH)
    (file,) = (machine.folder / "cache" / "cuda" / "sm_90").iterdir()
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:100], b"", whole[:-1] + bytes([whole[-1] ^ 1]), b"\xff" * 50):
        file.write_bytes(damaged)
        assert len(named(machine.run(LAUNCH)[1], "cuLaunchKernel")) == 2
        assert len(file.read_bytes()) > 1000


def test_other_machine_code_for_other_sources_types_and_constants(machine: Machine) -> None:
    """The key follows device functions, constants of the module, types, static parameters and settings."""
    code = """
keys = {_mixed.key(("*f",) * 11, ()), _mixed.key(("*d",) * 11, ()), _chosen.key(("*f", "*f", "q"), (("mode", "copy"),)),
        _chosen.key(("*f", "*f", "q"), (("mode", "negated"),))}
print(len(keys), _mixed.key(("*f",) * 11, ()))
"""
    sources = [
        KERNELS,
        KERNELS.replace("return 2.0 * x", "return 3.0 * x"),
        KERNELS.replace("return 2.0 * x", "return FACTOR * x") + "FACTOR = 2.0\n",
        KERNELS.replace("return 2.0 * x", "return FACTOR * x") + "FACTOR = 3.0\n",
        KERNELS.replace("@entry\ndef _mixed", "@entry(threads=128)\ndef _mixed"),
        KERNELS.replace("+ real(h)", "- real(h)"),
    ]
    told = [machine.run(code, source)[0].split() for source in sources]
    assert all(count == "4" for count, _ in told)
    assert len({key for _, key in told}) == len(sources)
    assert machine.run(code)[0].split() == told[0]


def test_what_the_bindings_promise_is_what_is_called() -> None:
    """Names of parameters in their order, for the installed version."""
    from inspect import signature

    from cuda.bindings import driver as api

    promised = {
        "cuLaunchKernel": "f gridDimX gridDimY gridDimZ blockDimX blockDimY blockDimZ sharedMemBytes hStream "
        "kernelParams extra",
        "cuMemcpyHtoDAsync": "dstDevice srcHost ByteCount hStream",
        "cuMemcpyDtoHAsync": "dstHost srcDevice ByteCount hStream",
        "cuMemcpyDtoDAsync": "dstDevice srcDevice ByteCount hStream",
        "cuMemsetD8Async": "dstDevice uc N hStream",
        "cuStreamWaitEvent": "hStream hEvent Flags",
        "cuEventRecord": "hEvent hStream",
        "cuStreamBeginCapture": "hStream mode",
        "cuGraphInstantiate": "hGraph flags",
        "cuGraphLaunch": "hGraphExec hStream",
        "cuDeviceGetAttribute": "attrib dev",
        "cuDeviceGetName": "length dev",
        "cuModuleGetFunction": "hmod name",
        "cuModuleLoadData": "image",
    }
    assert {name: " ".join(signature(getattr(api, name)).parameters) for name in promised} == promised
