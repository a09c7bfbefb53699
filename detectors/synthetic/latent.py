"""Pseudo-anomalies made of latents: tokens of a region are disturbed, moved, or taken from elsewhere.

All of it is batched, works on the latents' own device, and draws its random numbers on the CPU, so that
a seed means the same anomalies on every device. Latents are whitened: a deviation of normal tokens is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from detectors.synthetic.image_synthesis import Synthetic
from detectors.synthetic.mixing import Mix
from detectors.tokens import as_tokens, grid_of
from latent_common.errors import UserError

WEAKEST, STRONGEST = 0.3, 2.0
"""Noise in deviations of normal tokens, drawn on a logarithmic scale: the faint ones teach most."""

LARGEST_SHARE = 0.25
"""A region covers at most about so much of the latent, and at least one token."""

Kind = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""From tokens ``(B, T, C)`` and their region ``(B, T)`` bool to changed tokens; others are put back after."""


def regions(batch: int, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Ellipses ``(B, h, w)`` bool of any place, size and direction; none is empty."""
    rows, columns = grid
    area, aspect, angle, row, column = torch.rand(5, batch, 1, 1, generator=generator)
    # On a logarithmic scale there are as many small regions as large ones.
    least, most = math.log(1.0), math.log(max(LARGEST_SHARE * rows * columns, 1.0))
    area = torch.exp(least + area * (most - least))
    aspect = torch.exp((2 * aspect - 1) * math.log(3))
    across, along = (area * aspect / math.pi).sqrt(), (area / aspect / math.pi).sqrt()
    y = torch.arange(rows)[None, :, None] - row * (rows - 1)
    x = torch.arange(columns)[None, None, :] - column * (columns - 1)
    sin, cos = (angle * math.pi).sin(), (angle * math.pi).cos()
    inside = ((cos * y + sin * x) / across) ** 2 + ((cos * x - sin * y) / along) ** 2
    # The token nearest to the centre belongs to it, however small the ellipse is.
    return (inside <= 1) | (inside == inside.amin((1, 2), keepdim=True))


def noise(tokens: Tensor, region: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    """Independent Gaussian noise on every token."""
    drawn = torch.randn(tokens.shape, generator=generator).to(tokens)
    return tokens + _strengths(tokens, generator) * drawn


def shift(tokens: Tensor, region: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    """The same change of all tokens, in a random direction."""
    direction = torch.randn(len(tokens), 1, tokens.shape[2], generator=generator).to(tokens)
    return tokens + _strengths(tokens, generator) * direction


def transplant(tokens: Tensor, region: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    """Tokens of another image of the batch, moved to another place."""
    batch, count, _ = tokens.shape
    other = (torch.arange(batch) + torch.randint(1, max(batch, 2), (batch,), generator=generator)) % batch
    moved = (
        torch.arange(count)[None] + torch.randint(1, max(count, 2), (batch, 1), generator=generator)
    ) % count
    return tokens[other[:, None].to(tokens.device), moved.to(tokens.device)]


def shuffle(tokens: Tensor, region: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    """The image's own tokens in random order."""
    order = torch.rand(tokens.shape[:2], generator=generator).argsort(1).to(tokens.device)
    return tokens.gather(1, order.unsqueeze(2).expand_as(tokens))


def _strengths(tokens: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.rand(len(tokens), 1, 1, generator=generator).to(tokens)
    return WEAKEST * (STRONGEST / WEAKEST) ** drawn


KINDS: dict[str, Kind] = {"noise": noise, "shift": shift, "transplant": transplant, "shuffle": shuffle}


class LatentSynthesis:
    """A mix of these kinds: each sample gets one, as often as its weight says."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._mix = Mix(weights, KINDS, "latent synthesis")
        self._moves_tokens = any(weights.get(name, 0) > 0 for name in ("transplant", "shuffle"))

    def __call__(self, latents: Tensor, generator: torch.Generator) -> Synthetic:
        """Whitened latents ``(B, *latent_shape)`` to anomalous ones, with masks ``(B, 1, h, w)``."""
        grid = grid_of(latents.shape[1:])
        if grid == (1, 1) and self._moves_tokens:
            raise UserError("synthesis.latent: transplant and shuffle need a latent of several tokens")
        region = regions(len(latents), grid, generator).to(latents.device)
        tokens, inside = as_tokens(latents), region.flatten(1)
        changed = tokens.clone()
        for kind, rows in self._mix.draw(len(latents), generator):
            rows = rows.to(latents.device)
            changed[rows] = kind(tokens[rows], inside[rows], generator)
        changed = torch.where(inside.unsqueeze(2), changed, tokens)
        altered = changed.transpose(1, 2).reshape(latents.shape)
        return Synthetic(altered, region.unsqueeze(1).to(latents.dtype))
