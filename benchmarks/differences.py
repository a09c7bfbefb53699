"""Figures of methods, and how much better one is than another, seed by seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.metrics import ImageMetric, image_AP, image_AUROC, resampled
from detectors.metrics.intervals import Estimate, Floats, over_seeds, over_seeds_and_images, over_sets

OF_IMAGES: dict[str, ImageMetric] = {"image_AUROC": image_AUROC, "image_AP": image_AP}
"""Metrics that scores of drawn images can be turned into."""

Method = tuple[tuple[str, ...], str]
"""A place and what was compared there."""
Pair = tuple[Method, Method]
"""The first is compared with the second."""


@dataclass(frozen=True, eq=False)
class Result:
    """What one method reached in one place with one seed, on the test split."""

    place: tuple[str, ...]
    method: str
    seed: int
    metrics: Mapping[str, float]
    labels: NDArray[np.int64] | None = None
    """``(N,)``: of the test images, where the raw scores were kept."""
    scores: Floats | None = None
    """``(N,)``"""

    def value(self, metric: str) -> float:
        """A metric; NaN where it isn't known."""
        return float(self.metrics.get(metric, math.nan))


class Results:
    """All results of a comparison by method and seed; of two of the same run the first counts."""

    def __init__(self, results: Iterable[Result]) -> None:
        self.methods: dict[Method, dict[int, Result]] = {}
        self._drawn: dict[tuple[int, str], Floats] = {}
        for result in results:
            self.add(result)

    def add(self, result: Result) -> None:
        """Add a result, unless there is one of the same place, method and seed."""
        self.methods.setdefault((result.place, result.method), {}).setdefault(result.seed, result)

    def add_means(self) -> None:
        """Add the mean over all places, of every method and seed that has them all."""
        places = self.places()
        for name in list(dict.fromkeys(name for _, name in self.methods)):
            by_seed = [self.methods.get((place, name), {}) for place in places]
            for seed in sorted(set.intersection(*map(set, by_seed))):
                own = [seeds[seed] for seeds in by_seed]
                metrics = {key: float(np.mean([each.value(key) for each in own])) for key in own[0].metrics}
                self.add(Result((f"mean of {len(places)}",), name, seed, metrics))

    def places(self) -> list[tuple[str, ...]]:
        """All places, in order."""
        return list(dict.fromkeys(place for place, _ in self.methods))

    def methods_of(self, place: tuple[str, ...]) -> list[str]:
        """The methods that were compared in one place, in order."""
        return [method for other, method in self.methods if other == place]

    def values(self, method: Method, metric: str) -> list[float]:
        """A metric of every seed that has it."""
        found = (result.value(metric) for result in self.methods[method].values())
        return [value for value in found if math.isfinite(value)]

    def difference(self, pair: Pair, metric: str) -> Estimate | None:
        """The first method minus the second, paired by seed; None if no seed has both.

        Metrics of images get an interval over seeds and test images where all scores were kept, others
        Student's over seeds.
        """
        differences, drawn = self._paired(pair, metric)
        if not len(differences):
            return None
        return over_seeds(differences) if drawn is None else over_seeds_and_images(differences, drawn)

    def pooled(self, pairs: Sequence[Pair], metric: str) -> Estimate | None:
        """The mean of the differences of ``pairs``, each of another set of images; None if one is unknown.

        The interval is over sets and seeds, and over test images where all scores were kept.
        """
        found = [self._paired(pair, metric) for pair in pairs]
        if not found or not all(len(differences) for differences, _ in found):
            return None
        drawn = [each for _, each in found if each is not None]
        return over_sets([own for own, _ in found], drawn if len(drawn) == len(found) else None)

    def _paired(self, pair: Pair, metric: str) -> tuple[Floats, Floats | None]:
        """Differences ``(S,)`` of the seeds that have both, and on draws of the test images ``(S, R)``.

        The latter is None where not all scores of images were kept.
        """
        ones, others = (self.methods.get(method, {}) for method in pair)
        paired = [(ones[seed], others[seed]) for seed in sorted(ones.keys() & others.keys())]
        paired = [(a, b) for a, b in paired if math.isfinite(a.value(metric) - b.value(metric))]
        differences = np.array([a.value(metric) - b.value(metric) for a, b in paired])
        if (
            not paired
            or metric not in OF_IMAGES
            or not _same_images([each for both in paired for each in both])
        ):
            return differences, None
        return differences, np.stack(
            [self._on_draws(a, metric) - self._on_draws(b, metric) for a, b in paired]
        )

    def _on_draws(self, result: Result, metric: str) -> Floats:
        """A metric ``(R,)`` on draws of the test images, made once whatever it is compared with."""
        key = (id(result), metric)
        if key not in self._drawn:
            assert result.labels is not None
            assert result.scores is not None
            self._drawn[key] = resampled(OF_IMAGES[metric], result.labels, result.scores)
        return self._drawn[key]


def _same_images(results: list[Result]) -> bool:
    """Whether all kept scores, of test images with the same labels."""
    first = results[0].labels
    return first is not None and all(
        each.labels is not None and np.array_equal(each.labels, first) for each in results
    )
