"""What `env=latent_denoise` makes of a data set: images with classes, and a space to paint them in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conf.schema.envs import DenoiseEnvConfig
from conf.schema.runs import AgentRun
from latent_common.errors import UserError
from latent_common.image_source import ImageSource, evenly_spaced_positions
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.data import Split
from latent_env.denoise.critic import Critic
from latent_env.denoise.spaces import PixelSpace, Space
from latent_env.denoise.world import DenoiseWorld, autoencoder_digest
from latent_env.training.run_folder import Run
from latent_env.worlds.artifacts import load_autoencoder
from latent_env.worlds.store import BUILTIN, builtin_names
from stages.context import Job

MOST_EXAMPLES = 2048
"""A world keeps so many images with it at most, evenly spaced."""


@dataclass(frozen=True)
class SpaceAt:
    """A space, and where its autoencoder lies."""

    space: Space
    digest: str
    folder: Path | None

    def settings(self) -> dict[str, Any]:
        """What depends on it depends on these."""
        return {"autoencoder": self.digest}


AutoencoderStage = Callable[[Job[AgentRun]], tuple[FrozenAutoencoder, Run]]
"""The first stage: the autoencoder, and the run that it lies in."""


def find_space(job: Job[AgentRun], first_stage: AutoencoderStage) -> SpaceAt:
    """The space of the configuration: the first stage's autoencoder, that of another world, or pixels."""
    env = job.config.env
    assert isinstance(env, DenoiseEnvConfig)
    if env.space == "pixel":
        return SpaceAt(PixelSpace(job.dataset.channels, job.dataset.size, job.device), "", None)
    if env.artifacts is None:
        frozen, run = first_stage(job)
        return SpaceAt(frozen, autoencoder_digest(run.path, env.space), run.path)
    folder = BUILTIN / env.artifacts if env.artifacts in builtin_names() else Path(env.artifacts)
    if not (folder / "autoencoder.json").is_file():
        raise UserError(
            f"env.artifacts={env.artifacts} is neither a built-in world ({', '.join(builtin_names())}) nor a "
            "folder with an autoencoder: `python train_ae.py dataset=…` makes one below runs/"
        )
    frozen = load_autoencoder(folder).to(job.device)
    if (frozen.channels, frozen.size) != (job.dataset.channels, job.dataset.size):
        raise UserError(
            f"env.artifacts={env.artifacts} is for images of {frozen.channels}x{frozen.size}x{frozen.size}, "
            f"{job.dataset.name} has {job.dataset.channels}x{job.dataset.size}x{job.dataset.size}"
        )
    return SpaceAt(frozen, autoencoder_digest(folder, env.space), folder)


@dataclass
class Classes:
    """Normal images of a data set and the class of each; ``names`` are what the classes are called."""

    names: tuple[str, ...]
    images: Tensor
    """``(N, C, H, W)`` uint8: those that the world keeps."""
    labels: Tensor
    """``(N,)`` int64."""
    train: tuple[ImageSource, Tensor]
    """All images to train on, and their labels."""
    valid: tuple[Tensor, Tensor]
    """Images that nothing has learned from."""
    test: Split
    _states: dict[int, Tensor] = field(default_factory=dict)

    def world(self, place: SpaceAt, critic: Critic) -> DenoiseWorld:
        """A world before ``critic``."""
        return DenoiseWorld.build(place.space, critic, self.images, self.labels, self.names)

    def training(self, place: SpaceAt) -> tuple[Tensor, Tensor]:
        """The training images as states ``(N, *shape)``, encoded once, and their labels ``(N,)``."""
        if id(place) not in self._states:
            with torch.no_grad():
                self._states[id(place)] = place.space.encode_all(self.train[0]).float()
        return self._states[id(place)], self.train[1]

    def validation(self, place: SpaceAt) -> tuple[Tensor, Tensor]:
        """The same of the validation images."""
        with torch.no_grad():
            return place.space.encode_all(self.valid[0]).float(), self.valid[1]

    def held_out(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Test images ``(K, C, H, W)`` in [0, 1] and their labels: asked for once, at the end."""
        rows = evenly_spaced_positions(len(self.test), MOST_EXAMPLES).numpy()
        images = torch.from_numpy(np.ascontiguousarray(self.test.images[rows])).to(device).float() / 255
        labels = class_labels(self.test, {name: number for number, name in enumerate(self.names)})[rows]
        return images, torch.from_numpy(labels).to(device)


def class_of(name: str) -> str:
    """The class of an image, from its name: the folder that it lies in."""
    folders = name.split("/")[:-1]
    return folders[-1] if folders else ""


def class_labels(split: Split, numbers: Mapping[str, int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The number of every image's class, ``(N,)``."""
    return np.array([numbers[class_of(name)] for name in split.names], dtype=np.int64)


def find_classes(job: Job[AgentRun]) -> Classes:
    """The classes of the normal images of the data set: one where it knows of no classes."""
    dataset = job.dataset
    names = tuple(sorted({class_of(name) for name in dataset.train.names}))
    numbers = {name: number for number, name in enumerate(names)}
    labels = job.tensor(class_labels(dataset.train, numbers))
    rows = evenly_spaced_positions(len(dataset.train), MOST_EXAMPLES).to(labels.device)

    def known(split: Split) -> Split:
        normal = split.normal()
        return normal.subset([i for i, name in enumerate(normal.names) if class_of(name) in numbers])

    valid, test = known(dataset.valid), known(dataset.test)
    if not len(valid) or len(test) < 2:
        raise UserError(f"{dataset.name}: valid and test have no normal images of the classes of train")
    return Classes(
        names,
        job.train_images[rows.to(job.train_images.device)].to(job.device),
        labels[rows],
        (job.train_images, labels),
        (job.tensor(valid.images), job.tensor(class_labels(valid, numbers))),
        test,
    )
