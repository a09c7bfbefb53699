"""Batches of images that a detector learns from: half normal, half anomalous."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from detectors.synthetic.image_synthesis import ImageSynthesis
from detectors.training.samples import Mixture, Samples
from latent_common.image_source import ImageSource

Augment = Callable[[Tensor, torch.Generator, Tensor], tuple[Tensor, Tensor]]
"""Changes images ``(B, C, H, W)`` in [0, 1] at random, and their masks ``(B, 1, H, W)`` in the same way."""

Decode = Callable[[Tensor], Tensor]
"""Images ``(B, C, H, W)`` in [0, 1] to their reconstructions."""

DECODED = 0.25
"""The share of training images that are replaced by their reconstructions."""


class Batch(NamedTuple):
    """A training batch on the device."""

    images: Tensor
    """``(B, C, H, W)`` in [0, 1], or latents ``(B, *latent_shape)``"""
    masks: Tensor
    """``(B, 1, H, W)`` 0 or 1, of pixels or of tokens"""
    labels: Tensor
    """``(B,)`` 0 or 1"""
    sources: Tensor
    """``(B,)`` int64: which training image each was made of, -1 if of none."""
    marked: Tensor
    """``(B,)`` bool: whether the mask shows where the anomaly is; otherwise that is not known."""
    known: Tensor | None = None
    """``(B,)`` int64: which of the latents made beforehand each is."""
    clean: Tensor | None = None
    """``(B, C, H, W)`` in [0, 1]: each image without its anomaly, where that is known."""
    noise: Tensor | None = None
    """``(B, C, H, W)``: what makes some normal latents anomalous, on the grid of the masks."""


@dataclass(frozen=True)
class BatchSampler:
    """Batches of images: half normal, half anomalous.

    In both halves ``samples`` take the place of some images; other anomalies are synthetic. All of them are
    augmented in the same way.
    """

    images: ImageSource
    """``(N, C, H, W)`` uint8, normal."""
    synthesis: ImageSynthesis
    samples: Mixture | None = None
    augment: Augment | None = None
    decode: Decode | None = None
    """Applied to some images before anything else, whether they stay normal or become anomalies: so that what
    a decoder leaves in an image is no sign of either."""
    keep_clean: bool = False
    """Whether batches have :attr:`Batch.clean`."""

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
                clean[rows] = self._clean(drawn)
        if self.augment is not None:
            # An image and its clean version must be moved together: as one image of more channels they are.
            shown = torch.cat([images, clean], dim=1) if self.keep_clean else images
            shown, masks = self.augment(shown, generator, masks)
            images, clean = shown.chunk(2, dim=1) if self.keep_clean else (shown, clean)
        labels = torch.zeros(2 * half, device=images.device)
        labels[half:] = 1
        kept = clean if self.keep_clean else None
        return Batch(images, masks, labels, index.to(images.device), marked, clean=kept)

    def _clean(self, samples: Samples) -> Tensor:
        """The training images that samples were made of, ``(B, C, H, W)`` in [0, 1].

        Normal samples, and those that were made of no training image, come back unchanged.
        """
        images = samples.images.float() / 255
        made = (samples.labels == 1) & (samples.sources >= 0)
        if made.any():
            sources = samples.sources[made].to(self.images.device)
            images[made] = self.images[sources].float() / 255
        return images


def as_floats(batch: Tensor) -> Tensor:
    """A batch as floats: uint8 images in [0, 1], latents unchanged."""
    return batch.float() / 255 if batch.dtype == torch.uint8 else batch.float()


class BatchSource(Protocol):
    """What training batches come from."""

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """A batch of ``size``."""
