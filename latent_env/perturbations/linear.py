"""Perturbations that are linear in the action: ``dense`` and ``principal``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latent_env.perturbations.base import Coordinate, numbered, perturbations
from latent_env.random_streams import Streams

if TYPE_CHECKING:
    from latent_env.worlds.world import World


@perturbations.register("dense")
class Dense:
    """``Δz = max_delta · a``: one number of the action a latent dimension.

    By default full strength in all dimensions goes as far as a change must go to be seen: the autoencoder's
    ``reach`` times the 95 % quantile of the distance between normal latents.
    """

    def __init__(self, world: World, max_delta: float | None) -> None:
        autoencoder = world.autoencoder
        self.action_size = autoencoder.latent_dimensions
        self.null_action = torch.zeros_like(autoencoder.mean).flatten()
        self.shape = autoencoder.latent_shape
        visible = float(autoencoder.reach * autoencoder.normal_distances[95]) / math.sqrt(self.action_size)
        self.max_delta = visible if max_delta is None else max_delta

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """What each number of an action stands for."""
        return numbered("latent", self.action_size, "less", "more")

    def __call__(self, actions: Tensor, streams: Streams, latents: Tensor) -> Tensor:  # noqa: ARG002
        """Changes ``(N, *latent_shape)``."""
        return self.max_delta * actions.view(-1, *self.shape)


@perturbations.register("principal")
class Principal:
    """The action holds coefficients of the leading principal directions of normal latents.

    A coefficient of 1 means ``max_delta`` (default 1) standard deviations of normal latents along a
    direction.
    """

    def __init__(self, world: World, max_delta: float | None) -> None:
        autoencoder = world.autoencoder
        scale = 1.0 if max_delta is None else max_delta
        self.basis = scale * autoencoder.direction_scales[:, None] * autoencoder.directions
        self.action_size = len(self.basis)
        self.null_action = self.basis.new_zeros(self.action_size)
        self.shape = autoencoder.latent_shape

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """What each number of an action stands for."""
        return numbered("direction", self.action_size, "against it", "along it")

    def __call__(self, actions: Tensor, streams: Streams, latents: Tensor) -> Tensor:  # noqa: ARG002
        """Changes ``(N, *latent_shape)``."""
        return (actions @ self.basis).view(-1, *self.shape)
