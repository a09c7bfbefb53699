"""Nearest neighbours in a memory bank of normal tokens, as in PatchCore."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from detectors.base import LATENT
from detectors.blocks.parts import in_parts
from detectors.blocks.tokens import as_tokens
from detectors.distances.base import DistanceDetector
from detectors.distances.coreset import draw_tokens, greedy_coreset
from latent_common.image_source import ImageSource

COMPARED_AT_ONCE = 4096
"""Tokens that are compared with the bank at once: bounds the memory, not the result."""


class KnnDetector(DistanceDetector):
    """The distance of a token to the nearest normal one of a memory bank, wherever in the image that was.

    :param bank: how many tokens the memory bank holds.
    :param whitened: compare tokens as they come, with equal weight on every component; else by the features'
        own scales, where components that vary much count more.
    :param coreset: choose the bank greedily so that no normal token is far from it; else at random.
    :param candidates: of more tokens, so many are drawn at random for the coreset to choose from.
    :param reads: whether tokens are those of latents, or of a backbone's features.
    """

    bank: Tensor
    scales: Tensor

    def __init__(
        self,
        latent_shape: Sequence[int],
        bank: int = 8000,
        whitened: bool = True,
        coreset: bool = True,
        candidates: int = 40_000,
        reads: str = LATENT,
    ) -> None:
        super().__init__(latent_shape, reads)
        self.bank_size, self.whitened, self.coreset, self.candidates = bank, whitened, coreset, candidates
        channels = latent_shape[0]
        self.register_buffer("bank", torch.zeros(bank, channels))
        self.register_buffer("scales", torch.ones(channels))

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that build this detector again."""
        return {
            **super().hyperparameters(),
            "bank": len(self.bank),
            "whitened": self.whitened,
            "coreset": self.coreset,
            "candidates": self.candidates,
        }

    @torch.no_grad()
    def fit(
        self,
        latents: ImageSource,
        scales: Tensor,
        seed: int,
        advance: Callable[[int], object] = lambda _: None,
    ) -> None:
        """Fill the bank from normal latents ``(N, *latent_shape)``; ``advance`` is as for a coreset."""
        generator = torch.Generator().manual_seed(seed)
        self.scales.copy_(torch.ones_like(scales) if self.whitened else scales)
        wanted = max(self.candidates, self.bank_size) if self.coreset else self.bank_size
        tokens = draw_tokens(latents, wanted, generator).to(self.scales) * self.scales
        if self.coreset and len(tokens) > self.bank_size:
            tokens = tokens[greedy_coreset(tokens, self.bank_size, generator, advance)]
        self.bank = tokens

    def distances(self, latents: Tensor) -> Tensor:
        """Distances ``(B, T)`` of the tokens of ``latents (B, *latent_shape)``."""
        tokens = as_tokens(latents) * self.scales
        nearest = in_parts(lambda part: _nearest(part, self.bank), tokens.flatten(0, 1), COMPARED_AT_ONCE)
        return nearest.view(tokens.shape[:2])


def _nearest(tokens: Tensor, bank: Tensor) -> Tensor:
    """The distance ``(n,)`` of each of ``tokens (n, C)`` to the nearest of ``bank (m, C)``."""
    return torch.cdist(tokens, bank, compute_mode="use_mm_for_euclid_dist").amin(1)
