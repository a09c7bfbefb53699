"""The types of `autoencoder=`, and of what an autoencoder recommends to other groups."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from conf.schema.backbones import BackboneChoice, FeatureDefaults
from conf.schema.fields import BatchSize, Filled, Name, NonNegative, Positive, ShareBelowOne


@dataclass
class AutoencoderDefaults(FeatureDefaults):
    """Values for keys of other groups that are null."""

    input: str


@dataclass
class AutoencoderConfig:
    """An autoencoder and its training."""

    name: Name
    width: Positive[int]
    steps: Positive[Filled[int]]
    batch_size: BatchSize[int]
    learning_rate: Positive[float]
    recommended: AutoencoderDefaults

    def settings(self) -> dict[str, Any]:
        """What the trained autoencoder depends on: what it recommends only matters through other groups."""
        return {key: value for key, value in asdict(self).items() if key != "recommended"}


@dataclass
class ConvConfig(AutoencoderConfig):
    """A convolutional autoencoder, trained from scratch."""

    latent: Filled[str]
    latent_size: Filled[int]


@dataclass
class MemoryAutoencoderConfig(ConvConfig):
    """A convolutional autoencoder, plain or variational, with a memory of normal prototypes or without."""

    variational: bool
    kl: NonNegative[float]
    items: Filled[int]
    heads: Positive[int]
    shared: bool
    join: str
    shrinkage: float
    temperature: Positive[float]
    entropy: NonNegative[float]
    warmup: ShareBelowOne[float]
    generated: Positive[int]
    pooling: Filled[str]


@dataclass
class PretrainedConfig(BackboneChoice, AutoencoderConfig):
    """A frozen pretrained backbone, and a decoder."""

    def settings(self) -> dict[str, Any]:
        """What it depends on but for where the backbone lies: its stage adds a digest of the weights."""
        return {key: value for key, value in super().settings().items() if key != "backbone"}
