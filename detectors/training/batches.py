"""TODO: detectors/training/batches.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from detectors.synthetic.image_synthesis import ImageSynthesis
from latent_common.image_source import ImageSource

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
    """``(N,)`` int64: which training image each was made of, -1 if of none."""
    marked: Tensor
    """``(N,)`` bool: whether the mask says where the anomaly is; otherwise it is not known."""

    def of(self, label: int) -> Samples:
        """The samples with one label."""
        chosen = self.labels == label
        return Samples(*(part[chosen] for part in self))

    def at(self, index: Tensor) -> Samples:
        """The samples at positions ``(B,)``."""
        index = index.to(self.labels.device)
        return Samples(*(part[index] for part in self))


MOST_NORMALS = 0.5


class SampleSource(NamedTuple):
    """Samples from one source, and how many of a batch's anomalies come from there."""

    samples: Samples
    share: float


@dataclass(frozen=True)
class Mixture:
    """Samples from several sources; of each pair the first is about normal ones, the second anomalies."""

    kinds: tuple[Samples, Samples]
    weights: tuple[Tensor, Tensor]
    """``(N,)`` each, on the CPU: how often a sample is drawn."""
    shares: tuple[float, float]
    """Of a batch's normals, and of its anomalies."""

    def draw(self, half: int, generator: torch.Generator) -> Iterator[tuple[int, int, Tensor, Samples]]:
        """What samples replace in a batch of ``half`` normals and ``half`` anomalies after them.

        For each kind the first row of its half, the label, which samples of that kind these are, ``(B,)``,
        and they themselves; they are drawn with replacement.
        """
        for label, first in ((1, half), (0, 0)):
            count = round(self.shares[label] * half)
            if count and len(self.weights[label]):
                drawn = torch.multinomial(self.weights[label], count, replacement=True, generator=generator)
                yield first, label, drawn, self.kinds[label].at(drawn)


def blend(sample_sources: Sequence[SampleSource]) -> Mixture | None:
    """Several portions as one; None if there is nothing in them.

    A portion takes its share of the anomalies, and as much of the normals as it has normals an anomaly, up to
    half as much: samples that were changed too little to be anomalies. If a few of these were drawn more
    often than the others, they would be learned by heart.
    """
    sample_sources = [sample_source for sample_source in sample_sources if sample_source.share > 0]
    if not sample_sources:
        return None
    kinds, weights, shares = [], [], []
    for label in (0, 1):
        chosen = [
            SampleSource(
                sample_source.samples.of(label),
                (1.0 if label else normals(sample_source.samples)) * sample_source.share,
            )
            for sample_source in sample_sources
        ]
        chosen = [sample_source for sample_source in chosen if len(sample_source.samples.labels)] or chosen[
            :1
        ]
        kinds.append(Samples(*(torch.cat(parts) for parts in zip(*(p.samples for p in chosen), strict=True))))
        counts = [len(sample_source.samples.labels) for sample_source in chosen]
        weights.append(
            torch.cat([torch.full((n,), p.share / n) for p, n in zip(chosen, counts, strict=True) if n])
            if any(counts)
            else torch.zeros(0)
        )
        shares.append(min(sum(sample_source.share for sample_source in chosen), 1.0) if any(counts) else 0.0)
    return Mixture((kinds[0], kinds[1]), (weights[0], weights[1]), (shares[0], shares[1]))


def normals(samples: Samples) -> float:
    """How many normal ones there are an anomaly, up to half a one."""
    anomalies = int(samples.labels.sum())
    return min((len(samples.labels) - anomalies) / max(anomalies, 1), MOST_NORMALS)


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
    marked: Tensor
    """``(B,)`` bool: whether the mask says where the anomaly is; otherwise it is not known."""
    known: Tensor | None = None
    """``(B,)`` int64: which of the latents made beforehand each is."""
    clean: Tensor | None = None
    """``(B, C, H, W)``: what each image would show if nothing were wrong with it, where that is known."""


Decode = Callable[[Tensor], Tensor]
"""From images ``(B, C, H, W)`` in [0, 1] to what a decoder makes of them."""


DECODED = 0.25
"""Of the training images, so many are shown as a decoder makes them."""


@dataclass(frozen=True)
class BatchSampler:
    """What a detector's batches are made of: half normal, half anomalous.

    Of both, ``samples`` take the place of some; other anomalies are image-space synthesis. All of them are
    augmented alike.
    """

    images: ImageSource
    """``(N, C, H, W)`` uint8, normal."""
    synthesis: ImageSynthesis
    samples: Mixture | None = None
    augment: Augment | None = None
    decode: Decode | None = None
    """Applied to some images before anything happens to them, normals and those that become anomalies alike:
    so that what has been through a decoder is no sign of either."""
    keep_clean: bool = False
    """Whether batches say what images would show if nothing were wrong with them."""

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """A batch of ``size`` images."""
        half = size // 2
        index = torch.randint(len(self.images), (2 * half,), generator=generator)
        clean = self.images[index.to(self.images.device)].float() / 255
        if self.decode is not None:
            through = (torch.rand(2 * half, generator=generator) < DECODED).nonzero().flatten()
            through = through.to(clean.device)
            clean[through] = self.decode(clean[through])
        made = self.synthesis(clean[half:], generator)
        images = torch.cat([clean[:half], made.images])
        masks = torch.cat([torch.zeros_like(made.masks), made.masks])
        marked = torch.ones(2 * half, dtype=torch.bool, device=images.device)
        for first, _, chosen, drawn in self.samples.draw(half, generator) if self.samples else ():
            rows = slice(first, first + len(chosen))
            images[rows], masks[rows] = drawn.images.float() / 255, drawn.masks.float()
            marked[rows], index[rows] = drawn.marked, drawn.sources.cpu()
            if self.keep_clean:
                clean[rows] = self._undone(drawn)
        if self.augment is not None:
            # An image and what it would show must be moved alike: as one image of more channels they are.
            shown = torch.cat([images, clean], dim=1) if self.keep_clean else images
            shown, masks = self.augment(shown, generator, masks)
            images, clean = shown.chunk(2, dim=1) if self.keep_clean else (shown, clean)
        labels = torch.zeros(2 * half, device=images.device)
        labels[half:] = 1
        kept = clean if self.keep_clean else None
        return Batch(images, masks, labels, index.to(images.device), marked, clean=kept)

    def _undone(self, samples: Samples) -> Tensor:
        """The images ``(B, C, H, W)`` in [0, 1] that anomalies were made of; others, and normal ones, as they
        are.
        """
        images = samples.images.float() / 255
        spoilt = (samples.labels == 1) & (samples.sources >= 0)
        if spoilt.any():
            sources = samples.sources[spoilt].to(self.images.device)
            images[spoilt] = self.images[sources].float() / 255
        return images


def as_numbers(batch: Tensor) -> Tensor:
    """Floats: images of uint8 in [0, 1], latents as they are."""
    return batch.float() / 255 if batch.dtype == torch.uint8 else batch.float()


class BatchSource(Protocol):
    """Where training batches come from."""

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """A batch of ``size``."""
