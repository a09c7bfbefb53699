"""The images that all stages of one command train on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import singledispatch
from pathlib import Path
from typing import Any

from conf.schema.runs import AutoencoderRun, DetectorRun
from latent_common.image_source import ImageSource
from latent_common.progress import say
from latent_env.data import Dataset, Problems, prepare_textures
from latent_env.data.augmentation import Augmentation
from latent_env.data.placement import StreamedImages, place_images
from stages.context import Context
from stages.datasets import dataset_settings, load_dataset, make_augmentation


@dataclass(frozen=True)
class TrainingData:
    """A data set as a command uses it."""

    dataset: Dataset
    images: ImageSource
    """``(N, C, H, W)`` uint8: the normal training images, on the device if they fit there."""
    augmentation: Augmentation
    """Random changes after which a normal image is still normal."""
    settings: dict[str, Any]
    """What a stage's outcome depends on: how the images were split and resized, and their fingerprint."""
    textures: ImageSource | None = None
    """``(K, C, H, W)`` uint8: the user's own textures for synthetic anomalies."""
    textures_digest: str | None = None
    """What tells these textures from others."""


@singledispatch
def load_training_data(config: AutoencoderRun, context: Context) -> TrainingData:
    """Load or prepare the data set of ``config`` and the textures it names, and say what was found."""
    return _load(config, context)


@load_training_data.register
def _(config: DetectorRun, context: Context) -> TrainingData:
    data = _load(config, context)
    return data if config.texture_root is None else _with_textures(data, config.texture_root, config, context)


def _load(config: AutoencoderRun, context: Context) -> TrainingData:
    dataset = load_dataset(config)
    if config.max_train_images is not None:
        dataset = dataset.with_max_train_images(config.max_train_images)
    say(dataset.summary())
    for remark in dataset.remarks:
        say(f"{dataset.name}: {remark}")
    images = place_images(dataset.train.images, context.device, context.memory)
    if isinstance(images, StreamedImages):
        say(f"{dataset.name}: the training images don't fit in memory (memory=): they are read as needed")
    settings = {**dataset_settings(config.dataset), "fingerprint": dataset.fingerprint()}
    return TrainingData(dataset, images, make_augmentation(config.dataset), settings)


def _with_textures(data: TrainingData, root: str, config: DetectorRun, context: Context) -> TrainingData:
    dataset, problems = data.dataset, Problems(getattr(config.dataset, "on_error", "stop"))
    folder, prepared = Path(root).expanduser(), Path(config.prepared).expanduser()
    textures = prepare_textures(folder, dataset.size, dataset.channels, prepared, problems)
    found = textures.splits["textures"]
    say(f"textures: {len(found)} from {root}")
    for remark in problems.remarks():
        say(f"textures: {remark}")
    images = place_images(found.images, context.device, context.memory)
    return replace(data, textures=images, textures_digest=textures.facts["digest"])
