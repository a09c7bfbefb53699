"""The types of `dataset=`: how each data set is found and prepared, and what it recommends to other groups."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class DatasetDefaults:
    """What a data set recommends to other groups, on a machine without a GPU.

    Autoencoders are trained briefly on purpose: one that reconstructs too well reproduces lesions, and the
    detector loses the error that it looks at (on phantom's validation split, 27.5 dB found more than 32.6).
    """

    latent: str = "spatial"
    latent_size: int = 8
    prototypes: int = 100
    autoencoder_steps: int = 1000
    detector_steps: int = 800
    agent_steps: int = 16000
    pooled: str = "top"  # of reconstruction errors
    local: bool = True  # whether anomalies are changes of a part, as synthetic ones are


@dataclass
class AugmentConfig:
    """Random changes of training images after which a normal image is still normal."""

    flip_horizontal: bool | None = False  # null: as fits the category
    flip_vertical: bool | None = False
    shift: float = 0.0  # most, as a share of the side
    rotation: float = 0.0  # most, in degrees
    brightness: float = 0.0  # most, as a share


@dataclass
class DatasetConfig:
    """A data set: where it lies, and what it recommends."""

    name: str = MISSING
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    recommended: DatasetDefaults = field(default_factory=DatasetDefaults)


@dataclass
class DigitsConfig(DatasetConfig):
    """scikit-learn's handwritten digits."""

    normal: Any = 0  # a digit or several
    seed: int = 0


@dataclass
class PhantomConfig(DatasetConfig):
    """Procedural CT-like slices."""

    size: int = 64
    train: int = 600
    valid: int = 120
    test: int = 300
    seed: int = 0


@dataclass
class FilesConfig(DatasetConfig):
    """A data set that is read from files, and prepared once."""

    size: int = 64
    channels: int | None = None
    valid_fraction: float = 0.15
    group: str | None = None
    limit: int | None = None
    seed: int = 0
    on_error: str = "stop"


@dataclass
class FolderConfig(FilesConfig):
    """Any folder in MVTec's layout, or named by its parts."""

    root: str = MISSING
    normal_dir: Any = None  # a folder or several
    abnormal_dir: Any = None
    normal_test_dir: Any = None
    mask_dir: Any = None


@dataclass
class NpzConfig(FilesConfig):
    """The user's own ``.npz`` files, one a split."""

    root: str = MISSING
    trust_pickle: bool = False


@dataclass
class BmadConfig(FilesConfig):
    """A data set of the BMAD benchmark, or one arranged like it."""


@dataclass
class CategoryConfig(FilesConfig):
    """One category of MVTec AD, PKU GoodsAD or VisA."""

    category: str = ""


@dataclass
class OneClassConfig(FilesConfig):
    """MNIST or CIFAR-10 with one class, or several, as normal."""

    normal: Any = 0
