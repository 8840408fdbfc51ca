"""Convolutions that become 3×3 ones of stride 1, and so go by Winograd's algorithm, once their arrays lie in pieces.

    dilated   3×3 at most, dilation d: the d × d phases of x are samples of their own, those of y too
    blocks    more than 3×3: blocks of 3×3 taps, each of which sees x three elements further on, as further channels
    strided   stride s, at most three taps in each phase: the s × s phases of x are channels, with a filter each

Each holds for the transposed convolution, the gradient with respect to x, with the parts of x and y exchanged, and for
that of the filters. ``kernels/pieces.py`` takes apart and puts together. The filters that Winograd's algorithm sees are
filled up with zeros to 3×3. Its errors are, as those of 3×3 filters, up to 4e-7 √C of the largest result for up to 5×5
taps, strides included; of 7×7, which are taken only when asked for, up to 7e-7 √C.
"""

from __future__ import annotations

from functools import lru_cache

from tinygrad_bn.core.device import Device
from tinygrad_bn.core.dtype import DType, float32
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.tensor import Array
from tinygrad_bn.ops import _winograd
from tinygrad_bn.ops._geometry import Geometry, Pair

ONE: Pair = (1, 1)
BLOCK: Pair = (3, 3)
LEAST = 16  # channels in and out from which the pieces pay
GAIN = 0.6  # of the products of a direct sum, at most
HALF = 0.5  # where less is won by each: of dilated filters, and of gradients of filters
FILTERS = 1 << 16  # 3×3 filters of the pieces, at most: more of them do not stay in the cache
LARGEST = 5  # taps on an axis: beyond two blocks of them more accuracy is lost
LONG = 100  # results of a channel from which the filters' gradient pays


