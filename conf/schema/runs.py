"""The types of the configuration: Hydra checks every key and value against these classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from conf.schema.agents import (
    ActorCriticConfig,
    AgentConfig,
    DecisionTransformerConfig,
    FeatureNoiseConfig,
    GlassConfig,
    GradientConfig,
    MixupConfig,
    MpoConfig,
    PPOConfig,
    ReinforceConfig,
    UntrainedConfig,
)
from conf.schema.autoencoders import AutoencoderConfig, ConvConfig, MemoryAutoencoderConfig, PretrainedConfig
from conf.schema.datasets import (
    BmadConfig,
    CategoryConfig,
    DatasetConfig,
    DigitsConfig,
    FolderConfig,
    NpzConfig,
    OneClassConfig,
    PhantomConfig,
)
from conf.schema.detectors import (
    DetectorConfig,
    EnsembleConfig,
    GaussianConfig,
    KnnConfig,
    PositionalKnnConfig,
    RdnaConfig,
    ReconstructionConfig,
    RewardEnsembleConfig,
    SynthesisConfig,
    TransformerConfig,
)
from conf.schema.envs import AugmentEnvConfig, DenoiseEnvConfig, EnvConfig, RewardConfig


@dataclass
class LabelledConfig:
    """What the labelled anomalies of a validation split are used for."""

    train: float = 0.5
    reference_set: float = 0.25
    weight: float = 0.5
    step_multiplier: float = 1.0


@dataclass
class MixtureConfig:
    """How it is found out what retrained detectors learn from."""

    shares: list[float] = field(default_factory=lambda: [0.25])
    margin: float = 0.5
    by_synthetic: bool = True


@dataclass
class DataRun:
    """`python -m stages.prepare`: a data set, where it is found, and where it is kept."""

    dataset: DatasetConfig = MISSING
    track: str = "auto"
    data_root: str = "data"
    prepared: str = "prepared"


@dataclass
class AutoencoderRun(DataRun):
    """`train_ae.py`: what all stages share, and the autoencoder."""

    autoencoder: AutoencoderConfig = MISSING
    max_train_images: int | None = None
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
    reward_ensemble: RewardEnsembleConfig = field(default_factory=RewardEnsembleConfig)
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
    "autoencoder/form": MemoryAutoencoderConfig,
    "autoencoder/pretrained": PretrainedConfig,
    "detector/transformer": TransformerConfig,
    "detector/rdna": RdnaConfig,
    "detector/knn": KnnConfig,
    "detector/positional_knn": PositionalKnnConfig,
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
    "agent/ppo": PPOConfig,
    "agent/reinforce": ReinforceConfig,
    "agent/actor_critic": ActorCriticConfig,
    "agent/mpo": MpoConfig,
    "agent/decision_transformer": DecisionTransformerConfig,
    "agent/untrained": UntrainedConfig,
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
