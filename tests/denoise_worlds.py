"""Small worlds of LatentDenoise-v0: real networks, random weights, images of stripes in three classes."""

from __future__ import annotations

import torch
from torch import Tensor

from latent_env.autoencoders import ConvAutoencoder, FrozenAutoencoder
from latent_env.denoise.critic import Critic
from latent_env.denoise.spaces import PixelSpace, Space
from latent_env.denoise.world import DenoiseWorld

NAMES = ("rows", "columns", "plain")


def striped_images(count: int = 24, size: int = 8) -> tuple[Tensor, Tensor]:
    """Images ``(count, 1, size, size)`` uint8 of rows, columns or nothing, and which."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 3
    stripes = torch.zeros(3, size, size)
    wide = torch.arange(size) % 4 < 2
    stripes[0, wide], stripes[1, :, wide] = 1, 1
    noise = 0.2 * torch.rand(count, size, size, generator=generator)
    return ((0.7 * stripes[labels] + noise) * 255).to(torch.uint8)[:, None], labels


def make_denoise_world(space: str = "latent", count: int = 24) -> DenoiseWorld:
    """A world before an untrained critic."""
    images, labels = striped_images(count)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        chosen: Space = PixelSpace(1, 8, torch.device("cpu"))
        if space == "latent":
            chosen = FrozenAutoencoder(ConvAutoencoder(1, 8, "flat", latent_size=6, width=8)).calibrate(
                images
            )
        critic = Critic(tuple(chosen.latent_shape), 3, width=16, depth=1)
        torch.nn.init.normal_(critic.leave.weight, std=1.0)  # or its estimate would be the same for all
    return DenoiseWorld.build(chosen, critic, images, labels, NAMES)
