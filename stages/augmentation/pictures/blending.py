"""A change of a small square image, blended into the original that was stretched to it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROWS = 512
"""So many rows of an original are changed at a time, which bounds the memory for floats."""

SOFT = Image.Resampling.BICUBIC
GREY_MODES = ("L", "LA", "I;16")
TO_16_BITS = 257
"""One of 255 grey levels is so many of 65535."""


def blend_change(original: Image.Image, change: NDArray[np.int16]) -> tuple[Image.Image, Image.Image]:
    """Add a change to an original, and return the result and the mask of all pixels that may differ.

    The original was stretched to a square, and the change belongs to that. It is enlarged smoothly. Outside
    the mask every bit is the original's, and what is transparent stays so.

    :param original: of mode L, LA, I;16, RGB or RGBA.
    :param change: ``(C, s, s)``, in grey levels of 255.
    """
    pixels, marks = np.array(original), np.zeros(original.size[::-1], np.uint8)
    changed: NDArray[np.bool_] = np.any(change != 0, axis=0)
    if changed.any():
        layers = _colour_layers(change, 1 if original.mode in GREY_MODES else 3)
        height, width = marks.shape
        rows, columns = _extent(changed, 1, height), _extent(changed, 0, width)
        for top in range(rows.start, rows.stop, ROWS):
            area = (slice(top, min(top + ROWS, rows.stop)), columns)
            inside = _enlarged(changed, marks.shape, area) >= 0.5
            marks[area] = inside * np.uint8(255)
            _add(pixels[area], [_enlarged(layer, marks.shape, area) for layer in layers], inside)
    return Image.fromarray(pixels), Image.fromarray(marks)


def _colour_layers(change: NDArray[np.int16], count: int) -> list[NDArray[Any]]:
    """``change (C, s, s)`` as ``count`` layers ``(s, s)``: a grey one for all colours, or their mean."""
    if len(change) == count:
        return list(change)
    return [change[0]] * count if len(change) == 1 else [change.mean(axis=0)]


def _extent(changed: NDArray[np.bool_], other: int, length: int) -> slice:
    """The part of an axis of ``length`` pixels that holds all of ``changed (s, s)``, seen along the other."""
    found = np.flatnonzero(changed.any(axis=other))
    scale = length / len(changed)
    return slice(math.floor(found[0] * scale), math.ceil((found[-1] + 1) * scale))


def _enlarged(layer: NDArray[Any], shape: tuple[int, ...], area: tuple[slice, slice]) -> NDArray[np.float32]:
    """The part ``area`` of ``layer (s, s)`` resized to ``shape``."""
    rows, columns = area
    down, right = layer.shape[0] / shape[0], layer.shape[1] / shape[1]
    box = (columns.start * right, rows.start * down, columns.stop * right, rows.stop * down)
    size = (columns.stop - columns.start, rows.stop - rows.start)
    return np.asarray(Image.fromarray(layer.astype(np.float32)).resize(size, SOFT, box))


def _add(pixels: NDArray[Any], layers: list[NDArray[np.float32]], inside: NDArray[np.bool_]) -> None:
    """Add ``layers`` to the colours of ``pixels (h, w[, bands])``, in place, within ``inside (h, w)``."""
    most = np.iinfo(pixels.dtype).max
    scale = TO_16_BITS if most > 255 else 1
    for number, layer in enumerate(layers):
        band = pixels if pixels.ndim == 2 else pixels[:, :, number]
        band[inside] = np.rint(band[inside] + scale * layer[inside]).clip(0, most).astype(pixels.dtype)
