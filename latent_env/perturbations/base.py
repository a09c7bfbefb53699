"""Perturbations: how an action becomes a change Δz of the latent, and how to add another way.

A perturbation is built from the world and ``max_delta``, and turns actions ``(N, action_size)`` in [-1, 1]
into changes ``(N, *latent_shape)`` of the latents that it is called with. To add one, register a class like
this under a name and pass that name to ``gym.make``::

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

A perturbation that also edits images has a method ``edit``: :mod:`latent_env.perturbations.image_edit`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor

from latent_common.registry import Registry
from latent_env.random_streams import Streams

if TYPE_CHECKING:
    from latent_env.worlds.world import World


class Perturbation(Protocol):
    """What turns actions into changes of the latent."""

    action_size: int
    null_action: Tensor
    """``(action_size,)``: the action that changes nothing."""

    def __call__(self, actions: Tensor, streams: Streams, latents: Tensor) -> Tensor:
        """Changes of ``latents (N, *latent_shape)`` for actions ``(N, action_size)`` in [-1, 1]."""


@runtime_checkable
class CopiesAnomalies(Protocol):
    """A perturbation that can copy labelled anomalies, and tells which."""

    def copied(self, actions: Tensor) -> Tensor:
        """``(N,)`` int64: which labelled anomaly of the world makes up most of each change, -1 for none."""


class PerturbationFactory(Protocol):
    """What is registered under a name: it builds a perturbation; ``max_delta=None`` means its default."""

    def __call__(self, world: World, max_delta: float | None) -> Perturbation:
        """A perturbation for latents of ``world``, on its device."""


perturbations: Registry[PerturbationFactory] = Registry("perturbation")
