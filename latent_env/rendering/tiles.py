"""Images as tiles of pictures: colours, sizes, captions, and tiles beside and below each other."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, uint8

from latent_env.prediction import colours

Picture = npt.NDArray[np.uint8]
"""``(H, W, 3)``"""

TILE, LARGE_TILE = 192, 256
"""A tile's side in pixels: of images of fewer than :data:`LARGE` pixels, and of larger ones."""

LARGE = 128
SMOOTH = 32
"""Images of fewer pixels than this are enlarged as blocks: of so few, each counts."""

GAP, CAPTION = 6, 22
BACKGROUND, INK = (24, 26, 30), (235, 235, 235)


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(14)


def to_rgb(image: Tensor) -> Picture:
    """An image ``(C, H, W)``, grey or RGB, in [0, 1] or uint8, as a picture."""
    if image.dtype != uint8:
        image = (image.float().clamp(0, 1) * 255).round().to(uint8)
    array: Picture = image.permute(1, 2, 0).cpu().numpy()
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else np.ascontiguousarray(array)


def heat(values: Tensor) -> Picture:
    """A map ``(H, W)`` in [0, 1] as a picture in colours from black to yellow."""
    return colours.heat(values.float().cpu().numpy())


def tile_side(size: int) -> int:
    """The side of tiles for images of ``size`` pixels, at which a person can judge them."""
    return TILE if size < LARGE else max(LARGE_TILE, size)


def resized(picture: Picture, side: int) -> Picture:
    """A picture at ``side`` × ``side`` pixels: photographs smoothly, the pixels of tiny images as blocks."""
    if picture.shape[0] == picture.shape[1] == side:
        return picture
    smallest = min(picture.shape[:2])
    if smallest > side:
        method = Image.Resampling.BOX
    else:
        method = Image.Resampling.NEAREST if smallest < SMOOTH else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(picture).resize((side, side), method))


def side_by_side(tiles: Sequence[Picture], captions: Sequence[str], tile: int | None = None) -> Picture:
    """Pictures ``(h, w, 3)`` in a row, each under its caption.

    :param tile: the side of all tiles in pixels; without, :func:`tile_side` of the largest picture.
    """
    side = tile_side(max(picture.shape[0] for picture in tiles)) if tile is None else tile
    width = len(tiles) * (side + GAP) + GAP
    sheet = Image.new("RGB", (width, side + CAPTION + GAP), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for i, (picture, caption) in enumerate(zip(tiles, captions, strict=True)):
        left = GAP + i * (side + GAP)
        sheet.paste(Image.fromarray(resized(picture, side)), (left, CAPTION))
        draw.text((left + 2, 3), caption, fill=INK, font=_font())
    return np.asarray(sheet)


def stack(rows: Sequence[Picture]) -> Picture:
    """Pictures of equal width below each other."""
    return np.concatenate(list(rows), axis=0)


def save_picture(path: Any, picture: Picture) -> None:
    """Write a picture as PNG."""
    Image.fromarray(picture).save(path)
