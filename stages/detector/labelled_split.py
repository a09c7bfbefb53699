"""What each labelled anomaly of a validation split is used for: detectors, the reward, or choices alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from latent_common.errors import UserError

Positions = NDArray[np.int64]


class LabelledSplit(NamedTuple):
    """Positions in the validation split, disjoint, each evenly spread over the kinds of anomalies."""

    known: Positions
    """Anomalies that detectors train on."""
    reference_set: Positions
    """Anomalies that a reward is measured on, and that mixtures are chosen by too."""
    choice: Positions
    """Anomalies that training is watched with, and choices of all kinds are made by."""


def divide(labels: NDArray[np.int64], known: float, reference_set: float) -> LabelledSplit:
    """Divide the anomalies among ``labels (N,)``; normal images are shared by trial and choice.

    :param known: the share of the anomalies that detectors train on; from 1 on, how many.
    :param trial: the same for the reward; what is left over is for choices, at least one.
    """
    anomalies = np.flatnonzero(labels)
    wanted = [
        _count(name, number, len(anomalies))
        for name, number in (("train", known), ("reference_set", reference_set))
    ]
    free = max(len(anomalies) - 1, 0)
    for_known = min(wanted[0], free)
    for_trial = min(wanted[1], free - for_known)
    # Names are in order of kind, so what is evenly spaced holds every kind.
    first = _spread(anomalies, for_known)
    rest = np.setdiff1d(anomalies, first)
    second = _spread(rest, for_trial)
    return LabelledSplit(first, second, np.setdiff1d(rest, second))


def _count(name: str, number: float, anomalies: int) -> int:
    if not 0 <= number < math.inf or (number > 1 and number != int(number)):
        raise UserError(
            f"labelled.{name}={number:g} must be a share from 0 to 1, or a whole number of anomalies"
        )
    return round(number * anomalies) if number < 1 else int(number)


def _spread(positions: Positions, count: int) -> Positions:
    places = (np.arange(count) + 0.5) * len(positions) / max(count, 1)
    return positions[places.astype(np.int64)]
