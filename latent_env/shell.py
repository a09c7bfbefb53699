"""The shell: how far a latent may go from its start, and which label a sample gets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detectors.blocks.tokens import as_tokens
from latent_common.errors import UserError
from latent_env.autoencoders.frozen import FrozenAutoencoder

NORMAL, ANOMALY, UNDECIDED = 0, 1, -1


@dataclass(frozen=True)
class Shell:
    """Changes below ``inner`` are normal variations, those above it anomalies, and none exceeds ``outer``.

    The distance of a latent from its start is the largest Euclidean change of one token of the whitened
    latent (a flat latent is one token). A lesion changes a few tokens much; a norm over the whole image
    would hardly notice it beside the small differences that normal images have everywhere. Within the
    share ``band`` of ``inner``, on both sides of it, the label is undecided.
    """

    inner: float
    outer: float
    band: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.inner < self.outer:
            raise UserError(
                f"the shell needs 0 < inner < outer, not inner={self.inner:g} and outer={self.outer:g}"
            )
        if not 0 <= self.band < 1:
            raise UserError(f"shell_band={self.band:g} must be at least 0 and below 1")

    @classmethod
    def around_normals(
        cls, autoencoder: FrozenAutoencoder, quantile: float, ratio: float | None, band: float
    ) -> Shell:
        """A shell whose inner radius is a quantile of the distance between neighbouring normal latents.

        :param quantile: from 0 to 1.
        :param ratio: of the outer to the inner radius; None is how far changes must go to be seen.
        """
        if not 0 <= quantile <= 1:
            raise UserError(f"shell_quantile={quantile:g} must lie from 0 to 1")
        if ratio is None:
            ratio = float(autoencoder.reach)
        if ratio <= 1:
            raise UserError(f"shell_ratio={ratio:g} must be above 1: the outer radius over the inner one")
        level = round(quantile * (len(autoencoder.normal_distances) - 1))
        inner = max(float(autoencoder.normal_distances[level]), 1e-3)
        return cls(inner, ratio * inner, band)

    def project(self, latent: Tensor, start: Tensor) -> Tensor:
        """``latent (B, *latent_shape)``, with every token pulled back to within ``outer`` of ``start``."""
        change = latent - start
        length = change.norm(dim=1, keepdim=True)  # dimension 1 is the token's, flat or spatial
        return start + change * (self.outer / length.clamp_min(self.outer))

    def distance(self, latent: Tensor, start: Tensor) -> Tensor:
        """The distance of ``latent`` from ``start``, both ``(B, *latent_shape)``: ``(B,)``."""
        return as_tokens(latent - start).norm(dim=2).amax(1)

    def label(self, distance: Tensor, visible: Tensor) -> Tensor:
        """Labels ``(B,)`` int64 for ``distance (B,)``: 0 normal, 1 anomaly, -1 undecided.

        An anomaly must also be ``visible (B,)`` bool: a detector can't learn from a change that doesn't show.
        """
        normal = distance <= self.inner * (1 - self.band)
        anomaly = (distance >= self.inner * (1 + self.band)) & visible
        labels = torch.full_like(distance, UNDECIDED, dtype=torch.int64)
        return labels.masked_fill(normal, NORMAL).masked_fill(anomaly, ANOMALY)
