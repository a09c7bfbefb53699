"""How badly an autoencoder that knows normal images alone reproduces an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detectors.base import IMAGE, Detection
from detectors.blocks.distance import JUDGED_AT_ONCE, zero_and_unit
from detectors.blocks.pixels import FLOOR, top_mean
from latent_common.errors import UserError
from latent_common.image_source import ImageSource

Reconstruct = Callable[[Tensor], Tensor]
"""Images ``(B, C, H, W)`` in [0, 1] to what the autoencoder makes of them."""

SMOOTHED_FROM = 32
"""Images of fewer pixels a side are not smoothed: a neighbouring pixel is another part there."""

TOP, MEAN, RELATIVE, CENTRED = "top", "mean", "relative", "centred"
POOLINGS = (TOP, MEAN, RELATIVE, CENTRED)

BLURRED = 3
"""Relative errors are those of images seen through a window of so many pixels a side: what a decoder blurs,
or moves by a pixel, is no anomaly."""

FAINT = 0.002
"""Added to an image's contrast: an image of one colour has none to compare its error with."""


class ReconstructionDetector(nn.Module):
    """The autoencoder's error at every pixel as a map, the mean of the largest errors as an image's score.

    Both are shifted and scaled so that 0 means "further out than 95 % of normal images".

    :param by_place: divide by the error that is usual at a place: an autoencoder always errs at edges.
    :param pooled: ``top`` suits defects, which are small. ``mean``, the mean of all squared errors, and
        ``relative``, the same as a share of the image's own contrast, suit images that show another thing
        altogether: there a plain error mostly says how much there is to see. ``centred`` is ``relative``
        where it doesn't matter how bright an image is as a whole, as in photographs. With all three the map
        is squared too.
    """

    input = IMAGE
    mean_error: Tensor
    location: Tensor
    scale: Tensor

    def __init__(self, channels: int, size: int, position_wise: bool = False, pooled: str = TOP) -> None:
        super().__init__()
        if pooled not in POOLINGS:
            raise UserError(f"detector.pooled={pooled} is unknown: choose one of {', '.join(POOLINGS)}")
        if position_wise and pooled in (RELATIVE, CENTRED):
            raise UserError(
                f"detector.position_wise=true doesn't go with detector.pooled={pooled}: choose one of them"
            )
        if min(channels, size) < 1:
            raise ValueError(f"an image can't have the shape {(channels, size, size)}")
        self.channels, self.size, self.position_wise, self.pooled = channels, size, position_wise, pooled
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
            "pooled": self.pooled,
        }

    @torch.no_grad()
    def fit(self, images: ImageSource, reconstruct: Reconstruct) -> None:
        """Learn what error is usual at each place of normal images ``(N, C, H, W)`` uint8."""
        total = torch.zeros_like(self.mean_error)
        for part in images.split(JUDGED_AT_ONCE):
            floats = part.float() / 255
            total += _errors(floats, reconstruct(floats)).sum(0)
        self.mean_error.copy_(total / len(images))

    @torch.no_grad()
    def calibrate(self, images: ImageSource, reconstruct: Reconstruct) -> None:
        """Find the zero point from normal images ``(N, C, H, W)`` uint8 that were not trained on."""
        self.location.zero_()
        self.scale.fill_(1)
        parts = (part.float() / 255 for part in images.split(JUDGED_AT_ONCE))
        location, scale = zero_and_unit(torch.cat([self(part, reconstruct(part)).score for part in parts]))
        self.location.copy_(location)
        self.scale.copy_(scale)

    def forward(self, images: Tensor, reconstructions: Tensor) -> Detection:
        """Judge images ``(B, C, H, W)`` in [0, 1], given their reconstructions of the same shape."""
        if self.pooled in (RELATIVE, CENTRED):
            maps = _relative_errors(images, reconstructions, self.pooled == CENTRED)
        else:
            maps = _errors(images, reconstructions)
        if self.position_wise:
            maps = maps / (self.mean_error + FLOOR)
        if self.pooled == MEAN:
            maps = maps.square()
        maps = (maps - self.location) / self.scale
        return Detection(top_mean(maps) if self.pooled == TOP else maps.flatten(1).mean(1), maps)


def _relative_errors(images: Tensor, reconstructions: Tensor, centred: bool) -> Tensor:
    """Squared errors of blurred images ``(B, C, H, W)`` as a share of the image's variance, ``(B, 1, H,
    W)``.

    :param centred: leave out what all pixels and channels have in common of them.
    """
    errors = images - reconstructions
    if centred:
        errors = errors - errors.mean((1, 2, 3), keepdim=True)
    if errors.shape[-1] >= SMOOTHED_FROM:
        errors = functional.avg_pool2d(errors, BLURRED, 1, BLURRED // 2, count_include_pad=False)
    contrast = images.var((1, 2, 3), correction=0, keepdim=True)
    return errors.square().mean(1, keepdim=True) / (contrast + FAINT)


def _errors(images: Tensor, reconstructions: Tensor) -> Tensor:
    """How far images ``(B, C, H, W)`` lie from their reconstructions, ``(B, 1, H, W)``."""
    errors = (images - reconstructions).abs().mean(1, keepdim=True)
    if errors.shape[-1] < SMOOTHED_FROM:
        return errors
    # A single pixel is noise more often than a defect.
    return functional.avg_pool2d(errors, 3, 1, 1, count_include_pad=False)
