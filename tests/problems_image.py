"""Problems for the kernels that change pictures: sizes from 1 on, crops that miss the picture, bytes and floats."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from problems import MAKERS, Arguments, blank


@st.composite
def pictures(draw: st.DrawFn, name: str, dtype: str) -> Arguments:
    """Unsigned bytes half of the time, else values of [0, 1] of the dtype."""
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    n, h, w = draw(st.integers(0, 4)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    c = 3 if name == "jitter_pictures" else draw(st.integers(1, 4))
    of_bytes = draw(st.booleans())
    x = rng.integers(0, 256, (n, c, h, w), np.uint8) if of_bytes else rng.random((n, c, h, w)).astype(dtype)
    divisor = 255.0 if of_bytes else 1.0
    match name:
        case "crop_pictures":
            rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 9))
            top, left = rng.integers(-rows - 1, h + 2, n), rng.integers(-columns - 1, w + 2, n)
            return {"x": x, "top": top, "left": left, "fill": 7.0, "out": blank((n, c, rows, columns), x.dtype)}
        case "mirror_pictures":
            return {"x": x, "flags": rng.random(n) < 0.5, "out": blank(x.shape, x.dtype)}
        case "normalise_pictures":
            mean, std = rng.random(c).astype(dtype), (rng.random(c) + 0.1).astype(dtype)
            return {"x": x, "divisor": divisor, "mean": mean, "std": std, "out": blank(x.shape, dtype)}
        case "tint_pictures":
            shift = rng.normal(size=(n, c)).astype(dtype)
            return {"x": x, "divisor": divisor, "shift": shift, "out": blank(x.shape, dtype)}
        case _:
            order = np.array([rng.permutation(3) for _ in range(n)], np.int64).reshape(n, 3)
            factors = (2 * rng.random((n, 3))).astype(dtype)
            return {"x": x, "divisor": divisor, "factors": factors, "order": order, "out": blank(x.shape, dtype)}


MAKERS |= {
    **dict.fromkeys(("crop_pictures", "mirror_pictures", "normalise_pictures", "tint_pictures"), (pictures, 0.0)),
    "jitter_pictures": (pictures, 1e-06),
}
