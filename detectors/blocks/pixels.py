"""Maps of pixels: what is added to noise levels, and how a map becomes an image's score."""

from __future__ import annotations

from torch import Tensor

TOP_SHARE = 0.01
"""An image's score is the mean of this share of its pixels, the highest ones."""

FLOOR = 0.02
"""Added to standard deviations of intensities in [0, 1], as smaller differences are noise."""


def top_count(pixels: int) -> int:
    """How many of an image's ``pixels`` are averaged to its score: ``TOP_SHARE`` of them, at least four."""
    return min(max(4, round(TOP_SHARE * pixels)), pixels)


def top_mean(maps: Tensor) -> Tensor:
    """The mean of the highest pixels of maps ``(B, 1, H, W)``: ``(B,)``."""
    pixels = maps.flatten(1)
    return pixels.topk(top_count(pixels.shape[1]), dim=1, sorted=False).values.mean(1)
