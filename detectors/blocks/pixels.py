"""Maps of pixels: what counts as noise in them, and how they become an image's score."""

from __future__ import annotations

from torch import Tensor

TOP_SHARE = 0.01
"""The image score is the mean of this share of the highest pixels."""

FLOOR = 0.02
"""Added to deviations (of intensities in [0, 1]): below this, a difference is noise."""


def top_count(pixels: int) -> int:
    """How many of an image's ``pixels`` make up its score: ``TOP_SHARE`` of them, at least four."""
    return min(max(4, round(TOP_SHARE * pixels)), pixels)


def top_mean(maps: Tensor) -> Tensor:
    """The mean of the highest pixels of maps ``(B, 1, H, W)``: ``(B,)``."""
    pixels = maps.flatten(1)
    return pixels.topk(top_count(pixels.shape[1]), dim=1, sorted=False).values.mean(1)
