"""Whether a backend's kernel has done what the specification does."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from problems import SCALES, SUMS, Arguments

from tinygrad_bn.core.device import ref
from tinygrad_bn.kernels import catalogue
from tinygrad_bn.testing import assert_close

Array = np.ndarray[Any, Any]
for _path in sorted(Path(__file__).parent.glob("problems_*.py")):
    importlib.import_module(_path.stem)


def scales(name: str, before: Arguments) -> dict[str, Array]:
    """The size of the terms that cancel in a result: what rounding errors are relative to."""
    if name in SUMS:  # the same sum of the terms' sizes
        absolute = {k: np.abs(v) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v for k, v in before.items()}
        getattr(ref.kernels, name).serial(*absolute.values())
        declared = catalogue()[name][1]
        return {k: absolute[k] for k in declared.writes + declared.updates}
    if name in SCALES:
        return SCALES[name](before)
    if name == "batch_norm_update":
        return {k: np.abs(before[k]) for k in ("running_mean", "running_var")}
    if name in ("softmax_backward", "log_softmax_backward"):
        return {"out": np.abs(before["gy"]).sum(1, keepdims=True) * (np.exp(before["y"]) + np.abs(before["y"]))}
    if name in ("sigmoid_backward", "tanh_backward"):
        return {"out": np.abs(before["gy"]) * (1 + before["y"] ** 2)}
    if name == "cross_entropy_backward":
        return {"out": np.broadcast_to(np.abs(before["gy"][:, None] * before["scale"][0]), before["x"].shape)}
    if not (name.startswith("batch_norm") and name.endswith("backward")):
        return {}
    x, g = before["x"].astype(np.float64), np.abs(before["gy"].astype(np.float64))
    if "mean" not in before:
        mean, _, _, invstd = before["statistics"].astype(np.float64)
    else:
        mean, invstd = before["mean"].astype(np.float64), 1 / np.sqrt(before["var"].astype(np.float64) + before["eps"])
    hat = np.abs(x - mean[:, None]) * invstd[:, None]
    gain = np.abs(before["weight"]) * invstd if before["weight"].size else invstd
    return {"gx": gain[:, None] * (g + g.max() * (1 + hat)), "gweight": (g * hat).sum((0, 2)), "gbias": g.sum((0, 2))}


def compare(name: str, ours: Arguments, theirs: Arguments, before: Arguments, rtol: float) -> None:
    """What is written agrees; what is only read is unchanged."""
    declared = catalogue()[name][1]
    changed = declared.writes + declared.updates
    allowed = scales(name, before)
    for key, value in ours.items():
        if not isinstance(value, np.ndarray) or key in declared.workspace:
            continue
        if key not in changed and key != "status":
            np.testing.assert_array_equal(value, before[key], err_msg=f"{name} changed {key}")
        elif rtol == 0 or value.dtype.kind != "f":
            np.testing.assert_array_equal(value, theirs[key], err_msg=f"{name}: {key}")
        elif key in allowed:
            assert (
                np.abs(value.astype(np.float64) - theirs[key]) <= rtol * (np.abs(theirs[key]) + allowed[key])
            ).all(), f"{name}: {key}"
        else:
            assert_close(value, theirs[key], rtol, f"{name}: {key}")
