"""Random changes of whole batches of pictures, and normalisation: torchvision's names, a kernel each.

Every picture of a batch gets its own random numbers, from Philox: the same generator state gives the same batch, on
every device and for any number of threads. A ``DataLoader`` gives each batch a generator of its own, by epoch and
number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_bn.core.dtype import float32, uint8
from tinygrad_bn.core.launch import launch
from tinygrad_bn.core.random import Generator, default_generator
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError, expected, wrong
from tinygrad_bn.ops import rand, randint, randn
from tinygrad_bn.ops._common import new, plain

__all__ = [
    "ColorJitter",
    "Compose",
    "Lighting",
    "Normalize",
    "PhotometricDistortion",
    "RandomCrop",
    "RandomHorizontalFlip",
    "Transform",
]

ORDERS = np.array([(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
IMAGENET_VALUES = (0.2175, 0.0188, 0.0045)
"""Principal components of the colours of ImageNet's training pictures, values from 0 to 1: roots of the variances …"""
IMAGENET_VECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""… and directions, a column each."""


class Transform(ABC):
    """A change of a batch of pictures; a subclass defines ``apply``.

    Attributes
    ----------
    draws : bool
        Whether it needs random numbers; a loader draws none for one that does not.
    """

    draws = True

    def __call__(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """Return the changed batch, in memory of its own; nothing is recorded for backward.

        Parameters
        ----------
        images : Tensor, shape (N, C, H, W), uint8 of 0 … 255 or floating-point
        generator : Generator, optional
            Where random numbers come from; default: the generator that ``tb.manual_seed`` seeds.

        Raises
        ------
        DTypeError, ShapeError
            If ``images`` is something else.
        """
        op = type(self).__name__
        if not isinstance(images, Tensor):
            raise DTypeError(wrong(op, "images", "a Tensor", type(images).__name__))
        if images.array.ndim != 4:
            raise ShapeError(expected(op, "images", "shape (N, C, H, W)", images.shape))
        if images.dtype is not uint8 and not images.dtype.is_floating_point:
            raise DTypeError(wrong(op, "images", "uint8 or floating-point", images.dtype.name))
        return self.apply(images, default_generator if generator is None else generator)

    @abstractmethod
    def apply(self, images: Tensor, generator: Generator) -> Tensor:
        """Return the changed batch; ``images`` has been checked."""


class Compose(Transform):
    """Transforms one after the other.

    Parameters
    ----------
    transforms : sequence of callables
        Those of this module draw from the generator that the whole is given; others are called with the batch alone.
    """

    def __init__(self, transforms: Sequence[Callable[..., Tensor]]) -> None:
        self.transforms = list(transforms)
        self.draws = any(isinstance(t, Transform) and t.draws for t in self.transforms)

    def apply(self, images: Tensor, generator: Generator) -> Tensor:
        """Return what the last transform returns."""
        for transform in self.transforms:
            images = transform(images, generator) if isinstance(transform, Transform) else transform(images)
        return images


class RandomCrop(Transform):
    """A piece of each picture, from a random place, after a border has been added.

    Parameters
    ----------
    size : int or (height, width)
    padding : int, (left and right, top and bottom) or (left, top, right, bottom)
        Width of the border.
    fill : float
        The border's value, in the pictures' own range.

    Notes
    -----
    With ``size=32, padding=4`` the augmentation of Lee et al. 2015 (arXiv:1409.5185) for CIFAR, which ResNet uses.
    """

    def __init__(self, size: int | Sequence[int], padding: int | Sequence[int] = 0, fill: float = 0) -> None:
        height_width, sides = _ints("size", size, (1, 2), 1), _ints("padding", padding, (1, 2, 4), 0)
        self.size = (height_width[0], height_width[-1])
        self.padding = sides if len(sides) == 4 else (sides[0], sides[-1]) * 2
        self.fill = fill

    def apply(self, images: Tensor, generator: Generator) -> Tensor:
        """Return the pieces, of the pictures' dtype."""
        n, c, *extents = images.array.shape
        left, top, right, bottom = self.padding
        rows, columns = extents[0] + top + bottom - self.size[0], extents[1] + left + right - self.size[1]
        if rows < 0 or columns < 0:
            want = f"at least {self.size[0]} × {self.size[1]} pixels, with a border of {self.padding}"
            raise ShapeError(expected("RandomCrop", "images", want, images.shape))
        if images.dtype is uint8 and not 0 <= self.fill <= 255:
            raise ArgumentError(wrong("RandomCrop", "fill", "from 0 to 255 for unsigned bytes", self.fill))
        out = new((n, c, *self.size), images.dtype, images.device)
        down = randint(-top, rows - top + 1, n, generator=generator).array
        along = randint(-left, columns - left + 1, n, generator=generator).array
        launch(images.device.kernels.crop_pictures, plain(images), down, along, float(self.fill), out.array)
        return out


