"""How well a world's detector does on labelled images, as figures and pictures."""

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
"""In a run's folder: labels of the test images and the raw scores that detectors gave them."""


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


def evaluate(
    world: World, split: Split, latents: ImageSource | None = None, label: str | None = None
) -> Evaluation:
    """Score every image of ``split``; where the detector reads latents, known ones aren't encoded again.

    :param label: what the progress bar says; without one there is none.
    """
    if world.reads_latents and latents is not None:
        return evaluate_latents(world.detector, latents, split, label)
    images = StreamedImages(split.images, world.device)
    return evaluate_source(world.detector, world.detector_inputs, images, split, label)


def evaluate_latents(
    detector: Detector, latents: ImageSource, split: Split, label: str | None = None
) -> Evaluation:
    """Score the latents ``(N, *latent_shape)`` of every image of ``split``."""
    return evaluate_source(detector, lambda batch: (batch,), latents, split, label)


def evaluate_test(world: World, features: FeatureCache) -> Evaluation:
    """The world's detector on the test split; latents that it reads are encoded once."""
    known = features.latents("test") if world.reads_latents else None
    return evaluate(world, features.dataset.test, known, "test")


def evaluate_source(
    detector: Detector, inputs_of: InputsOf, source: ImageSource, split: Split, label: str | None = None
) -> Evaluation:
    """Score every image of ``split``, of which ``source`` holds images uint8 or latents."""
    masked, size = split.masks is not None, split.images.shape[-1]
    with progress_bar(label or "", len(source), hidden=label is None) as bar:
        found = score(detector, inputs_of, source, size, keep_maps=masked, advance=bar.update)
    return Evaluation(split, found.score.numpy(), found.map[:, 0].numpy() if masked else None)


def save_scores(folder: Path, labels: npt.NDArray[np.int64], **scores: Floats) -> None:
    """Write raw scores ``(N,)`` by name, and the labels ``(N,)``, so that runs can be compared later."""
    arrays: dict[str, Any] = {"labels": labels, **scores}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(folder / SCORES, buffer.getvalue())


def metrics_table(name: str, metrics: Mapping[str, float]) -> str:
    """A detector's metrics as a table; rivals' ones, ``<baseline>_<metric>``, stand beside them."""
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


Show = Callable[[Tensor], tuple[Detection, Tensor | None]]
"""What a detector says of images ``(B, C, H, W)``, and their reconstructions where a decoder was trained."""


def log_evaluation(run: Run, evaluation: Evaluation, show: Show, device: torch.device, step: int) -> None:
    """Test metrics, precision-recall curve and example pictures, to TensorBoard and ``pictures/``."""
    run.log({f"test/{key}": value for key, value in evaluation.metrics.items()}, step)
    probability = torch.from_numpy(evaluation.scores).sigmoid()
    labels = torch.from_numpy(evaluation.split.labels)
    run.writer.add_pr_curve("test/precision_recall", labels, probability, step)
    run.picture("test/detections", detections(evaluation, show, device), step)


def log_curves(run: Run, evaluations: Mapping[str, Evaluation], step: int) -> None:
    """ROC and precision-recall curves of several detectors on the same split, in one picture."""
    labels = next(iter(evaluations.values())).split.labels
    scores = {name: evaluation.scores for name, evaluation in evaluations.items()}
    run.picture("test/curves", curves(labels, scores), step)


@torch.inference_mode()
def detections(
    evaluation: Evaluation, show: Show, device: torch.device, anomalies: int = 5, normals: int = 2
) -> Picture:
    """Rows of original, decoded, difference, heat map and truth, from sure to missed."""
    split = evaluation.split
    by_score = np.argsort(-evaluation.scores, kind="stable")
    rows = []
    for label, count in ((1, anomalies), (0, normals)):
        chosen = by_score[split.labels[by_score] == label]
        spread = np.linspace(0, len(chosen) - 1, min(count, len(chosen))).astype(int)
        rows += [_detection_row(evaluation, show, device, int(index)) for index in chosen[spread]]
    return stack(rows)


def _detection_row(evaluation: Evaluation, show: Show, device: torch.device, index: int) -> Picture:
    split = evaluation.split
    image = StreamedImages(split.images, device)[index : index + 1].float() / 255
    detection, decoded = show(image)
    label = "anomaly" if split.labels[index] else "normal"
    tiles, captions = [to_rgb(image[0])], [f"original ({label})"]
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
