"""What samples changed in the heat maps of test anomalies, for better and for worse."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectors.metrics import pixel_AP
from latent_env.rendering import Picture, heat, side_by_side, stack, to_rgb
from latent_env.training.evaluation import Evaluation, Floats
from latent_env.training.run_folder import Run

MOST_COMPARED = 200
"""Of more test anomalies, so many evenly spaced ones are compared."""

BETTER, WORSE = 4, 2
"""Rows of the picture, at most."""

DARK, BRIGHT = 0.9, 0.999
"""Of all test pixels of a detector such shares lie below the darkest and the brightest colour."""


def show_changes(run: Run, before: Evaluation, after: Evaluation, random: Evaluation | None = None) -> None:
    """Draw the test anomalies whose maps changed most, where masks are known and something changed."""
    if before.maps is not None and after.maps is not None and before.split.masks is not None:
        rows = changed_rows(before, after, random)
        if rows:
            run.picture("test/changes", stack(rows))


def changed_rows(before: Evaluation, after: Evaluation, random: Evaluation | None = None) -> list[Picture]:
    """Rows of image, true mask, and heat maps without and with samples.

    First come the anomalies whose pixel AP rose most, then those where it fell most. Every detector has its
    own scale: equal colours stand for equal shares of its test pixels.
    """
    split, gains = before.split, _gains(before, after)
    assert split.masks is not None
    shown = {"without samples": before, "random samples": random, "with samples": after}
    colours = {name: _Colours(each.maps) for name, each in shown.items() if each and each.maps is not None}
    order = sorted(gains, key=lambda index: -gains[index][1] + gains[index][0])
    better = [index for index in order if gains[index][1] > gains[index][0]][:BETTER]
    worse = [index for index in order if gains[index][1] < gains[index][0]][-WORSE:]
    rows = []
    for index in [*better, *worse]:
        pixel_APs = dict(zip(("without samples", "with samples"), gains[index], strict=True))
        captions = [f"{name}, AP {pixel_APs[name]:.2f}" if name in pixel_APs else name for name in colours]
        image, mask = torch.from_numpy(np.array(split.images[index])), np.array(split.masks[index])
        tiles = [to_rgb(image.float() / 255), heat(torch.from_numpy(mask).float())]
        tiles += [heat(each.of(index)) for each in colours.values()]
        rows.append(side_by_side(tiles, ["test image", "true mask", *captions]))
    return rows


class _Colours:
    """The heat maps ``(N, H, W)`` of a detector on one scale."""

    def __init__(self, maps: Floats) -> None:
        self.maps = maps
        some = maps[np.linspace(0, len(maps) - 1, min(len(maps), MOST_COMPARED)).astype(int)]
        self.dark, self.bright = np.quantile(some, (DARK, BRIGHT))

    def of(self, index: int) -> Tensor:
        """How bright each pixel of a map is, ``(H, W)`` in [0, 1]."""
        bright = (self.maps[index] - self.dark) / max(self.bright - self.dark, 1e-12)
        return torch.from_numpy(bright.clip(0, 1).astype(np.float32))


def _gains(before: Evaluation, after: Evaluation) -> dict[int, tuple[float, float]]:
    """The pixel AP of single anomalies without and with samples, by their positions."""
    split = before.split
    assert before.maps is not None
    assert after.maps is not None
    assert split.masks is not None
    marked = np.array([index for index in np.flatnonzero(split.labels) if split.masks[index].any()])
    chosen = marked[np.linspace(0, len(marked) - 1, min(len(marked), MOST_COMPARED)).astype(int)]
    return {
        int(index): (_ap(before.maps, split.masks, index), _ap(after.maps, split.masks, index))
        for index in chosen
    }


def _ap(maps: Floats, masks: NDArray[np.bool_], index: int) -> float:
    return pixel_AP(maps[index : index + 1], np.array(masks[index : index + 1]))
