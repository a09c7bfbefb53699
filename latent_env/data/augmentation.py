"""Random augmentation of training images, after which a normal image is still normal, on the device."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from latent_common.errors import UserError

MOVED_SHARE = 0.5
"""The share of a batch that is shifted and rotated. Resampling blurs an image, and a detector that never saw
sharp ones would find sharpness anomalous."""


@dataclass(frozen=True)
class Augmentation:
    """How images of a data set may be changed.

    :param flip_horizontal: mirror left and right, half of the time.
    :param flip_vertical: mirror top and bottom, half of the time.
    :param shift: the largest shift along each axis, as a share of the side.
    :param rotation: the largest rotation in either direction, in degrees.
    :param brightness: the largest change of brightness, as a share.
    """

    flip_horizontal: bool = False
    flip_vertical: bool = False
    shift: float = 0.0
    rotation: float = 0.0
    brightness: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (("shift", 0.5), ("rotation", 180.0), ("brightness", 1.0)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise UserError(f"dataset.augment.{name}={value} must lie from 0 to {most:g}")

    def __bool__(self) -> bool:
        return any((self.flip_horizontal, self.flip_vertical, self.shift, self.rotation, self.brightness))

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment images ``(B, C, H, W)`` in [0, 1]."""
        return self.with_masks(images, generator, images[:, :0])[0]

    def with_masks(self, images: Tensor, generator: torch.Generator, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Augment images ``(B, C, H, W)`` in [0, 1], and their masks ``(B, 1, H, W)`` in the same way.

        Images are mirrored beyond their edges. Random numbers are drawn on the CPU, so a seed means the same
        changes on every device.
        """
        if not self:
            return images, masks
        draws = torch.rand(7, len(images), generator=generator).to(images.device)
        for axis, wanted, draw in ((3, self.flip_horizontal, draws[0]), (2, self.flip_vertical, draws[1])):
            if wanted:
                flipped = (draw < 0.5)[:, None, None, None]
                images = torch.where(flipped, images.flip(axis), images)
                masks = torch.where(flipped, masks.flip(axis), masks)
        rows = (draws[2] < MOVED_SHARE).nonzero().flatten()
        if (self.shift or self.rotation) and len(rows):
            grid = self._grid(images[rows], draws[3:6, rows])
            images = images.index_copy(0, rows, _sampled(images[rows], grid, "bilinear"))
            if masks.numel():
                masks = masks.index_copy(0, rows, _sampled(masks[rows], grid, "nearest"))
        if self.brightness:
            gain = 1 + self.brightness * (2 * draws[6] - 1)
            images = (images * gain[:, None, None, None]).clamp(0, 1)
        return images, masks

    def _grid(self, images: Tensor, draws: Tensor) -> Tensor:
        """The source of every pixel, ``(B, H, W, 2)``; ``draws (3, B)`` are uniform in [0, 1]."""
        angle, right, down = 2 * draws - 1
        angle = angle * math.radians(self.rotation)
        # Coordinates run from -1 to 1, so the side is 2.
        x, y = 2 * self.shift * right, 2 * self.shift * down
        height, width = images.shape[2:]
        rows = [
            torch.stack([angle.cos(), -angle.sin() * height / width, x], 1),
            torch.stack([angle.sin() * width / height, angle.cos(), y], 1),
        ]
        return functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)


def _sampled(images: Tensor, grid: Tensor, mode: str) -> Tensor:
    moved: Tensor = functional.grid_sample(
        images, grid.to(images.dtype), mode=mode, padding_mode="reflection", align_corners=False
    )
    return moved