class RandomHorizontalFlip(Transform):
    """Left and right exchanged, in each picture with probability ``p``.

    Parameters
    ----------
    p : float
    """

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ArgumentError(wrong("RandomHorizontalFlip", "p", "from 0 to 1", p))
        self.p = p

    def apply(self, images: Tensor, generator: Generator) -> Tensor:
        """Return the pictures, of the same dtype."""
        out = new(images.array.shape, images.dtype, images.device)
        flags = rand(images.array.shape[0], generator=generator, dtype=float32).array < self.p
        launch(images.device.kernels.mirror_pictures, plain(images), flags, out.array)
        return out


class Normalize(Transform):
    """Each channel less its mean, divided by its standard deviation.

    Parameters
    ----------
    mean, std : float or sequence of float
        Of all channels or of each, for values from 0 to 1: pictures of unsigned bytes are divided by 255 first.

    Raises
    ------
    ArgumentError
        If a deviation is not above 0.
    """

    draws = False

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        self.mean, self.std = (np.atleast_1d(np.asarray(v, np.float64)) for v in (mean, std))
        if not (self.std > 0).all():
            raise ArgumentError(wrong("Normalize", "std", "above 0", std))

    def apply(self, images: Tensor, generator: Generator) -> Tensor:
        """Return the pictures as float32, or in the floating-point type that they had."""
        x, divisor, out = _as_floats(images)
        channels = images.array.shape[1]
        numbers = []
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values.shape not in ((1,), (channels,)):
                want = f"one number, or one a channel, {channels}"
                raise ShapeError(expected("Normalize", name, want, values.shape))
            numbers.append(np.broadcast_to(values, (channels,)).astype(out.array.dtype))
        launch(images.device.kernels.normalise_pictures, x, divisor, *numbers, out.array)
        return out


class ColorJitter(Transform):
    """Brightness, contrast and saturation of each picture changed by random factors, in random order.

    Parameters
    ----------
    brightness, contrast, saturation : float or (float, float)
        A factor is drawn from [max(0, 1 - b), 1 + b], or from the range given; 1 changes nothing.

    Notes
    -----
    Blends of the picture with black, with the mean of its grey values, and with its grey values, each kept within
    [0, 1]: the enhancements of the Python Imaging Library. There is no hue: see ``Lighting``.

    References
    ----------
    Howard 2013 (arXiv:1312.5402), section 2.
    """

    def __init__(
        self,
        brightness: float | Sequence[float] = 0,
        contrast: float | Sequence[float] = 0,
        saturation: float | Sequence[float] = 0,
    ) -> None:
        given = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        self.ranges = np.array([_range(name, value) for name, value in given.items()])

    def apply(self, images: Tensor, generator: Generator) -> Tensor:
        """Return the pictures as float32 of [0, 1], or in the floating-point type that they had."""
        x, divisor, out = _as_floats(images)
        n = _coloured("ColorJitter", images)
        drawn = rand(n, 3, generator=generator, dtype=float32).array
        low, high = self.ranges.T
        factors = (low + drawn * (high - low)).astype(out.array.dtype)
        order = ORDERS[randint(0, len(ORDERS), n, generator=generator).array]
        launch(images.device.kernels.jitter_pictures, x, divisor, factors, order, out.array)
        return out


