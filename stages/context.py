"""What all stages of one command share: the data, the device, the seed, and where results go."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor

from conf.schema.runs import AutoencoderRun, DetectorRun
from latent_common.artifacts import FORMAT
from latent_common.image_source import ImageSource
from latent_common.machine import check_writable, cores, resolve_device
from latent_common.precision import FULL, HALF, check_precision
from latent_common.threads import measured_threads
from latent_env import __version__
from latent_env.data import Dataset, Problems, check_track, prepare_textures
from latent_env.data.augmentation import Augmentation
from latent_env.data.placement import StreamedImages, place_images
from latent_env.data.prepared.preparation import Prepared
from latent_env.training.run_folder import Run
from stages.cli.checks import read_config
from stages.datasets import dataset_settings, load_dataset, make_augmentation

C = TypeVar("C", bound=AutoencoderRun, covariant=True)
T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    """What all stages of one command share: the machine, the seed, and where results go."""

    device: torch.device
    seed: int
    runs: Path
    precision: str = FULL
    """The numbers that networks learn in: ``float32``, or ``bfloat16`` where that is faster."""
    memory: float | None = None
    """MB that images or features may take up on the device; None decides by what is free."""

    def settings(self) -> dict[str, Any]:
        """What every stage's outcome depends on, beside the data."""
        halved = {"precision": HALF} if self.precision == HALF else {}
        return {"seed": self.seed, "format": FORMAT, "version": __version__, **halved}

    def run_folder(self, dataset: str, stage: str, name: str, settings: Mapping[str, Any]) -> Run:
        """The folder of a stage's run: equal settings have the same."""
        return Run(self.runs, dataset, stage, name, settings)

    def build(self, factory: Callable[[], T]) -> T:
        """What ``factory`` makes with random numbers that depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return factory()

    def with_seed(self, seed: int) -> Context:
        """A context with another seed, for a part that has random numbers of its own."""
        return replace(self, seed=seed)


@dataclass
class Job(Generic[C]):
    """One command: its configuration and what follows from it."""

    config: C
    device: torch.device

    @cached_property
    def dataset(self) -> Dataset:
        """The images; loading them says in one line what was found."""
        config = self.config
        dataset = load_dataset(config)
        if config.max_train_images is not None:
            dataset = dataset.with_max_train_images(config.max_train_images)
        say(dataset.summary())
        for remark in dataset.remarks:
            say(f"{dataset.name}: {remark}")
        return dataset

    @cached_property
    def train_images(self) -> ImageSource:
        """``(N, C, H, W)`` uint8: the normal training images, on the device if they fit there."""
        images = self.settle(self.dataset.train.images)
        if isinstance(images, StreamedImages):
            say(
                f"{self.dataset.name}: the training images are more than fits in memory (memory=): they are "
                "read as needed"
            )
        return images

    @cached_property
    def augmentation(self) -> Augmentation:
        """The random changes of training images that suit the data set."""
        return make_augmentation(self.config.dataset)

    @cached_property
    def textures(self) -> Prepared | None:
        """The user's textures for anomalies, prepared like the images."""
        root = self.config.texture_root if isinstance(self.config, DetectorRun) else None
        if root is None:
            return None
        problems, dataset = Problems(getattr(self.config.dataset, "on_error", "stop")), self.dataset
        prepared = Path(self.config.prepared)
        textures = prepare_textures(
            Path(root).expanduser(), dataset.size, dataset.channels, prepared, problems
        )
        say(f"textures: {len(textures.splits['textures'])} from {root}")
        for remark in problems.remarks():
            say(f"textures: {remark}")
        return textures

    @cached_property
    def textures_digest(self) -> str | None:
        """What tells these textures from others."""
        return None if self.textures is None else self.textures.facts["digest"]

    @cached_property
    def texture_images(self) -> ImageSource | None:
        """``(K, C, H, W)`` uint8: the user's textures, kept like the training images."""
        return None if self.textures is None else self.settle(self.textures.splits["textures"].images)

    def settle(self, images: NDArray[np.uint8]) -> ImageSource:
        """Images ``(N, C, H, W)`` on the device if they fit there, else read from disk as needed."""
        return place_images(images, self.device, self.config.memory)

    def tensor(self, array: Any) -> Tensor:
        """A NumPy array on the device."""
        return torch.from_numpy(array).to(self.device)

    def run(self, stage: str, name: str, settings: Mapping[str, Any]) -> Run:
        """The folder of a stage."""
        return Run(Path(self.config.runs), self.dataset.name, stage, name, settings)

    def shared_settings(self) -> dict[str, Any]:
        """What every stage's outcome depends on."""
        dataset = {**dataset_settings(self.config.dataset), "fingerprint": self.dataset.fingerprint()}
        versions = {"format": FORMAT, "version": __version__}
        halved = {"precision": HALF} if self.config.precision == HALF else {}
        return {"dataset": dataset, "seed": self.config.seed, **versions, **halved}

    def build(self, factory: Callable[[], T]) -> T:
        """What ``factory`` makes with random numbers that depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return factory()


def start(cfg: DictConfig, kind: type[C]) -> tuple[C, Context]:
    """Check a composed configuration and set up the machine."""
    config = read_config(cfg, kind)
    check_track(config.track)
    check_writable(config.runs, "runs")
    check_precision(config.precision)
    device = resolve_device(config.device)
    set_threads(config.threads)
    return config, Context(device, config.seed, Path(config.runs), config.precision, config.memory)


def start_job(cfg: DictConfig, kind: type[C]) -> Job[C]:
    """Check the configuration and set up the machine."""
    config, context = start(cfg, kind)
    return Job(config, context.device)


def set_threads(threads: int | None) -> None:
    """Let PyTorch use so many, or as many as are best here."""
    if threads is None:
        threads, gain = measured_threads()
        if threads > 1:
            say(f"{threads} threads: {gain:.1f} times as fast as one here (threads=… sets another number)")
        elif cores() > 1:
            say("1 thread: more are no faster here (threads=… sets another number)")
    torch.set_num_threads(threads)


def say(text: str) -> None:
    """A line for the person at the terminal; results alone go to standard output."""
    print(text, file=sys.stderr)
