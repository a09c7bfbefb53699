"""Regions of pictures: a thin outline around them, and a closer look at them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from latent_env.prediction.colours import OUTLINE
from latent_env.rendering.tiles import Picture, resized

Region = npt.NDArray[np.bool_]

DISTANCE = 3
"""An outline keeps so many pixels away from what it surrounds, so that it hides no edge."""

MARGIN, LEAST = 1.6, 0.25
"""A close-up shows so many times the region's extent, and at least this share of a picture's side."""

NEAR = 1 / 32
"""Parts of a region that are less than twice this share of a picture's side apart are seen as one."""


def outlined(picture: Picture, inside: Region, side: int) -> Picture:
    """A picture ``(h, w, 3)`` at ``side`` pixels with a thin line around the region ``inside (h, w)``."""
    enlarged = np.array(resized(picture, side))
    if not inside.any():
        return enlarged
    region = Image.fromarray(resized(inside.astype(np.uint8) * np.uint8(255), side))
    region = region.point(lambda value: 255 if value >= 128 else 0)
    near, far = (
        np.asarray(region.filter(ImageFilter.MaxFilter(2 * reach + 1))) > 0
        for reach in (DISTANCE, DISTANCE + 1)
    )
    enlarged[far & ~near] = OUTLINE
    return enlarged


def close_up(inside: Region) -> tuple[slice, slice]:
    """Rows and columns of a square around the largest part of the region ``inside (h, w)``.

    Without any region it is the whole picture.
    """
    if not inside.any():
        return slice(None), slice(None)
    inside = _largest_part(inside)
    extents = [np.flatnonzero(inside.any(axis)) for axis in (1, 0)]
    widest = max(int(each[-1]) - int(each[0]) + 1 for each in extents)
    smallest = min(inside.shape)
    side = min(max(round(MARGIN * widest), round(LEAST * smallest), 1), smallest)
    starts = [
        min(max((int(each[0]) + int(each[-1]) + 1 - side) // 2, 0), extent - side)
        for each, extent in zip(extents, inside.shape, strict=True)
    ]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


def _largest_part(inside: Region) -> Region:
    """The pixels of ``inside (h, w)`` that belong to its largest part."""
    from scipy import ndimage  # slow to import

    grown = ndimage.binary_dilation(inside, iterations=max(round(NEAR * max(inside.shape)), 1))
    parts, _ = ndimage.label(grown)
    sizes = np.bincount(parts[inside])
    largest: Region = inside & (parts == sizes.argmax())
    return largest
