"""What a detector of latents learns from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from detectors.images import ImageSource
from detectors.latent_synthesis import LatentSynthesis
from detectors.tokens import grid_of
from detectors.training import Batch, Samples, borrowed, by_label

LEAST_SHARE = 0.1
"""A token is anomalous where at least so much of it is: a faint end of a scratch still shows in features."""


class Pool(NamedTuple):
    """Latents of changed training images, made beforehand."""

    latents: ImageSource
    """``(M, *latent_shape)``"""
    tokens: Tensor
    """``(M, 1, h, w)``: the share of every token that is anomalous."""
    sources: Tensor
    """``(M,)`` int64: which training image each was made of."""


@dataclass(frozen=True)
class LatentDiet:
    """Batches of latents: half normal, half anomalous.

    Half of the normals are varied versions of training images, if there are any. Of the anomalies,
    ``share`` are an agent's; the rest are anomalous images of a pool, and what synthesis makes of latents.
    """

    latents: ImageSource
    """``(N, *latent_shape)`` of the normal training images."""
    synthesis: LatentSynthesis | None
    varied: Pool | None = None
    anomalous: Pool | None = None
    pool_share: float = 0.0
    """Of the synthetic anomalies, so many come from the pool."""
    samples: Samples | None = None
    share: float = 0.0

    @cached_property
    def samples_by_label(self) -> list[Samples]:
        """The agent's normal samples and its anomalies."""
        return by_label(self.samples)

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """A batch of ``size`` latents."""
        half = size // 2
        latents, owners = self._normal(2 * half, generator)
        anomalous, tokens = self._spoilt(latents[half:], owners[half:], generator)
        latents[half:] = anomalous
        masks = torch.cat([torch.zeros_like(tokens), tokens])
        for first, drawn in borrowed(self.samples_by_label, self.share, half, generator):
            # Anywhere: what an agent made replaces pooled anomalies and others alike.
            rows = first + torch.randperm(half, generator=generator)[: len(drawn.labels)]
            owners[rows] = drawn.sources.cpu()
            rows = rows.to(latents.device)
            latents[rows], masks[rows] = drawn.images.float(), drawn.masks.to(masks)
        labels = torch.zeros(2 * half, device=latents.device)
        labels[half:] = 1
        return Batch(latents, masks, labels, owners.to(latents.device))

    def _spoilt(self, normal: Tensor, owners: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Anomalies in place of normal latents; ``owners`` is set right for those from the pool."""
        latents = normal.clone()
        masks = latents.new_zeros(len(latents), 1, *grid_of(latents.shape[1:]))
        pooled = round(self.pool_share * len(latents)) if self.anomalous is not None else 0
        if self.anomalous is not None and pooled:
            latents[:pooled], owners[:pooled], tokens = draw(self.anomalous, pooled, generator)
            masks[:pooled] = anomalous_tokens(tokens).to(masks)
        if self.synthesis is not None and pooled < len(latents):
            made = self.synthesis(latents[pooled:], generator)
            latents[pooled:], masks[pooled:] = made.images, made.masks
        return latents, masks

    def _normal(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents ``(count, *latent_shape)`` of normal images, and which training images they show."""
        owners = torch.randint(len(self.latents), (count,), generator=generator)
        latents = self.latents[owners.to(self.latents.device)].float()
        if self.varied is not None:
            varied = (torch.rand(count, generator=generator) < 0.5).nonzero().flatten()
            if len(varied):
                rows = varied.to(latents.device)
                latents[rows], owners[varied], _ = draw(self.varied, len(varied), generator)
        return latents, owners


def anomalous_tokens(shares: Tensor) -> Tensor:
    """Which tokens ``(M, 1, h, w)`` count as anomalous, bool, given the share of each that is.

    The one with the most always does, however small the anomaly.
    """
    most = shares.amax((2, 3), keepdim=True)
    return (shares >= LEAST_SHARE) | ((shares == most) & (shares > 0))


def draw(pool: Pool, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """``count`` members of a pool, with replacement: latents, sources and shares of tokens."""
    index = torch.randint(len(pool.sources), (count,), generator=generator)
    device = pool.latents.device
    return pool.latents[index.to(device)].float(), pool.sources[index], pool.tokens[index.to(device)]
