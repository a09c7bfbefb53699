"""Which changes of the image can be seen, and how far a latent must move for that.

An image whose change hardly shows is still normal, however far its latent moved: a detector that learns to
call it an anomaly learns to see what isn't there. Both figures depend on the decoder, so they are measured
once, when an autoencoder is frozen.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from latent_common.image_source import ImageSource, evenly_spaced
from latent_env.autoencoders.frozen import LEAST_REACH, LEAST_VISIBLE, FrozenAutoencoder, as_float
from latent_env.perturbations.brush import Brush
from latent_env.random_streams import Streams

MOST_IMAGES = 64
"""Both are measured on so many images."""

ERROR_QUANTILE = 0.99
"""A change is barely visible if it is as strong as this quantile of the decoding errors of normal pixels."""

CLEARLY = 2.0
"""A change is clearly visible if it is so many times as strong as a barely visible one."""

MOST_VISIBLE = 0.1
"""Stronger changes (of intensities from 0 to 1) are visible, however large decoding errors are."""

MOST_REACH = 64.0


def strength_of(change: Tensor) -> Tensor:
    """How strong a change of images ``(B, C, H, W)`` is at each pixel: ``(B, 1, H, W)``."""
    strength = change.abs()
    if change.shape[1] > 1:
        strength = strength.mean(1, keepdim=True)
    if strength.shape[-1] >= 32:  # on smaller images neighbours belong to other parts
        strength = among_neighbours(strength)
    return strength


def among_neighbours(values: Tensor) -> Tensor:
    """The mean of each of ``values (B, C, H, W)`` and its neighbours, up to eight: ``(B, C, H, W)``.

    It adds up three rows, then three columns, which on a CPU is several times as fast as pooling.
    """
    height, width = values.shape[2:]
    rows = functional.pad(values, (0, 0, 1, 1))
    rows = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    both = functional.pad(rows, (1, 1))
    both = both[..., :-2] + both[..., 1:-1] + both[..., 2:]
    return both / (_within(height, values)[:, None] * _within(width, values))


def _within(size: int, like: Tensor) -> Tensor:
    """How many of each position and its two neighbours lie on an axis of length ``size``, ``(size,)``."""
    counts = like.new_full((size,), 3)
    counts[0] = counts[-1] = 2
    return counts


def visible_support(change: Tensor, barely: Tensor | float) -> Tensor:
    """Where a change of images ``(B, C, H, W)`` can be seen, ``(B, 1, H, W)``.

    From 0 where it is ``barely`` visible or less to 1 where it is clearly visible.
    """
    return (strength_of(change) / barely - 1).div_(CLEARLY - 1).clamp(0, 1)


@torch.no_grad()
def measure_visibility(autoencoder: FrozenAutoencoder, images: ImageSource) -> FrozenAutoencoder:
    """Measure ``barely_visible`` and ``reach`` on normal images ``(N, C, H, W)``; returns the autoencoder.

    A change is barely visible if it is as strong as the error of decoding in the worst hundredth of normal
    pixels. The reach is how far strokes must go for half of uniformly random ones to be clearly visible
    somewhere, in units of the distance within which 95 % of normal tokens have a neighbour. It isn't measured
    where features are decoded, which is blurred whatever one does.
    """
    some = as_float(evenly_spaced(images, autoencoder.count_to_measure(MOST_IMAGES)), autoencoder.mean)
    latents = autoencoder.encode_all(some)
    decoded = autoencoder.decode_all(latents)
    errors = strength_of(decoded - some).flatten()
    barely = errors.kthvalue(round(ERROR_QUANTILE * (len(errors) - 1)) + 1).values
    autoencoder.barely_visible.copy_(barely.clamp(LEAST_VISIBLE, MOST_VISIBLE))
    if autoencoder.is_spatial and not autoencoder.of_features:
        autoencoder.reach.copy_(torch.tensor(_reach(autoencoder, latents, decoded)))
    return autoencoder


def _reach(autoencoder: FrozenAutoencoder, latents: Tensor, decoded: Tensor) -> float:
    """The smallest reach, in steps of a factor √2, with which half of random strokes are clearly visible.

    The strokes change ``latents (N, C, h, w)``, which are ``decoded (N, C, H, W)``.
    """
    inner = float(autoencoder.normal_distances[95])
    brush, streams = Brush(autoencoder, inner), Streams(len(latents), latents.device)
    streams.seeds += torch.arange(len(latents), device=latents.device)
    actions = torch.rand(len(latents), brush.action_size, generator=torch.Generator().manual_seed(0))
    strokes = brush.strokes((2 * actions - 1).to(latents), streams)
    reach = LEAST_REACH
    while reach < MOST_REACH:
        change = autoencoder.decode_all(latents + reach * strokes) - decoded
        peaks = strength_of(change).flatten(1).amax(1)
        if peaks.median() >= CLEARLY * autoencoder.barely_visible:
            break
        reach *= 2**0.5
    return reach
