"""From the configuration of a data set to its images: one function a kind of data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import singledispatch
from pathlib import Path
from typing import Any, TypeVar

from conf.schema.datasets import (
    BmadConfig,
    CategoryConfig,
    DatasetConfig,
    DigitsConfig,
    FilesConfig,
    FolderConfig,
    NpzConfig,
    OneClassConfig,
    PhantomConfig,
)
from conf.schema.runs import DataRun
from latent_common.errors import UserError
from latent_env.data import (
    GOODSAD,
    MVTEC,
    TEXTURES,
    Dataset,
    Parts,
    Problems,
    Source,
    Splitting,
    bmad_source,
    check_track,
    cifar10_source,
    collection_source,
    folder_source,
    load_digits_dataset,
    make_phantom_dataset,
    mnist_source,
    npz_source,
    prepare,
    visa_source,
)
from latent_env.data.augmentation import Augmentation

T = TypeVar("T")

LOCATION = (
    *("root", "normal_dir", "abnormal_dir", "labelled_dir", "normal_test_dir", "mask_dir"),
    *("trust_pickle", "on_error"),
)
"""Keys that say where images lie: the same images elsewhere are the same data set."""


def load_dataset(config: DataRun) -> Dataset:
    """The images of ``config.dataset``; those from files are prepared, unless that was done before."""
    check_track(config.track)
    if config.track == "one_class" and config.labelled.count:
        raise UserError(
            f"track=one_class has no labelled anomalies, but labelled.count={config.labelled.count}: leave "
            "one of both out"
        )
    return _load(config.dataset, config).for_track(config.track)


def make_augmentation(config: DatasetConfig) -> Augmentation:
    """The random changes after which a normal image of this data set is still normal."""
    flips = isinstance(config, CategoryConfig) and config.name == "mvtec" and config.category in TEXTURES
    given = {key: flips if value is None else value for key, value in asdict(config.augment).items()}
    return Augmentation(**given)


def dataset_settings(config: DatasetConfig) -> dict[str, Any]:
    """What a stage's outcome depends on, beside the images themselves."""
    kept = {key: value for key, value in asdict(config).items() if key not in ("recommended", *LOCATION)}
    return {**kept, "augment": asdict(make_augmentation(config))}


@singledispatch
def _load(config: DatasetConfig, run: DataRun) -> Dataset:  # noqa: ARG001
    raise TypeError(f"{type(config).__name__} has no loader: register one in {__name__}")


@_load.register
def _(config: DigitsConfig, run: DataRun) -> Dataset:
    normal = config.normal if isinstance(config.normal, list) else [config.normal]
    return _with_labelled(load_digits_dataset(normal, config.seed), config.seed, run)


@_load.register
def _(config: PhantomConfig, run: DataRun) -> Dataset:
    drawn = make_phantom_dataset(config.size, config.train, config.valid, config.test, config.seed)
    return _with_labelled(drawn, config.seed, run)


def _with_labelled(dataset: Dataset, seed: int, run: DataRun) -> Dataset:
    """A data set that is drawn or built in, with as many labelled anomalies as are wanted."""
    labelled = run.labelled
    if labelled.count is None:
        return dataset
    return dataset.with_labelled(labelled.count, seed if labelled.seed is None else labelled.seed)


@_load.register
def _(config: FilesConfig, run: DataRun) -> Dataset:
    labelled = run.labelled
    wanted = config.valid_fraction, config.group, config.limit, labelled.count, labelled.seed
    splitting = Splitting(run.track, config.seed, *wanted)
    problems = Problems(config.on_error)
    source = _find(config, Path(run.data_root).expanduser(), splitting, problems)
    return prepare(source, config.size, Path(run.prepared).expanduser(), problems)


@singledispatch
def _find(config: FilesConfig, data_root: Path, splitting: Splitting, problems: Problems) -> Source:  # noqa: ARG001
    raise TypeError(f"{type(config).__name__} has no reader: register one in {__name__}")


@_find.register
def _(config: FolderConfig, data_root: Path, splitting: Splitting, problems: Problems) -> Source:
    root = _below(data_root, config.root, "train/good and test/…", "dataset=folder dataset.root=/data/bottle")
    parts = Parts(
        config.normal_dir,
        config.abnormal_dir,
        config.normal_test_dir,
        config.mask_dir,
        config.labelled_dir,
    )
    return folder_source(root, config.name, parts, splitting, problems, config.channels)


@_find.register
def _(config: NpzConfig, data_root: Path, splitting: Splitting, problems: Problems) -> Source:
    root = _below(data_root, config.root, "train.npz and test.npz", "dataset=npz dataset.root=/data/mine")
    return npz_source(root, config.name, splitting, problems, config.trust_pickle, config.channels)


@_find.register
def _(config: BmadConfig, data_root: Path, splitting: Splitting, problems: Problems) -> Source:
    return bmad_source(data_root, config.name, splitting, problems, config.channels)


@_find.register
def _(config: CategoryConfig, data_root: Path, splitting: Splitting, problems: Problems) -> Source:
    if config.name == "visa":
        return visa_source(data_root, config.category, splitting, problems, config.channels)
    collection = _named(config.name, {"mvtec": MVTEC, "goodsad": GOODSAD})
    return collection_source(collection, data_root, config.category, splitting, problems, config.channels)


@_find.register
def _(config: OneClassConfig, data_root: Path, splitting: Splitting, problems: Problems) -> Source:  # noqa: ARG001
    read = _named(config.name, {"mnist": mnist_source, "cifar10": cifar10_source})
    return read(data_root, config.normal, splitting)  # a damaged archive is of no use, whatever on_error says


def _named(name: str, known: Mapping[str, T]) -> T:
    """What is known by the name of a published data set, which a user can't change."""
    if name not in known:
        raise UserError(
            f"dataset.name={name} is unknown: this is {' or '.join(known)}, leave dataset.name= away"
        )
    return known[name]


def _below(data_root: Path, root: str, holds: str, example: str) -> Path:
    """The folder that a user named as ``dataset.root``: below ``data_root``, or else as it stands."""
    if not root:
        raise UserError(
            f"dataset.root is missing: name the folder that holds {holds}, for example `{example}`"
        )
    named = Path(root).expanduser()
    below = data_root / named  # which is `named` itself if that is absolute
    return named if named.is_dir() and not below.is_dir() else below
