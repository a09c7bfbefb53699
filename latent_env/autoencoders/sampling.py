"""New images from a frozen autoencoder: drawn from its prior, or on the way from one image to another."""

from __future__ import annotations

import torch
from torch import Tensor

from latent_env.autoencoders.frozen import FrozenAutoencoder
from latent_env.autoencoders.memory_autoencoder import as_memory_autoencoder


@torch.inference_mode()
def draw_latents(autoencoder: FrozenAutoencoder, count: int, generator: torch.Generator) -> Tensor:
    """Whitened latents ``(count, *latent_shape)`` drawn from the prior.

    A variational form has a prior, N(0, 1) on its raw latents. Any other has none: it gets the Gaussian of
    the leading principal directions of its training latents instead.
    """
    memory, shape = as_memory_autoencoder(autoencoder.model), autoencoder.latent_shape
    if memory is not None and memory.variational:
        raw = torch.randn(count, *shape, generator=generator).to(autoencoder.mean)
        return (raw - autoencoder.mean) / autoencoder.scale
    scales = autoencoder.direction_scales
    along = torch.randn(count, len(scales), generator=generator).to(scales) * scales
    return (along @ autoencoder.directions).view(count, *shape)


@torch.inference_mode()
def generate(autoencoder: FrozenAutoencoder, count: int, generator: torch.Generator) -> Tensor:
    """New images ``(count, C, H, W)`` in [0, 1]: draws from the prior, decoded through the memory if there
    is one.
    """
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
