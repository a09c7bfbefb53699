"""What a detector says of one image: score, p-value, verdict, map, and the largest finding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latent_env.prediction.parts import largest_part

Mask = NDArray[np.bool_]

FOUND = 0.5
"""Values of a map above this belong to a finding."""


@dataclass(frozen=True)
class Finding:
    """The largest connected part of what is abnormal in an image, in pixels of the image as it was given."""

    area: float
    """The share of the image's area, from 0 to 1."""
    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a detector says of one image."""

    score: float
    """From 0 to 1: .5 is the threshold, above it the image is an anomaly."""
    p_value: float
    """How often normal images score as high: ``(1 + #{normal scores ≥ score}) / (n + 1)``."""
    is_anomaly: bool
    """Whether the score is above the threshold."""
    map: NDArray[np.float32]
    """``(size, size)``, from 0 to 1, at the size that the detector sees: above .5 belongs to a finding.

    That is more than the highest value in the maps of normal images, but for the share of them that the
    threshold allows. :meth:`map_at_native` has it at the image's own size.
    """
    raw_score: float
    """The detector's own score, a logit."""
    native: tuple[int, int]
    """Width and height of the image as it was given."""
    name: str
    """The file, or the image's place in a batch."""

    @property
    def mask(self) -> Mask:
        """``(size, size)``: what belongs to a finding."""
        return self.map > FOUND

    def map_at_native(self) -> NDArray[np.float32]:
        """The map ``(H, W)`` at the size of the image as it was given."""
        return np.asarray(Image.fromarray(self.map).resize(self.native, Image.Resampling.BILINEAR))

    @cached_property
    def finding(self) -> Finding | None:
        """The largest connected part of the mask; None if nothing is above .5.

        An image may be an anomaly without one: its score is not its map's highest value.
        """
        mask = self.mask
        if (largest := largest_part(mask)) is None:
            return None
        area, rows, columns = largest
        across, down = self.native[0] / mask.shape[1], self.native[1] / mask.shape[0]
        # The pixels whose middle is in the mask, as a mask of that size has them.
        left, right = (math.ceil(side * across - 0.5) for side in (columns.start, columns.stop))
        top, bottom = (math.ceil(side * down - 0.5) for side in (rows.start, rows.stop))
        return Finding(area / mask.size, left, top, max(right - left, 1), max(bottom - top, 1))
