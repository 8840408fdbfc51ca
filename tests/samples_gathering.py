"""Records of splitting, gathering, scattering and lookups."""

from __future__ import annotations

from typing import Any

import numpy as np
from op_samples import Fault, Sample, integers, normal, not_a_tensor, record

import tinygrad_bn as tb
from tinygrad_bn import errors
from tinygrad_bn import functional as F
from tinygrad_bn.ops.gathering import put_along

Array = np.ndarray[Any, Any]


def functional_of(lib: Any) -> Any:
    return F if lib is tb else lib.nn.functional


# ----------------------------------------------------------------------------------------------------- whole stretches


def _sections(x: Array, sections: Any, d: int) -> list[Array]:
    n = x.shape[d]
    if isinstance(sections, int):
        cuts = list(range(sections, n, sections)) if n else []
    else:
        cuts = list(np.cumsum(sections))[:-1]
    return np.split(x, cuts, d)


record(
    "split",
    [
        Sample(
            f"{shape}-{sections}-{d}",
            lambda lib, x, sections=sections, d=d: lib.split(x, sections, d),
            (normal(*shape),),
            lambda x, sections=sections, d=d: _sections(x, sections, d),
            view=True,
        )
        for shape, sections, d in (
            ((5,), 2, 0),
            ((4, 6), 3, 1),
            ((4, 6), 9, -1),
            ((4, 6), [1, 0, 5], 1),
            ((2, 3, 4), (2, 1), 1),
            ((0, 3), 2, 0),
        )
    ]
    + [
        Sample("one piece used", lambda lib, x: lib.split(x, 2)[1] * 2, (normal(5, 2),), lambda x: x[2:4] * 2),
        Sample(
            "method", lambda lib, x: x.split([1, 2], dim=1), (normal(2, 3),), lambda x: (x[:, :1], x[:, 1:]), view=True
        ),
    ],
    [
        Fault(
            "no tensor",
            lambda: tb.split([1.0], 1),  # type: ignore[arg-type]
            errors.DTypeError,
            r"^split: 'tensor' must be a Tensor\. Got list\.",
        ),
        Fault(
            "sum",
            lambda: tb.split(tb.zeros(3), [1, 1]),
            errors.ShapeError,
            r"^split: 'split_size_or_sections' must have extents that add up to 3\. Got \(1, 1\)\.$",
        ),
        Fault(
            "size",
            lambda: tb.split(tb.zeros(3), 0),
            errors.ArgumentError,
            r"^split: 'split_size_or_sections' must be at least 1\. Got 0\.$",
        ),
        Fault(
            "kind",
            lambda: tb.split(tb.zeros(3), 1.5),  # type: ignore[arg-type]
            errors.ArgumentError,
            r"must be an int or a sequence of ints\. Got float\.$",
        ),
        Fault("no axis", lambda: tb.split(tb.zeros(()), 1), errors.ShapeError, r"'tensor' must have at least one axis"),
        Fault("axis", lambda: tb.split(tb.zeros(3), 1, 1), errors.ShapeError, r"^split: 'dim' must be from -1 to 0"),
    ],
)
record(
    "chunk",
    [
        Sample(
            f"{shape}-{n}-{d}",
            lambda lib, x, n=n, d=d: lib.chunk(x, n, d),
            (normal(*shape),),
            None,
            view=True,
        )
        for shape, n, d in (((7,), 3, 0), ((2, 8), 4, 1), ((2, 5), 4, -1), ((3,), 5, 0), ((0, 2), 2, 0))
    ],
    [
        Fault(
            "no tensor",
            lambda: tb.chunk([1.0], 1),  # type: ignore[arg-type]
            errors.DTypeError,
            r"^chunk: 'input' must be a Tensor\. Got list\.",
        ),
        Fault(
            "number",
            lambda: tb.chunk(tb.zeros(3), 0),
            errors.ArgumentError,
            r"^chunk: 'chunks' must be an int of at least 1\. Got 0\.$",
        ),
        Fault("no axis", lambda: tb.chunk(tb.zeros(()), 1), errors.ShapeError, r"^chunk: 'input' must have at least"),
    ],
    ops=("split",),
)
record(
    "unbind",
    [
        Sample(
            f"{shape}-{d}",
            lambda lib, x, d=d: lib.unbind(x, d),
            (normal(*shape),),
            lambda x, d=d: list(np.moveaxis(x, d, 0)),
            view=True,
        )
        for shape, d in (((3,), 0), ((2, 4), 1), ((2, 3, 2), -2))
    ],
    [
        not_a_tensor("unbind"),
        Fault("no axis", lambda: tb.unbind(tb.zeros(())), errors.ShapeError, r"^unbind: 'input' must have at least"),
    ],
    ops=("split",),
)
record(
    "roll",
    [
        Sample(
            f"{shape}-{shifts}-{dims}",
            lambda lib, x, shifts=shifts, dims=dims: lib.roll(x, shifts, dims),
            (normal(*shape),),
            lambda x, shifts=shifts, dims=dims: np.roll(x, shifts, dims),
        )
        for shape, shifts, dims in (
            ((5,), 2, 0),
            ((3, 4), -1, None),
            ((3, 4), (1, -2), (0, 1)),
            ((3, 4), 7, -1),
            ((3, 4), 4, 1),
            ((0, 3), 1, 0),
            ((), 3, None),
        )
    ],
    [
        Fault(
            "no tensor",
            lambda: tb.roll([1.0], 1),  # type: ignore[arg-type]
            errors.DTypeError,
            r"^roll: 'input' must be a Tensor\. Got list\.",
        ),
        Fault(
            "axes",
            lambda: tb.roll(tb.zeros(3), (1, 2), (0,)),
            errors.ArgumentError,
            r"^roll: 'dims' must have one axis a shift, 2\. Got 1\.$",
        ),
        Fault(
            "no axes",
            lambda: tb.roll(tb.zeros(3), (1, 2)),
            errors.ArgumentError,
            r"^roll: 'dims' must have one axis a shift, 2\. Got None\.$",
        ),
    ],
    ops=("split", "cat"),
)
record(
    "unflatten",
    [
        Sample(
            "middle",
            lambda lib, x: lib.unflatten(x, 1, (2, 3)),
            (normal(2, 6, 2),),
            lambda x: x.reshape(2, 2, 3, 2),
            view=True,
        ),
        Sample(
            "-1",
            lambda lib, x: lib.unflatten(x, -1, (-1, 2)),
            (normal(2, 6),),
            lambda x: x.reshape(2, 3, 2),
            view=True,
        ),
    ],
    [
        Fault(
            "product",
            lambda: tb.unflatten(tb.zeros(2, 6), 1, (4, 2)),
            errors.ShapeError,
            r"^unflatten: 'sizes' must have extents whose product is 6, at most one -1\. Got \(4, 2\)\.$",
        ),
        Fault(
            "two -1",
            lambda: tb.unflatten(tb.zeros(6), 0, (-1, -1)),
            errors.ShapeError,
            r"^unflatten: 'sizes' must have extents whose product is 6",
        ),
    ],
    ops=("reshape",),
)
record(
    "squeeze of several axes",
    [
        Sample(
            f"{shape}-{dims}",
            lambda lib, x, dims=dims: lib.squeeze(x, dims),
            (normal(*shape),),
            lambda x, dims=dims: x.reshape([n for i, n in enumerate(x.shape) if n != 1 or i not in dims]),
            view=True,
        )
        for shape, dims in (((1, 3, 1), (0, 2)), ((1, 3, 1), (0, 1)), ((2, 1, 1, 3), (2, 0)))
    ],
    [
        Fault(
            "repeated",
            lambda: tb.squeeze(tb.zeros(1, 1), (0, -2)),
            errors.ArgumentError,
            r"^squeeze: 'dim' must be free of repeated axes",
        )
    ],
    ops=("reshape",),
)

