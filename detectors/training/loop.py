"""Training of a detector on batches, and its scores and maps for all images of a split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from detectors.base import Detection, Detector
from detectors.blocks.tokens import at_size
from detectors.training.batches import Batch, BatchSource, as_floats
from latent_common.image_source import ImageSource
from latent_common.training_state import Progress, Stopwatch, TrainingState

InputsOf = Callable[[Tensor], tuple[Tensor, ...]]
"""A batch of images or latents to what a detector reads: images and reconstructions, latents, or both."""

InputsOfBatch = Callable[[Batch], tuple[Any, ...]]
"""A training batch to what a detector is called with, such as the training images that it was made of."""


def detector_losses(detection: Detection, batch: Batch) -> dict[str, Tensor]:
    """The losses of the map, focal and Dice, and of the image score, cross entropy.

    Images whose mask is not known are left out of those of the map.
    """
    logits, masks = detection.map[batch.marked], batch.masks[batch.marked]
    entropy = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    probability = logits.sigmoid()
    missed = (probability - masks).abs()
    overlap = (probability * masks).flatten(1).sum(1)
    either = (probability + masks).flatten(1).sum(1)
    dice = 1 - (2 * overlap + 1) / (either + 1)
    return {
        # Most pixels are easy: the focal factor gives weight to the hard ones.
        "focal": 20 * (missed.square() * entropy).mean(),
        "dice": dice[batch.labels[batch.marked] > 0].sum() / batch.labels[batch.marked].sum().clamp_min(1),
        "score": functional.binary_cross_entropy_with_logits(detection.score, batch.labels),
    }


def train_detector(
    state: TrainingState,
    detector: Detector,
    sampler: BatchSource,
    inputs_of: InputsOfBatch,
    batch_size: int,
    losses_of: Callable[[Detection, Batch], dict[str, Tensor]] = detector_losses,
) -> Iterator[Progress]:
    """Train ``state.model``, which is ``detector``, from where ``state`` stands; yields every step."""
    state.model.train()
    while state.step < state.total:
        watch = Stopwatch()
        batch = sampler.batch(batch_size, state.generator)
        with torch.no_grad():
            inputs = inputs_of(batch)
        watch.lap("env")
        with state.autocast():
            predicted = detector(*inputs)
        losses = losses_of(Detection(*(part.float() for part in predicted)), batch)
        total = torch.stack(list(losses.values())).sum()
        watch.lap("policy")
        rate = state.minimise(total)
        watch.lap("update")
        reported = {name: loss.detach() for name, loss in {**losses, "total": total}.items()}
        yield Progress(state.step, state.total, reported, rate, watch.seconds)
    state.model.eval()


@torch.inference_mode()
def score(
    detector: Detector,
    inputs_of: InputsOf,
    source: ImageSource,
    size: int,
    batch_size: int = 64,
    keep_maps: bool = True,
    advance: Callable[[int], object] = lambda _: None,
) -> Detection:
    """Scores ``(N,)`` and maps ``(N, 1, size, size)`` on the CPU.

    :param source: images ``(N, C, H, W)`` uint8, or latents ``(N, *latent_shape)``.
    :param size: of the maps, in pixels a side.
    :param keep_maps: if not, the map is ``(0, 1, size, size)``: all maps take four times as much memory as
        the images.
    :param advance: called with the number of images in every batch.
    """
    scores: list[Tensor] = []
    maps = [torch.zeros(0, 1, size, size)]
    for part in source.split(batch_size):
        detection = detector(*inputs_of(as_floats(part)))
        scores.append(detection.score.cpu())
        if keep_maps:
            maps.append(at_size(detection.map, size).cpu())
        advance(len(part))
    return Detection(torch.cat(scores), torch.cat(maps))
