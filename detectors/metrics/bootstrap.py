"""What image metrics would be on other test images: draws with replacement, as many of each label."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from detectors.metrics.curves import (
    Counts,
    FloatArray,
    IntArray,
    average_precision,
    best_f1,
    cumulative,
    roc_area,
)
from detectors.metrics.image import ImageMetric, image_AP, image_AUROC, image_F1Max

REPEATS = 1000
ENDS = (0.025, 0.975)
"""Quantiles between which a 95 % interval lies."""

_BLOCK = 2_000_000
"""Images of all repeats that are drawn at once: bounds the memory, not the result."""

_OF_CURVE: dict[ImageMetric, Callable[[Counts, Counts], Counts]] = {
    image_AUROC: roc_area,
    image_AP: average_precision,
    image_F1Max: best_f1,
}
"""What an image metric is of (weighted) true and false positives ``(..., T)``: lets repeats be batched."""


def resampled(
    metric: ImageMetric, labels: IntArray, scores: FloatArray, repeats: int = REPEATS, seed: int = 0
) -> Counts:
    """The metric ``(R,)`` on ``repeats`` draws of the images, as many of each label as there are.

    The draws depend on ``labels (N,)`` and the seed alone, so that ``scores (N,)`` of different detectors can
    be compared. The metrics of this package go fast; any other function of (scores, labels) is called once
    a repeat.
    """
    rng, block = np.random.default_rng(seed), max(1, _BLOCK // len(labels))
    sizes = [min(block, repeats - first) for first in range(0, repeats, block)]
    return np.concatenate([_values(metric, labels, scores, _draw(labels, size, rng)) for size in sizes])


def paired_bootstrap(
    metric: ImageMetric,
    labels: IntArray,
    before: FloatArray,
    after: FloatArray,
    repeats: int = REPEATS,
    seed: int = 0,
) -> tuple[float, float, float]:
    """By how much ``metric`` changed from scores ``before`` to scores ``after``, both ``(N,)``.

    Returns the difference ``metric(after) - metric(before)`` and the ends of its 95 % percentile interval
    over images, see :func:`resampled`; both scores are of the same draws.
    """
    difference = metric(after, labels) - metric(before, labels)
    if np.isnan(difference):
        return difference, difference, difference
    changes = resampled(metric, labels, after, repeats, seed) - resampled(
        metric, labels, before, repeats, seed
    )
    low, high = np.quantile(changes, ENDS)
    return difference, float(low), float(high)


def _draw(labels: IntArray, repeats: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Rows drawn with replacement ``(R, N)``, as many of each label as there are."""
    of_label = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    drawn = [rows[rng.integers(len(rows), size=(repeats, len(rows)))] for rows in of_label]
    return np.concatenate(drawn, axis=1)


def _values(
    metric: ImageMetric, labels: IntArray, scores: FloatArray, chosen: npt.NDArray[np.int64]
) -> Counts:
    """The metric ``(R,)`` on every row of ``chosen (R, N)``."""
    of_curve = _OF_CURVE.get(metric)
    if of_curve is None:
        return np.array([metric(scores[rows], labels[rows]) for rows in chosen])
    # An image drawn three times is an image of weight three: one sort serves all repeats.
    repeats, images = chosen.shape
    first = images * np.arange(repeats)[:, None]
    times = np.bincount((chosen + first).ravel(), minlength=chosen.size).reshape(chosen.shape)
    truth = labels.astype(bool)
    return of_curve(*cumulative(np.asarray(scores, np.float64), times * truth, times * ~truth))
