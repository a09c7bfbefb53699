"""What can be seen of a change of the latent: how strong it must be, and how far it must go for that.

A change that hardly shows when it is decoded is still a normal image, whatever its length in latent space; a
detector that learns to call it an anomaly learns to see what isn't there. How far is far enough depends on
the decoder, so it is measured, once, when an autoencoder is frozen.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from latent_common.image_source import ImageSource, evenly_spaced, images_at_once
from latent_env.autoencoders.frozen import LEAST_REACH, LEAST_VISIBLE, FrozenAutoencoder, as_float
from latent_env.perturbations.brush import Brush
from latent_env.random_streams import Streams

MOST_IMAGES = 64
"""So many images are decoded to measure it."""

NORMALLY = 0.99
"""Nearly all pixels of normal images are decoded better than that: a change as small as the rest is none."""

CLEARLY = 2.0
"""A change so many times as strong as a barely visible one is clearly visible."""

MOST_VISIBLE = 0.1
"""Everybody sees more, however badly a decoder works."""

MOST_REACH = 64.0


def strength_of(change: Tensor) -> Tensor:
    """How strong a change of images ``(B, C, H, W)`` is, place by place: ``(B, 1, H, W)``."""
    strength = change.abs()
    if change.shape[1] > 1:
        strength = strength.mean(1, keepdim=True)
    if strength.shape[-1] >= 32:  # on tiny images the neighbours are already another part
        strength = among_neighbours(strength)
    return strength


def among_neighbours(values: Tensor) -> Tensor:
    """The mean of each of ``values (B, C, H, W)`` and its up to eight neighbours.

    Three rows are added up, then three columns: on a CPU several times as fast as pooling.
    """
    height, width = values.shape[2:]
    rows = functional.pad(values, (0, 0, 1, 1))
    rows = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    both = functional.pad(rows, (1, 1))
    both = both[..., :-2] + both[..., 1:-1] + both[..., 2:]
    return both / (_within(height, values)[:, None] * _within(width, values))


def _within(size: int, like: Tensor) -> Tensor:
    """How many of a place and its two neighbours lie within an axis of ``size``, ``(size,)``."""
    counts = like.new_full((size,), 3)
    counts[0] = counts[-1] = 2
    return counts


def visible_support(change: Tensor, barely: Tensor | float) -> Tensor:
    """The soft support ``(B, 1, H, W)`` in [0, 1] of a change ``(B, C, H, W)`` of images.

    It fades in from where the change is ``barely`` visible.
    """
    return (strength_of(change) / barely - 1).div_(CLEARLY - 1).clamp(0, 1)


@torch.no_grad()
def measure_visibility(autoencoder: FrozenAutoencoder, images: ImageSource) -> FrozenAutoencoder:
    """Fill in ``barely_visible`` and ``reach``, from images ``(N, C, H, W)``; returns the autoencoder.

    A change is barely visible where it is as strong as what decoding itself changes in the worst hundredth
    of normal pixels. The reach is how far, in radii within which normal tokens lie apart, strokes must go for
    half of uniformly random ones to be clearly visible somewhere.
    """
    some = as_float(evenly_spaced(images, MOST_IMAGES), autoencoder.mean)
    parts = some.split(images_at_once(autoencoder.size))
    errors = torch.cat([strength_of(autoencoder(part) - part).flatten() for part in parts])
    usual = errors.kthvalue(round(NORMALLY * (len(errors) - 1)) + 1).values
    autoencoder.barely_visible.copy_(usual.clamp(LEAST_VISIBLE, MOST_VISIBLE))
    if autoencoder.is_spatial and not autoencoder.whitens_itself:
        autoencoder.reach.copy_(torch.tensor(_reach(autoencoder, some)))
    return autoencoder


def _reach(autoencoder: FrozenAutoencoder, images: Tensor) -> float:
    """The smallest reach, in steps of the square root of 2, that makes strokes visible."""
    latents = autoencoder.encode_all(images)
    inner = float(autoencoder.normal_distances[95])
    brush, streams = Brush(autoencoder, inner), Streams(len(latents), latents.device)
    streams.seeds += torch.arange(len(latents), device=latents.device)
    actions = torch.rand(len(latents), brush.action_size, generator=torch.Generator().manual_seed(0))
    strokes = brush.strokes((2 * actions - 1).to(latents), streams)
    reach, decoded = LEAST_REACH, autoencoder.decode_all(latents)
    while reach < MOST_REACH:
        change = autoencoder.decode_all(latents + reach * strokes) - decoded
        peaks = strength_of(change).flatten(1).amax(1)
        if peaks.median() >= CLEARLY * autoencoder.barely_visible:
            break
        reach *= 2**0.5
    return reach
