"""The types of the configuration: Hydra checks every key and value against these classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

if TYPE_CHECKING:
    from latent_env.data import Dataset


@dataclass
class Suits:
    """What suits a data set on a machine without a GPU; other groups refer to it."""

    latent: str = "spatial"
    latent_size: int = 8
    autoencoder_steps: int = 1000
    detector_steps: int = 800
    agent_steps: int = 16000


@dataclass
class DatasetConfig:
    """A data set: how to load it, and what suits it."""

    name: str = MISSING
    suits: Suits = field(default_factory=Suits)

    def load(self, data_root: Path) -> Dataset:
        """Load the images into memory."""
        raise TypeError(f"{type(self).__name__} doesn't say how to load {self.name} from {data_root}")


@dataclass
class DigitsConfig(DatasetConfig):
    """scikit-learn's handwritten digits."""

    normal: Any = 0  # a digit or several
    seed: int = 0

    def load(self, data_root: Path) -> Dataset:  # noqa: ARG002 - they come with scikit-learn
        """Load the images into memory."""
        from latent_env.data import load_digits_dataset

        normal = self.normal if isinstance(self.normal, list) else [self.normal]
        return load_digits_dataset(normal, self.seed)


@dataclass
class PhantomConfig(DatasetConfig):
    """Procedural CT-like slices."""

    size: int = 64
    train: int = 600
    valid: int = 120
    test: int = 300
    seed: int = 0

    def load(self, data_root: Path) -> Dataset:  # noqa: ARG002 - they are drawn, not read
        """Draw the images."""
        from latent_env.data import make_phantom_dataset

        return make_phantom_dataset(self.size, self.train, self.valid, self.test, self.seed)


@dataclass
class FolderConfig(DatasetConfig):
    """Any folder in MVTec's layout."""

    root: str = MISSING
    size: int = 64
    channels: int | None = None
    valid_fraction: float = 0.15
    limit: int | None = None
    seed: int = 0

    def load(self, data_root: Path) -> Dataset:
        """Read the images."""
        from detectors.errors import UserError
        from latent_env.data import load_folder_dataset

        if not self.root:
            raise UserError(
                "dataset.root is missing: name the folder that holds train/good and test/…, "
                "for example `dataset=folder dataset.root=/data/mvtec/bottle`"
            )
        return load_folder_dataset(
            data_root / self.root,  # an absolute root replaces data_root
            self.size,
            channels=self.channels,
            name=self.name or None,
            valid_fraction=self.valid_fraction,
            seed=self.seed,
            limit=self.limit,
        )


@dataclass
class BmadConfig(DatasetConfig):
    """A data set of the BMAD benchmark."""

    size: int = 64
    limit: int | None = None

    def load(self, data_root: Path) -> Dataset:
        """Read the images."""
        from latent_env.data import load_bmad_dataset

        return load_bmad_dataset(data_root, self.name, self.size, limit=self.limit)


@dataclass
class AutoencoderConfig:
    """A convolutional autoencoder and its training."""

    latent: str = MISSING
    latent_size: int = MISSING
    width: int = 24
    steps: int = MISSING
    batch_size: int = 32
    learning_rate: float = 2e-3


@dataclass
class DetectorConfig:
    """A transformer detector and its training."""

    patch: int | None = None
    width: int = 64
    depth: int = 2
    heads: int = 4
    steps: int = MISSING
    batch_size: int = 32
    learning_rate: float = 1e-3
    starts: int = 2048


@dataclass
class SynthesisConfig:
    """Image-space pseudo-anomalies, by weight."""

    weights: dict[str, float] = field(default_factory=dict)


@dataclass
class EnvConfig:
    """The arguments of LatentAug-v0, and how many worlds run at once."""

    perturbation: str = "auto"
    max_delta: float | None = None
    horizon: int = 4
    time_aware: bool = False
    shell_quantile: float = 0.95
    shell_ratio: float = 4.0
    shell_band: float = 0.2
    num_envs: int = 32


@dataclass
class RewardConfig:
    """Reward terms, by weight."""

    terms: dict[str, float] = field(default_factory=dict)


@dataclass
class AgentConfig:
    """What chooses Δz."""

    name: str = MISSING


@dataclass
class GradientConfig(AgentConfig):
    """Gradient ascent on the detector's loss."""

    steps: int = 5
    step_size: float = 0.3


@dataclass
class PPOConfig(AgentConfig):
    """Stable-Baselines3's PPO, learning on the batch of worlds."""

    total_steps: int = MISSING
    n_steps: int = 32
    batch_size: int = 256
    n_epochs: int = 4
    learning_rate: float = 3e-4
    gamma: float = 0.9
    ent_coef: float = 0.005
    hidden: list[int] = field(default_factory=lambda: [128, 128])


@dataclass
class AutoencoderRun:
    """`train_ae.py`: what all stages share, and the autoencoder."""

    dataset: DatasetConfig = MISSING
    autoencoder: AutoencoderConfig = MISSING
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    data_root: str = "data"
    runs: str = "runs"


@dataclass
class DetectorRun(AutoencoderRun):
    """`train_detector.py`: the first stage's, and the detector."""

    detector: DetectorConfig = MISSING
    synthesis: SynthesisConfig = MISSING
    export: str | None = None


@dataclass
class AgentRun(DetectorRun):
    """`train_ppo.py`: everything."""

    env: EnvConfig = MISSING
    reward: RewardConfig = MISSING
    agent: AgentConfig = MISSING
    rounds: int = 2
    samples: int = 2048
    share: float = 0.5
    plugins: list[str] = field(default_factory=list)


SCHEMA: dict[str, type[Any]] = {
    "dataset/digits": DigitsConfig,
    "dataset/phantom": PhantomConfig,
    "dataset/folder": FolderConfig,
    "dataset/bmad": BmadConfig,
    "autoencoder/conv": AutoencoderConfig,
    "detector/transformer": DetectorConfig,
    "synthesis/image": SynthesisConfig,
    "env/latent_aug": EnvConfig,
    "reward/terms": RewardConfig,
    "agent/plain": AgentConfig,
    "agent/gradient": GradientConfig,
    "agent/ppo": PPOConfig,
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
