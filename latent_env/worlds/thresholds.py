"""When a score counts as an anomaly: what a detector says of images that it didn't learn from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from latent_common.errors import UserError

FALSE_ALARMS = 0.01
"""The share of normal images that may be called anomalies, unless another is asked for."""

SPREAD = 0.95
"""Scores in [0, 1] have the distance from the median normal image to this quantile as their unit."""

T = TypeVar("T", bound=np.floating[Any])
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Threshold:
    """What is an anomaly: an image with a score above :attr:`score`."""

    score: float
    """Raw scores above it are anomalies."""
    map: float
    """Raw values of maps above it belong to a finding; as many normal images have one as score too high."""
    false_alarms: float | None
    """The share of normal images that was allowed to score above; None where the best F1 chose."""
    promised: float | None
    """The share of normal images that score above, at most; None where the best F1 chose."""
    f1: float | None
    """F1 on validation, where that chose."""
    note: str
    """A sentence where less can be promised than was asked for; else empty."""


class Folds(NamedTuple):
    """How labelled anomalies were judged that detectors do learn from: each by one that didn't."""

    number: int
    """So many detectors learned from all but one fold of them."""
    of: str
    """What is never in two folds: kinds, groups (such as the slices of a patient), or images."""


@dataclass(frozen=True)
class Decision:
    """Raw scores of normal validation images, and of labelled anomalies, that a detector didn't learn from.

    For images that are exchangeable with these normal ones, p-values are valid: at most a share α of them
    has ``p ≤ α``, whatever the detector is.
    """

    normal: Floats
    """``(n,)``, from low to high."""
    highest: Floats
    """``(n,)``, from low to high: the highest value of each of these images' maps."""
    anomalous: Floats
    """``(m,)``, from low to high; none where the validation split has no labelled anomalies left."""
    dataset: str
    """The data set that the images are of."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """The digests of the artifacts that made the scores."""
    folds: Folds | None = None
    """Where the detector learned from the anomalies itself, by which other detectors they were scored."""

    def __post_init__(self) -> None:
        if not len(self.normal) or len(self.highest) != len(self.normal):
            raise UserError("a threshold needs the scores and maps of one or more normal images")

    @property
    def least(self) -> float:
        """The smallest rate of false alarms that so many normal images can promise: ``1 / (n + 1)``."""
        return 1 / (len(self.normal) + 1)

    def p_values(self, scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """``p = (1 + #{normal scores ≥ s}) / (n + 1)`` of raw ``scores (N,)``: ``(N,)``."""
        found = np.asarray(scores, np.float32)
        as_high = len(self.normal) - np.searchsorted(self.normal, found, side="left")
        return (1 + as_high) / (len(self.normal) + 1)

    def for_false_alarms(self, rate: float = FALSE_ALARMS) -> Threshold:
        """The threshold above which at most a share ``rate`` of normal images lies.

        With too few normal images for that, the one that promises most; its note says so.
        """
        if not 0 < rate < 1:
            raise UserError(
                f"false_alarms={rate:g} must lie above 0 and below 1: it is a share of normal images"
            )
        count, n = math.floor(rate * (len(self.normal) + 1) + 1e-9), len(self.normal)
        note = ""
        if not count:
            note = (
                f"{n} normal validation images can't promise {rate:.3%} false alarms: the best that can be "
                f"promised with them is 1/{n + 1} = {self.least:.3%}, which is used; "
                f"{math.ceil(1 / rate - 1e-9) - 1} would be enough"
            )
        return self._above(max(count, 1), rate, note)

    def best_f1(self) -> Threshold | None:
        """The threshold with the best F1 on the validation images; None without labelled anomalies.

        Of several that are equally good, the one with the fewest false alarms.
        """
        if not len(self.anomalous):
            return None
        scores = np.unique(np.concatenate([self.normal, self.anomalous]))
        found = len(self.anomalous) - np.searchsorted(self.anomalous, scores, side="left")
        wrong = len(self.normal) - np.searchsorted(self.normal, scores, side="left")
        f1 = 2 * found / (len(self.anomalous) + found + wrong)
        best = len(f1) - 1 - int(np.argmax(f1[::-1]))
        # Between the lowest score that counts and the one below: a new image is as likely on either side.
        below = scores[best - 1] if best else scores[best] - self.unit
        threshold = (float(scores[best]) + float(below)) / 2
        by_maps = self._above(min(int(wrong[best]) + 1, len(self.normal)), None, "").map
        return Threshold(threshold, by_maps, None, None, float(f1[best]), "")

    @cached_property
    def unit(self) -> float:
        """How far normal scores spread: from their median to their 95 % quantile."""
        return _spread(self.normal)

    @cached_property
    def map_unit(self) -> float:
        """How far the highest values of normal maps spread."""
        return _spread(self.highest)

    def rescaled(self, other: Decision) -> Floats:
        """The scores ``(m,)`` of the anomalies of ``other``, another detector, in this one's units.

        The median of normal scores becomes this one's median, and their spread (:attr:`unit`) this one's.
        """
        here, there = (float(np.median(each.normal)) for each in (self, other))
        return (here + (other.anomalous - there) / other.unit * self.unit).astype(np.float32)

    def scaled(self, scores: npt.ArrayLike, threshold: Threshold) -> npt.NDArray[np.float64]:
        """Raw ``scores (N,)`` as numbers in [0, 1] in the same order: .5 is the threshold.

        ``1 / (1 + exp(-(s - threshold) / unit))``, where the unit is how far normal scores spread
        (:attr:`unit`), whatever the threshold.
        """
        return _logistic((np.asarray(scores, np.float64) - threshold.score) / self.unit)

    def scaled_maps(self, maps: npt.ArrayLike, threshold: Threshold) -> npt.NDArray[np.float32]:
        """Raw ``maps`` of any shape as numbers in [0, 1] in the same order: findings are above .5."""
        distances = (np.asarray(maps, np.float32) - np.float32(threshold.map)) / np.float32(self.map_unit)
        return _logistic(distances)

    def _above(self, count: int, rate: float | None, note: str) -> Threshold:
        """The threshold that ``count - 1`` normal images lie above."""
        n = len(self.normal)
        at = n - count
        return Threshold(float(self.normal[at]), float(self.highest[at]), rate, count / (n + 1), None, note)


def _spread(ordered: Floats) -> float:
    """From the median to the 95 % quantile of numbers from low to high; never 0."""
    middle, high = np.quantile(ordered.astype(np.float64), [0.5, SPREAD])
    return max(float(high - middle), 1e-6 * max(abs(float(middle)), 1.0))


def _logistic(values: npt.NDArray[T]) -> npt.NDArray[T]:
    return 1 / (1 + np.exp(-np.clip(values, -60, 60)))
