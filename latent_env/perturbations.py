"""How an action becomes a change Δz of the latent.

A perturbation is built with the world and ``max_delta``, and turns actions ``(N, action_size)`` in [-1, 1]
into changes ``(N, *latent_shape)`` of the latents that it is shown. To add one, register a class of the same
form under a name and pass that name to ``gym.make``::

    from latent_env import register_perturbation

    @register_perturbation("first_half")
    class FirstHalf:
        def __init__(self, world, max_delta):
            self.action_size = world.autoencoder.latent_shape[0] // 2
            self.null_action = torch.zeros(self.action_size)
            self.max_delta = max_delta or 1.0

        def __call__(self, actions, streams, latents):
            delta = torch.zeros_like(latents)
            delta[:, : self.action_size] = self.max_delta * actions
            return delta

    env = gym.make("LatentAug-v0", perturbation="my_module:first_half")

One that changes images beside what is decoded has a method ``edit_image``, see :mod:`latent_env.image_edit`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from latent_common.errors import UserError
from latent_common.registry import Registry
from latent_env.autoencoders.frozen import FrozenAutoencoder
from latent_env.random_streams import Streams

if TYPE_CHECKING:
    from latent_env.worlds.world import World


class Perturbation(Protocol):
    """Turns actions into changes of the latent."""

    action_size: int
    null_action: Tensor
    """``(action_size,)``: the action that changes nothing."""

    def __call__(self, actions: Tensor, streams: Streams, latents: Tensor) -> Tensor:
        """Changes of ``latents (N, *latent_shape)`` for actions ``(N, action_size)`` in [-1, 1]."""


class PerturbationFactory(Protocol):
    """Builds a perturbation; ``max_delta=None`` means the perturbation's own default."""

    def __call__(self, world: World, max_delta: float | None) -> Perturbation:
        """A perturbation for latents of ``world``, on its device."""


perturbations: Registry[PerturbationFactory] = Registry("perturbation")


def make_perturbation(name: str, world: World, max_delta: float | None) -> Perturbation:
    """The perturbation called ``name``, for latents of ``world``."""
    if max_delta is not None and not max_delta > 0:
        raise UserError(f"max_delta={max_delta:g} must be above 0")
    return perturbations[name](world, max_delta)


@perturbations.register("dense")
class Dense:
    """``Δz = max_delta · a``: one number a latent dimension.

    By default full strength in all dimensions goes as far as it takes to be seen: ``reach`` of the
    autoencoder times the 95 % quantile of the distance between normal latents.
    """

    def __init__(self, world: World, max_delta: float | None) -> None:
        autoencoder = world.autoencoder
        self.action_size = autoencoder.latent_dimensions
        self.null_action = torch.zeros_like(autoencoder.mean).flatten()
        self.shape = autoencoder.latent_shape
        usual = float(autoencoder.reach * autoencoder.normal_distances[95]) / math.sqrt(self.action_size)
        self.max_delta = usual if max_delta is None else max_delta

    def __call__(self, actions: Tensor, streams: Streams, latents: Tensor) -> Tensor:  # noqa: ARG002
        """Changes ``(N, *latent_shape)``."""
        return self.max_delta * actions.view(-1, *self.shape)


@perturbations.register("principal")
class Principal:
    """The action are coefficients of the leading principal directions of the normal latents.

    1 means ``max_delta`` (default 1) standard deviations of the normals along that direction.
    """

    def __init__(self, world: World, max_delta: float | None) -> None:
        autoencoder = world.autoencoder
        scale = 1.0 if max_delta is None else max_delta
        self.basis = scale * autoencoder.direction_scales[:, None] * autoencoder.directions
        self.action_size = len(self.basis)
        self.null_action = self.basis.new_zeros(self.action_size)
        self.shape = autoencoder.latent_shape

    def __call__(self, actions: Tensor, streams: Streams, latents: Tensor) -> Tensor:  # noqa: ARG002
        """Changes ``(N, *latent_shape)``."""
        return (actions @ self.basis).view(-1, *self.shape)


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
