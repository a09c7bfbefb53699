"""Latents of frozen data: encoded once, kept in a file, and read from there ever after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from detectors.blocks.distance import DistanceDetector
from latent_common.artifacts import write_atomically
from latent_common.errors import UserError
from latent_common.image_source import ImageSource, evenly_spaced, evenly_spaced_positions, images_at_once
from latent_common.progress import progress_bar
from latent_env.data import Dataset, Split
from latent_env.data.placement import StreamedImages, place_images

ENCODED_AT_ONCE = 32
"""Images that go through a backbone together: more would gain nothing on a CPU, and lose more on Ctrl-C."""

LARGEST = 6e4
"""What half precision can hold."""

MOST_CALIBRATED = 1024

MOST_COMPARED, NUMBERS_COMPARED, COMPARED_AT_ONCE = 2048, 2**27, 256
NEARLY_THE_SAME = 0.8
"""The cosine between the features of two images above which they show the same object, or nearly."""


class Encoder(Protocol):
    """What makes latents of images."""

    latent_shape: tuple[int, ...]
    size: int

    @property
    def natural_scales(self) -> Tensor:
        """``(C,)``: the deviations that whitening took from the channels."""

    def encode(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [0, 1] to whitened latents ``(B, *latent_shape)``."""


class FeatureCache:
    """An encoder, and what it makes of a data set's splits: each is encoded once, whoever asks.

    :param folder: where the latents are kept; the encoder and the data must be what it was named after.
    :param memory: MB that the latents of one split may take up on the device; None decides by what is free.
    """

    def __init__(
        self, encoder: Encoder, dataset: Dataset, folder: Path, device: torch.device, memory: float | None
    ) -> None:
        self.encoder, self.dataset, self.folder = encoder, dataset, folder
        self.device, self.memory = device, memory
        self._latents: dict[str, ImageSource] = {}
        self.nearest: dict[tuple[Any, ...], Tensor] = {}
        """What detectors' memories found while they were trained, by what it depends on: the next ones
        remember the same."""
        self.fitted: dict[tuple[str, int], DistanceDetector] = {}
        """Detectors that measure distances from its normal latents, by name and seed."""

    def latents(self, split: str) -> ImageSource:
        """The whitened latents ``(N, *latent_shape)`` of ``train``, ``valid`` or ``test``, in half precision.

        On the device if they fit there, else read from their file as needed.
        """
        if split not in self._latents:
            images = StreamedImages(getattr(self.dataset, split).images, self.device)
            kept = encoded(self.encoder, images, self._path(split), split)
            self._latents[split] = place_images(kept, self.device, self.memory)
        return self._latents[split]

    def normal_validation(self) -> Tensor:
        """Latents of normal validation images, ``(N, *latent_shape)``: of very many, some evenly spaced."""
        latents = self.latents("valid")
        return latents[normal_positions(self.dataset.valid).to(latents.device)]

    def normal_validation_images(self) -> Tensor:
        """The same images themselves, ``(N, C, H, W)`` uint8, on the device."""
        valid = self.dataset.valid
        return StreamedImages(valid.images, self.device)[normal_positions(valid)]

    @torch.no_grad()
    def near_copies(self) -> float:
        """The share of normal validation images that look almost like some training image.

        Where it is large, a detector partly says whether it has seen an object before. What all images have
        in common at a place is taken off first: objects that are merely aligned are no copies.
        """
        if self.dataset.valid.labels.all():
            return 0.0
        scales = self.encoder.natural_scales.to(self.device)
        most = max(min(MOST_COMPARED, NUMBERS_COMPARED // math.prod(self.encoder.latent_shape)), 2)
        parts = [evenly_spaced(self.latents("train"), most), evenly_spaced(self.normal_validation(), most)]
        train, valid = (part.float() * scales.view(-1, *[1] * (part.ndim - 2)) for part in parts)
        common = train.mean(0)
        train, valid = (normalize((part - common).flatten(1), dim=1) for part in (train, valid))
        closest = torch.cat([(part @ train.T).amax(1) for part in valid.split(COMPARED_AT_ONCE)])
        return float((closest > NEARLY_THE_SAME).float().mean())

    def keep(self, split: str, latents: Tensor) -> None:
        """Take over latents of a whole split, float16, that are known already."""
        write_atomically(self._path(split), latents.cpu().numpy().tobytes())

    def _path(self, split: str) -> Path:
        return self.folder / f"latents-{split}.f16"


def normal_positions(split: Split) -> Tensor:
    """Positions ``(K,)`` of the normal images of ``split``: of very many, some evenly spaced."""
    rows = torch.from_numpy(np.flatnonzero(split.labels == 0))
    return rows[evenly_spaced_positions(len(rows), MOST_CALIBRATED)]


def encoded(encoder: Encoder, images: ImageSource, path: Path, label: str) -> NDArray[np.float16]:
    """The latents ``(N, *latent_shape)`` of ``images (N, C, H, W)`` uint8, mapped from the file ``path``.

    What the file holds already is not computed again: a stopped command goes on where it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        done = min(latent_count(path, encoder), len(images))
        if done < len(images):
            _append(encoder, images, path, label, done)
        return mapped(path, len(images), encoder.latent_shape)
    except OSError as error:
        raise UserError(f"{path}: latents can't be kept there ({error.strerror})") from error


def _row_bytes(encoder: Encoder) -> int:
    return math.prod(encoder.latent_shape) * np.dtype(np.float16).itemsize


def latent_count(path: Path, encoder: Encoder) -> int:
    """How many whole latents the file holds; none if it isn't there."""
    return path.stat().st_size // _row_bytes(encoder) if path.is_file() else 0


def mapped(path: Path, count: int, latent_shape: Sequence[int]) -> NDArray[np.float16]:
    """The ``count`` latents in a file that is whole, ``(count, *latent_shape)``."""
    return np.memmap(path, np.float16, "r", shape=(count, *latent_shape))


def _append(encoder: Encoder, images: ImageSource, path: Path, label: str, done: int) -> None:
    together = min(images_at_once(encoder.size), ENCODED_AT_ONCE)
    with (
        path.open("r+b") as file,
        progress_bar(f"features, {label}", len(images), done) as bar,
        torch.inference_mode(),
    ):
        file.seek(done * _row_bytes(encoder))
        file.truncate()
        for first in range(done, len(images), together):
            batch = images[first : first + together].float() / 255
            latents = encoder.encode(batch).clamp(-LARGEST, LARGEST)
            file.write(latents.half().cpu().numpy().tobytes())
            bar.update(len(batch))
