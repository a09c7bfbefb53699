"""The spaces of states: latents of a frozen autoencoder, or pixels."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from latent_common.image_source import ImageSource, images_at_once
from latent_env.autoencoders.frozen import as_float

SPACES = ("latent", "pixel")


class Space(Protocol):
    """How images and states of about unit variance become each other; frozen autoencoders are such spaces."""

    latent_shape: tuple[int, ...]
    channels: int
    size: int

    def encode(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [0, 1] to states ``(B, *latent_shape)``."""

    def decode(self, latents: Tensor) -> Tensor:
        """States ``(B, *latent_shape)`` to images in [0, 1]."""

    def decode_all(self, latents: Tensor) -> Tensor:
        """States ``(N, *latent_shape)`` to images in [0, 1], some at a time."""

    def encode_all(self, images: ImageSource) -> Tensor:
        """States of ``images (N, C, H, W)``, uint8 or float, on the space's device."""


class PixelSpace:
    """The space whose states are the images themselves, from -1 to 1."""

    def __init__(self, channels: int, size: int, device: torch.device) -> None:
        self.channels, self.size = channels, size
        self.latent_shape: tuple[int, ...] = (channels, size, size)
        self._like = torch.zeros((), device=device)

    def encode(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` in [0, 1] to [-1, 1]."""
        return images * 2 - 1

    def decode(self, latents: Tensor) -> Tensor:
        """``(B, C, H, W)`` back to [0, 1], clamped."""
        return ((latents + 1) / 2).clamp(0, 1)

    def decode_all(self, latents: Tensor) -> Tensor:
        """``(N, C, H, W)`` back to [0, 1], clamped."""
        return self.decode(latents)

    def encode_all(self, images: ImageSource) -> Tensor:
        """``(N, C, H, W)`` from -1 to 1."""
        parts = images.split(images_at_once(self.size))
        return torch.cat([self.encode(as_float(part.to(self._like.device), self._like)) for part in parts])


def dimensions(space: Space) -> int:
    """How many numbers a state has."""
    return math.prod(space.latent_shape)


class DenseStep:
    """``Δz = max_delta · a``: one number a dimension of the state."""

    def __init__(self, shape: tuple[int, ...], max_delta: float, device: torch.device) -> None:
        self.shape, self.max_delta = shape, max_delta
        self.action_size = math.prod(shape)
        self.null_action = torch.zeros(self.action_size, device=device)

    def __call__(self, actions: Tensor, streams: object, latents: Tensor) -> Tensor:  # noqa: ARG002
        """Changes ``(N, *shape)`` for actions ``(N, action_size)`` in [-1, 1]."""
        return self.max_delta * actions.view(-1, *self.shape)
