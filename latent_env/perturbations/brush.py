"""The perturbation ``brush``: a soft local stroke on a spatial latent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latent_common.errors import UserError
from latent_env.autoencoders.frozen import FrozenAutoencoder
from latent_env.perturbations.base import Coordinate, numbered, perturbations
from latent_env.random_streams import Streams

if TYPE_CHECKING:
    from latent_env.worlds.world import World


class Brush:
    """A soft local stroke on a spatial latent.

    The action is ``[row, column, radius, strength, roughness, direction…]``:

    - ``row`` and ``column``: the stroke's centre, -1 to 1 across the grid;
    - ``radius``: 0.5 tokens to a third of the grid;
    - ``strength``: how far the token at the centre moves, from 0 to ``max_delta``. By default that is as far
      as a change must go to be seen: the autoencoder's ``reach`` times the 95 % quantile of the distance
      between normal tokens;
    - ``roughness``: -1 moves all tokens in one direction, 1 each in a random direction of its own;
    - ``direction…``: up to 16 coefficients of principal directions of normal tokens.
    """

    SHAPE = 5
    """How many numbers of the action come before the direction."""

    def __init__(self, autoencoder: FrozenAutoencoder, max_delta: float | None) -> None:
        if not autoencoder.is_spatial:
            raise UserError(
                "perturbation=brush needs a spatial latent, but this autoencoder's latent is flat: "
                "choose perturbation=dense or principal, or train with autoencoder.latent=spatial"
            )
        self.channels, self.rows, self.columns = autoencoder.latent_shape
        self.directions = autoencoder.token_directions
        self.action_size = self.SHAPE + len(self.directions)
        self.null_action = self.directions.new_zeros(self.action_size)
        self.null_action[3] = -1.0
        visible = float(autoencoder.reach * autoencoder.normal_distances[95])
        self.max_delta = visible if max_delta is None else max_delta
        self.row = torch.arange(self.rows, device=self.directions.device)[None, :, None]
        self.column = torch.arange(self.columns, device=self.directions.device)[None, None, :]

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """What each number of an action stands for."""
        return (
            Coordinate("row", "top", "bottom"),
            Coordinate("column", "left", "right"),
            Coordinate("radius", "half a token", "a third of the grid"),
            Coordinate("strength", "none", "full"),
            Coordinate("roughness", "all tokens alike", "each token its own way"),
            *numbered("direction", len(self.directions), "against it", "along it"),
        )

    def __call__(self, actions: Tensor, streams: Streams, latents: Tensor) -> Tensor:  # noqa: ARG002
        """Changes ``(N, C, h, w)``."""
        return self.strokes(actions, streams)

    def strokes(self, actions: Tensor, streams: Streams) -> Tensor:
        """Changes ``(N, C, h, w)``, which don't depend on the latents."""
        row, column, radius, strength, roughness = (
            ((actions[:, i] + 1) / 2)[:, None, None] for i in range(self.SHAPE)
        )
        widest = max(self.rows, self.columns) / 3
        radius = 0.5 + radius * (max(widest, 1.0) - 0.5)
        squared = (self.row - row * (self.rows - 1)).square()
        squared = squared + (self.column - column * (self.columns - 1)).square()
        profile = self.max_delta * strength * torch.exp(-squared / (2 * radius.square()))

        direction = (actions[:, self.SHAPE :] @ self.directions)[:, :, None, None]
        noise = streams.normal(self.channels, self.rows, self.columns)
        rough = roughness.unsqueeze(1)
        mixed = (1 - rough) * _unit(direction) + rough * _unit(noise)
        return profile.unsqueeze(1) * _unit(mixed)


@perturbations.register("brush")
def _brush(world: World, max_delta: float | None) -> Brush:
    return Brush(world.autoencoder, max_delta)


def _unit(vectors: Tensor) -> Tensor:
    """``vectors``, scaled to unit length along dimension 1; zero stays zero."""
    return vectors / (vectors.square().sum(1, keepdim=True) + 1e-12).sqrt()
