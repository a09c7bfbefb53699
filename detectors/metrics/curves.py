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
) -> tuple[Counts, BoolArray]:
    """Scores as float64 and truth as bool, both of one shape; raises ``ValueError`` for anything else."""
    values, wanted = np.asarray(scores, dtype=np.float64), np.asarray(truth)
    if values.shape != wanted.shape or values.ndim != dimensions:
        raise ValueError(
            f"{scores_name} {values.shape} and {truth_name} {wanted.shape} need the same shape, "
            f"of {dimensions} dimension(s)"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{scores_name} hold NaN or infinity: metrics need finite numbers")
    if not np.isin(wanted, (0, 1)).all():
        raise ValueError(f"{truth_name} must be 0 (normal) or 1 (anomalous)")
    return values, wanted.astype(bool)


def cumulative(scores: Counts, *weights: npt.NDArray[Any]) -> list[Counts]:
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
