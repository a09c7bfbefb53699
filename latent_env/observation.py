"""What agents see: the latent, the means of squares of its tokens, or the image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from latent_common.errors import UserError

AUTO, LATENT, POOLED, IMAGE = "auto", "latent", "pooled", "image"
OBSERVATIONS = (AUTO, LATENT, POOLED, IMAGE)

LARGE = 1024
"""``auto`` pools latents of more numbers than this: of more, a small policy learns little."""

MOST_POOLED = 512
"""A pooled observation has no more numbers than this, or one a channel where there are more channels."""

LEAST_SIDE = 36
"""Smaller images are enlarged: of fewer pixels a side the usual convolutions leave nothing."""


def check_observation(observation: object) -> None:
    """Raise a ``UserError`` unless ``observation`` is one of :data:`OBSERVATIONS`."""
    if observation not in OBSERVATIONS:
        raise UserError(f"observation={observation!r} must be one of {', '.join(OBSERVATIONS)}")


class Observer:
    """Turns latents into what agents see of them, without copying more than is seen.

    :param observation: ``latent``, ``pooled``, or ``auto`` for the latter where a latent is large.
    :param latent_shape: ``(C, h, w)`` or ``(d,)``.
    """

    def __init__(self, observation: str, latent_shape: Sequence[int]) -> None:
        check_observation(observation)
        spatial = len(latent_shape) == 3
        if observation == POOLED and not spatial:
            raise UserError(
                "observation=pooled needs a spatial latent, but this autoencoder's latent is flat: choose "
                "observation=latent or auto, or train with autoencoder.latent=spatial"
            )
        large = spatial and math.prod(latent_shape) > LARGE
        self.window = window(latent_shape) if observation == POOLED or (observation == AUTO and large) else 1
        """The side of the squares whose mean is seen, in tokens."""
        self.size = math.prod(pooled_shape(latent_shape, self.window))
        """How many numbers are seen."""

    def __call__(self, latents: Tensor) -> Tensor:
        """What is seen of ``latents (N, *latent_shape)``: ``(N, size)``, a copy."""
        if self.window == 1:
            return latents.flatten(1).clone()
        return functional.avg_pool2d(latents, self.window, ceil_mode=True).flatten(1)


class ImageObserver:
    """Turns images and numbers into one stack of channels, for policies with convolutions.

    :param channels: of the images.
    :param size: the side of the images, in pixels.
    :param numbers: how many numbers are seen beside the image; each fills a channel of its own.
    """

    def __init__(self, channels: int, size: int, numbers: int) -> None:
        self.factor = math.ceil(LEAST_SIDE / size)
        """How many times as large as the images their observations are."""
        side = size * self.factor
        self.shape = (channels + numbers, side, side)

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """``images (N, C, H, W)`` and ``numbers (N, k)``, all in [0, 1], as ``(N, *shape)`` uint8."""
        larger = images.repeat_interleave(self.factor, 2).repeat_interleave(self.factor, 3)
        planes = numbers[:, :, None, None].expand(-1, -1, *self.shape[1:])
        return torch.cat([larger, planes], 1).mul(255).round().to(torch.uint8)


def window(latent_shape: Sequence[int]) -> int:
    """The side of the smallest squares of tokens whose means are at most :data:`MOST_POOLED` numbers.

    Where there are more channels than that it is the whole grid.
    """
    sides = range(1, max(latent_shape[1:]) + 1)
    fitting = (side for side in sides if math.prod(pooled_shape(latent_shape, side)) <= MOST_POOLED)
    return next(fitting, sides[-1])


def pooled_shape(latent_shape: Sequence[int], side: int) -> tuple[int, ...]:
    """The shape of a latent's means over squares of ``side`` tokens; those at the far edges may be cut."""
    channels, *grid = latent_shape
    return channels, *(math.ceil(extent / side) for extent in grid)