# ------------------------------------------------------------------------------------------------------- along an axis


def permuted_index(n: int, *shape: int) -> Array:
    """Indices along the last axis, none twice."""
    rng = np.random.default_rng(3)
    return np.stack([rng.permutation(n)[: shape[-1]] for _ in range(int(np.prod(shape[:-1])))]).reshape(shape)


def _gathered(x: Array, i: Array, d: int) -> Array:
    return np.take_along_axis(x[tuple(slice(n if a != d % x.ndim else None) for a, n in enumerate(i.shape))], i, d)


def _bad_index(op: str, call: Any) -> list[Fault]:
    return [
        Fault(
            "index too large",
            lambda: call(tb.tensor([[0, 3]])),
            errors.IndexRangeError,
            rf"^{op}: 'index' must be at least 0 and below 3\. Got 3 at position 1\.$",
        ),
        Fault(
            "index on ref",
            lambda: call(tb.tensor([[0, 3]], device="ref"), device="ref"),
            errors.IndexRangeError,
            rf"^{op}: 'index' must be at least 0 and below 3\. Got 3 at position 1\.$",
        ),
    ]


record(
    "gather",
    [
        Sample(
            f"{shape}-{d}-{of}",
            lambda lib, x, i, d=d: lib.gather(x, d, i),
            (normal(*shape), integers(0, shape[d], *of)),
            lambda x, i, d=d: _gathered(x, i, d),
        )
        for shape, d, of in (
            ((4,), 0, (6,)),
            ((3, 4), 1, (3, 2)),
            ((3, 4), 0, (2, 3)),
            ((2, 3, 4), 1, (2, 5, 2)),
            ((2, 3, 4), -1, (1, 3, 7)),
            ((3, 4), 1, (3, 0)),
        )
    ]
    + [
        Sample("int32", lambda lib, x, i: lib.gather(x, 0, i), (normal(4), integers(0, 4, 3).astype(np.int32)), None),
        Sample("no axes", lambda lib, x, i: lib.gather(x, 0, i), (np.asarray(normal()), np.asarray(0)), lambda x, i: x),
        Sample("of integers", lambda lib, x, i: lib.gather(x, 0, i), (integers(0, 9, 4), integers(0, 4, 3)), order=0),
    ],
    [
        Fault(
            "no tensor",
            lambda: tb.gather([1.0], 0, tb.tensor([0])),  # type: ignore[arg-type]
            errors.DTypeError,
            r"^gather: 'input' must be a Tensor\. Got list\.",
        ),
        *_bad_index("gather", lambda i, device="cpu": tb.gather(tb.zeros(2, 3, device=device), 1, i)),
        Fault(
            "negative",
            lambda: tb.gather(tb.zeros(3), 0, tb.tensor([-1])),
            errors.IndexRangeError,
            r"^gather: 'index' must be at least 0 and below 3\. Got -1 at position 0\.$",
        ),
        Fault(
            "float index",
            lambda: tb.gather(tb.zeros(3), 0, tb.tensor([0.0])),
            errors.DTypeError,
            r"^gather: 'index' must be an int64 or int32 tensor\. Got float32\.\nHint: convert it with \.long\(\)",
        ),
        Fault(
            "axes",
            lambda: tb.gather(tb.zeros(3, 2), 0, tb.tensor([0])),
            errors.ShapeError,
            r"^gather: 'index' must have the number of axes of 'input', 2\. Got 1\.$",
        ),
        Fault(
            "extent",
            lambda: tb.gather(tb.zeros(3, 2), 0, tb.tensor([[0, 0, 0]])),
            errors.ShapeError,
            r"^gather: 'index' must have extents of at most those of 'input' \(3, 2\) but for 0\. Got \(1, 3\)\.$",
        ),
        Fault(
            "device",
            lambda: tb.gather(tb.zeros(3), 0, tb.tensor([0], device="ref")),
            errors.DeviceError,
            r"^gather: 'index' must be on device cpu",
        ),
    ],
    ops=("take_along", "narrow"),
)
record(
    "take_along_dim",
    [
        Sample(
            "negative",
            lambda lib, x, i: lib.take_along_dim(x, i, 1),
            (normal(3, 4), integers(-4, 4, 3, 2)),
            lambda x, i: np.take_along_axis(x, i, 1),
        ),
        Sample(
            "broadcast",
            lambda lib, x, i: lib.take_along_dim(x, i, dim=1),
            (normal(1, 4, 2), integers(0, 4, 3, 5, 1)),
            lambda x, i: np.take_along_axis(np.broadcast_to(x, (3, 4, 2)), np.broadcast_to(i, (3, 5, 2)), 1),
        ),
        Sample(
            "flattened",
            lambda lib, x, i: lib.take_along_dim(x, i),
            (normal(2, 3), integers(0, 6, 2, 2)),
            lambda x, i: x.ravel()[i.ravel()],
        ),
    ],
    [
        Fault(
            "range",
            lambda: tb.take_along_dim(tb.zeros(3), tb.tensor([-4]), 0),
            errors.IndexRangeError,
            r"^take_along_dim: 'index' must be at least 0 and below 3\. Got -4 at position 0\.$",
        ),
        Fault(
            "axes",
            lambda: tb.take_along_dim(tb.zeros(3, 2), tb.tensor([0]), 0),
            errors.ShapeError,
            r"^take_along_dim: 'indices' must have the input's number of axes, 2\. Got 1\.$",
        ),
    ],
    ops=("take_along", "expand"),
)


