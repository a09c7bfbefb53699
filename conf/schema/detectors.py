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
class LearningConfig(DetectorConfig):
    """A detector that learns from anomalies: labelled ones, samples, or synthetic ones."""

    input: Filled[str]
    baselines: Filled[list[str]]


@dataclass
class TrainedConfig(LearningConfig):
    """A detector that learns from anomalies step by step, and its training."""

    width: Width[int]
    steps: Positive[Filled[int]]
    batch_size: BatchSize[Filled[int]]
    learning_rate: Positive[Filled[float]]

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
    classifies: bool


@dataclass
class ProbeConfig(TokenDetectorConfig, LearningConfig):
    """A linear probe on whitened tokens."""

    strength: Positive[float]


@dataclass
class SegmenterConfig(TokenDetectorConfig, TrainedConfig):
    """A small convolutional network on whitened tokens, and its training."""

    noise: Positive[float]
    sample_step_multiplier: Positive[Filled[float]]

    def smaller(self, ensemble: RewardEnsembleConfig) -> Self:
        """A member of the reward ensemble, which learns as long with samples as without."""
        return replace(super().smaller(ensemble), sample_step_multiplier=1.0)


@dataclass
class DrawingConfig:
    """How the member of a panel learns that has a part in the map alone."""

    width: Width[int]
    upscale: Upscale
    noise: Positive[float]
    steps: Count[int]
    batch_size: BatchSize[int]
    learning_rate: Positive[float]


@dataclass
class PanelConfig(SegmenterConfig, ProbeConfig):
    """Detectors of tokens that count as much as each other, one of them in the map alone."""

    members: list[str]
    drawing: DrawingConfig

    def segmenter(self) -> SegmenterConfig:
        """The configuration of the segmenter alone."""
        return SegmenterConfig(**_own(self, SegmenterConfig))

    def probe(self) -> ProbeConfig:
        """The configuration of the probe alone."""
        return ProbeConfig(**_own(self, ProbeConfig))

    def supersimple(self) -> SuperSimpleConfig:
        """The configuration of the member that draws."""
        own = {field.name: getattr(self.drawing, field.name) for field in fields(DrawingConfig)}
        shared = {**_own(self, TokenDetectorConfig), **own, "baselines": [], "classifies": False}
        return SuperSimpleConfig(**shared)


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
        return TransformerConfig(**_own(self, TransformerConfig))


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


def _own(config: DetectorConfig, kind: type[DetectorConfig]) -> dict[str, Any]:
    """Those fields of ``config`` that a ``kind`` has."""
    return {field.name: getattr(config, field.name) for field in fields(kind)}
