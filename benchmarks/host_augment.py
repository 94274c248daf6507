"""What `snp_jax.data.augment` does on the device, done to each clip on the host: with Pillow, and with OpenCV (extra `bench`).

Both give what the device gives, within rounding; OpenCV does not average where a picture gets smaller.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from snp_jax.data.augment import AugmentOptions, Size
from snp_jax.data.rand_augment import OPERATIONS, TOP

_BLENDS = {"brightness": ImageEnhance.Brightness, "color": ImageEnhance.Color,
           "contrast": ImageEnhance.Contrast, "sharpness": ImageEnhance.Sharpness}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Draw:
    """What is done to one clip; None and () change nothing.

    Attributes:
        box: (top, left, height, width) in whole pixels, made `size` large.
        size: (height, width) of the picture in the top left corner of the canvas.
        mirrored: left and right change places.
        operations: of RandAugment, with strengths in -1..1.
        zoom, shift: factor, and shares of the height and the width.
        light: (contrast, brightness) in -1..1.
    """

    box: tuple[int, int, int, int] | None
    size: Size
    mirrored: bool
    operations: tuple[tuple[str, float], ...]
    zoom: tuple[float, tuple[float, float]] | None
    light: tuple[float, float] | None


def draw(rng: np.random.Generator, options: AugmentOptions, size: Size) -> Draw:
    """Draws for a clip of pictures of that size, from the same distributions as the device's."""
    box, filled = None, size
    if options.crop_size:
        wanted = size[0] * size[1] * rng.uniform(*options.crop_area)
        aspect = math.exp(rng.uniform(*np.log(options.crop_ratio)))
        sides = (math.sqrt(wanted / aspect), math.sqrt(wanted * aspect))
        height, width = (min(max(round(side), 1), most) for side, most in zip(sides, size, strict=True))
        box = (int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1)), height, width)
        filled = options.crop_size
    elif options.scale != 1.0:
        factor = rng.uniform(options.scale, 1.0)
        box, filled = (0, 0, *size), tuple(max(int(side * factor), 1) for side in size)
    strengths = rng.choice([-1.0, 1.0], options.rand_ops) * options.rand_magnitude / TOP
    operations = tuple(zip(rng.choice(OPERATIONS, options.rand_ops).tolist(), strengths.tolist(), strict=True))
    zoom = None
    if options.zoom != 1.0 or options.shift:
        zoom = (options.zoom ** rng.uniform(-1, 1), tuple((options.shift * rng.uniform(-1, 1, 2)).tolist()))
    light = tuple((options.light * rng.uniform(-1, 1, 2)).tolist()) if options.light else None
    return Draw(box, filled, bool(rng.random() < options.flip), operations, zoom, light)


def change(library: Pillow | OpenCV, frames: np.ndarray, drawn: Draw, canvas: Size) -> np.ndarray:
    """A clip uint8 `[T, H, W, 3]` as `drawn` says: uint8 `[T, *canvas, 3]`."""
    result = (np.empty if drawn.size == canvas else np.zeros)((len(frames), *canvas, 3), np.uint8)
    for number, frame in enumerate(frames):
        picture = library.start(frame)
        if drawn.box is not None:
            picture = library.cut(picture, drawn.box, drawn.size)
        if drawn.mirrored:
            picture = library.mirror(picture)
        for name, strength in drawn.operations:
            picture = library.operation(picture, name, strength)
        if drawn.zoom is not None:
            picture = library.zoom(picture, *drawn.zoom)
        if drawn.light is not None:
            contrast, brightness = drawn.light
            picture = library.table(picture, np.clip(np.arange(256) * (1 + contrast) + 64 * brightness, 0, 255))
        result[number, : drawn.size[0], : drawn.size[1]] = picture
    return result


def matrix(name: str, strength: float, size: Size) -> tuple[float, ...]:
    """Place in the source of a place in the result, (x, y) in pixels whose first has its centre at 0.5; six numbers."""
    angle, (height, width) = math.radians(30 * strength), size
    cos, sin, x, y = math.cos(angle), math.sin(angle), width / 2, height / 2
    return {
        "shear_x": (1, 0.3 * strength, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, 0.3 * strength, 1, 0),
        "translate_x": (1, 0, 150 / 331 * width * strength, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, 150 / 331 * height * strength),
        "rotate": (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y),
    }[name]


def _zoom_matrix(scale: float, shift: tuple[float, float], size: Size) -> tuple[float, ...]:
    (height, width), (down, right) = size, shift
    return (scale, 0, width / 2 * (1 - scale) + right * width, 0, scale, height / 2 * (1 - scale) + down * height)


