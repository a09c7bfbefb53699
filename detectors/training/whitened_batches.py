"""Batches of whitened tokens: half normal, half with labelled anomalies, samples and noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from detectors.blocks.tokens import grid_of
from detectors.distances.whitened import AT_ONCE, WhitenedDetector, left_out, with_distance
from detectors.synthetic.perlin import perlin_shapes
from detectors.training.batches import Batch
from detectors.training.samples import Mixture, Samples
from latent_common.image_source import ImageSource
from latent_common.precision import as_stored

WEAKEST, STRONGEST = 0.25, 1.75
"""Noise is so many times as strong as asked for, drawn evenly: some of it is hard to see."""

DROPPED = 0.5
"""The share of the channels that a training image loses: a handful of anomalies are not in all of them."""


@dataclass(frozen=True)
class WhitenedBatchSampler:
    """Batches of what ``detector`` reads, as maps ``(B, C + 1, h, w)``.

    What is anomalous about a normal image is noise in the shape of Perlin noise. In both halves ``samples``
    take the place of some images.

    What never changes is computed once and kept in half precision, as latents are: it takes as much memory as
    they do.
    """

    detector: WhitenedDetector
    latents: ImageSource
    """``(N, *latent_shape)`` of the normal images that the detector was fitted to."""
    noise: float
    """The standard deviation of the noise, where that of normal tokens is 1."""
    samples: Mixture | None = None

    @cached_property
    def normal_maps(self) -> Tensor:
        """What the detector reads of every normal image, as if it had not been fitted to it."""
        count = len(self.latents)
        parts = [
            left_out(self.detector.whitened(part.float()), count) for part in self.latents.split(AT_ONCE)
        ]
        return torch.cat([self._maps(part) for part in parts])

    @cached_property
    def sample_maps(self) -> Mixture | None:
        """What the detector reads of ``samples``, in the place of their latents."""
        if self.samples is None:
            return None
        normal, anomalous = map(self._read, self.samples.by_label)
        return replace(self.samples, by_label=(normal, anomalous))

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """A batch of ``size`` images."""
        half, device = size // 2, self.detector.means.device
        owners = torch.randint(len(self.latents), (2 * half,), generator=generator)
        maps = self.normal_maps[owners.to(device)].float()
        masks = torch.zeros_like(maps[:, :1])
        marked = torch.ones(2 * half, dtype=torch.bool, device=device)
        noisy = half
        for first, label, chosen, drawn in self.sample_maps.draw(half, generator) if self.sample_maps else ():
            rows = slice(first, first + len(chosen))
            maps[rows], owners[rows] = drawn.images.float(), drawn.sources.cpu()
            masks[rows], marked[rows] = drawn.masks.float(), drawn.marked
            noisy = rows.stop if label else noisy
        if noisy < 2 * half:
            masks[noisy:] = self._add_noise(maps[noisy:], generator)
        labels = torch.zeros(2 * half, device=device)
        labels[half:] = 1
        return Batch(self._without_some(maps, generator), masks, labels, owners.to(device), marked)

    def _read(self, samples: Samples) -> Samples:
        """``samples`` as the detector reads them."""
        parts = samples.images.split(AT_ONCE)
        maps = [self._maps(self.detector.whitened(part.float())) for part in parts]
        return samples._replace(images=torch.cat(maps))

    def _maps(self, whitened: Tensor) -> Tensor:
        """Whitened tokens ``(B, T, C)`` as the detector reads them, ``(B, C + 1, h, w)`` float16."""
        read = self.detector.standardised(with_distance(whitened))
        return as_stored(self.detector.as_maps(read))

    def _add_noise(self, maps: Tensor, generator: torch.Generator) -> Tensor:
        """Make ``maps (B, C + 1, h, w)`` anomalous in some places, ``(B, 1, h, w)``, which are returned."""
        detector, count = self.detector, len(maps)
        blobs = perlin_shapes(count, grid_of(detector.input_shape), generator, maps.device)
        strength = torch.empty(count, 1, 1, 1).uniform_(WEAKEST, STRONGEST, generator=generator)
        drawn = torch.randn(maps[:, 1:].shape, generator=generator)
        maps[:, 1:] += blobs * (self.noise * strength * drawn).to(maps)
        centre, spread = (part[:, None, None] for part in (detector.centre, detector.spread))
        distances = (maps[:, 1:] * spread[1:] + centre[1:]).norm(dim=1, keepdim=True)
        maps[:, :1] = torch.where(blobs, (distances - centre[:1]) / spread[:1], maps[:, :1])
        return blobs.float()

    def _without_some(self, maps: Tensor, generator: torch.Generator) -> Tensor:
        """Maps ``(B, K, h, w)`` of which some channels are 0, and the others larger to make up for it.

        The distance, which comes first, is always there.
        """
        factors = (torch.rand(maps.shape[:2], generator=generator) >= DROPPED).float() / (1 - DROPPED)
        factors[:, 0] = 1
        return maps * factors.to(maps)[..., None, None]
