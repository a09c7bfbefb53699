"""Metrics of scores and maps, how sure they are, and the structural similarity of images."""

from detectors.metrics.bootstrap import paired_bootstrap, resampled
from detectors.metrics.image import (
    ImageMetric,
    image_AP,
    image_AUROC,
    image_F1Max,
    image_metrics,
    roc_points,
)
from detectors.metrics.pixel import all_metrics, pixel_AP, pixel_AUPRO, pixel_AUROC, pixel_metrics

__all__ = [
    "ImageMetric",
    "all_metrics",
    "image_AP",
    "image_AUROC",
    "image_F1Max",
    "image_metrics",
    "paired_bootstrap",
    "pixel_AP",
    "pixel_AUPRO",
    "pixel_AUROC",
    "pixel_metrics",
    "resampled",
    "roc_points",
]
