"""Pictures of denoising: an episode as a strip, and generated images class by class."""

from __future__ import annotations

import torch
from torch import Tensor

from latent_env.denoise.dynamics import DenoiseDynamics
from latent_env.rendering import Picture, side_by_side, stack, to_rgb

TILE, SMALL = 96, 64


@torch.inference_mode()
def strip(dynamics: DenoiseDynamics, world: int = 0, tile: int = TILE) -> Picture:
    """One world's episode so far: from its start to the present, with the critic's word, ``(H, W, 3)``.

    There is room for ``horizon`` steps: what hasn't happened is black. The last tile is the image that the
    forward trajectory belongs to.
    """
    parts, canvas = dynamics.world, dynamics.last
    states = dynamics.steps_of(world)
    images = parts.space.in_parts(states)
    wanted = canvas.wanted[world : world + 1].expand(len(states), -1)
    words = [f"{float(quality):.2f}" for quality in dynamics.reward.critic(states, wanted)]
    blank = torch.zeros_like(images[0])
    missing = dynamics.horizon + 1 - len(images)
    tiles = [*images, *[blank] * missing, parts.images[canvas.sources[world]]]
    name = parts.class_names[int(parts.labels[canvas.sources[world]])]
    captions = [*words, *[""] * missing, name[:12]]
    return side_by_side([to_rgb(image) for image in tiles], captions, tile)


def class_grid(images: Tensor, classes: Tensor, names: tuple[str, ...], columns: int = 12) -> Picture:
    """Images ``(N, C, H, W)`` in [0, 1], a row a class; ``classes (N,)`` say where each belongs."""
    rows = []
    for number, name in enumerate(names):
        chosen = images[(classes == number).nonzero()[:columns, 0]]
        blank = [torch.zeros_like(images[0])] * (columns - len(chosen))
        tiles = [to_rgb(image) for image in [*chosen, *blank]]
        rows.append(side_by_side(tiles, [name[:8], *[""] * (columns - 1)], SMALL))
    return stack(rows)
