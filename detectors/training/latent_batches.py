"""Batches of latents that a detector learns from: half normal, half anomalous."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from detectors.blocks.tokens import anomalous_tokens
from detectors.training.batches import Batch
from detectors.training.samples import Mixture
from latent_common.image_source import ImageSource

VARIED, ANOMALOUS, SAMPLES = 1, 2, 3
"""Positions in :attr:`LatentBatchSampler.known_offsets`."""


class Pool(NamedTuple):
    """Latents of changed training images, encoded beforehand."""

    latents: ImageSource
    """``(M, *latent_shape)``"""
    tokens: Tensor
    """``(M, 1, h, w)``: the share of every token that is anomalous."""
    sources: Tensor
    """``(M,)`` int64: which training image each was made of."""
    name: str = ""
    """Pools of the same training images with the same name are equal."""


@dataclass(frozen=True)
class LatentBatchSampler:
    """Batches of latents: half normal, half anomalous.

    Half of the normal latents are of varied training images, the anomalous ones of synthetic anomalies. In
    both halves ``samples`` take the place of some latents.
    """

    latents: ImageSource
    """``(N, *latent_shape)`` of the normal training images."""
    varied: Pool
    anomalous: Pool
    samples: Mixture | None = None

    @cached_property
    def known_offsets(self) -> list[int]:
        """The number at which each kind of known latents begins, and how many known latents there are.

        They are numbered in this order: training images, varied, anomalous, samples of either label.
        """
        pools = (len(pool.sources) for pool in (self.varied, self.anomalous))
        samples = [len(each.labels) for each in self.samples.by_label] if self.samples else [0, 0]
        return list(accumulate((len(self.latents), *pools, *samples), initial=0))

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """A batch of ``size`` latents."""
        half = size // 2
        latents, owners, known = self._normal(2 * half, generator)
        drawn = draw(self.anomalous, half, generator)
        latents[half:], owners[half:] = drawn.latents, drawn.sources
        known[half:] = self.known_offsets[ANOMALOUS] + drawn.members
        tokens = anomalous_tokens(drawn.tokens).to(latents)
        masks = torch.cat([torch.zeros_like(tokens), tokens])
        marked = torch.ones(2 * half, dtype=torch.bool, device=latents.device)
        for first, label, chosen, sample in self.samples.draw(half, generator) if self.samples else ():
            rows = first + torch.randperm(half, generator=generator)[: len(chosen)]
            owners[rows] = sample.sources.cpu()
            known[rows] = self.known_offsets[SAMPLES + label] + chosen
            rows = rows.to(latents.device)
            latents[rows], masks[rows] = sample.images.float(), sample.masks.to(masks)
            marked[rows] = sample.marked
        labels = torch.zeros(2 * half, device=latents.device)
        labels[half:] = 1
        return Batch(latents, masks, labels, owners.to(latents.device), marked, known.to(latents.device))

    def _normal(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latents ``(count, *latent_shape)`` of normal images, their training images, and their known
        numbers.

        Both of the latter are ``(count,)`` int64.
        """
        owners = torch.randint(len(self.latents), (count,), generator=generator)
        latents, known = self.latents[owners.to(self.latents.device)].float(), owners.clone()
        varied = (torch.rand(count, generator=generator) < 0.5).nonzero().flatten()
        if len(varied):
            drawn = draw(self.varied, len(varied), generator)
            latents[varied.to(latents.device)], owners[varied] = drawn.latents, drawn.sources
            known[varied] = self.known_offsets[VARIED] + drawn.members
        return latents, owners, known


class Drawn(NamedTuple):
    """Members of a pool that were drawn; all fields lead with the member."""

    latents: Tensor
    tokens: Tensor
    sources: Tensor
    members: Tensor
    """``(B,)`` int64: their positions in the pool."""


def draw(pool: Pool, count: int, generator: torch.Generator) -> Drawn:
    """``count`` members of a pool, drawn with replacement."""
    index = torch.randint(len(pool.sources), (count,), generator=generator)
    there = index.to(pool.latents.device)
    return Drawn(pool.latents[there].float(), pool.tokens[there], pool.sources[index], index)
