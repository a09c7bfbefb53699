"""How well the scores of images tell anomalous from normal ones: AUROC, AP and F1Max, all exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from detectors.metrics.curves import (
    Counts,
    FloatArray,
    IntArray,
    average_precision,
    best_f1,
    checked,
    cumulative,
    from_zero,
    rates,
    roc_area,
)

ImageMetric: TypeAlias = Callable[[FloatArray, IntArray], float]
"""Scores ``(N,)``, higher = more anomalous, and labels ``(N,)`` 0 or 1 to one figure."""


def image_AUROC(scores: FloatArray, labels: IntArray) -> float:
    """Area under the ROC curve of image scores ``(N,)``, higher = more anomalous, labels ``(N,)`` 0/1."""
    return float(roc_area(*_positives(scores, labels)))


def image_AP(scores: FloatArray, labels: IntArray) -> float:
    """Average precision (step-wise area under precision over recall) of image scores ``(N,)``."""
    return float(average_precision(*_positives(scores, labels)))


def image_F1Max(scores: FloatArray, labels: IntArray) -> float:
    """The best F1 that any threshold on the image scores ``(N,)`` reaches."""
    return float(best_f1(*_positives(scores, labels)))


def image_metrics(scores: FloatArray, labels: IntArray) -> dict[str, float]:
    """`image_AUROC`, `image_AP` and `image_F1Max` of scores ``(N,)`` against labels ``(N,)`` 0/1."""
    positives = _positives(scores, labels)
    return {
        "image_AUROC": float(roc_area(*positives)),
        "image_AP": float(average_precision(*positives)),
        "image_F1Max": float(best_f1(*positives)),
    }


def roc_points(scores: FloatArray, labels: IntArray) -> tuple[Counts, Counts]:
    """False and true positive rates ``(T + 1,)`` at every distinct threshold, from (0, 0) to (1, 1).

    The rate of a class that is not there is NaN (0 at the first point).
    """
    true_positives, false_positives = _positives(scores, labels)
    return from_zero(rates(false_positives)), from_zero(rates(true_positives))


def _positives(scores: FloatArray, labels: IntArray) -> tuple[Counts, Counts]:
    """True and false positives ``(T,)`` at every distinct threshold."""
    values, truth = checked(scores, labels, "scores", "labels", dimensions=1)
    true_positives, false_positives = cumulative(values, truth, ~truth)
    return true_positives, false_positives
