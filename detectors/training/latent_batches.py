"""What a detector of latents learns from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from detectors.memory_bank.neighbour_cache import UNKNOWN
from detectors.synthetic.latent import LatentSynthesis
from detectors.tokens import anomalous_tokens, grid_of
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

    Half of the normals are varied versions of training images, if there are any. Of both, ``samples`` take
    the place of some; other anomalies are those of a pool, and what synthesis makes of latents.
    """

    latents: ImageSource
    """``(N, *latent_shape)`` of the normal training images."""
    synthesis: LatentSynthesis | None
    varied: Pool | None = None
    anomalous: Pool | None = None
    pool_share: float = 0.0
    """Of the synthetic anomalies, so many come from the pool."""
    samples: Mixture | None = None

    @cached_property
    def first_known(self) -> list[int]:
        """Latents made beforehand are numbered: training images, varied, anomalous, samples of both labels.

        These are the numbers that each kind begins with, and how many latents there are.
        """
        pools = (0 if pool is None else len(pool.sources) for pool in (self.varied, self.anomalous))
        samples = [len(kind.labels) for kind in self.samples.kinds] if self.samples else [0, 0]
        return list(accumulate((len(self.latents), *pools, *samples), initial=0))

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """A batch of ``size`` latents."""
        half = size // 2
        latents, owners, known = self._normal(2 * half, generator)
        anomalous, tokens = self._spoilt(latents[half:], owners[half:], known[half:], generator)
        latents[half:] = anomalous
        masks = torch.cat([torch.zeros_like(tokens), tokens])
        marked = torch.ones(2 * half, dtype=torch.bool, device=latents.device)
        for first, label, chosen, drawn in self.samples.draw(half, generator) if self.samples else ():
            # Anywhere: what an agent made replaces pooled anomalies and others alike.
            rows = first + torch.randperm(half, generator=generator)[: len(chosen)]
            owners[rows] = drawn.sources.cpu()
            known[rows] = (self.first_known[SAMPLES + label] + chosen)[:, None]
            rows = rows.to(latents.device)
            latents[rows], masks[rows] = drawn.images.float(), drawn.masks.to(masks)
            marked[rows] = drawn.marked
        labels = torch.zeros(2 * half, device=latents.device)
        labels[half:] = 1
        return Batch(latents, masks, labels, owners.to(latents.device), marked, known.to(latents.device))

    def _spoilt(
        self, normal: Tensor, owners: Tensor, known: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Anomalies in place of normal latents; ``owners`` and ``known`` are set right."""
        latents = normal.clone()
        masks = latents.new_zeros(len(latents), 1, *grid_of(latents.shape[1:]))
        pooled = round(self.pool_share * len(latents)) if self.anomalous is not None else 0
        if self.anomalous is not None and pooled:
            drawn = draw(self.anomalous, pooled, generator)
            latents[:pooled], owners[:pooled] = drawn.latents, drawn.sources
            known[:pooled] = (self.first_known[ANOMALOUS] + drawn.members)[:, None]
            masks[:pooled] = anomalous_tokens(drawn.tokens).to(masks)
        if self.synthesis is not None and pooled < len(latents):
            made = self.synthesis(latents[pooled:], generator)
            latents[pooled:], masks[pooled:] = made.images, made.masks
            known[pooled:][made.masks.flatten(1).cpu() > 0] = UNKNOWN  # the others stayed as they were
        return latents, masks

    def _normal(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latents ``(count, *latent_shape)`` of normal images, and which training images they show.

        And which of the known latents each of their tokens is of, ``(count, T)``.
        """
        owners = torch.randint(len(self.latents), (count,), generator=generator)
        latents, known = self.latents[owners.to(self.latents.device)].float(), owners.clone()
        if self.varied is not None:
            varied = (torch.rand(count, generator=generator) < 0.5).nonzero().flatten()
            if len(varied):
                rows = varied.to(latents.device)
                drawn = draw(self.varied, len(varied), generator)
                latents[rows], owners[varied] = drawn.latents, drawn.sources
                known[varied] = self.first_known[VARIED] + drawn.members
        return latents, owners, known[:, None].repeat(1, math.prod(grid_of(latents.shape[1:])))


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
