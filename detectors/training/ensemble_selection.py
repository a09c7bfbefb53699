"""Selection of an ensemble on validation images: which detector joins a trained one, with what weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from detectors.metrics import image_AUROC, pixel_AUPRO

Floats = npt.NDArray[np.float32]

TENTHS = 10
WEIGHTS = tuple(tenth / TENTHS for tenth in range(TENTHS + 1))
"""Candidate weights of the trained detector, from 0, the other one alone, to 1, the trained one alone."""

NOISE = 0.1
"""Values are taken as equal if they differ by less than this share of what one image of the rarer label can
change."""


class Selection(NamedTuple):
    """The detector that joins the trained one, and the trained one's weight."""

    member: str
    weight: float
    """Of the trained detector, one of :data:`WEIGHTS`."""
    candidates: dict[str, list[float]]
    """The image AUROC with every candidate, at each of :data:`WEIGHTS`."""


def select_member(
    trained: Floats,
    candidates: Mapping[str, Floats],
    labels: npt.NDArray[np.int64],
    normal: npt.NDArray[np.int64],
) -> Selection:
    """The candidate and the weight with the best image AUROC on a validation split.

    Scores ``(N,)`` of the trained detector and the candidates are standardised over the ``normal`` images
    (positions ``(K,)``). Around the best weight lies a plateau, where the AUROC is the same but for noise:
    its middle is taken, see :func:`plateau_middle`. Of equally good candidates, the one whose weights are
    nearest to equal wins, then the one that is named first.
    """
    first = _standardised(trained, normal)
    found = {}
    for name, scores in candidates.items():
        second = _standardised(scores, normal)
        found[name] = [image_AUROC(weight * first + (1 - weight) * second, labels) for weight in WEIGHTS]
    tolerance = negligible_difference(labels)
    best = max(max(values) for values in found.values())
    middles = {
        name: plateau_middle(values, tolerance)
        for name, values in found.items()
        if max(values) >= best - tolerance
    }
    name = min(middles, key=lambda each: abs(middles[each] - TENTHS / 2))
    return Selection(name, WEIGHTS[middles[name]], found)


def select_map_weight(
    trained: Floats,
    other: Floats,
    masks: npt.NDArray[np.bool_],
    labels: npt.NDArray[np.int64],
    advance: Callable[[], object] = lambda: None,
) -> tuple[float, list[float]]:
    """The trained detector's weight with the best pixel AUPRO, and the AUPRO at each of :data:`WEIGHTS`.

    Maps and masks are ``(N, H, W)``, the maps standardised over normal images. Plateaus are treated as in
    :func:`select_member`; ``advance`` is called after every weight.
    """
    found = []
    for weight in WEIGHTS:
        found.append(pixel_AUPRO(weight * trained + (1 - weight) * other, masks))
        advance()
    return WEIGHTS[plateau_middle(found, negligible_difference(labels))], found


def negligible_difference(labels: npt.NDArray[np.int64]) -> float:
    """A difference in AUROC that a fraction of one image explains, given ``labels (N,)``."""
    rarer = min(int(labels.sum()), len(labels) - int(labels.sum()))
    return NOISE / max(rarer, 1)


def plateau_middle(values: Sequence[float], tolerance: float) -> int:
    """The middle of the plateau around the best of ``values``: its neighbours within ``tolerance`` of it.

    Of two middles, and of several best values, it is the one nearer to the middle of all.
    """
    best, centre = max(values), (len(values) - 1) / 2
    top = min(
        (index for index, value in enumerate(values) if value == best), key=lambda each: abs(each - centre)
    )
    first = last = top
    while first > 0 and values[first - 1] >= best - tolerance:
        first -= 1
    while last + 1 < len(values) and values[last + 1] >= best - tolerance:
        last += 1
    return min(((first + last) // 2, (first + last + 1) // 2), key=lambda each: abs(each - centre))


def _standardised(scores: Floats, normal: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Scores ``(N,)`` less the mean of the normal images, in units of their standard deviation."""
    known = scores[normal].astype(np.float64)
    return (scores - known.mean()) / (known.std() if known.std() > 1e-6 else 1.0)
