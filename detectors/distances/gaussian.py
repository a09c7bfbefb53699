"""A Gaussian of normal tokens at every position, as in PaDiM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detectors.base import LATENT
from detectors.blocks.tokens import as_tokens, grid_of
from detectors.distances.base import DistanceDetector
from latent_common.image_source import ImageSource, evenly_spaced

MAX_IMAGES = 2048
"""Of more images, so many evenly spaced ones give the same statistics."""

SHRINKAGE = 0.01
"""The share of every covariance that is replaced by the mean variance."""


class GaussianDetector(DistanceDetector):
    """The Mahalanobis distance of a token from normal ones at the same position.

    Covariances are shrunk a little towards equal variances: there may be fewer images than channels.
    """

    means: Tensor
    whiteners: Tensor

    def __init__(self, latent_shape: Sequence[int], reads: str = LATENT) -> None:
        super().__init__(latent_shape, reads)
        rows, columns = grid_of(latent_shape)
        channels = latent_shape[0]
        self.register_buffer("means", torch.zeros(rows * columns, channels))
        self.register_buffer("whiteners", torch.eye(channels).repeat(rows * columns, 1, 1))

    @torch.no_grad()
    def fit(self, latents: ImageSource, scales: Tensor, seed: int) -> None:  # noqa: ARG002
        """Take mean and covariance at every position of normal latents ``(N, *latent_shape)``."""
        position_wise = as_tokens(evenly_spaced(latents, MAX_IMAGES)).transpose(0, 1)  # (T, N, C)
        for position, tokens in enumerate(
            position_wise
        ):  # one by one: all covariances at once take much memory
            normal = tokens.double()
            self.means[position] = normal.mean(0)
            centred = normal - normal.mean(0)
            covariance = centred.T @ centred / max(len(centred) - 1, 1)
            level = covariance.diagonal().mean().clamp_min(1e-12)
            covariance = (1 - SHRINKAGE) * covariance
            covariance.diagonal().add_(SHRINKAGE * level)
            self.whiteners[position] = _inverse_root(covariance).to(self.whiteners)

    def whitened(self, latents: Tensor) -> Tensor:
        """The tokens ``(B, T, C)`` of ``latents (B, *latent_shape)``: normal ones have mean 0, variance 1.

        Channels keep their meaning at every position: each covariance is undone by its symmetric root.
        """
        centred = as_tokens(latents) - self.means
        return torch.einsum("btc,tcd->btd", centred, self.whiteners)

    def distances(self, latents: Tensor) -> Tensor:
        """Distances ``(B, T)`` of the tokens of ``latents (B, *latent_shape)``."""
        return self.whitened(latents).norm(dim=2)


def _inverse_root(covariance: Tensor) -> Tensor:
    """The symmetric matrix ``(C, C)`` whose square is the inverse of ``covariance``."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(1e-12).rsqrt()) @ vectors.T
