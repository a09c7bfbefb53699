"""The types of `dataset=`, and of what a data set recommends to other groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conf.schema.fields import Count, Name, NameIfAny, Positive, Seed


@dataclass
class DatasetDefaults:
    """Values for keys of other groups that are null, on a machine without a GPU."""

    detector: str
    latent: str
    latent_size: int
    prototypes: int
    autoencoder_steps: Positive[int]
    detector_steps: Positive[int]
    agent_steps: Positive[int]
    pooling: str
    local: bool


@dataclass
class AugmentConfig:
    """Random changes of a training image after which it is still normal."""

    flip_horizontal: bool | None
    flip_vertical: bool | None
    shift: float
    rotation: float
    brightness: float


@dataclass
class DatasetConfig:
    """A data set."""

    name: Name
    augment: AugmentConfig
    recommended: DatasetDefaults


@dataclass
class DigitsConfig(DatasetConfig):
    """scikit-learn's handwritten digits."""

    normal: Any  # a digit or several
    seed: Seed


@dataclass
class PhantomConfig(DatasetConfig):
    """Procedural CT-like slices."""

    size: int
    train: Count[int]
    valid: Count[int]
    test: Count[int]
    seed: Seed


@dataclass
class FilesConfig(DatasetConfig):
    """A data set that is read from files, and prepared once."""

    size: int
    channels: int | None
    valid_fraction: float
    group: str | None
    limit: Positive[int | None]
    on_error: str
    seed: Seed


@dataclass
class FolderConfig(FilesConfig):
    """Any folder in MVTec's layout, or named by its parts."""

    name: NameIfAny
    root: str
    normal_dir: Any  # a folder or several
    abnormal_dir: Any
    labelled_dir: Any
    normal_test_dir: Any
    mask_dir: Any


@dataclass
class NpzConfig(FilesConfig):
    """The user's own ``.npz`` files, one a split."""

    name: NameIfAny
    root: str
    trust_pickle: bool


@dataclass
class BmadConfig(FilesConfig):
    """A data set of the BMAD benchmark, or one arranged like it."""


@dataclass
class CategoryConfig(FilesConfig):
    """One category of MVTec AD, PKU GoodsAD or VisA."""

    category: str


@dataclass
class OneClassConfig(FilesConfig):
    """MNIST or CIFAR-10 with one class, or several, as normal."""

    normal: Any
