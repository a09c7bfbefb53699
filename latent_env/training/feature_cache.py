"""Latents of a data set's splits: encoded once, stored in files, and read from there afterwards."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from detectors.distances.base import DistanceDetector
from latent_common.artifacts import write_atomically
from latent_common.errors import UserError
from latent_common.image_source import ImageSource, evenly_spaced, images_at_once
from latent_common.lock import LOCK, locked, remove_abandoned
from latent_common.precision import as_stored
from latent_common.progress import progress_bar
from latent_env.data import Dataset, Split
from latent_env.data.placement import StreamedImages, place_images

ENCODED_AT_ONCE = 32
"""Images that go through a backbone together: more gain nothing on a CPU, and Ctrl-C would lose more."""

MOST_CALIBRATED = 1024
"""At most so many normal validation images are used for calibration."""

MOST_COMPARED, NUMBERS_COMPARED, COMPARED_AT_ONCE = 2048, 2**27, 256
"""At most so many images, and numbers of their latents, are searched for near copies, so many at a time."""

NEAR_COPY = 0.8
"""Two images are near copies if the cosine between their features is above this."""


class Encoder(Protocol):
    """What turns images into latents."""

    latent_shape: tuple[int, ...]
    size: int

    @property
    def natural_scales(self) -> Tensor:
        """``(C,)``: the standard deviation of latents along each channel before whitening."""

    def encode(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [0, 1] to whitened latents ``(B, *latent_shape)``."""


class FeatureCache:
    """The latents that an encoder makes of a data set's splits; each split is encoded once.

    :param folder: where latents are stored; its name must stand for this encoder and these images.
    :param memory: MB that the latents of one split may take on the device; None for a share of what is free.
    """

    def __init__(
        self, encoder: Encoder, dataset: Dataset, folder: Path, device: torch.device, memory: float | None
    ) -> None:
        self.encoder, self.dataset, self.folder = encoder, dataset, folder
        self.device, self.memory = device, memory
        self._latents: dict[str, ImageSource] = {}
        self._encoded: tuple[object, Tensor] = (None, torch.zeros(0))
        self.nearest: dict[tuple[Any, ...], Tensor] = {}
        """Nearest neighbours found while detectors were trained, by what they depend on, for later ones."""
        self.fitted: dict[tuple[str, int], DistanceDetector] = {}
        """Distance-based detectors fitted to the normal latents, by name and seed."""
        self.whitening: dict[str, Tensor] | None = None
        """What detectors of whitened tokens found of the normal latents, for later ones."""

    def latents(self, split: str) -> ImageSource:
        """The whitened latents ``(N, *latent_shape)`` of ``train``, ``valid`` or ``test``, in half precision.

        They are on the device if they fit there, else read from their file as needed.
        """
        if split not in self._latents:
            images = StreamedImages(getattr(self.dataset, split).images, self.device)
            stored = encode_to_file(self.encoder, images, self._path(split), split)
            self._latents[split] = place_images(stored, self.device, self.memory)
        return self._latents[split]

    def normal_validation(self) -> Tensor:
        """Latents ``(K, *latent_shape)`` of normal validation images; of very many, evenly spaced ones."""
        latents = self.latents("valid")
        return latents[normal_positions(self.dataset.valid).to(latents.device)]

    def normal_validation_images(self) -> Tensor:
        """The images ``(K, C, H, W)`` uint8 of :meth:`normal_validation`, on the device."""
        valid = self.dataset.valid
        return StreamedImages(valid.images, self.device)[normal_positions(valid)]

    @torch.no_grad()
    def near_copies(self) -> float:
        """The share of normal validation images that are near copies of some training image.

        Where it is large, detectors partly measure whether they have seen an object before. The mean of all
        training images is subtracted first, so that aligned objects don't count as copies.
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
        return float((closest > NEAR_COPY).float().mean())

    def encode(self, images: Tensor, label: str) -> Tensor:
        """The latents ``(N, *latent_shape)``, in half precision on the device, of ``images`` uint8.

        The last ones stay in memory: several detectors learn from the same samples.
        """
        key = zlib.crc32(images.contiguous().numpy().tobytes()), len(images)
        if self._encoded[0] != key:
            source = StreamedImages(images.numpy(), self.device)
            parts = list(_encoded(self.encoder, source, label))
            self._encoded = key, torch.cat(parts)
        return self._encoded[1]

    def store(self, split: str, latents: Tensor) -> None:
        """Store known latents ``(N, *latent_shape)`` float16 of a whole split."""
        write_atomically(self._path(split), latents.cpu().numpy().tobytes())

    def _path(self, split: str) -> Path:
        return self.folder / f"latents-{split}.f16"


def normal_positions(split: Split) -> Tensor:
    """Positions ``(K,)`` of the normal images of ``split``, evenly spaced if there are very many."""
    return evenly_spaced(torch.from_numpy(np.flatnonzero(split.labels == 0)), MOST_CALIBRATED)


def encode_to_file(encoder: Encoder, images: ImageSource, path: Path, label: str) -> NDArray[np.float16]:
    """Encode ``images (N, C, H, W)`` uint8 into the file ``path``; returns the latents, mapped from it.

    What the file holds already isn't computed again, so a stopped command goes on where it was.
    """
    try:
        if latent_count(path, encoder) < len(images):
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.parent / LOCK):
                path.touch()
                done = latent_count(path, encoder)
                if done < len(images):
                    _append(encoder, images, path, label, done)
        else:
            remove_abandoned(path.parent / LOCK)
        return map_latents(path, len(images), encoder.latent_shape)
    except OSError as error:
        raise UserError(f"{path}: latents can't be stored there ({error.strerror})") from error


def _row_bytes(encoder: Encoder) -> int:
    return math.prod(encoder.latent_shape) * np.dtype(np.float16).itemsize


def latent_count(path: Path, encoder: Encoder) -> int:
    """How many complete latents the file holds; 0 if it isn't there."""
    return path.stat().st_size // _row_bytes(encoder) if path.is_file() else 0


def map_latents(path: Path, count: int, latent_shape: Sequence[int]) -> NDArray[np.float16]:
    """The latents ``(count, *latent_shape)`` of a complete file, mapped from it."""
    return np.memmap(path, np.float16, "r", shape=(count, *latent_shape))


def _append(encoder: Encoder, images: ImageSource, path: Path, label: str, done: int) -> None:
    with path.open("r+b") as file:
        file.seek(done * _row_bytes(encoder))
        file.truncate()
        for latents in _encoded(encoder, images, f"features, {label}", done):
            file.write(latents.cpu().numpy().tobytes())


@torch.inference_mode()
def _encoded(encoder: Encoder, images: ImageSource, label: str, done: int = 0) -> Iterator[Tensor]:
    """Latents of ``images (N, C, H, W)`` uint8 from the position ``done`` on, some at a time, float16."""
    together = min(images_at_once(encoder.size), ENCODED_AT_ONCE)
    with progress_bar(label, len(images), done) as bar:
        for first in range(done, len(images), together):
            batch = images[first : first + together].float() / 255
            yield as_stored(encoder.encode(batch))
            bar.update(len(batch))
