"""The types of `env=` and `reward=`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class LearnerDefaults:
    """What recommended an environment; the agents that learn refer to it."""

    total_steps: int = MISSING
    n_steps: int = 16
    batch_size: int | None = None
    n_epochs: int = 8
    learning_rate: float = 1e-3
    gamma: float = 0.9
    ent_coef: float = 0.005
    init_std: float = 1.0
    min_std: float = 0.3
    mean_bias_lr_scale: float = 1.0
    recorded_steps: int = MISSING
    demonstrations: list[str] = field(default_factory=list)


@dataclass
class EnvConfig:
    """What every environment has, and how many worlds run at once."""

    max_delta: float | None = None
    horizon: int = MISSING
    time_aware: bool = False
    num_envs: int = MISSING
    recommended: LearnerDefaults = field(default_factory=LearnerDefaults)

    def arguments(self) -> dict[str, Any]:
        """The environment's own arguments: ``recommended`` only matters through the values of other groups."""
        others = ("num_envs", "recommended")
        return {key: value for key, value in asdict(self).items() if key not in others}

    def settings(self) -> dict[str, Any]:
        """What decides what agents learn in it."""
        return {**self.arguments(), "num_envs": self.num_envs}


@dataclass
class AugmentEnvConfig(EnvConfig):
    """The arguments of LatentAug-v0."""

    perturbation: str = "auto"
    shell_quantile: float = 0.95
    shell_ratio: float | None = None
    shell_band: float = 0.2
    precision: str = "float32"
    compiled: bool = False


@dataclass
class CriticConfig:
    """The critic and its training; it is trained again, for a share of the steps, after every round."""

    width: int = 128
    depth: int = 3
    steps: int = 3000
    batch_size: int = 128
    learning_rate: float = 2e-3
    refresh: float = 0.5


@dataclass
class DenoiseEnvConfig(EnvConfig):
    """The arguments of LatentDenoise-v0, and its critic."""

    artifacts: str | None = None
    space: str = "latent"
    conditional: bool = True
    schedule: str = "cosine"
    start: str = "full"
    threshold: float | None = 0.8
    corridor: float = 0.5
    critic: CriticConfig = field(default_factory=CriticConfig)

    def arguments(self) -> dict[str, Any]:
        """Those of the environment: a world's critic is there already."""
        others = ("critic", "artifacts")
        return {key: value for key, value in super().arguments().items() if key not in others}


@dataclass
class RewardConfig:
    """Reward terms, by weight."""

    terms: dict[str, float] = field(default_factory=dict)
