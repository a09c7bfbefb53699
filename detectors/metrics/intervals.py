"""Intervals of a mean difference over seeds, and over seeds and test images.

The test images are the same for all seeds, so a repeat of the bootstrap draws them once, for all seeds it
draws: images that are easy for one seed are easy for the others, and drawing them anew for every seed would
average that away. Both of the compared methods are measured on the same draw.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from detectors.metrics.bootstrap import ENDS

Floats = NDArray[np.float64]

FEWEST_SEEDS = 3
"""Without test images to draw from, fewer seeds give no interval."""


@dataclass(frozen=True)
class Estimate:
    """A mean difference with its 95 % interval, if there is one."""

    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def over_seeds(differences: Floats) -> Estimate:
    """Student's interval of the mean of ``differences (S,)``; none for fewer than three seeds."""
    mean, count = float(differences.mean()), len(differences)
    if count < FEWEST_SEEDS:
        return Estimate(mean)
    reach = float(stats.t.ppf(ENDS[1], count - 1) * differences.std(ddof=1) / math.sqrt(count))
    return Estimate(mean, mean - reach, mean + reach)


def over_seeds_and_images(differences: Floats, drawn: Floats) -> Estimate:
    """The interval of the mean of ``differences (S,)``, which were ``drawn (S, R)`` on R draws of images.

    Every repeat draws seeds too. What the draw of seeds changes is widened, see :func:`widening`; what the
    draw of images changes is not, there are many of them. One seed gives an interval over images alone.
    """
    count, repeats = drawn.shape
    mean = float(differences.mean())
    seeds = np.random.default_rng(1).integers(count, size=(repeats, count))
    of_seeds = differences[seeds].mean(1) - mean
    of_images = (drawn - differences[:, None])[seeds, np.arange(repeats)[:, None]].mean(1)
    low, high = np.quantile(mean + widening(count) * of_seeds + of_images, ENDS)
    return Estimate(mean, float(low), float(high))


def over_sets(
    differences: Sequence[Floats], drawn: Sequence[Floats] | None = None, repeats: int = 1000
) -> Estimate:
    """The interval of a mean over sets of images, by a bootstrap over sets, seeds and images.

    Every repeat draws sets, and in each drawn set its seeds and, where these are known, its images. Sets
    count alike.

    :param differences: of every set, one a seed, ``(S,)``.
    :param drawn: of every set, what they are on R draws of its images, ``(S, R)``.
    """
    rng, count = np.random.default_rng(2), len(differences)
    mean = float(np.mean([each.mean() for each in differences]))
    found = np.zeros(repeats)
    for repeat in range(repeats):
        for number in rng.integers(count, size=count):
            own = differences[number]
            if drawn is not None:
                own = drawn[number][:, rng.integers(drawn[number].shape[1])]
            found[repeat] += own[rng.integers(len(own), size=len(own))].mean() / count
    low, high = np.quantile(found, ENDS)
    return Estimate(mean, float(low), float(high))


@functools.cache
def widening(seeds: int) -> float:
    """By how much a bootstrap over so few seeds must be widened to cover what it promises.

    Drawing ``n`` values with replacement gives means that vary as if the variance were divided by ``n`` where
    it is estimated with ``n - 1``: hence ``sqrt(n / (n - 1))``. And their quantiles are those of a normal
    distribution, though the scale is only estimated: hence Student's quantile over the normal one. Five
    seeds are 1.58 times as wide as plain percentiles, which would cover about 85 % instead of 95 %.
    """
    if seeds < 2:
        return 1.0
    return float(math.sqrt(seeds / (seeds - 1)) * stats.t.ppf(ENDS[1], seeds - 1) / stats.norm.ppf(ENDS[1]))
