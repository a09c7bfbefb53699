"""What each labelled anomaly of a validation split is used for: detectors, the reward, or choices alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from conf.schema.runs import LabelledConfig
from latent_common.errors import UserError
from latent_env.data import Split

Positions = NDArray[np.int64]


class LabelledSplit(NamedTuple):
    """Positions in the validation split, disjoint, each evenly spaced over the kinds of anomalies."""

    train: Positions
    """Anomalies that detectors train on."""
    reference_set: Positions
    """Anomalies that a reward is measured on, and that mixtures are chosen by too."""
    choice: Positions
    """Anomalies that training is watched with, and choices of all kinds are made by."""

    def without(self, rows: Positions) -> LabelledSplit:
        """The split where detectors don't train on the anomalies at ``rows``, and nothing else does."""
        return self._replace(train=np.setdiff1d(self.train, rows))


def split_labelled(valid: Split, labelled: LabelledConfig) -> LabelledSplit:
    """Divide the labelled anomalies of a validation split as ``labelled`` asks for.

    A share of a few is all of them: a choice that hangs on one or two is left to luck, and costs what could
    be learned from them. A number, or none, is taken as it is.
    """
    if are_few(valid, labelled):
        none = np.zeros(0, np.int64)
        return LabelledSplit(np.flatnonzero(valid.labels), none, none)
    return divide(valid.labels, labelled.train, labelled.reference_set)


def are_few(valid: Split, labelled: LabelledConfig) -> bool:
    """Whether detectors learn from a share of the labelled anomalies of a validation split that has too few.

    Without normal images there would be nothing else to choose by.
    """
    anomalies = int(valid.labels.sum())
    return 0 < labelled.train < 1 and 0 < anomalies < min(labelled.few, len(valid))


def divide(labels: NDArray[np.int64], train: float, reference_set: float) -> LabelledSplit:
    """Divide the anomalies among ``labels (N,)``; normal images are for the reference set and for choices.

    :param train: the share of the anomalies that detectors train on; from 1 on, how many.
    :param reference_set: the share for the reward, or how many; what is left, at least one, is for choices.
    """
    anomalies = np.flatnonzero(labels)
    for_train, for_reference_set = (
        _count(name, number, len(anomalies))
        for name, number in (("train", train), ("reference_set", reference_set))
    )
    free = max(len(anomalies) - 1, 0)
    for_train = min(for_train, free)
    for_reference_set = min(for_reference_set, free - for_train)
    # Names are in order of kind, so what is evenly spaced holds every kind.
    first = _evenly_spaced(anomalies, for_train)
    rest = np.setdiff1d(anomalies, first)
    second = _evenly_spaced(rest, for_reference_set)
    return LabelledSplit(first, second, np.setdiff1d(rest, second))


def _count(name: str, number: float, anomalies: int) -> int:
    if not 0 <= number < math.inf or (number > 1 and number != int(number)):
        raise UserError(
            f"labelled.{name}={number:g} must be a share from 0 to 1, or a whole number of anomalies"
        )
    return round(number * anomalies) if number < 1 else int(number)


def _evenly_spaced(positions: Positions, count: int) -> Positions:
    places = (np.arange(count) + 0.5) * len(positions) / max(count, 1)
    return positions[places.astype(np.int64)]
