"""What thresholds are chosen by: a detector's scores of validation images that it didn't learn from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from detectors.base import TOKENS, Detector
from detectors.blocks.tokens import at_size
from detectors.training.batches import as_floats
from detectors.training.loop import InputsOf
from latent_common.image_source import ImageSource, evenly_spaced_positions, images_at_once
from latent_common.progress import progress_bar
from latent_env.data.placement import StreamedImages
from latent_env.training.feature_cache import FeatureCache
from latent_env.worlds.thresholds import Decision
from stages.detector.labelled_split import LabelledSplit, Positions

MOST_NORMAL = 4096
"""Of more normal validation images, so many evenly spaced ones are scored."""

TOGETHER = 64


class Extremes(NamedTuple):
    """How far a detector goes on some images."""

    scores: NDArray[np.float32]
    """``(N,)``"""
    highest: NDArray[np.float32]
    """``(N,)``: the highest value of each image's map."""


def unseen(labelled: LabelledSplit) -> Positions:
    """Positions of the labelled validation anomalies that no detector learned from."""
    return np.concatenate([labelled.reference_set, labelled.choice])


def decide(
    detector: Detector, inputs_of: InputsOf, features: FeatureCache, anomalies: Positions
) -> Decision | None:
    """What thresholds of ``detector`` are chosen by; None if there are no normal validation images.

    :param inputs_of: what it reads of images, where it reads images.
    :param features: the latents or features that it reads, where it reads these; and the data set.
    :param anomalies: positions of the labelled validation anomalies that it didn't learn from.
    """
    valid = features.dataset.valid
    normal = np.flatnonzero(valid.labels == 0)
    if not len(normal):
        return None
    normal = normal[evenly_spaced_positions(len(normal), MOST_NORMAL).numpy()]
    source: ImageSource = StreamedImages(valid.images, features.device)
    if detector.input in TOKENS:
        source, inputs_of = features.latents("valid"), lambda batch: (batch,)
    both = np.concatenate([normal, np.sort(anomalies)])
    found = extremes(detector, inputs_of, source, both, valid.images.shape[-1])
    count = len(normal)
    return Decision(
        np.sort(found.scores[:count]),
        np.sort(found.highest[:count]),
        np.sort(found.scores[count:]),
        features.dataset.name,
    )


@torch.inference_mode()
def extremes(
    detector: Detector, inputs_of: InputsOf, source: ImageSource, rows: Positions, size: int
) -> Extremes:
    """The scores and the highest values of maps of the images at ``rows (N,)``.

    :param size: of an image, in pixels a side.
    """
    scores, highest = [torch.zeros(0)], [torch.zeros(0)]
    positions = torch.from_numpy(rows).to(source.device)
    with progress_bar("threshold", len(rows)) as bar:
        for part in positions.split(min(images_at_once(size), TOGETHER)):
            detection = detector(*inputs_of(as_floats(source[part])))
            scores.append(detection.score.float().cpu())
            highest.append(at_size(detection.map, size).float().flatten(1).amax(1).cpu())
            bar.update(len(part))
    return Extremes(torch.cat(scores).numpy(), torch.cat(highest).numpy())
