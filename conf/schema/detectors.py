"""The types of `detector=` and `synthesis=`, and of the judges."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Self

from omegaconf import MISSING


@dataclass
class DetectorConfig:
    """A detector."""

    name: str = MISSING
    num_start_images: int = 2048


@dataclass
class TrainedConfig(DetectorConfig):
    """A detector that learns from anomalies, and its training."""

    input: str = MISSING
    width: int = 64
    steps: int = MISSING
    batch_size: int = 32
    learning_rate: float = 1e-3
    baselines: list[str] = field(default_factory=list)

    def smaller(self, reward_ensemble: RewardEnsembleConfig) -> Self:
        """The same as small as judges are, and trained as briefly."""
        steps = max(round(reward_ensemble.effort * self.steps), 1)
        return replace(self, width=min(reward_ensemble.width, self.width), steps=steps)


@dataclass
class TransformerConfig(TrainedConfig):
    """A transformer detector and its training."""

    patch: int | None = None
    depth: int = 2
    heads: int = 4
    memory_size: int = 1024

    def smaller(self, reward_ensemble: RewardEnsembleConfig) -> Self:
        """The same as small as judges are, and trained as briefly."""
        small = super().smaller(reward_ensemble)
        heads = math.gcd(self.heads, small.width)
        return replace(small, depth=min(reward_ensemble.depth, self.depth), heads=heads)


@dataclass
class RdnaConfig(TrainedConfig):
    """A reconstruction and a discriminant network, and their training."""

    width: int = 16
    batch_size: int = 16
    adversarial_weight: float = 0.1


@dataclass
class KnnConfig(DetectorConfig):
    """Nearest neighbours."""

    bank: int = 8000
    whitened: bool = True
    coreset: bool = True
    candidates: int = 40_000


@dataclass
class PositionalKnnConfig(DetectorConfig):
    """Nearest neighbours among tokens of the same place."""

    memory_size: int = 1024


@dataclass
class GaussianConfig(DetectorConfig):
    """A Gaussian a place."""


@dataclass
class ReconstructionConfig(DetectorConfig):
    """The autoencoder's error."""

    position_wise: bool = False
    pooled: str = "top"


@dataclass
class EnsembleConfig(TransformerConfig):
    """A transformer, its training, and the detectors that may give a second opinion."""

    members: list[str] | None = None

    def transformer(self) -> TransformerConfig:
        """The configuration of the transformer alone."""
        own = {field.name: getattr(self, field.name) for field in fields(TransformerConfig)}
        return TransformerConfig(**own)


@dataclass
class SynthesisConfig:
    """Pseudo-anomalies of images, by weight."""

    weights: dict[str, float] = field(default_factory=dict)
    pool: int = 1000


@dataclass
class RewardEnsembleConfig:
    """Small detectors that rewards go by."""

    count: int = 3
    width: int = 32
    depth: int = 1
    effort: float = 0.25
