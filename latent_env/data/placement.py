"""Where a split's images are during training: in memory on the device, or on disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latent_common.errors import UserError
from latent_common.image_source import ImageSource
from latent_common.machine import free_bytes

SHARE = 0.25
"""By default one split may take this share of the free memory."""

MEGABYTE = 2**20


class StreamedImages:
    """Images ``(N, C, H, W)`` uint8, or latents, that stay in a file; those of an index come to the device.

    It is an :class:`~latent_common.image_source.ImageSource`.
    """

    def __init__(self, pixels: NDArray[Any], device: torch.device) -> None:
        self._pixels = pixels
        self.device = device

    def __len__(self) -> int:
        return len(self._pixels)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape ``(N, C, H, W)``, or ``(N, *latent_shape)``."""
        return self._pixels.shape

    def __getitem__(self, index: Any) -> Tensor:
        """The images at a slice, or at positions ``(B,)`` in any order and with repetitions."""
        if isinstance(index, slice):
            return self._moved(self._pixels[index])
        rows = index.cpu().numpy()
        order = np.argsort(rows, kind="stable")  # disks read forwards fastest
        picked = np.empty((len(rows), *self.shape[1:]), self._pixels.dtype)
        picked[order] = self._pixels[rows[order]]
        return self._moved(picked)

    def split(self, size: int) -> Iterator[Tensor]:
        """All images in their order, ``size`` at a time."""
        return (self[first : first + size] for first in range(0, len(self), size))

    def _moved(self, pixels: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(np.array(pixels))
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor


def place_images(pixels: NDArray[Any], device: torch.device, megabytes: float | None = None) -> ImageSource:
    """Images ``(N, C, H, W)`` uint8, or latents, as a tensor on the device if they fit there, else streamed.

    :param megabytes: the most that they may take; None for a quarter of the free memory.
    """
    if megabytes is not None and not megabytes > 0:
        raise UserError(f"memory={megabytes} must be above 0 (MB), or null")
    most = free_bytes(device) * SHARE if megabytes is None else megabytes * MEGABYTE
    if pixels.nbytes > most:
        return StreamedImages(pixels, device)
    return torch.from_numpy(np.array(pixels)).to(device)
