"""Many images in a grid, with outlines or by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from latent_env.rendering.regions import outlined
from latent_env.rendering.tiles import Picture, side_by_side, stack, tile_side, to_rgb

SMALL_TILE = 64


def contact_sheet(
    images: Tensor, masks: Tensor, captions: Sequence[str], columns: int = 6, tile: int | None = None
) -> Picture:
    """Images ``(N, C, H, W)`` in a grid, with a line around the regions ``masks (N, 1, H, W)`` bool.

    :param tile: the side of all tiles in pixels; without, as large as one can judge the images by.
    """
    side = tile_side(images.shape[-1]) if tile is None else tile
    tiles = [
        outlined(to_rgb(image), mask[0].cpu().numpy(), side)
        for image, mask in zip(images, masks, strict=True)
    ]
    blank = np.zeros_like(tiles[0])
    while len(tiles) % columns:
        tiles.append(blank)
    labels = [*captions, *[""] * (len(tiles) - len(captions))]
    rows = range(0, len(tiles), columns)
    return stack([side_by_side(tiles[i : i + columns], labels[i : i + columns], side) for i in rows])


def class_grid(images: Tensor, classes: Tensor, names: tuple[str, ...], columns: int = 12) -> Picture:
    """Images ``(N, C, H, W)`` in [0, 1], a row a class; ``classes (N,)`` say where each belongs."""
    rows = []
    for number, name in enumerate(names):
        chosen = images[(classes == number).nonzero()[:columns, 0]]
        blank = [torch.zeros_like(images[0])] * (columns - len(chosen))
        tiles = [to_rgb(image) for image in [*chosen, *blank]]
        rows.append(side_by_side(tiles, [name[:8], *[""] * (columns - 1)], SMALL_TILE))
    return stack(rows)