@lru_cache(maxsize=1024)
def way(g: Geometry) -> str:
    """Return "dilated", "blocks" or "strided"; "" where a convolution is none of these, or costs no fewer products."""
    small = max(g.kernel) <= 3
    if g.groups > 1 or (small and g.stride == g.dilation == ONE):
        return ""
    if g.stride == ONE and small:
        found = "dilated"
    elif g.dilation == ONE:
        found = "blocks" if g.stride == ONE else "strided"
    else:
        return ""
    if found == "strided" and max(-(-(k + f) // s) for k, f, s in zip(g.kernel, _lead(g), g.stride)) > 3:
        return ""
    return found if share(g, found) < 1 else ""


def share(g: Geometry, found: str) -> float:
    """The products of pieces by those of a direct sum."""
    pieces = count(g, found)
    phases = pieces if found == "dilated" else ONE
    tiles = [-(-n // (4 * p)) * q for n, p, q in zip(g.output, phases, pieces)]
    return 36 * tiles[0] * tiles[1] / (g.taps * g.length)


def count(g: Geometry, found: str) -> Pair:
    """The number of pieces."""
    if found == "blocks":
        return -(-g.kernel[0] // 3), -(-g.kernel[1] // 3)
    return g.dilation if found == "dilated" else g.stride


def fits(g: Geometry, dtype: DType, device: Device) -> bool:
    """Whether a convolution can go by Winograd's algorithm in pieces."""
    return dtype is float32 and device.type == "cpu" and way(g) != ""


def pays(inputs: int, outputs: int, g: Geometry, dtype: DType, device: Device, of_filters: bool = False) -> bool:
    """Whether that is also the fastest way; ``of_filters``: to the gradient of the filters."""
    if not fits(g, dtype, device) or min(inputs, outputs) < LEAST or max(g.kernel) > LARGEST:
        return False
    found = way(g)
    if found == "dilated":
        return share(g, found) <= HALF
    (p, q), least = count(g, found), share(g, found)
    if of_filters and (g.length < LONG or least > HALF):
        return False
    return p * q * inputs * outputs <= FILTERS and least <= GAIN


def forward(x: Array, w: Array, bias: Array, out: Array, g: Geometry, device: Device) -> None:
    """out = w ⋆ x + bias."""
    found = way(g)
    if found == "dilated":
        _dilated(x, w, False, bias, g.before, out, g, device)
        return
    filters = _filters(w, g, found, device)
    if found == "blocks":
        _winograd.convolve(x, filters, False, bias, g.before, out, device, blocks=count(g, found))
    else:
        seen, before = _phases_as_channels(x, g, device)
        _winograd.convolve(seen, filters, False, bias, before, out, device)


def backward_input(gy: Array, w: Array, out: Array, g: Geometry, device: Device) -> None:
    """out = the transposed convolution of gy."""
    found = way(g)
    none = w.reshape(-1)[:0]
    if found == "dilated":
        before = 2 * g.dilation[0] - g.before[0], 2 * g.dilation[1] - g.before[1]
        _dilated(gy, w, True, none, before, out, g, device)
    elif found == "blocks":
        (o, c), blocks = w.shape[:2], count(g, found)
        (kh, kw), (top, left) = g.kernel, g.before
        # the last taps come first: what is not there is last again, where zeros cost the least accuracy
        filters = _gather(w.reshape(1, o * c, kh, kw), blocks, ONE, (-3, -3), (3 - kh, 3 - kw), BLOCK, device)
        before = kh - 1 - top, kw - 1 - left
        _winograd.convolve(gy, filters.reshape(-1, c, 3, 3), True, none, before, out, device, blocks=blocks)
    else:
        before = _ahead(g)
        size = _phase(g.input, g.stride)
        parts = device.empty((gy.shape[0], *g.stride, out.shape[1], *size), float32)
        whole = parts.reshape(gy.shape[0], -1, *size)
        before = 2 - before[0], 2 - before[1]
        _winograd.convolve(gy, _filters(w, g, found, device), True, none, before, whole, device)
        launch(device.kernels.scatter_pieces, parts, *g.stride, *ONE, 0, 0, out)


def backward_weight(gy: Array, x: Array, out: Array, g: Geometry, device: Device) -> None:
    """out = the gradient of w in w ⋆ x."""
    found = way(g)
    if found == "blocks":
        _weight_of_blocks(gy, x, out, g, device)
        return
    (o, c), (p, q) = out.shape[:2], ONE if found == "dilated" else g.stride
    if found == "dilated":
        seen, before = _phases(x, g.before, g, device)
        size = _phase(g.output, g.dilation)
        gy = _gather(gy, g.dilation, g.dilation, ONE, (0, 0), size, device).reshape(-1, gy.shape[1], *size)
    else:
        seen, before = _phases_as_channels(x, g, device)
    whole = out if g.kernel == BLOCK and found == "dilated" else device.empty((o, p, q, c, 3, 3), float32)
    _winograd.backward_weight(gy, seen, whole.reshape(o, p * q * c, 3, 3), _plain(gy, seen, before), device)
    if whole is not out:
        launch(device.kernels.scatter_pieces, whole, *_cut(g, found), *_lead(g), out)


def _weight_of_blocks(gy: Array, x: Array, out: Array, g: Geometry, device: Device) -> None:
    """Block by block: that gy is transformed again each time costs less than the memory for all blocks' inputs."""
    (o, c), blocks = out.shape[:2], count(g, "blocks")
    whole = device.empty((*blocks, o, c, 3, 3), float32)
    for p in range(blocks[0]):
        for q in range(blocks[1]):
            before = g.before[0] - 3 * p, g.before[1] - 3 * q
            _winograd.backward_weight(gy, x, whole[p, q], _plain(gy, x, before), device)
    parts, taps = whole.reshape(1, *blocks, o * c, 3, 3), out.reshape(1, o * c, *g.kernel)
    launch(device.kernels.scatter_pieces, parts, *ONE, *BLOCK, 0, 0, taps)


def _plain(gy: Array, x: Array, before: Pair) -> Geometry:
    """That of a 3×3 convolution of stride 1."""
    return Geometry((x.shape[2], x.shape[3]), (gy.shape[2], gy.shape[3]), BLOCK, ONE, before, ONE, 1)


# ----------------------------------------------------------------------------------------------------------- in pieces


def _gather(x: Array, pieces: Pair, stride: Pair, step: Pair, before: Pair, size: Pair, device: Device) -> Array:
    """The pieces of x, each of this size, (N, P, Q, C, I, J)."""
    out = device.empty((x.shape[0], *pieces, x.shape[1], *size), float32)
    launch(device.kernels.gather_pieces, x, *stride, *step, *before, out)
    return out


def _phase(size: Pair, stride: Pair) -> Pair:
    """The extents of the largest phase."""
    return -(-size[0] // stride[0]), -(-size[1] // stride[1])


def _lead(g: Geometry) -> Pair:
    """Zeros ahead of the filters, so that the padding is a multiple of the stride."""
    return -g.before[0] % g.stride[0], -g.before[1] % g.stride[1]


def _ahead(g: Geometry) -> Pair:
    """The padding of the phases of a stride."""
    return -(-g.before[0] // g.stride[0]), -(-g.before[1] // g.stride[1])


def _cut(g: Geometry, found: str) -> tuple[int, int, int, int]:
    """Stride and step of the filters' pieces, on both axes."""
    return (*g.stride, *ONE) if found == "strided" else (*ONE, *BLOCK)


def _filters(w: Array, g: Geometry, found: str, device: Device) -> Array:
    """The filters (O, P Q C, 3, 3) of the pieces."""
    pieces, cut = count(g, found), _cut(g, found)
    return _gather(w, pieces, cut[:2], cut[2:], _lead(g), BLOCK, device).reshape(w.shape[0], -1, 3, 3)


def _phases_as_channels(x: Array, g: Geometry, device: Device) -> tuple[Array, Pair]:
    """The phases of a stride as channels, (N, P Q C, I, J), and what is padded ahead of each."""
    size = _phase(g.input, g.stride)
    return _gather(x, g.stride, g.stride, ONE, (0, 0), size, device).reshape(x.shape[0], -1, *size), _ahead(g)


def _phases(x: Array, before: Pair, g: Geometry, device: Device) -> tuple[Array, Pair]:
    """The phases of a dilation as samples, (N P Q, C, I, J), and what is padded ahead of each."""
    d = g.dilation
    off = before[0] % d[0], before[1] % d[1]
    size = _phase((x.shape[2] + off[0], x.shape[3] + off[1]), d)
    seen = _gather(x, d, d, ONE, off, size, device).reshape(-1, x.shape[1], *size)
    return seen, (before[0] // d[0], before[1] // d[1])


def _dilated(
    x: Array, w: Array, turned: bool, bias: Array, before: Pair, out: Array, g: Geometry, device: Device
) -> None:
    """out = w ⋆ x + bias of filters with gaps, x padded by ``before``; ``turned`` as for ``_winograd.convolve``."""
    seen, ahead = _phases(x, before, g, device)
    if g.kernel != BLOCK:
        w = _gather(w, ONE, ONE, BLOCK, (0, 0), BLOCK, device).reshape(*w.shape[:2], 3, 3)
    size = _phase((out.shape[2], out.shape[3]), g.dilation)
    parts = device.empty((x.shape[0], *g.dilation, out.shape[1], *size), float32)
    _winograd.convolve(seen, w, turned, bias, ahead, parts.reshape(-1, out.shape[1], *size), device)
    launch(device.kernels.scatter_pieces, parts, *g.dilation, *ONE, 0, 0, out)
