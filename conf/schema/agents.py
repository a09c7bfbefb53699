"""The types of `agent=`."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass
class AgentConfig:
    """What chooses Δz."""

    name: str = MISSING
    perturbation: str = "auto"
    keep_fraction: float = 1.0


@dataclass
class GradientConfig(AgentConfig):
    """Gradient ascent on the detector's loss."""

    steps: int = 5
    step_size: float = 0.3


@dataclass
class FeatureNoiseConfig(AgentConfig):
    """Noise on every token."""

    strength: float = 1.5


@dataclass
class GlassConfig(FeatureNoiseConfig):
    """Gradient ascent from noise, projected to a shell."""

    steps: int = 20
    step_size: float = 0.1
    project_every: int = 5


@dataclass
class MixupConfig(AgentConfig):
    """Part of the way to another image's latent."""

    low: float = 0.2
    high: float = 0.8


@dataclass
class LearnerConfig(AgentConfig):
    """An agent that learns from what worlds pay, as Stable-Baselines3's do."""

    total_steps: int = MISSING
    learning_rate: float = 1e-3
    min_std: float = 0.3
    hidden: list[int] = field(default_factory=lambda: [128, 128])


@dataclass
class OnPolicyConfig(LearnerConfig):
    """One that learns from its own rollouts."""

    n_steps: int = 16
    gamma: float = 0.9
    ent_coef: float = 0.005
    init_std: float = 1.0


@dataclass
class PPOConfig(OnPolicyConfig):
    """Stable-Baselines3's PPO, learning on the batch of worlds."""

    batch_size: int | None = None
    n_epochs: int = 8
    mean_bias_lr_scale: float = 1.0


@dataclass
class ReinforceConfig(OnPolicyConfig):
    """The policy gradient with a learned baseline."""

    baseline_epochs: int = 8


@dataclass
class ActorCriticConfig(OnPolicyConfig):
    """Stable-Baselines3's A2C."""

    gae_lambda: float = 0.9


@dataclass
class MpoConfig(LearnerConfig):
    """Maximum a posteriori policy optimisation."""

    n_steps: int = 4
    gradient_steps: int = 16
    batch_size: int = 256
    buffer_size: int = 50_000
    learning_starts: int = 1024
    gamma: float = 0.9
    init_std: float = 1.0
    candidates: int = 16
    epsilon: float = 0.1
    epsilon_mean: float = 0.05
    epsilon_std: float = 1e-3


@dataclass
class DecisionTransformerConfig(LearnerConfig):
    """A sequence model of recorded episodes, asked for a high return."""

    demonstrations: list[str] = field(default_factory=list)
    target_return: float | None = None
    context: int = 1
    heads: int = 4
    n_steps: int = 16
    gradient_steps: int = 16
    batch_size: int = 256
    memory_size: int = 200_000


@dataclass
class UntrainedConfig(AgentConfig):
    """PPO's policy with the weights it begins with."""

    hidden: list[int] = field(default_factory=lambda: [128, 128])
