"""The perturbation ``brush``: a soft local stroke on a spatial latent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latent_common.errors import UserError
from latent_env.autoencoders.frozen import FrozenAutoencoder
from latent_env.perturbations.base import perturbations
from latent_env.random_streams import Streams

if TYPE_CHECKING:
    from latent_env.worlds.world import World


class Brush:
    """A soft local stroke on a spatial latent.

    The action is ``[row, column, radius, strength, roughness, direction…]``: where the stroke lies
    (-1 to 1 across the grid), how wide it is (0.5 tokens to a third of the grid), how far the token
    at its centre moves (0 to ``max_delta``, by default as far as it takes to be seen: ``reach`` of the
    autoencoder times the 95 % quantile of the distance between normal tokens), whether every token
    moves in one direction (roughness -1) or each in one of its own (1), and up to 16 coefficients of
    principal token directions.
    """

    PLACE = 5

    def __init__(self, autoencoder: FrozenAutoencoder, max_delta: float | None) -> None:
        if not autoencoder.is_spatial:
            raise UserError(
                "perturbation=brush needs a spatial latent, but this autoencoder's latent is flat: "
                "choose perturbation=dense or principal, or train with autoencoder.latent=spatial"
            )
        self.channels, self.rows, self.columns = autoencoder.latent_shape
        self.directions = autoencoder.token_directions
        self.action_size = self.PLACE + len(self.directions)
        self.null_action = self.directions.new_zeros(self.action_size)
        self.null_action[3] = -1.0
        usual = float(autoencoder.reach * autoencoder.normal_distances[95])
        self.max_delta = usual if max_delta is None else max_delta
        self.row = torch.arange(self.rows, device=self.directions.device)[None, :, None]
        self.column = torch.arange(self.columns, device=self.directions.device)[None, None, :]

    def __call__(self, actions: Tensor, streams: Streams, latents: Tensor) -> Tensor:  # noqa: ARG002
        """Changes ``(N, C, h, w)``."""
        return self.strokes(actions, streams)

    def strokes(self, actions: Tensor, streams: Streams) -> Tensor:
        """The same: a stroke doesn't depend on what it is painted on."""
        row, column, radius, strength, roughness = (
            ((actions[:, i] + 1) / 2)[:, None, None] for i in range(self.PLACE)
        )
        widest = max(self.rows, self.columns) / 3
        radius = 0.5 + radius * (max(widest, 1.0) - 0.5)
        squared = (self.row - row * (self.rows - 1)).square()
        squared = squared + (self.column - column * (self.columns - 1)).square()
        profile = self.max_delta * strength * torch.exp(-squared / (2 * radius.square()))

        direction = (actions[:, self.PLACE :] @ self.directions)[:, :, None, None]
        noise = streams.normal(self.channels, self.rows, self.columns)
        rough = roughness.unsqueeze(1)
        mixed = (1 - rough) * _unit(direction) + rough * _unit(noise)
        return profile.unsqueeze(1) * _unit(mixed)


@perturbations.register("brush")
def _brush(world: World, max_delta: float | None) -> Brush:
    return Brush(world.autoencoder, max_delta)


def _unit(vectors: Tensor) -> Tensor:
    """Vectors along dimension 1 at unit length; zero stays zero."""
    return vectors / (vectors.square().sum(1, keepdim=True) + 1e-12).sqrt()
