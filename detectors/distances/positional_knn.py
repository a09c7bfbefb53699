"""Nearest neighbours in a memory bank of normal tokens at the same position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detectors.base import LATENT
from detectors.distances.base import DistanceDetector
from detectors.distances.memory_bank import PositionalMemory
from latent_common.image_source import ImageSource, evenly_spaced, evenly_spaced_positions


class PositionalKnnDetector(DistanceDetector):
    """The distance of a token to the nearest one that normal images have at its position.

    :param memory_size: of more training images, so many evenly spaced ones are kept.
    :param reads: whether tokens are those of latents, or of a backbone's features.
    """

    def __init__(self, latent_shape: Sequence[int], memory_size: int = 1024, reads: str = LATENT) -> None:
        super().__init__(latent_shape, reads)
        self.memory_size = memory_size
        self.memory = PositionalMemory(latent_shape, memory_size)

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that build this detector again."""
        return {**super().hyperparameters(), "memory_size": len(self.memory.owners)}

    @torch.no_grad()
    def fit(self, latents: ImageSource, scales: Tensor, seed: int) -> None:  # noqa: ARG002
        """Keep the tokens of normal latents ``(N, *latent_shape)``."""
        positions = evenly_spaced_positions(len(latents), self.memory_size)
        self.memory = PositionalMemory(self.input_shape, len(positions)).to(self.location.device)
        self.memory.fill(evenly_spaced(latents, self.memory_size), positions)

    def distances(self, latents: Tensor) -> Tensor:
        """Distances ``(B, T)`` of the tokens of ``latents (B, *latent_shape)``."""
        return self.memory(latents)[1]
