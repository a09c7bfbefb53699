"""Masks as instances: connected parts, their boxes, run lengths and outlines."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Polygon = NDArray[np.float64]
"""``(K, 2)``: x and y of corners, in pixels from the image's upper left corner."""


def parts_of(mask: Mask) -> list[Mask]:
    """The connected parts of ``mask (H, W)``, each as a mask; pixels that touch at a corner are connected."""
    from scipy import ndimage  # slow to import

    labels, count = ndimage.label(mask, np.ones((3, 3), np.bool_))
    return [labels == number for number in range(1, count + 1)]


def box_of(part: Mask) -> tuple[int, int, int, int]:
    """Left, top, width and height of a part, in pixels."""
    rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1


def run_lengths(part: Mask) -> list[int]:
    """How many pixels are off, on, off, and so on, column by column: COCO's run lengths."""
    pixels = part.flatten(order="F")
    changes = np.flatnonzero(np.diff(pixels)) + 1
    ends = [0, *changes.tolist(), len(pixels)]
    lengths = [end - start for start, end in pairwise(ends)]
    return [0, *lengths] if len(pixels) and pixels[0] else lengths


def outline_of(part: Mask) -> Polygon:
    """The outer edge of a part; holes in it are filled."""
    from contourpy import contour_generator  # slow to import; comes with matplotlib

    # One row of nothing around it, so that a part at the image's edge has a closed line.
    around = np.pad(part, 1).astype(np.float64)
    lines: list[Any] = list(contour_generator(z=around).lines(0.5))
    longest = max(lines, key=lambda line: float(np.ptp(line[:, 0]) + np.ptp(line[:, 1])))
    height, width = part.shape
    # The middle of the first pixel is at 1 in the padded mask, and half a pixel from the image's corner.
    return np.clip(longest[:-1] - 0.5, 0, (width, height))
