"""What the package runs on: versions, processor, threads, BLAS, devices, caches."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tinygrad_bn.backends import cpu
from tinygrad_bn.core import device, dtype
from tinygrad_bn.core.launch import pool

PACKAGES = ("numpy", "numba", "llvmlite", "scipy", "safetensors")


@cache
def versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of what the numbers come from."""
    import tinygrad_bn

    found = {"tinygrad_bn": tinygrad_bn.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def info() -> str:
    """Return a report, a line an item."""
    rows = [*versions().items(), ("platform", platform.platform()), ("processor", processor())]
    rows += [("vector width", _vectors()), ("threads", _threads()), *_blas(), ("devices", _devices())]
    rows += [("dtypes", _dtypes()), ("convolution algorithm", cpu.conv_algorithm), *_cache()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def processor() -> str:
    """Return the processor's name, and what LLVM calls it."""
    from llvmlite import binding

    names = Path("/proc/cpuinfo")
    lines = names.read_text(errors="replace").splitlines() if names.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.processor() or platform.machine()} (LLVM: {binding.get_host_cpu_name()})"


def _vectors() -> str:
    from tinygrad_bn.kernels.cpu.vector import WIDTH

    return f"{8 * WIDTH} bits: {WIDTH // 4} float32 or {WIDTH // 8} float64"


def _threads() -> str:
    pool.enter()
    return f"{pool.threads} of {pool.limit}, layer {pool.layer}"


def _blas() -> list[tuple[str, str]]:
    from threadpoolctl import threadpool_info

    from tinygrad_bn.kernels.cpu.blas import limit_scipy_blas

    limit_scipy_blas()  # as the first large product would
    found = [library for library in threadpool_info() if library["user_api"] == "blas"]
    return [
        ("blas", f"{lib['internal_api']} {lib['version']}, threads: {lib['num_threads']}, {lib['filepath']}")
        for lib in found
    ] or [("blas", "none that threadpoolctl knows")]


def _devices() -> str:
    return "cpu (Numba kernels), ref (NumPy, the specification)" if device.ref else "cpu"


def _dtypes() -> str:
    return ", ".join(d.name for d in dtype.ALL)


def _cache() -> list[tuple[str, str]]:
    from tinygrad_bn.kernels.folder import cache_root, writable

    root, kept = cache_root(), "" if writable() else " (cannot be written: set TINYGRAD_BN_CACHE)"
    sizes = [path.stat().st_size for path in root.rglob("*") if path.is_file()]
    return [("kernel cache", f"{root}{kept}"), ("", f"{len(sizes)} files, {sum(sizes) / 2**20:.1f} MiB")]