class Lighting(Transform):
    """A random colour added to each picture, along the principal components of the colours of all: a lamp's change.

    Parameters
    ----------
    std : float
        Standard deviation of the amounts, in units of the components' own.
    eigenvalues : sequence of float, shape (3,)
    eigenvectors : nested sequence of float, shape (3, 3)
        A column for each component. Default: those of ImageNet.

    Notes
    -----
    Σ_k α_k λ_k p_k with α_k normal, of mean 0 and deviation ``std``, is added to (R, G, B) of all pixels.

    References
    ----------
    Krizhevsky, Sutskever & Hinton 2012 (NIPS 25, section 4.1).
    """

    def __init__(
        self, std: float = 0.1, eigenvalues: Any = IMAGENET_VALUES, eigenvectors: Any = IMAGENET_VECTORS
    ) -> None:
        self.std = std
        self.components = np.asarray(eigenvectors, np.float64) * np.asarray(eigenvalues, np.float64)
        if not std >= 0:
            raise ArgumentError(wrong("Lighting", "std", "at least 0", std))
        if self.components.shape != (3, 3):
            raise ShapeError(expected("Lighting", "eigenvectors", "shape (3, 3)", self.components.shape))

    def apply(self, images: Tensor, generator: Generator) -> Tensor:
        """Return the pictures as float32, or in the floating-point type that they had."""
        x, divisor, out = _as_floats(images)
        n = _coloured("Lighting", images)
        amounts = self.std * randn(n, 3, generator=generator, dtype=float32).array.astype(np.float64)
        shift = (amounts[:, None] * self.components).sum(2).astype(out.array.dtype)
        launch(images.device.kernels.tint_pictures, x, divisor, shift, out.array)
        return out


class PhotometricDistortion(Compose):
    """``ColorJitter``, then ``Lighting``: the colour changes of Howard 2013, with the paper's amounts.

    Parameters
    ----------
    brightness, contrast, saturation : float or (float, float)
    lighting : float

    References
    ----------
    Howard 2013 (arXiv:1312.5402), section 2.
    """

    def __init__(
        self,
        brightness: float | Sequence[float] = 0.5,
        contrast: float | Sequence[float] = 0.5,
        saturation: float | Sequence[float] = 0.5,
        lighting: float = 0.1,
    ) -> None:
        super().__init__([ColorJitter(brightness, contrast, saturation), Lighting(lighting)])


def _ints(name: str, value: Any, counts: tuple[int, ...], least: int) -> tuple[int, ...]:
    """The numbers of an argument that may be given as one, two or four."""
    given = tuple(value) if isinstance(value, Sequence) else (value,)
    if len(given) not in counts or not all(type(n) is int and n >= least for n in given):
        want = f"{' or '.join(map(str, counts))} ints of at least {least}"
        raise ArgumentError(wrong("RandomCrop", name, want, value))
    return given


def _range(name: str, value: float | Sequence[float]) -> tuple[float, float]:
    pair = tuple(value) if isinstance(value, Sequence) else (max(0.0, 1.0 - value), 1.0 + value)
    if len(pair) != 2 or not 0 <= pair[0] <= pair[1]:
        raise ArgumentError(wrong("ColorJitter", name, "at least 0, or a range (low, high) of such", value))
    return float(pair[0]), float(pair[1])


def _as_floats(images: Tensor) -> tuple[Array, float, Tensor]:
    """Contiguous values, what they are to be divided by, and where the result goes."""
    bytes_ = images.dtype is uint8
    out = new(images.array.shape, float32 if bytes_ else images.dtype, images.device)
    return plain(images), 255.0 if bytes_ else 1.0, out


def _coloured(op: str, images: Tensor) -> int:
    if images.array.shape[1] != 3:
        raise ShapeError(expected(op, "images", "three channels, red, green, blue", images.shape))
    count: int = images.array.shape[0]
    return count
