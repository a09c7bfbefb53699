"""Sets of images, in memory or on disk, as training and scoring need them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor


class ImageSource(Protocol):
    """Images ``(N, C, H, W)`` uint8, or latents: a tensor on the device, or what behaves like one."""

    @property
    def device(self) -> torch.device:
        """The device of the batches."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape ``(N, C, H, W)``, or ``(N, *latent_shape)``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Tensor:
        """The images at a slice or at positions ``(B,)``, uint8, on the device."""

    def split(self, size: int, /) -> Iterable[Tensor]:
        """All images in their order, ``size`` at a time."""


LARGEST_IMAGE = 512
"""The largest side of an image, in pixels."""

PIXELS_AT_ONCE, IMAGES_AT_ONCE = 2**20, 256
"""At most so many pixels and images go through a network together: more takes memory and saves no time."""


def images_at_once(size: int) -> int:
    """How many images of ``size`` × ``size`` pixels go through a network together."""
    return max(min(PIXELS_AT_ONCE // size**2, IMAGES_AT_ONCE), 1)


def evenly_spaced(images: ImageSource, most: int) -> Tensor:
    """All images (or rows of a tensor) if they are at most ``most``, else so many evenly spaced ones."""
    if len(images) <= most:
        return images[:]
    return images[evenly_spaced_positions(len(images), most).to(images.device)]


def evenly_spaced_positions(count: int, most: int) -> Tensor:
    """All positions below ``count`` if they are at most ``most``, else so many evenly spaced ones: int64."""
    if count <= most:
        return torch.arange(count)
    return torch.linspace(0, count - 1, most).round().long()
