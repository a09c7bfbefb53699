"""The types of `agent=`."""

from __future__ import annotations

from dataclasses import dataclass

from conf.schema.fields import (
    BatchSize,
    Count,
    CountOrZero,
    Filled,
    Finite,
    Name,
    NonNegative,
    Positive,
    PositiveShare,
    Share,
    Width,
)


@dataclass
class AgentConfig:
    """What chooses Δz."""

    name: Name
    perturbation: str
    keep_fraction: PositiveShare[float]


@dataclass
class GradientConfig(AgentConfig):
    """Gradient ascent on the detector's loss."""

    steps: Positive[int]
    step_size: Positive[float]


@dataclass
class FeatureNoiseConfig(AgentConfig):
    """Noise on every token."""

    strength: Positive[float]


@dataclass
class GlassConfig(FeatureNoiseConfig):
    """Gradient ascent from noise, projected to a shell."""

    steps: Positive[int]
    step_size: Positive[float]
    project_every: Positive[int]


@dataclass
class MixupConfig(AgentConfig):
    """Part of the way to another image's latent."""

    low: Share[float]
    high: Share[float]


@dataclass
class LearnerConfig(AgentConfig):
    """An agent that learns from rewards, with the interface of Stable-Baselines3."""

    total_steps: Positive[Filled[int]]
    learning_rate: Positive[Filled[float]]
    min_std: Positive[Filled[float]]
    hidden: Width[list[int]]


@dataclass
class OnPolicyConfig(LearnerConfig):
    """A learner that uses its own latest rollout."""

    n_steps: Positive[Filled[int]]
    gamma: Share[Filled[float]]
    ent_coef: NonNegative[Filled[float]]
    init_std: Positive[Filled[float]]


@dataclass
class PPOConfig(OnPolicyConfig):
    """Stable-Baselines3's PPO, learning on the batch of worlds."""

    batch_size: BatchSize[int | None]
    n_epochs: Positive[Filled[int]]
    mean_bias_lr_scale: Positive[Filled[float]]


@dataclass
class ReinforceConfig(OnPolicyConfig):
    """The policy gradient with a learned baseline."""

    baseline_epochs: Positive[int]


@dataclass
class ActorCriticConfig(OnPolicyConfig):
    """Stable-Baselines3's A2C."""

    gae_lambda: Share[float]


@dataclass
class MpoConfig(LearnerConfig):
    """Maximum a posteriori policy optimisation."""

    n_steps: Positive[int]
    gradient_steps: Positive[int]
    batch_size: BatchSize[int]
    buffer_size: Count[int]
    learning_starts: CountOrZero[int]
    gamma: Share[Filled[float]]
    candidates: Width[int]
    epsilon: Positive[float]
    epsilon_mean: Positive[float]
    epsilon_std: Positive[float]
    init_std: Positive[Filled[float]]


@dataclass
class DecisionTransformerConfig(LearnerConfig):
    """A sequence model of recorded episodes, asked for a high return."""

    demonstrations: Filled[list[str]]
    target_return: Finite[float | None]
    context: Width[int]
    heads: Positive[int]
    n_steps: Positive[int]
    gradient_steps: Positive[int]
    batch_size: BatchSize[int]
    memory_size: Count[int]


@dataclass
class UntrainedConfig(AgentConfig):
    """PPO's policy with the weights it begins with."""

    hidden: Width[list[int]]
