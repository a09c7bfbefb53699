"""Verdicts as pictures: the map laid over an image, findings outlined, and findings as a mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter, ImageOps

from latent_env.prediction.colours import OUTLINE, heat
from latent_env.prediction.result import FOUND, Prediction

LONGEST = 640
"""An overlay has at most so many pixels a side: packing larger ones takes longer than the networks do."""

EDGE = 1
"""How wide the line around a finding is, in pixels."""

COVER, FAINT = 0.6, 0.25
"""How much of an image the brightest colours hide, and the value of a map below which they hide nothing."""

ABOVE = [255 if value > FOUND * 255 else 0 for value in range(256)]

FAST = 1
"""The level at which PNG is packed: higher ones take several times as long."""


def overlay_size(native: tuple[int, int]) -> tuple[int, int]:
    """The size of an overlay on an image of ``native`` width and height: as large, up to a limit."""
    scale = min(LONGEST / max(native), 1)
    return max(round(native[0] * scale), 1), max(round(native[1] * scale), 1)


def write_pictures(base: Image.Image, prediction: Prediction, overlay: Path, mask: Path) -> None:
    """Write the overlay on ``base``, and the mask at the image's own size: 255 is a finding."""
    drawn = prediction.map
    _save(overlaid(base, drawn, overlay_size(prediction.native)), overlay)
    _save(_grey(drawn > FOUND).resize(prediction.native, Image.Resampling.NEAREST), mask)


def overlaid(base: Image.Image, drawn: NDArray[np.float32], size: tuple[int, int]) -> Image.Image:
    """An image of ``size`` with a map laid over it, findings outlined.

    :param drawn: the map ``(h, w)``, from 0 to 1; above .5 belongs to a finding.
    """
    picture = base.convert("RGB")
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    # Colours are made at the map's size: Pillow enlarges and lays them over far faster.
    colours = Image.fromarray(heat(drawn)).resize(size, Image.Resampling.BILINEAR)
    cover = _grey(COVER * np.clip((drawn - FAINT) / (1 - FAINT), 0, 1))
    picture.paste(colours, mask=cover.resize(size, Image.Resampling.BILINEAR))
    region = _grey(drawn).resize(size, Image.Resampling.BILINEAR).point(ABOVE)
    if (box := region.getbbox()) is not None:
        inside = region.crop(box)
        smaller = ImageOps.crop(
            ImageOps.expand(inside, EDGE).filter(ImageFilter.MinFilter(2 * EDGE + 1)), EDGE
        )
        edge = ImageChops.subtract(inside, smaller)
        picture.paste(OUTLINE, box, edge)
    return picture


def _grey(values: NDArray[Any]) -> Image.Image:
    """Values in [0, 1], or truth values, as an image of mode L."""
    return Image.fromarray((values * np.float32(255)).astype(np.uint8))


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, compress_level=FAST)