class Pillow:
    """One frame at a time, as an `Image`."""

    def start(self, frame: np.ndarray) -> Image.Image:
        return Image.fromarray(frame)

    def cut(self, picture: Image.Image, box: tuple[int, int, int, int], size: Size) -> Image.Image:
        top, left, height, width = box
        return picture.resize(size[::-1], Image.Resampling.BILINEAR, (left, top, left + width, top + height))

    def mirror(self, picture: Image.Image) -> Image.Image:
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    def table(self, picture: Image.Image, values: np.ndarray) -> Image.Image:
        return picture.point(np.round(values).astype(int).tolist() * 3)

    def zoom(self, picture: Image.Image, scale: float, shift: tuple[float, float]) -> Image.Image:
        """Pillow knows no repeated edge: it is added before."""
        size = picture.height, picture.width
        edge = math.ceil(max(size) * (abs(scale - 1) / 2 + max(map(abs, shift)))) + 1
        padded = Image.fromarray(np.pad(np.asarray(picture), ((edge, edge), (edge, edge), (0, 0)), "edge"))
        values = list(_zoom_matrix(scale, shift, size))
        values[2], values[5] = values[2] + edge, values[5] + edge
        return padded.transform(picture.size, Image.Transform.AFFINE, values, Image.Resampling.BILINEAR)

    def operation(self, picture: Image.Image, name: str, strength: float) -> Image.Image:
        if name == "identity":
            return picture
        if name in _BLENDS:
            return _BLENDS[name](picture).enhance(1 + 0.9 * strength)
        plain: dict[str, Callable[[Image.Image], Image.Image]] = {
            "posterize": lambda p: ImageOps.posterize(p, 8 - round(4 * abs(strength))),
            "solarize": lambda p: ImageOps.solarize(p, math.ceil(255 * (1 - abs(strength)))),
            "autocontrast": ImageOps.autocontrast,
            "equalize": ImageOps.equalize,
        }
        if name in plain:
            return plain[name](picture)
        values = matrix(name, strength, (picture.height, picture.width))
        return picture.transform(picture.size, Image.Transform.AFFINE, values, Image.Resampling.BILINEAR)


class OpenCV:
    """One frame at a time, as an array; by look-up tables wherever the new value of a pixel depends on the old one alone."""

    def __init__(self):
        import cv2

        cv2.setNumThreads(1)
        self._cv2: Any = cv2
        self._blur = np.ones((3, 3), np.float32)
        self._blur[1, 1] = 5
        self._blur /= 13

    def start(self, frame: np.ndarray) -> np.ndarray:
        return frame

    def cut(self, picture: np.ndarray, box: tuple[int, int, int, int], size: Size) -> np.ndarray:
        top, left, height, width = box
        part = picture[top : top + height, left : left + width]
        return self._cv2.resize(part, size[::-1], interpolation=self._cv2.INTER_LINEAR)

    def mirror(self, picture: np.ndarray) -> np.ndarray:
        return self._cv2.flip(picture, 1)

    def table(self, picture: np.ndarray, values: np.ndarray) -> np.ndarray:
        return self._cv2.LUT(picture, np.round(np.clip(values, 0, 255)).astype(np.uint8))

    def zoom(self, picture: np.ndarray, scale: float, shift: tuple[float, float]) -> np.ndarray:
        return self._warp(picture, _zoom_matrix(scale, shift, picture.shape[:2]), self._cv2.BORDER_REPLICATE)

    def operation(self, picture: np.ndarray, name: str, strength: float) -> np.ndarray:
        size, factor, values = abs(strength), 1 + 0.9 * strength, np.arange(256, dtype=np.float32)
        if name == "identity":
            return picture
        if name == "brightness":
            return self.table(picture, np.floor(values * factor))
        if name == "posterize":
            return self.table(picture, values // 2 ** round(4 * size) * 2 ** round(4 * size))
        if name == "solarize":
            return self.table(picture, np.where(values < 255 * (1 - size), values, 255 - values))
        if name in ("color", "contrast"):
            grey = self._cv2.cvtColor(picture, self._cv2.COLOR_RGB2GRAY)
            if name == "contrast":
                mean = round(self._cv2.mean(grey)[0])
                return self.table(picture, np.floor(mean + factor * (values - mean)))
            grey = self._cv2.cvtColor(grey, self._cv2.COLOR_GRAY2RGB)
            return self._cv2.addWeighted(picture, factor, grey, 1 - factor, 0)
        if name == "sharpness":
            dull = picture.copy()
            dull[1:-1, 1:-1] = self._cv2.filter2D(picture, -1, self._blur)[1:-1, 1:-1]
            return self._cv2.addWeighted(picture, factor, dull, 1 - factor, 0)
        if name in ("autocontrast", "equalize"):
            tables = [(_stretched if name == "autocontrast" else _equalised)(self._counts(picture, c)) for c in range(3)]
            return self._cv2.LUT(picture, np.stack(tables, axis=-1).astype(np.uint8)[None])
        return self._warp(picture, matrix(name, strength, picture.shape[:2]), self._cv2.BORDER_CONSTANT)

    def _counts(self, picture: np.ndarray, colour: int) -> np.ndarray:
        return self._cv2.calcHist([picture], [colour], None, [256], [0, 256]).ravel().astype(int)

    def _warp(self, picture: np.ndarray, values: tuple[float, ...], border: int) -> np.ndarray:
        """OpenCV's first pixel has its centre at 0."""
        place = np.array(values, np.float64).reshape(2, 3)
        place[:, 2] += place[:, :2].sum(axis=1) / 2 - 0.5
        flags = self._cv2.INTER_LINEAR | self._cv2.WARP_INVERSE_MAP
        return self._cv2.warpAffine(picture, place, picture.shape[1::-1], flags=flags, borderMode=border)


def _stretched(counts: np.ndarray) -> np.ndarray:
    """The table of autocontrast, of how often each value occurs."""
    there = np.flatnonzero(counts)
    low, high = there[0], there[-1]
    if low == high:
        return np.arange(256)
    return np.clip((np.arange(256) - low) * 255 // (high - low), 0, 255)


def _equalised(counts: np.ndarray) -> np.ndarray:
    """The table of equalize."""
    step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
    if not step:
        return np.arange(256)
    return np.clip((step // 2 + np.cumsum(counts) - counts) // step, 0, 255)
