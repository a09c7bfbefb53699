"""The types of `detector=`, `synthesis=` and `reward_ensemble`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from conf.schema.backbones import BackboneChoice
from conf.schema.fields import (
    BatchSize,
    Count,
    FewOrNone,
    Filled,
    Name,
    NonNegative,
    Positive,
    PositiveShare,
    Upscale,
    Width,
)


@dataclass
class DetectorConfig:
    """A detector."""

    name: Name
    num_start_images: Count[int]

    def settings(self) -> dict[str, Any]:
        """What the detector depends on but for its backbone: the plan adds a digest of the weights."""
        of_backbone = {field.name for field in fields(BackboneChoice)}
        return {key: value for key, value in asdict(self).items() if key not in of_backbone}


@dataclass
class TokenDetectorConfig(BackboneChoice, DetectorConfig):
    """A detector of tokens: of the latent, or of a backbone's features."""

    input: Filled[str]


@dataclass
class TrainedConfig(DetectorConfig):
    """A detector that learns from anomalies, synthetic or labelled, and its training."""

    input: Filled[str]
    width: Width[int]
    steps: Positive[Filled[int]]
    batch_size: BatchSize[Filled[int]]
    learning_rate: Positive[Filled[float]]
    baselines: Filled[list[str]]

    def smaller(self, ensemble: RewardEnsembleConfig) -> Self:
        """A member of the reward ensemble: a detector of this kind, smaller and more briefly trained."""
        steps = max(round(ensemble.effort * self.steps), 1)
        return replace(self, width=min(ensemble.width, self.width), steps=steps)


@dataclass
class TransformerConfig(TokenDetectorConfig, TrainedConfig):
    """A transformer detector and its training."""

    patch: Positive[int | None]
    depth: Width[int]
    heads: Positive[int]
    memory_size: Count[int]

    def smaller(self, ensemble: RewardEnsembleConfig) -> Self:
        """A member of the reward ensemble, with as many attention heads as its width can be divided by."""
        small = super().smaller(ensemble)
        heads = math.gcd(self.heads, small.width)
        return replace(small, depth=min(ensemble.depth, self.depth), heads=heads)


@dataclass
class RdnaConfig(TrainedConfig):
    """A reconstruction and a discriminant network, and their training."""

    adversarial_weight: NonNegative[float]


@dataclass
class SuperSimpleConfig(TokenDetectorConfig, TrainedConfig):
    """Two heads on tokens that learn from noise, and their training."""

    upscale: Upscale
    noise: Positive[float]


@dataclass
class PanelConfig(SuperSimpleConfig):
    """Two heads that are trained, and fitted detectors that count as much."""

    members: list[str]

    def supersimple(self) -> SuperSimpleConfig:
        """The configuration of what is trained."""
        own = {field.name: getattr(self, field.name) for field in fields(SuperSimpleConfig)}
        return SuperSimpleConfig(**own)


@dataclass
class KnnConfig(TokenDetectorConfig):
    """Nearest neighbours."""

    bank: Count[int]
    whitened: bool
    coreset: bool
    candidates: Count[int]


@dataclass
class PositionalKnnConfig(TokenDetectorConfig):
    """Nearest neighbours among tokens of the same place."""

    memory_size: Count[int]


@dataclass
class GaussianConfig(TokenDetectorConfig):
    """A Gaussian a place."""


@dataclass
class ReconstructionConfig(DetectorConfig):
    """The autoencoder's error."""

    position_wise: bool
    pooling: Filled[str]


@dataclass
class EnsembleConfig(TransformerConfig):
    """A transformer, its training, and the detectors that it may be joined with."""

    members: list[str] | None

    def transformer(self) -> TransformerConfig:
        """The configuration of the transformer alone."""
        own = {field.name: getattr(self, field.name) for field in fields(TransformerConfig)}
        return TransformerConfig(**own)


@dataclass
class SynthesisConfig:
    """Synthetic anomalies by weight, and how many of them are encoded for detectors that read latents."""

    weights: NonNegative[dict[str, float]]
    pool: Count[int]


@dataclass
class RewardEnsembleConfig:
    """The small detectors that rewards are computed from."""

    count: FewOrNone[int]
    width: Width[int]
    depth: Width[int]
    effort: PositiveShare[float]
