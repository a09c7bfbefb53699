"""How well maps show where an anomaly is: AUROC and AP of all pixels, and AUPRO of regions, all exact."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.integrate import trapezoid

from detectors.metrics.curves import (
    BoolArray,
    Counts,
    FloatArray,
    IntArray,
    average_precision,
    checked,
    corners,
    from_zero,
    rates,
    roc_area,
)
from detectors.metrics.image import image_metrics

AUPRO_LIMIT = 0.3
"""Greatest pixel false positive rate up to which AUPRO is integrated."""


def pixel_AUROC(maps: FloatArray, masks: BoolArray) -> float:
    """Area under the ROC curve of all pixels: maps ``(N, H, W)`` against true masks ``(N, H, W)``."""
    return pixel_metrics(maps, masks)["pixel_AUROC"]


def pixel_AP(maps: FloatArray, masks: BoolArray) -> float:
    """Average precision of all pixels: maps ``(N, H, W)`` against true masks ``(N, H, W)``."""
    return pixel_metrics(maps, masks)["pixel_AP"]


def pixel_AUPRO(maps: FloatArray, masks: BoolArray) -> float:
    """Area under the per-region overlap, maps ``(N, H, W)`` against true masks ``(N, H, W)``, in [0, 1].

    A region is an 8-connected component of a true mask. The overlap (share of a region that is
    found), averaged over all regions, is integrated over the false positive rate of the normal
    pixels of all images from 0 to 0.3 and divided by 0.3.
    """
    return pixel_metrics(maps, masks)["pixel_AUPRO"]


def pixel_metrics(maps: FloatArray, masks: BoolArray) -> dict[str, float]:
    """`pixel_AUROC`, `pixel_AP` and `pixel_AUPRO` of maps ``(N, H, W)`` against masks ``(N, H, W)``."""
    values, truth = checked(maps, masks, "maps", "masks", dimensions=3)
    found, false, overlap = corners(values.ravel(), truth.ravel(), region_weights(truth)[truth])
    return {
        "pixel_AUROC": float(roc_area(found, false)),
        "pixel_AP": float(average_precision(found, false)),
        "pixel_AUPRO": overlap_area(overlap, false),
    }


def all_metrics(
    scores: FloatArray, labels: IntArray, maps: FloatArray | None, masks: BoolArray | None
) -> dict[str, float]:
    """Image metrics of scores ``(N,)``, and pixel metrics of maps ``(N, H, W)`` if there are masks."""
    results = image_metrics(scores, labels)
    if maps is None or masks is None:
        return results
    if len(maps) != len(scores):
        raise ValueError(f"{len(scores)} scores but {len(maps)} maps: give one map an image")
    return results | pixel_metrics(maps, masks)


def region_weights(masks: BoolArray) -> Counts:
    """1 / (size of the region x number of regions) on every pixel ``(N, H, W)`` of a region, else 0.

    Summed over the pixels that were found, these weights are the mean overlap over all regions.
    """
    within_an_image = np.zeros((3, 3, 3), dtype=bool)
    within_an_image[1] = True
    regions, number = ndimage.label(masks, structure=within_an_image)
    sizes = np.bincount(regions.ravel(), minlength=1).astype(np.float64)
    weights = 1 / np.maximum(sizes * number, 1)
    weights[0] = 0  # the background
    return np.asarray(weights[regions])


def overlap_area(overlap: Counts, false_positives: Counts) -> float:
    """Area under mean region overlap ``(T,)`` over false positive rate up to the limit, normalised."""
    if overlap[-1] == 0 or false_positives[-1] == 0:
        return float("nan")
    false_rates, overlap = from_zero(rates(false_positives)), from_zero(overlap)
    inside = false_rates <= AUPRO_LIMIT
    at_limit = np.interp(AUPRO_LIMIT, false_rates, overlap)
    area = trapezoid(np.append(overlap[inside], at_limit), np.append(false_rates[inside], AUPRO_LIMIT))
    return float(area / AUPRO_LIMIT)
