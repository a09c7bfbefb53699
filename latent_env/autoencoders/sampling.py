"""New images from a frozen autoencoder: drawn from its prior, or interpolated between two images."""

from __future__ import annotations

import torch
from torch import Tensor

from latent_env.autoencoders.frozen import FrozenAutoencoder
from latent_env.autoencoders.memory_autoencoder import as_memory_autoencoder


@torch.inference_mode()
def draw_latents(autoencoder: FrozenAutoencoder, count: int, generator: torch.Generator) -> Tensor:
    """Whitened latents ``(count, *latent_shape)`` drawn from the prior.

    A variational autoencoder has a prior, N(0, 1) on its raw latents. For any other it is the Gaussian along
    the leading principal directions of its training latents.
    """
    model, shape = as_memory_autoencoder(autoencoder.model), autoencoder.latent_shape
    if model is not None and model.variational:
        raw = torch.randn(count, *shape, generator=generator).to(autoencoder.mean)
        return (raw - autoencoder.mean) / autoencoder.scale
    scales = autoencoder.direction_scales
    along = torch.randn(count, len(scales), generator=generator).to(scales) * scales
    return (along @ autoencoder.directions).view(count, *shape)


@torch.inference_mode()
def generate(autoencoder: FrozenAutoencoder, count: int, generator: torch.Generator) -> Tensor:
    """New images ``(count, C, H, W)`` in [0, 1], decoded from draws from the prior."""
    return autoencoder.decode_all(draw_latents(autoencoder, count, generator))


@torch.inference_mode()
def interpolate(autoencoder: FrozenAutoencoder, first: Tensor, second: Tensor, steps: int) -> Tensor:
    """Images ``(B, steps, C, H, W)`` on straight lines between the latents of ``first`` and ``second``.

    Both are images ``(B, C, H, W)`` in [0, 1]; the lines begin and end with their reconstructions.
    """
    start, end = autoencoder.encode(first), autoencoder.encode(second)
    shares = torch.linspace(0, 1, steps).to(start).view(1, steps, *[1] * (start.ndim - 1))
    between = start[:, None] + shares * (end - start)[:, None]
    return autoencoder.decode_all(between.flatten(0, 1)).unflatten(0, (len(first), steps))
