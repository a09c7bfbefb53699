"""Metrics of pixels, against the same ones read off a curve through all pixels in order."""

from __future__ import annotations

import numpy as np

from benchmarks.speed.steps import counted
from benchmarks.speed.timing import Rates, in_turns
from detectors.metrics import pixel_metrics
from detectors.metrics.curves import average_precision, cumulative, roc_area
from detectors.metrics.pixel import overlap_area, region_weights

OURS, WHOLE = "pixel metrics", "a curve through all pixels"

IMAGES = 100
"""So many maps; one in four has an anomaly."""


def maps_and_masks(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Maps of ``size`` pixels a side, higher where masks are set."""
    generator = np.random.default_rng(0)
    masks = np.zeros((IMAGES, size, size), bool)
    side = max(size // 8, 1)
    masks[::4, side : 2 * side, side : 2 * side] = True
    return (generator.normal(size=masks.shape) + masks).astype(np.float32), masks


def of_whole_curve(maps: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """What :func:`~detectors.metrics.pixel_metrics` gives, with a point of the curves for every pixel."""
    weights = (masks, ~masks, region_weights(masks))
    found, false, overlap = cumulative(maps.ravel().astype(np.float64), *(each.ravel() for each in weights))
    return {
        "pixel_AUROC": float(roc_area(found, false)),
        "pixel_AP": float(average_precision(found, false)),
        "pixel_AUPRO": overlap_area(overlap, false),
    }


def measure(size: int, repeats: int, seconds: float) -> Rates:
    """Maps a second."""
    maps, masks = maps_and_masks(size)
    ways = {
        WHOLE: counted(IMAGES, lambda: of_whole_curve(maps, masks)),
        OURS: counted(IMAGES, lambda: pixel_metrics(maps, masks)),
    }
    return in_turns(ways, repeats, seconds, f"metrics, {size} pixels")
