"""What training and scoring ask of a set of images, wherever it is kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor


class ImageSource(Protocol):
    """Images ``(N, C, H, W)`` uint8: a tensor on the device, or what behaves like one."""

    @property
    def device(self) -> torch.device:
        """Where batches come out."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Which is ``(N, C, H, W)``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Tensor:
        """The images at a slice or at positions ``(B,)``, uint8, on the device."""

    def split(self, size: int, /) -> Iterable[Tensor]:
        """All images in their order, ``size`` at a time."""


PIXELS_AT_ONCE = 2**20
"""What a network looks at in one go without learning: larger batches take memory and save no time."""

MOST_AT_ONCE = 256


def images_at_once(size: int) -> int:
    """How many images of ``size`` × ``size`` pixels to put through a network together."""
    return max(min(PIXELS_AT_ONCE // size**2, MOST_AT_ONCE), 1)


def evenly_spaced(images: ImageSource, most: int) -> Tensor:
    """All images if they are at most ``most``, else so many of them evenly spaced; uint8."""
    if len(images) <= most:
        return images[:]
    return images[evenly_spaced_positions(len(images), most).to(images.device)]


def evenly_spaced_positions(count: int, most: int) -> Tensor:
    """All positions below ``count`` if these are at most ``most``, else so many evenly spaced; int64."""
    if count <= most:
        return torch.arange(count)
    return torch.linspace(0, count - 1, most).round().long()


LARGEST_IMAGE = 512
"""Pixels a side."""
