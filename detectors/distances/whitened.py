"""Tokens as others read them: whitened by the Gaussian of their position, with their distance beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from detectors.base import LATENT
from detectors.blocks.tokens import grid_of
from detectors.distances.gaussian import MAX_IMAGES, SHRINKAGE, GaussianDetector
from latent_common.image_source import ImageSource, evenly_spaced

AT_ONCE = 64
"""Latents that are whitened at once."""

TYPICAL, HARD = 10_000, 10_000
"""So many normal tokens stand for all, evenly spaced, and so many for those furthest from normal."""

MIN_SPREAD = 0.1
"""No input counts as varying less: what never varies would be magnified until nothing else counts."""

FITTED = ("means", "whiteners", "centre", "spread")
"""The statistics that a fit finds."""


class WhitenedDetector(GaussianDetector):
    """A detector that reads whitened tokens and their distances from normal ones.

    Tokens of the images that the Gaussian was fitted to are whitened as if their own image had not been, or
    they would seem more normal than those of new images.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, latent_shape: Sequence[int], reads: str = LATENT) -> None:
        super().__init__(latent_shape, reads)
        # Of the distance, and of every channel, over normal tokens.
        self.register_buffer("centre", torch.zeros(latent_shape[0] + 1))
        self.register_buffer("spread", torch.ones(latent_shape[0] + 1))

    @torch.no_grad()
    def fit(self, latents: ImageSource, scales: Tensor, seed: int) -> None:
        """Take mean and covariance at every position of normal latents ``(N, *latent_shape)``."""
        super().fit(latents, scales, seed)
        tokens = self.normal_tokens(latents)
        self.centre.copy_(tokens.mean(0))
        self.spread.copy_(tokens.std(0, correction=0).clamp_min(MIN_SPREAD))

    def statistics(self) -> dict[str, Tensor]:
        """Copies of what :meth:`fit` found."""
        return {name: getattr(self, name).clone() for name in FITTED}

    def take(self, statistics: Mapping[str, Tensor]) -> None:
        """Be as if fitted to the latents that these :meth:`statistics` were found on."""
        for name in FITTED:
            getattr(self, name).copy_(statistics[name])

    def inputs(self, latents: Tensor) -> Tensor:
        """What is read of ``latents (B, *latent_shape)``: ``(B, T, C + 1)``, the distance first.

        Over normal tokens, half of them the furthest, each has mean 0 and standard deviation 1, or less
        if it hardly varies.
        """
        return self.standardised(with_distance(self.whitened(latents)))

    def standardised(self, tokens: Tensor) -> Tensor:
        """Tokens ``(…, C + 1)``, their distances first, in units of normal ones."""
        return (tokens - self.centre) / self.spread

    def input_maps(self, latents: Tensor) -> Tensor:
        """What :meth:`inputs` gives, as maps ``(B, C + 1, h, w)``."""
        return self.as_maps(self.inputs(latents))

    def as_maps(self, tokens: Tensor) -> Tensor:
        """Tokens ``(B, T, K)`` as maps ``(B, K, h, w)``."""
        return tokens.transpose(1, 2).unflatten(2, grid_of(self.input_shape))

    @torch.no_grad()
    def normal_tokens(self, latents: ImageSource) -> Tensor:
        """Tokens ``(M, C + 1)``, distances first, of the latents that it was fitted to.

        Half of them are evenly spaced, half are the furthest.
        """
        fitted = evenly_spaced(latents, MAX_IMAGES)
        count = len(fitted)
        every = max(math.ceil(count * math.prod(grid_of(self.input_shape)) / TYPICAL), 1)
        typical, hard, first = [], torch.zeros(0, self.input_shape[0] + 1, device=self.means.device), 0
        for part in fitted.split(AT_ONCE):
            tokens = with_distance(left_out(self.whitened(part.float()), count).flatten(0, 1))
            typical.append(tokens[-first % every :: every])
            hard = torch.cat([hard, tokens])
            hard = hard[hard[:, 0].topk(min(HARD, len(hard))).indices]
            first += len(tokens)
        return torch.cat([*typical, hard])


def left_out(whitened: Tensor, count: int) -> Tensor:
    """The whitened tokens ``(B, T, C)`` of images that were fitted, as if each had not been.

    A Gaussian of ``count`` images was fitted to them; without one of them, its tokens point in the same
    direction and are longer (the Sherman–Morrison formula).
    """
    without = count / max(count - 1, 1)
    own = (1 - SHRINKAGE) * without / max(count - 1, 1)
    room = (1 - own * whitened.square().sum(2, keepdim=True)).clamp_min(1e-3)
    return whitened * (without / room.sqrt())


def with_distance(tokens: Tensor) -> Tensor:
    """Whitened tokens ``(…, C)`` after their lengths, ``(…, C + 1)``."""
    return torch.cat([tokens.norm(dim=-1, keepdim=True), tokens], dim=-1)
