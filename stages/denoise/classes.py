"""The normal images of a data set by class, as `env=latent_denoise` uses them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latent_common.errors import UserError
from latent_common.image_source import ImageSource, evenly_spaced_positions
from latent_env.data import Split
from latent_env.denoise.critic import Critic
from latent_env.denoise.world import DenoiseWorld
from stages.denoise.spaces import StoredSpace
from stages.training_data import TrainingData

MOST_EXAMPLES = 2048
"""A world keeps at most so many images with it, evenly spaced."""


@dataclass
class Classes:
    """The normal images of a data set and their classes, which are called ``names``."""

    dataset: str
    """The data set's name."""
    names: tuple[str, ...]
    images: Tensor
    """``(N, C, H, W)`` uint8: the images that a world keeps."""
    labels: Tensor
    """``(N,)`` int64: their classes."""
    train: tuple[ImageSource, Tensor]
    """All training images, and their classes."""
    valid: tuple[Tensor, Tensor]
    """Images that nothing learns from, and their classes."""
    test: Split
    _states: dict[int, Tensor] = field(default_factory=dict)

    def world(self, space: StoredSpace, critic: Critic) -> DenoiseWorld:
        """A world with ``critic``."""
        return DenoiseWorld.build(space.space, critic, self.images, self.labels, self.names)

    def training(self, space: StoredSpace) -> tuple[Tensor, Tensor]:
        """The training images as states ``(N, *shape)``, encoded once, and their classes ``(N,)``."""
        if id(space) not in self._states:
            with torch.no_grad():
                self._states[id(space)] = space.space.encode_all(self.train[0]).float()
        return self._states[id(space)], self.train[1]

    def validation(self, space: StoredSpace) -> tuple[Tensor, Tensor]:
        """The validation images as states ``(N, *shape)``, and their classes ``(N,)``."""
        with torch.no_grad():
            return space.space.encode_all(self.valid[0]).float(), self.valid[1]

    def held_out(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Test images ``(K, C, H, W)`` in [0, 1] and their classes: read once, at the end."""
        rows = evenly_spaced_positions(len(self.test), MOST_EXAMPLES).numpy()
        images = torch.from_numpy(np.ascontiguousarray(self.test.images[rows])).to(device).float() / 255
        labels = class_labels(self.test, {name: number for number, name in enumerate(self.names)})[rows]
        return images, torch.from_numpy(labels).to(device)


def class_of(name: str) -> str:
    """The class of an image: the folder in its name."""
    folders = name.split("/")[:-1]
    return folders[-1] if folders else ""


def class_labels(split: Split, numbers: Mapping[str, int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The number of every image's class, ``(N,)``."""
    return np.array([numbers[class_of(name)] for name in split.names], dtype=np.int64)


def find_classes(data: TrainingData, device: torch.device) -> Classes:
    """The normal images by class, on the device; a data set without folders by class has one class."""
    dataset = data.dataset
    names = tuple(sorted({class_of(name) for name in dataset.train.names}))
    numbers = {name: number for number, name in enumerate(names)}
    labels = torch.from_numpy(class_labels(dataset.train, numbers)).to(device)
    rows = evenly_spaced_positions(len(dataset.train), MOST_EXAMPLES).to(labels.device)

    def known(split: Split) -> Split:
        normal = split.normal()
        return normal.subset([i for i, name in enumerate(normal.names) if class_of(name) in numbers])

    valid, test = known(dataset.valid), known(dataset.test)
    if not len(valid) or len(test) < 2:
        raise UserError(
            f"{dataset.name}: valid and test need normal images of the classes of train, at least 1 and 2"
        )
    return Classes(
        dataset.name,
        names,
        data.images[rows.to(data.images.device)].to(device),
        labels[rows],
        (data.images, labels),
        (
            torch.from_numpy(valid.images).to(device),
            torch.from_numpy(class_labels(valid, numbers)).to(device),
        ),
        test,
    )
