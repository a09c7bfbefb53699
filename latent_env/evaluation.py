"""How well a world's detector does on labelled images, as figures and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from detectors.metrics import all_metrics
from detectors.synthesis import ImageSynthesis
from detectors.training import score_images
from latent_env.data import Split
from latent_env.data.residence import StreamedImages
from latent_env.plots import curves
from latent_env.rendering import Picture, heat, side_by_side, stack, to_rgb
from latent_env.runs import Run
from latent_env.worlds import World

Floats = npt.NDArray[np.float32]

MOST_SYNTHETIC = 512
"""Of more normal validation images, so many evenly spaced ones get a synthetic anomaly beside them."""


@dataclass(frozen=True)
class Evaluation:
    """Raw scores and maps of a split, never clamped or rounded."""

    split: Split
    scores: Floats
    """``(N,)``"""
    maps: Floats | None
    """``(N, H, W)``, kept where the split has masks to compare them with."""

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Image metrics, and pixel metrics where the split has masks."""
        return all_metrics(self.scores, self.split.labels, self.maps, self.split.masks)


def evaluate(world: World, split: Split) -> Evaluation:
    """Score every image of ``split``."""
    images, masked = StreamedImages(split.images, world.device), split.masks is not None
    detection = score_images(world.detector, world.autoencoder, images, keep_maps=masked)
    return Evaluation(split, detection.score.numpy(), detection.map[:, 0].numpy() if masked else None)


def validation_split(valid: Split, synthesis: ImageSynthesis, seed: int) -> Split:
    """The split to watch while training.

    Where ``valid`` holds no anomalies, every image of it is joined by a synthetic anomaly made of it.
    """
    if valid.labels.any():
        return valid
    valid = valid.subset(np.linspace(0, len(valid) - 1, min(len(valid), MOST_SYNTHETIC)).round().astype(int))
    normal = torch.from_numpy(np.array(valid.images)).float() / 255
    made = synthesis(normal, torch.Generator().manual_seed(seed))
    images = (made.images * 255).round().to(torch.uint8).numpy()
    none = np.zeros((len(valid), *valid.images.shape[2:]), dtype=np.bool_)
    return Split(
        np.concatenate([valid.images, images]),
        np.concatenate([valid.labels, np.ones_like(valid.labels)]),
        np.concatenate([none, made.masks[:, 0].numpy() > 0.5]),
        (*valid.names, *(f"{name} (synthetic)" for name in valid.names)),
    )


def log_evaluation(run: Run, evaluation: Evaluation, world: World, step: int) -> None:
    """Test metrics, precision-recall curve and example pictures, to TensorBoard and ``pictures/``."""
    run.log({f"test/{key}": value for key, value in evaluation.metrics.items()}, step)
    probability = torch.from_numpy(evaluation.scores).sigmoid()
    labels = torch.from_numpy(evaluation.split.labels)
    run.writer.add_pr_curve("test/precision_recall", labels, probability, step)
    run.picture("test/detections", detections(world, evaluation), step)


def log_curves(run: Run, evaluations: Mapping[str, Evaluation], step: int) -> None:
    """ROC and precision-recall curves of several detectors on the same split, in one picture."""
    labels = next(iter(evaluations.values())).split.labels
    scores = {name: evaluation.scores for name, evaluation in evaluations.items()}
    run.picture("test/curves", curves(labels, scores), step)


@torch.inference_mode()
def detections(world: World, evaluation: Evaluation, anomalies: int = 5, normals: int = 2) -> Picture:
    """Rows of original, decoded, difference, heat map and truth, from sure to missed."""
    split = evaluation.split
    by_score = np.argsort(-evaluation.scores, kind="stable")
    rows = []
    for label, count in ((1, anomalies), (0, normals)):
        chosen = by_score[split.labels[by_score] == label]
        spread = np.linspace(0, len(chosen) - 1, min(count, len(chosen))).astype(int)
        rows += [_detection_row(world, evaluation, int(index)) for index in chosen[spread]]
    return stack(rows)


def _detection_row(world: World, evaluation: Evaluation, index: int) -> Picture:
    split = evaluation.split
    image = StreamedImages(split.images, world.device)[index : index + 1].float() / 255
    decoded = world.autoencoder(image)
    difference = (decoded - image).abs().mean(1)[0]
    probability = world.detector(image, decoded).map[0, 0].sigmoid()
    score = 1 / (1 + np.exp(-float(evaluation.scores[index])))
    label = "anomaly" if split.labels[index] else "normal"
    tiles = [to_rgb(image[0]), to_rgb(decoded[0]), heat(difference * 4), heat(probability)]
    captions = [f"original ({label})", "decoded", "difference", f"heat map, p={score:.2f}"]
    if split.masks is not None:
        tiles.append(heat(torch.from_numpy(np.array(split.masks[index])).float()))
        captions.append("true mask")
    return side_by_side(tiles, captions)
