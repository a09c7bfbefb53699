"""The types of `autoencoder=`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class AutoencoderDefaults:
    """What recommended an autoencoder; other groups refer to it."""

    input: str = "image"
    realism: float = 0.5
    detector_steps: int = MISSING
    detector_batch_size: int = 32
    detector_learning_rate: float = 1e-3
    labelled_step_multiplier: float = 1.0
    shares: list[float] = field(default_factory=lambda: [0.25])
    baselines: list[str] = field(default_factory=list)


@dataclass
class AutoencoderConfig:
    """An autoencoder and its training."""

    name: str = MISSING
    width: int = 24
    steps: int = MISSING
    batch_size: int = 32
    learning_rate: float = 2e-3
    recommended: AutoencoderDefaults = field(default_factory=AutoencoderDefaults)

    def settings(self) -> dict[str, Any]:
        """What decides what it becomes: ``recommended`` only matters through the values of other groups."""
        return {key: value for key, value in asdict(self).items() if key != "recommended"}


@dataclass
class ConvConfig(AutoencoderConfig):
    """A convolutional autoencoder, trained from scratch."""

    latent: str = MISSING
    latent_size: int = MISSING


@dataclass
class MemoryAutoencoderConfig(ConvConfig):
    """One of four forms of it: plain or variational, without or with a memory of normal prototypes."""

    variational: bool = MISSING
    kl: float = MISSING
    items: int = MISSING  # prototypes; 0: no memory
    heads: int = 1
    shared: bool = True
    join: str = "average"
    shrinkage: float = 3.0
    temperature: float = 0.02
    entropy: float = 2e-4
    warmup: float = 0.3
    generated: int = 500
    pooled: str = "top"  # of the errors that are shown


@dataclass
class PretrainedConfig(AutoencoderConfig):
    """A frozen pretrained backbone, and a decoder."""

    backbone: str = ""  # a folder or a name
    layers: list[int] | None = None
    grid: int | None = None
    components: float = 128

    def settings(self) -> dict[str, Any]:
        """The same weights from elsewhere are the same: the stage adds a digest of them instead."""
        return {key: value for key, value in super().settings().items() if key != "backbone"}