def _scattered(x: Array, i: Array, s: Array, d: int, add: bool) -> Array:
    out = x.copy()
    for at in np.ndindex(*i.shape):
        to = list(at)
        to[d] = i[at]
        out[tuple(to)] = out[tuple(to)] + s[at] if add else s[at]
    return out


record(
    "scatter_add",
    [
        Sample(
            f"{shape}-{d}-{of}-{src}",
            lambda lib, x, i, s, d=d: lib.scatter_add(x, d, i, s),
            (normal(*shape), integers(0, shape[d], *of), normal(*src, seed=1)),
            lambda x, i, s, d=d: _scattered(x, i, s, d, True),
            torch_gradient=of == src,  # PyTorch's derivative is for these only
        )
        for shape, d, of, src in (
            ((4,), 0, (6,), (6,)),
            ((3, 4), 1, (3, 5), (3, 5)),
            ((3, 4), 0, (2, 3), (4, 3)),
            ((2, 3, 4), 1, (2, 5, 2), (2, 6, 3)),
            ((3, 4), 1, (2, 0), (2, 0)),
        )
    ]
    + [
        Sample(
            "no axes",
            lambda lib, x, i, s: lib.scatter_add(x, 0, i, s),
            (np.asarray(normal()), np.asarray(0), np.asarray(normal(seed=1))),
            lambda x, i, s: x + s,
        )
    ],
    [
        *_bad_index(
            "scatter_add",
            lambda i, device="cpu": tb.scatter_add(tb.zeros(2, 3, device=device), 1, i, tb.zeros(1, 2, device=device)),
        ),
        Fault(
            "dtype",
            lambda: tb.scatter_add(tb.zeros(3), 0, tb.tensor([0]), tb.zeros(1, dtype=tb.float64)),
            errors.DTypeError,
            r"^scatter_add: 'src' must have dtype float32, as input has\. Got float64\.$",
        ),
        Fault(
            "source",
            lambda: tb.scatter_add(tb.zeros(3), 0, tb.tensor([0, 1]), tb.zeros(1)),
            errors.ShapeError,
            r"^scatter_add: 'index' must have extents of at most those of 'src' \(1,\)\. Got \(2,\)\.$",
        ),
    ],
    ops=("spread", "widen", "add"),
)
record(
    "scatter",
    [
        Sample(
            f"{shape}-{of}-{src}",
            lambda lib, x, i, s: lib.scatter(x, -1, i, s),
            (normal(*shape), permuted_index(shape[-1], *of), normal(*src, seed=1)),
            lambda x, i, s: _scattered(x, i, s, x.ndim - 1, False),
            torch_gradient=of == src,
        )
        for shape, of, src in (((4,), (3,), (3,)), ((3, 4), (2, 3), (3, 4)), ((2, 3, 4), (2, 2, 2), (2, 2, 2)))
    ]
    + [
        Sample(
            "value",
            lambda lib, x, i: lib.scatter(x, 1, i, value=2.5),
            (normal(3, 4), permuted_index(4, 3, 2)),
            lambda x, i: _scattered(x, i, np.full(i.shape, 2.5), 1, False),
        ),
        Sample(
            "positional number",
            lambda lib, x, i: lib.scatter(x, 1, i, 1.0),
            (normal(3, 4), permuted_index(4, 3, 1)),
            lambda x, i: _scattered(x, i, np.ones(i.shape), 1, False),
        ),
        Sample(
            "the last counts",
            lambda lib, x, i, s: tb.scatter(x, 0, i, s),
            (normal(3), np.array([1, 1, 0]), normal(3, seed=1)),
            lambda x, i, s: np.array([s[2], s[1], x[2]]),
            None,
            order=0,
        ),
    ],
    [
        *_bad_index("scatter", lambda i, device="cpu": tb.scatter(tb.zeros(2, 3, device=device), 1, i, 1.0)),
        Fault(
            "both",
            lambda: tb.scatter(tb.zeros(3), 0, tb.tensor([0]), tb.zeros(1), value=1.0),
            errors.ArgumentError,
            r"^scatter: exactly one of 'src' and 'value' must be given\.$",
        ),
    ],
    ops=("put_along",),
)
record(
    "put_along",
    [
        Sample(
            "middle",
            lambda lib, x, i, s: put_along(x, i, 1, s),
            (normal(2, 3, 2), permuted_index(3, 2, 2, 2).transpose(0, 2, 1).copy(), normal(2, 2, 2, seed=1)),
            lambda x, i, s: _scattered(x, i, s, 1, False),
            lambda lib, x, i, s: lib.scatter(x, 1, i, s),
        )
    ],
)

