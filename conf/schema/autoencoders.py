"""The types of `autoencoder=`, and of what an autoencoder recommends to other groups."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from conf.schema.backbones import BackboneChoice, FeatureDefaults
from conf.schema.fields import (
    BatchSize,
    Count,
    CountOrZero,
    Filled,
    Name,
    NonNegative,
    Positive,
    ShareBelowOne,
    Width,
)

FINE_TUNING = ("batch_size", "learning_rate", "noise")
"""Keys of generators that don't matter where nothing is trained."""


@dataclass
class AutoencoderDefaults(FeatureDefaults):
    """Values for keys of other groups that are null."""

    input: str
    agent_steps: Positive[Filled[int]]
    samples: Positive[int]


@dataclass
class AutoencoderConfig:
    """An autoencoder and its training."""

    name: Name
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

    width: Width[int]
    latent: Filled[str]
    latent_size: Width[Filled[int]]


@dataclass
class MemoryAutoencoderConfig(ConvConfig):
    """A convolutional autoencoder, plain or variational, with a memory of normal prototypes or without."""

    variational: bool
    kl: NonNegative[float]
    items: CountOrZero[Filled[int]]
    heads: Positive[int]
    shared: bool
    join: str
    shrinkage: NonNegative[float]
    temperature: Positive[float]
    entropy: NonNegative[float]
    warmup: ShareBelowOne[float]
    generated: Count[int]
    pooling: Filled[str]


@dataclass
class PretrainedConfig(BackboneChoice, AutoencoderConfig):
    """A frozen pretrained backbone, and a decoder."""

    width: Width[int]

    def settings(self) -> dict[str, Any]:
        """What it depends on but for where the backbone lies: its stage adds a digest of the weights."""
        return {key: value for key, value in super().settings().items() if key != "backbone"}


@dataclass
class GenerativeConfig(AutoencoderConfig):
    """A published image autoencoder, frozen; its decoder is fine-tuned for ``steps``."""

    steps: NonNegative[int]
    noise: NonNegative[float]

    def settings(self) -> dict[str, Any]:
        """What it depends on but for where the network lies: its stage adds a digest of the weights."""
        found = super().settings()
        unimportant = ("weights", "model") if self.steps else ("weights", "model", *FINE_TUNING)
        return {key: value for key, value in found.items() if key not in unimportant}


@dataclass
class TaesdConfig(GenerativeConfig):
    """Original weights of TAESD or one of its relatives."""

    weights: str


@dataclass
class DiffusersConfig(GenerativeConfig):
    """An image autoencoder of the library diffusers."""

    model: str
