"""How well detectors do on labelled images: scores, metrics and pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detectors.base import Detection, Detector
from detectors.blocks.tokens import at_size
from detectors.metrics import all_metrics
from detectors.training.loop import InputsOf, score
from latent_common.artifacts import write_atomically
from latent_common.image_source import ImageSource
from latent_common.progress import progress_bar
from latent_env.data import Split
from latent_env.data.placement import StreamedImages
from latent_env.rendering import Picture, heat, side_by_side, stack, to_rgb
from latent_env.training.feature_cache import FeatureCache
from latent_env.training.roc_plot import curves
from latent_env.training.run_folder import Run
from latent_env.worlds.world import World

Floats = npt.NDArray[np.float32]

SCORES = "scores.npz"
"""The file in a run's folder with the labels of test images and their raw scores."""


@dataclass(frozen=True)
class Evaluation:
    """Raw scores and maps of a split, never clamped or rounded."""

    split: Split
    scores: Floats
    """``(N,)``"""
    maps: Floats | None
    """``(N, H, W)``; None if the split has no masks to compare them with."""

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Image metrics, and pixel metrics where the split has masks; none where all images are normal."""
        if not self.split.measurable:
            return {}
        return all_metrics(self.scores, self.split.labels, self.maps, self.split.masks)


def evaluate(
    world: World, split: Split, latents: ImageSource | None = None, label: str | None = None
) -> Evaluation:
    """Score every image of ``split`` with the world's detector.

    :param latents: of these images, or their features, if known: a detector that reads these then needs no
        encoding.
    :param label: of the progress bar; None for no bar.
    """
    if world.reads_tokens and latents is not None:
        return evaluate_latents(world.detector, latents, split, label)
    images = StreamedImages(split.images, world.device)
    return evaluate_source(world.detector, world.detector_inputs, images, split, label)


def evaluate_latents(
    detector: Detector, latents: ImageSource, split: Split, label: str | None = None
) -> Evaluation:
    """Score every image of ``split`` by its latent in ``latents (N, *latent_shape)``."""
    return evaluate_source(detector, lambda batch: (batch,), latents, split, label)


def evaluate_test(world: World, features: FeatureCache) -> Evaluation:
    """Score every image of the test split with the world's detector; latents come from the cache."""
    known = features.latents("test") if world.reads_tokens else None
    return evaluate(world, features.dataset.test, known, "test")


def evaluate_source(
    detector: Detector, inputs_of: InputsOf, source: ImageSource, split: Split, label: str | None = None
) -> Evaluation:
    """Score every image of ``split``; ``source`` holds these images as uint8, or their latents."""
    masked, size = split.masks is not None, split.images.shape[-1]
    with progress_bar(label or "", len(source), hidden=label is None) as bar:
        found = score(detector, inputs_of, source, size, keep_maps=masked, advance=bar.update)
    return Evaluation(split, found.score.numpy(), found.map[:, 0].numpy() if masked else None)


def save_scores(folder: Path, labels: npt.NDArray[np.int64], **scores: Floats) -> None:
    """Write the labels ``(N,)`` and raw scores ``(N,)`` by name to ``scores.npz``, for later comparisons."""
    arrays: dict[str, Any] = {"labels": labels, **scores}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(folder / SCORES, buffer.getvalue())


def metrics_table(name: str, metrics: Mapping[str, float]) -> str:
    """A detector's metrics as a table, beside those of its baselines (``<baseline>_<metric>``) if any."""
    own = [key for key in metrics if key.startswith(("image_", "pixel_"))]
    others = [key.removesuffix(f"_{own[0]}") for key in metrics if key.endswith(f"_{own[0]}")]
    if not others:
        return "\n".join(f"{key:12} {metrics[key]:.4f}" for key in own)
    wide = max(12, *map(len, others))
    lines = [f"{'':12}" + "".join(f" {column:>{wide}}" for column in (name, *others))]
    for key in own:
        values = [metrics[key], *(metrics[f"{other}_{key}"] for other in others)]
        lines.append(f"{key:12}" + "".join(f" {value:{wide}.4f}" for value in values))
    return "\n".join(lines)


Examine = Callable[[Tensor], tuple[Detection, Tensor | None]]
"""Turns images ``(B, C, H, W)`` into scores and maps, and reconstructions where a decoder was trained."""


def log_evaluation(
    run: Run, evaluation: Evaluation, examine: Examine, device: torch.device, step: int
) -> None:
    """Write test metrics, the precision-recall curve and examples to TensorBoard and ``pictures/``."""
    run.log({f"test/{key}": value for key, value in evaluation.metrics.items()}, step)
    if evaluation.split.measurable:
        probability = torch.from_numpy(evaluation.scores).sigmoid()
        labels = torch.from_numpy(evaluation.split.labels)
        run.writer.add_pr_curve("test/precision_recall", labels, probability, step)
    run.picture("test/detections", detection_picture(evaluation, examine, device), step)


def log_curves(run: Run, evaluations: Mapping[str, Evaluation], step: int) -> None:
    """Write ROC and precision-recall curves of several detectors on one split, in one picture.

    Of normal images alone there are no curves.
    """
    split = next(iter(evaluations.values())).split
    if not split.measurable:
        return
    scores = {name: evaluation.scores for name, evaluation in evaluations.items()}
    run.picture("test/curves", curves(split.labels, scores), step)


@torch.inference_mode()
def detection_picture(
    evaluation: Evaluation,
    examine: Examine,
    device: torch.device,
    names: tuple[str, str] = ("normal", "anomaly"),
    anomalies: int = 5,
    normals: int = 2,
) -> Picture:
    """Rows of original, decoded, difference, heat map and true mask, from high to low scores.

    Of one label there are as many rows as of both.

    :param names: what normal images and anomalies are called.
    """
    split = evaluation.split
    by_score = np.argsort(-evaluation.scores, kind="stable")
    counts = {1: anomalies, 0: normals} if split.measurable else dict.fromkeys((1, 0), anomalies + normals)
    rows = []
    for label, count in counts.items():
        chosen = by_score[split.labels[by_score] == label]
        picks = np.linspace(0, len(chosen) - 1, min(count, len(chosen))).astype(int)
        rows += [
            _detection_row(evaluation, examine, device, int(index), names[label]) for index in chosen[picks]
        ]
    return stack(rows)


def _detection_row(
    evaluation: Evaluation, examine: Examine, device: torch.device, index: int, name: str
) -> Picture:
    split = evaluation.split
    image = StreamedImages(split.images, device)[index : index + 1].float() / 255
    detection, decoded = examine(image)
    tiles, captions = [to_rgb(image[0])], [f"original ({name})"]
    if decoded is not None:
        difference = (decoded - image).abs().mean(1)[0]
        tiles += [to_rgb(decoded[0]), heat(difference * 4)]
        captions += ["decoded", "difference"]
    tiles.append(heat(at_size(detection.map, image.shape[-1])[0, 0].sigmoid()))
    captions.append(f"heat map, p={1 / (1 + np.exp(-float(evaluation.scores[index]))):.2f}")
    if split.masks is not None:
        tiles.append(heat(torch.from_numpy(np.array(split.masks[index])).float()))
        captions.append("true mask")
    return side_by_side(tiles, captions)
