"""The base of detectors that measure how far a token lies from normal ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detectors.base import LATENT, Detection, check_tokens
from detectors.blocks.tokens import as_map, top_tokens
from latent_common.image_source import ImageSource

BATCH_SIZE = 16
"""Images or latents that calibration scores at once."""


class DistanceDetector(nn.Module, ABC):
    """Distances of tokens as a map, the mean of the largest ones as an image's score.

    Both are shifted and scaled so that 0 means "further out than 95 % of normal images". No gradients are
    needed: :meth:`fit` takes statistics of normal latents.

    :param latent_shape: of what it reads, ``(C, h, w)`` or ``(C,)``.
    :param reads: whether these are latents, or a backbone's features.
    """

    location: Tensor
    scale: Tensor

    def __init__(self, latent_shape: Sequence[int], reads: str = LATENT) -> None:
        super().__init__()
        self.input = check_tokens(reads)
        self.input_shape = tuple(latent_shape)
        if min(self.input_shape) < 1:
            raise ValueError(f"a latent can't have the shape {self.input_shape}")
        self.register_buffer("location", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    @abstractmethod
    def fit(self, latents: ImageSource, scales: Tensor, seed: int) -> None:
        """Learn what is normal.

        :param latents: whitened latents of normal images, ``(N, *latent_shape)``.
        :param scales: the standard deviations by which whitening divided the channels, ``(C,)``.
        :param seed: of what is drawn at random.
        """

    @abstractmethod
    def distances(self, latents: Tensor) -> Tensor:
        """How far each token of ``latents (B, *latent_shape)`` lies from normal, ``(B, T)``."""

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that build it again, the sizes of its buffers included."""
        return {"latent_shape": list(self.input_shape), "reads": self.input}

    @torch.no_grad()
    def calibrate(self, latents: ImageSource) -> None:
        """Find shift and scale on normal latents ``(N, *latent_shape)`` that :meth:`fit` didn't see."""
        self.location.zero_()
        self.scale.fill_(1)
        scores = torch.cat([self(part.float()).score for part in latents.split(BATCH_SIZE)])
        location, scale = location_and_scale(scores)
        self.location.copy_(location)
        self.scale.copy_(scale)

    def forward(self, latents: Tensor) -> Detection:
        """Score latents ``(B, *latent_shape)``."""
        maps = as_map(self.distances(latents), self.input_shape)
        maps = (maps - self.location) / self.scale
        return Detection(top_tokens(maps), maps)


def location_and_scale(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The 95 % quantile of normal images' ``scores (N,)``, and their standard deviation.

    Both are ``()``; the standard deviation is 1 if all scores are equal.
    """
    deviation = scores.std(correction=0)
    return scores.quantile(0.95), deviation if deviation > 0 else torch.ones_like(deviation)
