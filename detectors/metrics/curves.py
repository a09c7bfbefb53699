"""Counts of true and false positives at every threshold, and the areas under what they draw.

All metrics are read off one curve: sort the scores from high to low and count, at every distinct threshold,
what lies at or above it. Equal scores share a threshold, so ties are never broken by the order in which the
images happen to stand. A metric that needs both classes is NaN with only one.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.integrate import trapezoid

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
IntArray: TypeAlias = npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
Counts: TypeAlias = npt.NDArray[np.float64]


def checked(
    scores: FloatArray, truth: IntArray, scores_name: str, truth_name: str, dimensions: int
) -> tuple[FloatArray, BoolArray]:
    """Scores and truth, both of one shape; raises ``ValueError`` for anything else.

    Truth comes back as bool, scores as float64, or as they are where they are float32 already.
    """
    values, wanted = np.asarray(scores), np.asarray(truth)
    if values.dtype != np.float32:
        values = values.astype(np.float64)
    if values.shape != wanted.shape or values.ndim != dimensions:
        raise ValueError(
            f"{scores_name} {values.shape} and {truth_name} {wanted.shape} need the same shape, "
            f"of {dimensions} dimension(s)"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{scores_name} hold NaN or infinity: metrics need finite numbers")
    if wanted.dtype != np.bool_ and not np.isin(wanted, (0, 1)).all():
        raise ValueError(f"{truth_name} must be 0 (normal) or 1 (anomalous)")
    return values, wanted.astype(bool)


def cumulative(scores: FloatArray, *weights: npt.NDArray[Any]) -> list[Counts]:
    """For each of the weights ``(..., N)``, how much lies at or above every distinct threshold.

    As ``(..., T)``, from the highest threshold to the lowest. One sort serves all of them.
    """
    if len(scores) == 0:
        return [np.zeros((*each.shape[:-1], 1)) for each in weights]
    order = np.argsort(-scores)
    ordered = scores[order]
    is_last_of_tie = np.ones(len(scores), dtype=bool)
    is_last_of_tie[:-1] = ordered[:-1] != ordered[1:]
    ends = np.flatnonzero(is_last_of_tie)
    return [np.cumsum(each[..., order], axis=-1, dtype=np.float64)[..., ends] for each in weights]


def corners(scores: FloatArray, truth: BoolArray, weights: Counts) -> tuple[Counts, Counts, Counts]:
    """Where curves over all thresholds of scores ``(N,)`` turn: found anomalies, false ones, and ``weights``.

    Each is ``(T,)`` and counts what lies above some threshold, from the highest to the lowest. Between two
    anomalies only false ones are added, so a curve is straight there: sorting the normal scores without
    where they came from is enough, which is several times as fast.

    :param weights: of the anomalies, ``(K,)``, in their order.
    """
    normal, anomalous = np.sort(scores[~truth]), scores[truth]
    order = np.argsort(-anomalous)
    ordered = anomalous[order]
    ends = np.flatnonzero(np.append(ordered[:-1] != ordered[1:], True)) if len(ordered) else order
    thresholds = ordered[ends]
    found, weighed = (ends + 1).astype(np.float64), np.cumsum(weights[order], dtype=np.float64)[ends]
    # Two corners an anomaly: before it, when all normal scores above it are counted, and with its equals.
    above = len(normal) - np.searchsorted(normal, thresholds, side="right")
    with_equals = len(normal) - np.searchsorted(normal, thresholds, side="left")
    false = np.append(np.stack([above, with_equals], 1).ravel(), len(normal)).astype(np.float64)
    return _before_and_with(found), false, _before_and_with(weighed)


def _before_and_with(counts: Counts) -> Counts:
    """Counts ``(T,)`` before and with each threshold, and once more at the end: ``(2 T + 1,)``."""
    before = from_zero(counts)[:-1]
    last = counts[-1:] if len(counts) else np.zeros(1)
    return np.concatenate([np.stack([before, counts], 1).ravel(), last])


def from_zero(curve: Counts) -> Counts:
    """The curve ``(..., T)`` with the point above all scores, where nothing is found yet, in front."""
    return np.concatenate([np.zeros_like(curve[..., :1]), curve], axis=-1)


def rates(counts: Counts) -> Counts:
    """Cumulative counts ``(..., T)`` as a share of their total; NaN if the total is 0."""
    with np.errstate(invalid="ignore"):
        return np.asarray(counts / counts[..., -1:])


def roc_area(true_positives: Counts, false_positives: Counts) -> Counts:
    """Area under the ROC curve ``(...,)`` of counts ``(..., T)``."""
    false_rates = from_zero(rates(false_positives))
    return np.asarray(trapezoid(from_zero(rates(true_positives)), false_rates, axis=-1))


def average_precision(true_positives: Counts, false_positives: Counts) -> Counts:
    """Sum of precision x step in recall ``(...,)`` of counts ``(..., T)``."""
    steps = np.diff(from_zero(rates(true_positives)), axis=-1)
    # Resampling can leave the highest thresholds empty; their step is 0 whatever the precision.
    precision = true_positives / np.maximum(true_positives + false_positives, 1)
    return _unless_one_class(np.sum(precision * steps, axis=-1), true_positives, false_positives)


def best_f1(true_positives: Counts, false_positives: Counts) -> Counts:
    """Greatest F1 = 2 TP / (TP + FP + all anomalous) ``(...,)`` of counts ``(..., T)``."""
    f1 = 2 * true_positives / np.maximum(true_positives + false_positives + true_positives[..., -1:], 1)
    return _unless_one_class(np.max(f1, axis=-1), true_positives, false_positives)


def _unless_one_class(values: Counts, true_positives: Counts, false_positives: Counts) -> Counts:
    """The values ``(...,)``, but NaN where the counts ``(..., T)`` end with an empty class."""
    return np.where((true_positives[..., -1] > 0) & (false_positives[..., -1] > 0), values, np.nan)
