"""The types of the commands' configurations, and their registration with Hydra."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore

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
from conf.schema.autoencoders import (
    AutoencoderConfig,
    ConvConfig,
    DiffusersConfig,
    MemoryAutoencoderConfig,
    PretrainedConfig,
    TaesdConfig,
)
from conf.schema.backbones import FeatureDefaults
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
    PanelConfig,
    PositionalKnnConfig,
    ProbeConfig,
    RdnaConfig,
    ReconstructionConfig,
    RewardEnsembleConfig,
    SegmenterConfig,
    SuperSimpleConfig,
    SynthesisConfig,
    TransformerConfig,
)
from conf.schema.envs import AugmentEnvConfig, DenoiseEnvConfig, EnvConfig, RewardConfig
from conf.schema.fields import (
    Count,
    CountOrZero,
    FewOrNone,
    Filled,
    Finite,
    Positive,
    Seed,
    SeedIfAny,
    Share,
    Threads,
    Width,
)


@dataclass
class LabelledCount:
    """How many labelled anomalies there are, and which."""

    count: CountOrZero[int | None]
    seed: SeedIfAny


@dataclass
class LabelledConfig(LabelledCount):
    """The labelled anomalies, and what they are used for."""

    few: CountOrZero[int]
    train: CountOrZero[float]
    reference_set: CountOrZero[float]
    weight: Share[float]
    step_multiplier: Positive[Filled[float]]
    folds: FewOrNone[Filled[int]]


@dataclass
class MixtureConfig:
    """How it is chosen what a retrained detector learns from."""

    few_share: Share[Filled[float]]
    compare_random: bool
    shares: Share[Filled[list[float]]]
    margin: Finite[float]
    by_synthetic: Filled[bool]


@dataclass
class DataRun:
    """`python -m stages.prepare`: a data set, where it is found, and where it is kept."""

    dataset: DatasetConfig
    track: str
    labelled: LabelledCount
    data_root: str
    prepared: str


@dataclass
class AutoencoderRun(DataRun):
    """`train_ae.py`: the data, the machine, and an autoencoder."""

    autoencoder: AutoencoderConfig
    max_train_images: Positive[int | None]
    seed: Seed
    device: str
    precision: str
    threads: Threads[int]
    memory: float | None
    runs: str


@dataclass
class DetectorRun(AutoencoderRun):
    """`train_detector.py`: all of `train_ae.py`, and a detector."""

    detector: DetectorConfig
    for_features: FeatureDefaults
    synthesis: SynthesisConfig
    labelled: LabelledConfig
    texture_root: str | None
    export: str | None


@dataclass
class AgentRun(DetectorRun):
    """`train_ppo.py`: all of `train_detector.py`, an environment, a reward and an agent."""

    env: EnvConfig
    reward: RewardConfig
    agent: AgentConfig
    rounds: Width[int]
    samples: Count[Filled[int]]
    share: Share[float | None]
    mixture: MixtureConfig
    reward_ensemble: RewardEnsembleConfig
    full_size: CountOrZero[int]
    plugins: list[str]


SCHEMA: dict[str, type[Any]] = {
    "dataset/digits": DigitsConfig,
    "dataset/phantom": PhantomConfig,
    "dataset/folder": FolderConfig,
    "dataset/npz": NpzConfig,
    "dataset/bmad": BmadConfig,
    "dataset/category": CategoryConfig,
    "dataset/one_class": OneClassConfig,
    "autoencoder/conv": ConvConfig,
    "autoencoder/memory": MemoryAutoencoderConfig,
    "autoencoder/pretrained": PretrainedConfig,
    "autoencoder/taesd": TaesdConfig,
    "autoencoder/diffusers": DiffusersConfig,
    "detector/transformer": TransformerConfig,
    "detector/rdna": RdnaConfig,
    "detector/supersimple": SuperSimpleConfig,
    "detector/probe": ProbeConfig,
    "detector/segmenter": SegmenterConfig,
    "detector/panel": PanelConfig,
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
