"""The types of the configuration: Hydra checks every key and value against these classes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from conf.datasets import (
    BmadConfig,
    CategoryConfig,
    DatasetConfig,
    DigitsConfig,
    FolderConfig,
    NpzConfig,
    OneClassConfig,
    PhantomConfig,
)


@dataclass
class EyesSuit:
    """What suits an autoencoder; other groups refer to it."""

    input: str = "image"
    realism: float = 0.5
    detector_steps: int = MISSING
    detector_batch_size: int = 32
    detector_learning_rate: float = 1e-3
    rivals: list[str] = field(default_factory=list)


@dataclass
class AutoencoderConfig:
    """An autoencoder and its training."""

    name: str = MISSING
    width: int = 24
    steps: int = MISSING
    batch_size: int = 32
    learning_rate: float = 2e-3
    suits: EyesSuit = field(default_factory=EyesSuit)

    def settings(self) -> dict[str, Any]:
        """What decides what it becomes: ``suits`` only matters through the values of other groups."""
        return {key: value for key, value in asdict(self).items() if key != "suits"}


@dataclass
class ConvConfig(AutoencoderConfig):
    """A convolutional autoencoder, trained from scratch."""

    latent: str = MISSING
    latent_size: int = MISSING


@dataclass
class FormConfig(ConvConfig):
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


@dataclass
class DetectorConfig:
    """A detector."""

    name: str = MISSING
    starts: int = 2048


@dataclass
class TrainedConfig(DetectorConfig):
    """A detector that learns from anomalies, and its training."""

    input: str = MISSING
    width: int = 64
    steps: int = MISSING
    batch_size: int = 32
    learning_rate: float = 1e-3
    rivals: list[str] = field(default_factory=list)

    def smaller(self, judges: JudgesConfig) -> Self:
        """The same as small as judges are, and trained as briefly."""
        steps = max(round(judges.effort * self.steps), 1)
        return replace(self, width=min(judges.width, self.width), steps=steps)


@dataclass
class TransformerConfig(TrainedConfig):
    """A transformer detector and its training."""

    patch: int | None = None
    depth: int = 2
    heads: int = 4
    remembered: int = 1024

    def smaller(self, judges: JudgesConfig) -> Self:
        """The same as small as judges are, and trained as briefly."""
        small = super().smaller(judges)
        heads = math.gcd(self.heads, small.width)
        return replace(small, depth=min(judges.depth, self.depth), heads=heads)


@dataclass
class RdnaConfig(TrainedConfig):
    """A reconstruction and a discriminant network, and their training."""

    width: int = 16
    batch_size: int = 16
    adversarial: float = 0.1


@dataclass
class KnnConfig(DetectorConfig):
    """Nearest neighbours."""

    bank: int = 8000
    whitened: bool = True
    coreset: bool = True
    candidates: int = 40_000


@dataclass
class KnnByPlaceConfig(DetectorConfig):
    """Nearest neighbours among tokens of the same place."""

    remembered: int = 1024


@dataclass
class GaussianConfig(DetectorConfig):
    """A Gaussian a place."""


@dataclass
class ReconstructionConfig(DetectorConfig):
    """The autoencoder's error."""

    by_place: bool = False
    pooled: str = "top"


@dataclass
class EnsembleConfig(TransformerConfig):
    """A transformer, its training, and the detectors that may give a second opinion."""

    second: list[str] | None = None


@dataclass
class SynthesisConfig:
    """Pseudo-anomalies, by weight: of images, and of latents."""

    weights: dict[str, float] = field(default_factory=dict)
    latent: dict[str, float] = field(default_factory=dict)
    pool: int = 1000


@dataclass
class LearnerSuit:
    """What suits an environment; the agents that learn refer to it."""

    total_steps: int = MISSING
    n_steps: int = 16
    batch_size: int | None = None
    n_epochs: int = 8
    learning_rate: float = 1e-3
    gamma: float = 0.9
    ent_coef: float = 0.005
    first_deviation: float = 1.0
    least_deviation: float = 0.3
    recorded_steps: int = MISSING
    teachers: list[str] = field(default_factory=list)


@dataclass
class EnvConfig:
    """What every environment has, and how many worlds run at once."""

    max_delta: float | None = None
    horizon: int = MISSING
    time_aware: bool = False
    num_envs: int = MISSING
    suits: LearnerSuit = field(default_factory=LearnerSuit)

    def arguments(self) -> dict[str, Any]:
        """The environment's own arguments: ``suits`` only matters through the values of other groups."""
        others = ("num_envs", "suits")
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


@dataclass
class AgentConfig:
    """What chooses Δz."""

    name: str = MISSING
    perturbation: str = "auto"
    keep: float = 1.0


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
class SmallestConfig(AgentConfig):
    """The smallest changes that the detector still tells apart, learned by several perturbators."""

    perturbators: int = 4
    hidden: int = 64
    steps: int = 200
    learning_rate: float = 3e-3
    size_weight: float = 0.3
    repulsion_weight: float = 0.5


@dataclass
class CemConfig(AgentConfig):
    """The cross-entropy method."""

    total_steps: int = MISSING
    steps: int = 16
    elites: float = 0.2
    smoothing: float = 0.5
    least_deviation: float = 0.3


@dataclass
class LearnerConfig(AgentConfig):
    """An agent that learns from what worlds pay, as Stable-Baselines3's do."""

    total_steps: int = MISSING
    learning_rate: float = 1e-3
    least_deviation: float = 0.3
    hidden: list[int] = field(default_factory=lambda: [128, 128])


