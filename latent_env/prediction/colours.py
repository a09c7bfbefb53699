"""The colours of maps and findings in pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

OUTLINE = (255, 140, 0)
"""Of the line around a finding."""

INFERNO = (
    (0, 0, 3),
    (10, 7, 35),
    (32, 12, 74),
    (60, 9, 101),
    (87, 15, 109),
    (112, 25, 110),
    (137, 34, 105),
    (163, 43, 97),
    (187, 55, 84),
    (208, 69, 68),
    (227, 88, 50),
    (240, 112, 30),
    (249, 140, 9),
    (251, 170, 14),
    (248, 201, 49),
    (241, 232, 100),
    (252, 254, 164),
)
"""Evenly spaced colours of the map "inferno" of Matplotlib, which is slow to import."""

_LEVELS = np.linspace(0, len(INFERNO) - 1, 256)
HEAT = np.stack(
    [np.interp(_LEVELS, np.arange(len(INFERNO)), band) for band in np.transpose(INFERNO)], 1
).astype(np.uint8)
"""``(256, 3)``: from black to yellow."""


def heat(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """A map ``(H, W)`` in [0, 1] as a picture ``(H, W, 3)`` in colours from black to yellow."""
    return HEAT[np.rint(np.clip(values, 0, 1) * 255).astype(np.intp)]
