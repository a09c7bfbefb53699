"""The types of `env=` and `reward=`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from conf.schema.fields import (
    BatchSize,
    Filled,
    Finite,
    Horizon,
    NonNegative,
    Positive,
    PositiveShare,
    Share,
    ShareBelowOne,
    Width,
    Worlds,
)


@dataclass
class LearnerDefaults:
    """Values for keys of agents that are null."""

    total_steps: Positive[Filled[int]]
    recorded_steps: Positive[Filled[int]]
    n_steps: Positive[int]
    n_epochs: Positive[int]
    learning_rate: Positive[float]
    gamma: Share[float]
    ent_coef: NonNegative[float]
    init_std: Positive[float]
    min_std: Positive[float]
    mean_bias_lr_scale: Positive[float]
    demonstrations: list[str]


@dataclass
class EnvConfig:
    """The arguments of every environment, and how many worlds run at once."""

    max_delta: Positive[float | None]
    horizon: Horizon
    time_aware: bool
    num_envs: Worlds
    recommended: LearnerDefaults

    def arguments(self) -> dict[str, Any]:
        """The arguments of the environment's constructor."""
        others = ("num_envs", "recommended")
        return {key: value for key, value in asdict(self).items() if key not in others}

    def settings(self) -> dict[str, Any]:
        """What agents learn depends on: what it recommends only matters through the agent's own keys."""
        return {**self.arguments(), "num_envs": self.num_envs}


@dataclass
class AugmentEnvConfig(EnvConfig):
    """The arguments of LatentAug-v0."""

    perturbation: Filled[str]
    observation: str
    place: str
    blending: str
    edits: str
    shell_quantile: PositiveShare[float]
    shell_ratio: Positive[float | None]
    shell_band: ShareBelowOne[float]
    precision: Filled[str]
    compiled: bool


@dataclass
class CriticConfig:
    """The critic and its training; it goes on learning, for a share of the steps, after every round."""

    width: Width[int]
    depth: Width[int]
    steps: Positive[int]
    batch_size: BatchSize[int]
    learning_rate: Positive[float]
    refresh: Share[float]


@dataclass
class DenoiseEnvConfig(EnvConfig):
    """The arguments of LatentDenoise-v0, and its critic."""

    artifacts: str | None
    space: str
    conditional: bool
    schedule: str
    start: str
    threshold: PositiveShare[float | None]
    corridor: Positive[float]
    critic: CriticConfig

    def arguments(self) -> dict[str, Any]:
        """The arguments of the environment's constructor; a world brings its critic."""
        others = ("critic", "artifacts")
        return {key: value for key, value in super().arguments().items() if key not in others}


@dataclass
class RewardConfig:
    """The reward's terms, by weight."""

    terms: Finite[dict[str, Filled[float]]]