# ------------------------------------------------------------------------------------------------------------- lookups

record(
    "index_select",
    [
        Sample(
            f"{shape}-{d}-{m}",
            lambda lib, x, i, d=d: lib.index_select(x, d, i),
            (normal(*shape), integers(0, shape[d], m)),
            lambda x, i, d=d: np.take(x, i, d),
        )
        for shape, d, m in (((4,), 0, 6), ((3, 4), 1, 5), ((2, 3, 2), 1, 2), ((2, 3), -2, 0), ((2, 0, 3), 2, 2))
    ]
    + [
        Sample(
            "one",
            lambda lib, x, i: lib.index_select(x, 1, i),
            (normal(2, 3), np.asarray(1)),
            lambda x, i: x[:, 1:2],
        )
    ],
    [
        Fault(
            "range",
            lambda: tb.index_select(tb.zeros(2, 3), 1, tb.tensor([0, -1])),
            errors.IndexRangeError,
            r"^index_select: 'index' must be at least 0 and below 3\. Got -1 at position 1\.$",
        ),
        Fault(
            "axes",
            lambda: tb.index_select(tb.zeros(2, 3), 1, tb.tensor([[0]])),
            errors.ShapeError,
            r"^index_select: 'index' must have one axis or none\. Got shape \(1, 1\)\.$",
        ),
    ],
    ops=("take_rows",),
)
_WORDS = integers(0, 5, 3, 4)
record(
    "embedding",
    [
        Sample(
            f"{options}-{i.shape}",
            lambda lib, w, i, options=options: functional_of(lib).embedding(i, w, **options),
            (normal(5, 3), i),
            lambda w, i: w[i],
        )
        for options, i in (
            ({}, _WORDS),
            ({}, np.asarray(4)),
            ({}, np.zeros((2, 0), np.int64)),
            ({"padding_idx": 1}, np.array([[0, 2, 2], [4, 3, 0]])),
            ({"padding_idx": -2}, np.array([[0, 2, 2], [4, 1, 0]])),
        )
    ]
    + [
        Sample(
            "by frequency",
            lambda lib, w, i: functional_of(lib).embedding(i, w, scale_grad_by_freq=True, padding_idx=0),
            (normal(5, 3), _WORDS),
            lambda w, i: w[i],
            order=0,
        ),
    ],
    [
        Fault(
            "range",
            lambda: F.embedding(tb.tensor([0, 2]), tb.zeros(2, 3)),
            errors.IndexRangeError,
            r"^embedding: 'index' must be at least 0 and below 2\. Got 2 at position 1\.$",
        ),
        Fault(
            "padding",
            lambda: F.embedding(tb.tensor([0]), tb.zeros(2, 3), padding_idx=2),
            errors.ArgumentError,
            r"^embedding: 'padding_idx' must be from -2 to 1\. Got 2\.$",
        ),
        Fault(
            "table",
            lambda: F.embedding(tb.tensor([0]), tb.zeros(3)),
            errors.ShapeError,
            r"^embedding: 'weight' must have shape \(S, R\)\. Got \(3,\)\.$",
        ),
        Fault(
            "sparse",
            lambda: F.embedding(tb.tensor([0]), tb.zeros(2, 3), sparse=True),
            errors.ArgumentError,
            r"^embedding: 'sparse' must be False: gradients are dense\. Got True\.$",
        ),
        Fault(
            "indices",
            lambda: F.embedding(tb.tensor([0.0]), tb.zeros(2, 3)),
            errors.DTypeError,
            r"^embedding: 'input' must be an int64 or int32 tensor\. Got float32\.",
        ),
    ],
)
record(
    "one_hot",
    [
        Sample(
            f"{shape}-{n}",
            lambda lib, x, n=n: functional_of(lib).one_hot(x, n),
            (integers(0, 4, *shape),),
            lambda x, n=n: np.eye(n if n > 0 else int(x.max()) + 1, dtype=np.int64)[x],
            order=0,
        )
        for shape, n in (((5,), -1), ((2, 3), 6), ((), 4), ((0,), 3))
    ],
    [
        Fault(
            "too large",
            lambda: F.one_hot(tb.tensor([5]), 3),
            errors.IndexRangeError,
            r"^one_hot: 'index' must be at least 0 and below 3\. Got 5 at position 0\.$",
        ),
        Fault("negative", lambda: F.one_hot(tb.tensor([-1])), errors.IndexRangeError, r"^one_hot: 'index' must be"),
        Fault(
            "empty",
            lambda: F.one_hot(tb.zeros(0, dtype=tb.int64)),
            errors.ArgumentError,
            r"^one_hot: 'num_classes' must be given for an empty tensor\. Got -1\.$",
        ),
        Fault(
            "classes",
            lambda: F.one_hot(tb.tensor([0]), 0),
            errors.ArgumentError,
            r"^one_hot: 'num_classes' must be at least 1, or -1\. Got 0\.$",
        ),
        Fault(
            "floats", lambda: F.one_hot(tb.tensor([0.0])), errors.DTypeError, r"^one_hot: 'tensor' must be an int64 or"
        ),
    ],
)
