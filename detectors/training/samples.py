"""Samples of an agent, and their mixture with others in the batches that a detector learns from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

MAX_NORMAL_RATIO = 0.5
"""At most so many normal samples are used for each anomaly: the others changed too little to matter."""


class Samples(NamedTuple):
    """Augmented images or latents that an agent made, or labelled ones; all fields lead with the sample."""

    images: Tensor
    """``(N, C, H, W)`` uint8, or latents ``(N, *latent_shape)``"""
    masks: Tensor
    """``(N, 1, H, W)`` bool, of pixels or of tokens"""
    labels: Tensor
    """``(N,)`` int64: 0 normal, 1 anomaly"""
    sources: Tensor
    """``(N,)`` int64: which training image each was made of, -1 if of none."""
    marked: Tensor
    """``(N,)`` bool: whether the mask shows where the anomaly is; otherwise that is not known."""

    def of(self, label: int) -> Samples:
        """The samples with one label."""
        chosen = self.labels == label
        return Samples(*(part[chosen] for part in self))

    def at(self, index: Tensor) -> Samples:
        """The samples at positions ``(B,)``."""
        index = index.to(self.labels.device)
        return Samples(*(part[index] for part in self))


class SampleSource(NamedTuple):
    """Samples from one source, and the share of a batch's anomalies that they take."""

    samples: Samples
    share: float


@dataclass(frozen=True)
class Mixture:
    """Samples from several sources. Each pair is of normal samples first, then of anomalies."""

    by_label: tuple[Samples, Samples]
    weights: tuple[Tensor, Tensor]
    """``(N,)`` each, on the CPU: how often a sample is drawn."""
    shares: tuple[float, float]
    """Of the normal half of a batch, and of its anomalous half."""

    def draw(self, half: int, generator: torch.Generator) -> Iterator[tuple[int, int, Tensor, Samples]]:
        """The samples that replace others in a batch of ``half`` normal ones, followed by ``half`` anomalies.

        Yields for each label the first row of its half, the label, the positions ``(B,)`` of the drawn
        samples among those of the label, and these samples. They are drawn with replacement.
        """
        for label, first in ((1, half), (0, 0)):
            count = round(self.shares[label] * half)
            if count and len(self.weights[label]):
                drawn = torch.multinomial(self.weights[label], count, replacement=True, generator=generator)
                yield first, label, drawn, self.by_label[label].at(drawn)


def make_mixture(sources: Sequence[SampleSource]) -> Mixture | None:
    """One mixture of all sources; ``None`` if no source has a share.

    A source takes its share of the anomalies. Of the normal images it takes as much as it has normal samples
    for each anomaly, see :func:`normal_ratio`: if few normal samples were drawn more often than the
    anomalies, they would be learned by heart.
    """
    sources = [source for source in sources if source.share > 0]
    if not sources:
        return None
    normal, anomalous = (_of_label(sources, label) for label in (0, 1))
    return Mixture((normal[0], anomalous[0]), (normal[1], anomalous[1]), (normal[2], anomalous[2]))


def normal_ratio(samples: Samples) -> float:
    """How many normal samples there are for each anomaly, at most :data:`MAX_NORMAL_RATIO`."""
    anomalies = int(samples.labels.sum())
    return min((len(samples.labels) - anomalies) / max(anomalies, 1), MAX_NORMAL_RATIO)


def _of_label(sources: Sequence[SampleSource], label: int) -> tuple[Samples, Tensor, float]:
    """All samples of one label, how often each is drawn, ``(N,)``, and their share of the batch's half."""
    parts = [
        SampleSource(
            source.samples.of(label), source.share * (1.0 if label else normal_ratio(source.samples))
        )
        for source in sources
    ]
    parts = [part for part in parts if len(part.samples.labels)]
    if not parts:
        return sources[0].samples.of(label), torch.zeros(0), 0.0
    samples = Samples(*map(torch.cat, zip(*(part.samples for part in parts), strict=True)))
    counts = [len(part.samples.labels) for part in parts]
    weights = [torch.full((n,), part.share / n) for part, n in zip(parts, counts, strict=True)]
    return samples, torch.cat(weights), min(sum(part.share for part in parts), 1.0)
