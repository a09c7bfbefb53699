"""Which detector a trained one should be joined with, and how much each should count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from detectors.metrics import image_AUROC, pixel_AUPRO

Floats = npt.NDArray[np.float32]

TENTHS = 10
WEIGHTS = tuple(tenth / TENTHS for tenth in range(TENTHS + 1))
"""Weights of the trained detector that are tried: from 0, the second detector alone, to 1, it alone."""

NOISE = 0.1
"""Values that differ by less than this share of what one image of the rarer kind can change are the same."""


class Choice(NamedTuple):
    """A second detector and the weight of the trained one beside it."""

    second: str
    weight: float
    """From 0, the second detector alone, to 1, the trained one alone."""
    tried: dict[str, list[float]]
    """The AUROC of every second detector at every weight from 0 to 1."""


def choose(
    trained: Floats,
    others: Mapping[str, Floats],
    labels: npt.NDArray[np.int64],
    normal: npt.NDArray[np.int64],
) -> Choice:
    """The second detector and the weight with the best image AUROC on a validation split.

    Scores ``(N,)`` are compared in deviations from those of the ``normal`` images (positions ``(K,)``).
    Around the best weight of a detector lies a plateau, where the AUROC is the same but for noise: its
    middle is taken, or, of two middles, the one that is nearer to equal weights. Of detectors that are
    equally good, the one whose weights are nearest to equal wins, then the one that is named first.
    """
    first = _standardised(trained, normal)
    tried = {}
    for name, scores in others.items():
        second = _standardised(scores, normal)
        tried[name] = [image_AUROC(weight * first + (1 - weight) * second, labels) for weight in WEIGHTS]
    same = negligible(labels)
    best = max(max(found) for found in tried.values())
    middles = {name: middle(found, same) for name, found in tried.items() if max(found) >= best - same}
    name = min(middles, key=lambda each: abs(middles[each] - TENTHS / 2))
    return Choice(name, WEIGHTS[middles[name]], tried)


def choose_for_maps(
    trained: Floats,
    other: Floats,
    masks: npt.NDArray[np.bool_],
    labels: npt.NDArray[np.int64],
    moved: Callable[[], object] = lambda: None,
) -> tuple[float, list[float]]:
    """The trained detector's weight with the best pixel AUPRO, and the AUPRO at every weight from 0 to 1.

    Maps and masks are ``(N, H, W)``, the maps in deviations from those of normal images; ``moved`` hears of
    every weight that was tried. Plateaus are treated as those of :func:`choose`.
    """
    tried = []
    for weight in WEIGHTS:
        tried.append(pixel_AUPRO(weight * trained + (1 - weight) * other, masks))
        moved()
    return WEIGHTS[middle(tried, negligible(labels))], tried


def negligible(labels: npt.NDArray[np.int64]) -> float:
    """A difference that one image explains."""
    rarer = min(int(labels.sum()), len(labels) - int(labels.sum()))
    return NOISE / max(rarer, 1)


def _standardised(scores: Floats, normal: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Scores ``(N,)`` in deviations from the mean of the normal images."""
    location = scores[normal].astype(np.float64)
    return (scores - location.mean()) / (location.std() if location.std() > 1e-6 else 1.0)


def middle(values: Sequence[float], same: float) -> int:
    """The middle of the plateau around the best of ``values``: those beside it within ``same`` of it.

    Of two middles, and of several best values, it is the one nearer to the middle of all.
    """
    best, centre = max(values), (len(values) - 1) / 2
    top = min(
        (index for index, value in enumerate(values) if value == best), key=lambda each: abs(each - centre)
    )
    first = last = top
    while first > 0 and values[first - 1] >= best - same:
        first -= 1
    while last + 1 < len(values) and values[last + 1] >= best - same:
        last += 1
    return min(((first + last) // 2, (first + last + 1) // 2), key=lambda each: abs(each - centre))
