"""What a detector of latents learns from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from detectors.blocks.tokens import anomalous_tokens
from detectors.training.batches import Batch, Mixture
from latent_common.image_source import ImageSource

VARIED, ANOMALOUS, SAMPLES = 1, 2, 3
"""Places in what :attr:`LatentBatchSampler.first_known` lists."""


class Pool(NamedTuple):
    """Latents of changed training images, made beforehand."""

    latents: ImageSource
    """``(M, *latent_shape)``"""
    tokens: Tensor
    """``(M, 1, h, w)``: the share of every token that is anomalous."""
    sources: Tensor
    """``(M,)`` int64: which training image each was made of."""
    name: str = ""
    """Of pools made of the same training images, those with the same name are the same."""


@dataclass(frozen=True)
class LatentBatchSampler:
    """Batches of latents: half normal, half anomalous.

    Half of the normal latents are of varied versions of training images. Of both labels, ``samples`` take the
    place of some latents.
    """

    latents: ImageSource
    """``(N, *latent_shape)`` of the normal training images."""
    varied: Pool
    anomalous: Pool
    samples: Mixture | None = None

    @cached_property
    def first_known(self) -> list[int]:
        """Latents made beforehand are numbered: training images, varied, anomalous, samples of both labels.

        These are the numbers that each kind begins with, and how many latents there are.
        """
        pools = (len(pool.sources) for pool in (self.varied, self.anomalous))
        samples = [len(kind.labels) for kind in self.samples.kinds] if self.samples else [0, 0]
        return list(accumulate((len(self.latents), *pools, *samples), initial=0))

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """A batch of ``size`` latents."""
        half = size // 2
        latents, owners, known = self._normal(2 * half, generator)
        drawn = draw(self.anomalous, half, generator)
        latents[half:], owners[half:] = drawn.latents, drawn.sources
        known[half:] = self.first_known[ANOMALOUS] + drawn.members
        tokens = anomalous_tokens(drawn.tokens).to(latents)
        masks = torch.cat([torch.zeros_like(tokens), tokens])
        marked = torch.ones(2 * half, dtype=torch.bool, device=latents.device)
        for first, label, chosen, sample in self.samples.draw(half, generator) if self.samples else ():
            rows = first + torch.randperm(half, generator=generator)[: len(chosen)]
            owners[rows] = sample.sources.cpu()
            known[rows] = self.first_known[SAMPLES + label] + chosen
            rows = rows.to(latents.device)
            latents[rows], masks[rows] = sample.images.float(), sample.masks.to(masks)
            marked[rows] = sample.marked
        labels = torch.zeros(2 * half, device=latents.device)
        labels[half:] = 1
        return Batch(latents, masks, labels, owners.to(latents.device), marked, known.to(latents.device))

    def _normal(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latents ``(count, *latent_shape)`` of normal images, and which training images they show.

        And which of the known latents each of them is, ``(count,)``.
        """
        owners = torch.randint(len(self.latents), (count,), generator=generator)
        latents, known = self.latents[owners.to(self.latents.device)].float(), owners.clone()
        varied = (torch.rand(count, generator=generator) < 0.5).nonzero().flatten()
        if len(varied):
            drawn = draw(self.varied, len(varied), generator)
            latents[varied.to(latents.device)], owners[varied] = drawn.latents, drawn.sources
            known[varied] = self.first_known[VARIED] + drawn.members
        return latents, owners, known


class Drawn(NamedTuple):
    """Members of a pool; all lead with the member."""

    latents: Tensor
    tokens: Tensor
    sources: Tensor
    members: Tensor
    """``(B,)`` int64: which they are."""


def draw(pool: Pool, count: int, generator: torch.Generator) -> Drawn:
    """``count`` members of a pool, with replacement."""
    index = torch.randint(len(pool.sources), (count,), generator=generator)
    there = index.to(pool.latents.device)
    return Drawn(pool.latents[there].float(), pool.tokens[there], pool.sources[index], index)
