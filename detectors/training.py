"""How a detector learns from normal images and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from detectors.base import Detection, Detector
from detectors.images import ImageSource
from detectors.synthesis import ImageSynthesis
from detectors.tokens import at_size
from detectors.training_state import Progress, Stopwatch, TrainingState

Look = Callable[[Tensor], tuple[Tensor, ...]]
"""From images or latents to what the detector reads: images and their reconstructions, or latents."""

LookAtBatch = Callable[["Batch"], tuple[Any, ...]]
"""The same for a training batch; a detector may want to know which training images it shows."""

Augment = Callable[[Tensor, torch.Generator, Tensor], tuple[Tensor, Tensor]]
"""Changes images ``(B, C, H, W)`` in [0, 1] at random, and their masks ``(B, 1, H, W)`` with them."""


class Samples(NamedTuple):
    """Augmented images, or latents, made by an agent; all lead with the sample."""

    images: Tensor
    """``(N, C, H, W)`` uint8, or latents ``(N, *latent_shape)``"""
    masks: Tensor
    """``(N, 1, H, W)`` bool, of pixels or of tokens"""
    labels: Tensor
    """``(N,)`` int64: 0 normal, 1 anomaly"""
    sources: Tensor
    """``(N,)`` int64: which training image each was made of."""

    def of(self, label: int) -> Samples:
        """The samples with one label."""
        chosen = self.labels == label
        return Samples(*(part[chosen] for part in self))

    def draw(self, count: int, generator: torch.Generator) -> Samples:
        """``count`` samples, with replacement."""
        index = torch.randint(len(self.labels), (count,), generator=generator)
        index = index.to(self.labels.device)
        return Samples(*(part[index] for part in self))


def by_label(samples: Samples | None) -> list[Samples]:
    """Normal samples and anomalies, each possibly empty; nothing if there are no samples at all."""
    return [] if samples is None else [samples.of(label) for label in (0, 1)]


def borrowed(
    kinds: list[Samples], share: float, half: int, generator: torch.Generator
) -> Iterator[tuple[int, Samples]]:
    """What an agent's samples replace in a batch of ``half`` normals and ``half`` anomalies after them.

    ``share`` of the anomalies, and half of that share of the normals: each with the first row of its half.
    """
    for label, first, count in ((1, half, round(share * half)), (0, 0, round(share * half / 2))):
        if kinds and count and len(kinds[label].labels):
            yield first, kinds[label].draw(count, generator)


class Batch(NamedTuple):
    """A training batch on the device."""

    images: Tensor
    """``(B, C, H, W)`` in [0, 1], or latents ``(B, *latent_shape)``"""
    masks: Tensor
    """``(B, 1, H, W)`` 0 or 1, of pixels or of tokens"""
    labels: Tensor
    """``(B,)`` 0 or 1"""
    sources: Tensor
    """``(B,)`` int64: which training image each shows, changed or not."""


@dataclass(frozen=True)
class Diet:
    """What a detector's batches are made of: half normal, half anomalous.

    Of the anomalies, ``share`` are an agent's and the rest image-space synthesis. Half of that share
    of the normals are samples that the agent changed too little to be anomalies. All of them are
    augmented alike.
    """

    images: ImageSource
    """``(N, C, H, W)`` uint8, normal."""
    synthesis: ImageSynthesis
    samples: Samples | None = None
    share: float = 0.0
    augment: Augment | None = None

    @cached_property
    def samples_by_label(self) -> list[Samples]:
        """The agent's normal samples and its anomalies."""
        return by_label(self.samples)

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """A batch of ``size`` images."""
        half = size // 2
        index = torch.randint(len(self.images), (2 * half,), generator=generator)
        clean = self.images[index.to(self.images.device)].float() / 255
        made = self.synthesis(clean[half:], generator)
        images = torch.cat([clean[:half], made.images])
        masks = torch.cat([torch.zeros_like(made.masks), made.masks])
        for first, drawn in borrowed(self.samples_by_label, self.share, half, generator):
            rows = slice(first, first + len(drawn.labels))
            images[rows], masks[rows] = drawn.images.float() / 255, drawn.masks.float()
            index[rows] = drawn.sources.cpu()
        if self.augment is not None:
            images, masks = self.augment(images, generator, masks)
        labels = torch.zeros(2 * half, device=images.device)
        labels[half:] = 1
        return Batch(images, masks, labels, index.to(images.device))


def as_numbers(batch: Tensor) -> Tensor:
    """Floats: images of uint8 in [0, 1], latents as they are."""
    return batch.float() / 255 if batch.dtype == torch.uint8 else batch.float()


class BatchSource(Protocol):
    """Where training batches come from."""

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """A batch of ``size``."""


def detector_losses(detection: Detection, batch: Batch) -> dict[str, Tensor]:
    """The losses of the map (focal and Dice) and of the image score (cross entropy)."""
    logits, masks = detection.map, batch.masks
    entropy = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    probability = logits.sigmoid()
    missed = (probability - masks).abs()
    overlap = (probability * masks).flatten(1).sum(1)
    either = (probability + masks).flatten(1).sum(1)
    dice = 1 - (2 * overlap + 1) / (either + 1)
    return {
        # Anomalous pixels are few and most are easy: the focal factor turns to the hard ones.
        "focal": 20 * (missed.square() * entropy).mean(),
        "dice": dice[batch.labels > 0].mean(),
        "score": functional.binary_cross_entropy_with_logits(detection.score, batch.labels),
    }


def train_detector(
    state: TrainingState,
    detector: Detector,
    diet: BatchSource,
    look: LookAtBatch,
    batch_size: int,
    losses_of: Callable[[Detection, Batch], dict[str, Tensor]] = detector_losses,
) -> Iterator[Progress]:
    """Train ``state.model``, which is ``detector``, from where ``state`` stands; yields every step."""
    state.model.train()
    while state.step < state.total:
        watch = Stopwatch()
        batch = diet.batch(batch_size, state.generator)
        with torch.no_grad():
            seen = look(batch)
        watch.lap("env")
        losses = losses_of(detector(*seen), batch)
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
    look: Look,
    source: ImageSource,
    size: int,
    batch_size: int = 64,
    keep_maps: bool = True,
    moved: Callable[[int], object] = lambda _: None,
) -> Detection:
    """Scores ``(N,)`` and maps ``(N, 1, size, size)`` on the CPU.

    ``source`` holds images ``(N, C, H, W)`` uint8, or latents ``(N, *latent_shape)``. Maps are as large as
    floats of all images: without ``keep_maps`` there are none, ``(0, 1, size, size)``. ``moved`` hears how
    many were scored.
    """
    scores: list[Tensor] = []
    maps = [torch.zeros(0, 1, size, size)]
    for part in source.split(batch_size):
        detection = detector(*look(as_numbers(part)))
        scores.append(detection.score.cpu())
        if keep_maps:
            maps.append(at_size(detection.map, size).cpu())
        moved(len(part))
    return Detection(torch.cat(scores), torch.cat(maps))
