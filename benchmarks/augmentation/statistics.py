"""How far two ways of training lie apart, and how sure that is: over seeds and test images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detectors.metrics import ImageMetric, image_AP, image_AUROC, resampled
from detectors.metrics.intervals import Estimate, Floats, over_seeds, over_seeds_and_images

__all__ = ["OF_IMAGES", "Estimate", "Floats", "metric_on_draws", "over_seeds", "over_seeds_and_images"]

OF_IMAGES: dict[str, ImageMetric] = {"image_AUROC": image_AUROC, "image_AP": image_AP}
"""Metrics that scores of drawn images can be turned into."""


def metric_on_draws(metric: str, labels: NDArray[np.int64], scores: Floats) -> Floats:
    """The metric ``(R,)`` on draws of the images that depend on ``labels (N,)`` alone."""
    return resampled(OF_IMAGES[metric], labels, scores)
