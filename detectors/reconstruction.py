"""The reconstruction error of an autoencoder that was trained on normal images alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detectors.base import IMAGE, Detection
from detectors.blocks.pixels import FLOOR, top_mean
from detectors.distances.base import BATCH_SIZE, location_and_scale
from latent_common.errors import UserError
from latent_common.image_source import ImageSource

Reconstruct = Callable[[Tensor], Tensor]
"""Images ``(B, C, H, W)`` in [0, 1] to their reconstructions."""

SMOOTHED_FROM = 32
"""Errors of images with fewer pixels a side are not smoothed, as neighbouring pixels show other parts."""

TOP, MEAN, RELATIVE, CENTRED = "top", "mean", "relative", "centred"
POOLINGS = (TOP, MEAN, RELATIVE, CENTRED)

WINDOW = 3
"""Errors are averaged over so many pixels a side: single pixels are noise more often than a defect, and what
a decoder blurs, or moves by a pixel, is no anomaly."""

MIN_CONTRAST = 0.002
"""Added to an image's variance, which is 0 for an image of one colour."""


class ReconstructionDetector(nn.Module):
    """The autoencoder's error at every pixel as a map, the mean of the largest errors as an image's score.

    Both are shifted and scaled so that 0 means "further out than 95 % of normal images".

    :param position_wise: divide by the mean error of normal images at the same position. It is large at
        edges, for instance.
    :param pooling: how errors become a score. ``top``, the mean of the largest, is for defects, which are
        small. ``mean``, the mean of all squared errors, and ``relative``, the same divided by the image's
        variance, are for images that show another object altogether, where a plain error mostly tells how
        much there is to see. ``centred`` is ``relative`` without the error of the whole image's brightness,
        for photographs. All three square the map, too.
    """

    input = IMAGE
    mean_error: Tensor
    location: Tensor
    scale: Tensor

    def __init__(self, channels: int, size: int, position_wise: bool = False, pooling: str = TOP) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise UserError(f"detector.pooling={pooling} is unknown: choose one of {', '.join(POOLINGS)}")
        if position_wise and pooling in (RELATIVE, CENTRED):
            raise UserError(
                f"detector.position_wise=true doesn't go with detector.pooling={pooling}: choose one of them"
            )
        if min(channels, size) < 1:
            raise ValueError(f"an image can't have the shape {(channels, size, size)}")
        self.channels, self.size, self.position_wise, self.pooling = channels, size, position_wise, pooling
        self.register_buffer("mean_error", torch.ones(1, size, size))
        self.register_buffer("location", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of an image, ``(C, H, W)``."""
        return (self.channels, self.size, self.size)

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that build this detector again."""
        return {
            "channels": self.channels,
            "size": self.size,
            "position_wise": self.position_wise,
            "pooling": self.pooling,
        }

    @torch.no_grad()
    def fit(self, images: ImageSource, reconstruct: Reconstruct) -> None:
        """Take the mean error at every position of normal images ``(N, C, H, W)`` uint8."""
        total = torch.zeros_like(self.mean_error)
        for part in images.split(BATCH_SIZE):
            floats = part.float() / 255
            total += _errors(floats, reconstruct(floats)).sum(0)
        self.mean_error.copy_(total / len(images))

    @torch.no_grad()
    def calibrate(self, images: ImageSource, reconstruct: Reconstruct) -> None:
        """Find shift and scale on normal images ``(N, C, H, W)`` uint8 that were not trained on."""
        self.location.zero_()
        self.scale.fill_(1)
        parts = (part.float() / 255 for part in images.split(BATCH_SIZE))
        location, scale = location_and_scale(
            torch.cat([self(part, reconstruct(part)).score for part in parts])
        )
        self.location.copy_(location)
        self.scale.copy_(scale)

    def forward(self, images: Tensor, reconstructions: Tensor) -> Detection:
        """Score images ``(B, C, H, W)`` in [0, 1], given their reconstructions of the same shape."""
        if self.pooling in (RELATIVE, CENTRED):
            maps = _relative_errors(images, reconstructions, self.pooling == CENTRED)
        else:
            maps = _errors(images, reconstructions)
        if self.position_wise:
            maps = maps / (self.mean_error + FLOOR)
        if self.pooling == MEAN:
            maps = maps.square()
        maps = (maps - self.location) / self.scale
        return Detection(top_mean(maps) if self.pooling == TOP else maps.flatten(1).mean(1), maps)


def _relative_errors(images: Tensor, reconstructions: Tensor, centred: bool) -> Tensor:
    """Squared, smoothed errors of images ``(B, C, H, W)`` divided by the image's variance, ``(B, 1, H, W)``.

    :param centred: subtract the mean error over all pixels and channels.
    """
    errors = images - reconstructions
    if centred:
        errors = errors - errors.mean((1, 2, 3), keepdim=True)
    contrast = images.var((1, 2, 3), correction=0, keepdim=True)
    return _smoothed(errors).square().mean(1, keepdim=True) / (contrast + MIN_CONTRAST)


def _errors(images: Tensor, reconstructions: Tensor) -> Tensor:
    """How far images ``(B, C, H, W)`` lie from their reconstructions, ``(B, 1, H, W)``."""
    return _smoothed((images - reconstructions).abs().mean(1, keepdim=True))


def _smoothed(errors: Tensor) -> Tensor:
    """Means over windows of errors ``(B, C, H, W)``; small images as they are."""
    if errors.shape[-1] < SMOOTHED_FROM:
        return errors
    return functional.avg_pool2d(errors, WINDOW, 1, WINDOW // 2, count_include_pad=False)
