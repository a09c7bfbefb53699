"""Batches of latents with noise that will be added to some of their tokens: half normal, half anomalous."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from detectors.synthetic.perlin import perlin_shapes
from detectors.training.batches import Batch
from detectors.training.samples import Mixture
from latent_common.image_source import ImageSource

NOISY_SAMPLES = 0.5
"""The share of anomalous samples that get noise as well, outside of their anomalies."""


@dataclass(frozen=True)
class NoiseBatchSampler:
    """Batches of latents: half normal, half anomalous.

    What is anomalous about a normal latent is noise, which :attr:`Batch.noise` holds for tokens in the shape
    of Perlin noise. In both halves ``samples`` take the place of some latents.
    """

    latents: ImageSource
    """``(N, C, h, w)`` of the normal training images."""
    upscale: int
    """Positions a side of masks and noise for each token."""
    noise: float
    """The standard deviation of the noise."""
    samples: Mixture | None = None
    flips: tuple[int, ...] = ()
    """The dimensions along which half of all latents are mirrored, together with their masks."""

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """A batch of ``size`` latents, with masks and noise on the finer grid."""
        half = size // 2
        owners = torch.randint(len(self.latents), (2 * half,), generator=generator)
        latents = self.latents[owners.to(self.latents.device)].float()
        grid = (latents.shape[2] * self.upscale, latents.shape[3] * self.upscale)
        known = torch.zeros(2 * half, 1, *grid, dtype=torch.bool, device=latents.device)
        noisy = torch.cat([known[:half], perlin_shapes(half, grid, generator, latents.device)])
        marked = torch.ones(2 * half, dtype=torch.bool, device=latents.device)
        for first, label, chosen, sample in self.samples.draw(half, generator) if self.samples else ():
            rows = slice(first, first + len(chosen))
            latents[rows], owners[rows] = sample.images.float(), sample.sources.cpu()
            known[rows], marked[rows] = masks_on_grid(sample.masks, grid), sample.marked
            if label:
                also = torch.rand(len(chosen), generator=generator) < NOISY_SAMPLES
                also = also.to(latents.device) & sample.marked
                noisy[rows] &= also[:, None, None, None] & ~known[rows]
        for dimension in self.flips:
            turned = (torch.rand(2 * half, generator=generator) < 0.5).nonzero().flatten().to(latents.device)
            for each in (latents, known, noisy):
                each[turned] = each[turned].flip(dimension)
        noise = self._noise(noisy, latents.shape[1], generator)
        masks = (known | noisy).float()
        labels = torch.zeros(2 * half, device=latents.device)
        labels[half:] = 1
        return Batch(latents, masks, labels, owners.to(latents.device), marked, noise=noise)

    def _noise(self, noisy: Tensor, components: int, generator: torch.Generator) -> Tensor:
        """Noise ``(B, C, H, W)`` where ``noisy (B, 1, H, W)`` bool is set, and 0 elsewhere."""
        places = noisy[:, 0].nonzero(as_tuple=True)
        drawn = self.noise * torch.randn(len(places[0]), components, generator=generator)
        noise = torch.zeros(len(noisy), *noisy.shape[2:], components, device=noisy.device)
        noise[places] = drawn.to(noise)
        return noise.permute(0, 3, 1, 2)


def masks_on_grid(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Masks ``(B, 1, h, w)`` bool on a finer ``grid``; those that are on it already unchanged."""
    if masks.shape[2:] == grid:
        return masks
    return functional.interpolate(masks.float(), grid, mode="nearest") > 0.5
