"""Random changes of a batch after which a normal image is still normal, made on the device."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from latent_common.errors import UserError

MOVED_SHARE = 0.5
"""So many images of a batch are shifted and turned: these are resampled, and a detector that never saw
a sharp image would take sharpness for an anomaly."""


@dataclass(frozen=True)
class Augmentation:
    """What may be done to an image, by the nature of a data set.

    :param flip_horizontal: mirror left and right, half of the time.
    :param flip_vertical: mirror top and bottom, half of the time.
    :param shift: the most that an image moves along each axis, as a share of its side.
    :param rotation: the most that it turns either way, in degrees.
    :param brightness: the most that it gets brighter or darker, as a share.
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
        """Change images ``(B, C, H, W)`` in [0, 1]."""
        return self.with_masks(images, generator, images[:, :0])[0]

    def with_masks(self, images: Tensor, generator: torch.Generator, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Change images ``(B, C, H, W)`` in [0, 1], and their masks ``(B, 1, H, W)`` with them.

        What comes into view at an edge mirrors what was there. Random numbers are drawn on the CPU, so
        a seed means the same changes on every device.
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
        """Where every pixel comes from, ``(B, H, W, 2)``; ``draws (3, B)`` are uniform in [0, 1]."""
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