@dataclass
class OnPolicyConfig(LearnerConfig):
    """One that learns from its own rollouts."""

    n_steps: int = 16
    gamma: float = 0.9
    ent_coef: float = 0.005
    first_deviation: float = 1.0


@dataclass
class PPOConfig(OnPolicyConfig):
    """Stable-Baselines3's PPO, learning on the batch of worlds."""

    batch_size: int | None = None
    n_epochs: int = 8


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
    first_deviation: float = 1.0
    candidates: int = 16
    epsilon: float = 0.1
    epsilon_mean: float = 0.05
    epsilon_deviation: float = 1e-3


@dataclass
class DecisionTransformerConfig(LearnerConfig):
    """A sequence model of recorded episodes, asked for a high return."""

    teachers: list[str] = field(default_factory=list)
    wish: float | None = None
    context: int = 1
    heads: int = 4
    n_steps: int = 16
    gradient_steps: int = 16
    batch_size: int = 256
    remembered: int = 200_000


@dataclass
class UntrainedConfig(AgentConfig):
    """PPO's policy with the weights it begins with."""

    hidden: list[int] = field(default_factory=lambda: [128, 128])


@dataclass
class RandomMatchedConfig(PPOConfig):
    """Random actions with lengths of Δz like those of a PPO that is trained first."""

    candidates: int = 64


@dataclass
class LabelledConfig:
    """What the labelled anomalies of a validation split are used for."""

    train: float = 0.5
    trial: float = 0.25
    weight: float = 0.25


@dataclass
class JudgesConfig:
    """Small detectors that rewards go by."""

    count: int = 3
    width: int = 32
    depth: int = 1
    effort: float = 0.25


@dataclass
class MixtureConfig:
    """How it is found out what retrained detectors learn from."""

    shares: list[float] = field(default_factory=lambda: [0.25])
    margin: float = 0.5


@dataclass
class DataRun:
    """`python -m latent_env.data`: a data set, where it is found, and where it is kept."""

    dataset: DatasetConfig = MISSING
    track: str = "auto"
    data_root: str = "data"
    prepared: str = "prepared"


@dataclass
class AutoencoderRun(DataRun):
    """`train_ae.py`: what all stages share, and the autoencoder."""

    autoencoder: AutoencoderConfig = MISSING
    normals: int | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "float32"
    threads: int | None = None
    memory: float | None = None
    runs: str = "runs"


@dataclass
class DetectorRun(AutoencoderRun):
    """`train_detector.py`: the first stage's, and the detector."""

    detector: DetectorConfig = MISSING
    synthesis: SynthesisConfig = MISSING
    labelled: LabelledConfig = field(default_factory=LabelledConfig)
    curves: bool = False
    texture_root: str | None = None
    export: str | None = None


@dataclass
class AgentRun(DetectorRun):
    """`train_ppo.py`: everything."""

    env: EnvConfig = MISSING
    reward: RewardConfig = MISSING
    agent: AgentConfig = MISSING
    rounds: int = 2
    samples: int = 2048
    share: float | None = None
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    judges: JudgesConfig = field(default_factory=JudgesConfig)
    plugins: list[str] = field(default_factory=list)


SCHEMA: dict[str, type[Any]] = {
    "dataset/digits": DigitsConfig,
    "dataset/phantom": PhantomConfig,
    "dataset/folder": FolderConfig,
    "dataset/npz": NpzConfig,
    "dataset/bmad": BmadConfig,
    "dataset/category": CategoryConfig,
    "dataset/one_class": OneClassConfig,
    "autoencoder/conv": ConvConfig,
    "autoencoder/form": FormConfig,
    "autoencoder/pretrained": PretrainedConfig,
    "detector/transformer": TransformerConfig,
    "detector/rdna": RdnaConfig,
    "detector/knn": KnnConfig,
    "detector/knn_by_place": KnnByPlaceConfig,
    "detector/gaussian": GaussianConfig,
    "detector/reconstruction": ReconstructionConfig,
    "detector/ensemble": EnsembleConfig,
    "synthesis/image": SynthesisConfig,
    "env/latent_aug": AugmentEnvConfig,
    "env/latent_denoise": DenoiseEnvConfig,
    "reward/terms": RewardConfig,
    "agent/plain": AgentConfig,
    "agent/gradient": GradientConfig,
    "agent/feature_noise": FeatureNoiseConfig,
    "agent/glass": GlassConfig,
    "agent/mixup": MixupConfig,
    "agent/smallest": SmallestConfig,
    "agent/cem": CemConfig,
    "agent/ppo": PPOConfig,
    "agent/reinforce": ReinforceConfig,
    "agent/actor_critic": ActorCriticConfig,
    "agent/mpo": MpoConfig,
    "agent/decision_transformer": DecisionTransformerConfig,
    "agent/untrained": UntrainedConfig,
    "agent/random_matched": RandomMatchedConfig,
    "prepare": DataRun,
    "train_ae": AutoencoderRun,
    "train_detector": DetectorRun,
    "train_ppo": AgentRun,
}


def register_schema() -> None:
    """Make the types known to Hydra, under ``schema/`` where no choice of a user's is looked for."""
    store = ConfigStore.instance()
    for path, node in SCHEMA.items():
        group, _, name = f"schema/{path}".rpartition("/")
        store.store(group=group, name=name, node=node)
