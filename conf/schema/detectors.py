"""The types of `detector=` and `synthesis=`, and of the judges."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Self

from omegaconf import MISSING


@dataclass
class DetectorConfig:
    """A detector."""

    name: str = MISSING
    starts: int = 2048


@dataclass
class TrainedConfig(DetectorConfig):
    """A detector that learns from anomalies, and its training."""

    input: str = MISSING
    width: int = 64
    steps: int = MISSING
    batch_size: int = 32
    learning_rate: float = 1e-3
    rivals: list[str] = field(default_factory=list)

    def smaller(self, judges: JudgesConfig) -> Self:
        """The same as small as judges are, and trained as briefly."""
        steps = max(round(judges.effort * self.steps), 1)
        return replace(self, width=min(judges.width, self.width), steps=steps)


@dataclass
class TransformerConfig(TrainedConfig):
    """A transformer detector and its training."""

    patch: int | None = None
    depth: int = 2
    heads: int = 4
    remembered: int = 1024

    def smaller(self, judges: JudgesConfig) -> Self:
        """The same as small as judges are, and trained as briefly."""
        small = super().smaller(judges)
        heads = math.gcd(self.heads, small.width)
        return replace(small, depth=min(judges.depth, self.depth), heads=heads)


@dataclass
class RdnaConfig(TrainedConfig):
    """A reconstruction and a discriminant network, and their training."""

    width: int = 16
    batch_size: int = 16
    adversarial: float = 0.1


@dataclass
class KnnConfig(DetectorConfig):
    """Nearest neighbours."""

    bank: int = 8000
    whitened: bool = True
    coreset: bool = True
    candidates: int = 40_000


@dataclass
class KnnByPlaceConfig(DetectorConfig):
    """Nearest neighbours among tokens of the same place."""

    remembered: int = 1024


@dataclass
class GaussianConfig(DetectorConfig):
    """A Gaussian a place."""


@dataclass
class ReconstructionConfig(DetectorConfig):
    """The autoencoder's error."""

    by_place: bool = False
    pooled: str = "top"


@dataclass
class EnsembleConfig(TransformerConfig):
    """A transformer, its training, and the detectors that may give a second opinion."""

    second: list[str] | None = None


@dataclass
class SynthesisConfig:
    """Pseudo-anomalies, by weight: of images, and of latents."""

    weights: dict[str, float] = field(default_factory=dict)
    latent: dict[str, float] = field(default_factory=dict)
    pool: int = 1000


@dataclass
class JudgesConfig:
    """Small detectors that rewards go by."""

    count: int = 3
    width: int = 32
    depth: int = 1
    effort: float = 0.25
