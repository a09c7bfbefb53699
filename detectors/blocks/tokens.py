"""Latents as sets of tokens, and maps of one number a token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

TOP_TOKENS = 5
"""An image's score is the mean over so many tokens, the highest ones: one alone may be noise."""

MIN_SHARE = 0.1
"""A token counts as anomalous from this share on: features show the end of a scratch, too."""


def as_tokens(latents: Tensor) -> Tensor:
    """Latents ``(B, C, h, w)`` or ``(B, C)`` as tokens ``(B, T, C)``; a flat latent is one token."""
    return latents.flatten(2).transpose(1, 2) if latents.ndim == 4 else latents.unsqueeze(1)


def grid_of(latent_shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of tokens in a latent of this shape, ``(C, h, w)`` or ``(C,)``."""
    return (latent_shape[1], latent_shape[2]) if len(latent_shape) == 3 else (1, 1)


def as_map(values: Tensor, latent_shape: Sequence[int]) -> Tensor:
    """One number a token, ``(B, T)``, as a map ``(B, 1, h, w)``."""
    return values.unflatten(1, grid_of(latent_shape)).unsqueeze(1)


def anomalous_tokens(shares: Tensor) -> Tensor:
    """Which tokens count as anomalous, ``(M, 1, h, w)`` bool, given the anomalous ``shares`` of them all.

    The token with the largest share always does, however small the anomaly.
    """
    most = shares.amax((2, 3), keepdim=True)
    return (shares >= MIN_SHARE) | ((shares == most) & (shares > 0))


def top_tokens(maps: Tensor) -> Tensor:
    """The mean of the ``TOP_TOKENS`` highest numbers of maps ``(B, 1, h, w)``: ``(B,)``."""
    values = maps.flatten(1)
    return values.topk(min(TOP_TOKENS, values.shape[1]), dim=1, sorted=False).values.mean(1)


def at_size(maps: Tensor, size: int) -> Tensor:
    """Maps ``(B, 1, h, w)`` as ``(B, 1, size, size)``: token maps are upsampled and smoothed.

    The blur has a standard deviation of half a token, as a token's number is about its middle.
    """
    side = maps.shape[2]
    if maps.shape[2:] == (size, size):
        return maps
    enlarged = functional.interpolate(maps, size, mode="bilinear", align_corners=False)
    std = size / side / 2
    reach = min(round(3 * std), size - 1)
    if reach < 1 or side < 2:
        return enlarged
    offsets = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * std**2))
    kernel = kernel / kernel.sum()
    padded = functional.pad(enlarged, (reach,) * 4, mode="replicate")
    rows = functional.conv2d(padded, kernel.view(1, 1, -1, 1))
    return functional.conv2d(rows, kernel.view(1, 1, 1, -1))
