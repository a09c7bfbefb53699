"""Batches of whitened tokens: half normal, half with labelled anomalies, samples and noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detectors.blocks.tokens import grid_of
from detectors.distances.whitened import WhitenedDetector, left_out, with_distance
from detectors.synthetic.perlin import perlin_shapes
from detectors.training.batches import Batch
from detectors.training.samples import Mixture
from latent_common.image_source import ImageSource

WEAKEST, STRONGEST = 0.25, 1.75
"""Noise is so many times as strong as asked for, drawn evenly: some of it is hard to see."""

DROPPED = 0.5
"""The share of the channels that a training image loses: a handful of anomalies are not in all of them."""


@dataclass(frozen=True)
class WhitenedBatchSampler:
    """Batches of what ``detector`` reads, as maps ``(B, C + 1, h, w)``.

    What is anomalous about a normal image is noise in the shape of Perlin noise. In both halves ``samples``
    take the place of some images.
    """

    detector: WhitenedDetector
    latents: ImageSource
    """``(N, *latent_shape)`` of the normal images that the detector was fitted to."""
    noise: float
    """The standard deviation of the noise, where that of normal tokens is 1."""
    samples: Mixture | None = None

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """A batch of ``size`` images."""
        half, detector = size // 2, self.detector
        device, grid = detector.means.device, grid_of(detector.input_shape)
        owners = torch.randint(len(self.latents), (2 * half,), generator=generator)
        normal = self.latents[owners.to(self.latents.device)].float()
        tokens = left_out(detector.whitened(normal), len(self.latents))
        blobs = perlin_shapes(half, grid, generator, device)
        masks = torch.cat([torch.zeros_like(blobs), blobs])
        marked = torch.ones(2 * half, dtype=torch.bool, device=device)
        tokens[half:] += blobs.flatten(2).transpose(1, 2) * self._noise(tokens[half:], generator)
        for first, _, chosen, drawn in self.samples.draw(half, generator) if self.samples else ():
            rows = slice(first, first + len(chosen))
            tokens[rows], owners[rows] = detector.whitened(drawn.images.float()), drawn.sources.cpu()
            masks[rows], marked[rows] = drawn.masks, drawn.marked
        labels = torch.zeros(2 * half, device=device)
        labels[half:] = 1
        shown = self._without_some(detector.as_maps(detector.standardised(with_distance(tokens))), generator)
        return Batch(shown, masks.float(), labels, owners.to(device), marked)

    def _noise(self, tokens: Tensor, generator: torch.Generator) -> Tensor:
        """Noise for ``tokens (B, T, C)``, of the same shape."""
        count = len(tokens)
        strength = torch.empty(count, 1, 1).uniform_(WEAKEST, STRONGEST, generator=generator)
        drawn = torch.randn(tokens.shape, generator=generator)
        return (self.noise * strength * drawn).to(tokens) * self.detector.spread[1:]

    def _without_some(self, maps: Tensor, generator: torch.Generator) -> Tensor:
        """Maps ``(B, K, h, w)`` of which some channels are 0, and the others larger to make up for it.

        The distance, which comes first, is always there.
        """
        factors = (torch.rand(maps.shape[:2], generator=generator) >= DROPPED).float() / (1 - DROPPED)
        factors[:, 0] = 1
        return maps * factors.to(maps)[..., None, None]
