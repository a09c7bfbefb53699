"""Connected parts of a mask."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Part(NamedTuple):
    """A connected part of a mask."""

    area: int
    """How many pixels it has."""
    rows: slice
    columns: slice


def largest_part(mask: NDArray[np.bool_]) -> Part | None:
    """The part of ``mask (H, W)`` with the most pixels, which touch each other's sides; None if it is empty.

    Of several that are equally large, the topmost.
    """
    width = mask.shape[1] + 1  # an empty column keeps the runs of neighbouring rows apart
    padded = np.zeros((mask.shape[0], width), np.int8)
    padded[:, :-1] = mask
    changes = np.diff(padded.ravel(), prepend=0)
    starts, ends = np.flatnonzero(changes == 1), np.flatnonzero(changes == -1)  # of runs of pixels
    if not len(starts):
        return None
    labels = _labels(starts, ends, width)
    areas = np.bincount(labels, ends - starts)
    own = labels == areas.argmax()
    starts, ends = starts[own], ends[own]
    rows, left, right = starts // width, starts % width, ends - starts // width * width
    return Part(
        int(areas.max()),
        slice(int(rows.min()), int(rows.max()) + 1),
        slice(int(left.min()), int(right.max())),
    )


def _labels(starts: NDArray[np.intp], ends: NDArray[np.intp], width: int) -> NDArray[np.intp]:
    """For every run of pixels, the number of the first run that it is connected with.

    Runs are given by their places in the rows of an image of ``width``, one after the other.
    """
    # The runs of the next row that a run touches: those that end behind its start and start before its end.
    first, last = np.searchsorted(ends, starts + width, "right"), np.searchsorted(starts, ends + width)
    counts = np.maximum(last - first, 0)
    upper = np.repeat(np.arange(len(starts)), counts)
    lower = np.arange(counts.sum()) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    labels = np.arange(len(starts))
    while True:
        one, other = labels[upper], labels[lower]
        if (one == other).all():
            return labels
        np.minimum.at(labels, np.maximum(one, other), np.minimum(one, other))
        while (labels != labels[labels]).any():
            labels = labels[labels]
