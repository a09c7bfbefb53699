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

A perturbation that also edits images has a method ``edit``: :mod:`latent_env.perturbations.image_edit`. One
that has ``coordinates`` says what the numbers of its actions stand for: :class:`Coordinate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

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

    def copied(self, actions: Tensor, beyond: float = 0.5) -> Tensor:
        """``(N,)`` int64: which labelled anomaly of the world makes up most of each change, -1 for none.

        :param beyond: the share of a change that it must exceed.
        """


class Coordinate(NamedTuple):
    """What one number of an action stands for, in words for people."""

    name: str
    low: str
    """What -1 means."""
    high: str
    """What 1 means."""
    choices: tuple[str, ...] = ()
    """What equal parts of the range from -1 to 1 stand for, in order; empty where the number is a degree."""


@runtime_checkable
class DescribesActions(Protocol):
    """A perturbation that says what the numbers of its actions stand for."""

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """One for each number of an action, in order."""


def coordinates_of(perturbation: Perturbation) -> tuple[Coordinate, ...]:
    """What each number of an action stands for; of a perturbation that doesn't say, plain numbers."""
    if isinstance(perturbation, DescribesActions):
        return perturbation.coordinates
    return numbered("number", perturbation.action_size, "-1", "1")


def numbered(name: str, count: int, low: str, high: str) -> tuple[Coordinate, ...]:
    """Coordinates of one kind, which differ by their number alone."""
    return tuple(Coordinate(f"{name} {number}", low, high) for number in range(1, count + 1))


def anomaly_names(count: int) -> tuple[str, ...]:
    """What labelled anomalies are called, as reports count them."""
    return tuple(f"anomaly {number}" for number in range(1, count + 1))


class PerturbationFactory(Protocol):
    """What is registered under a name: it builds a perturbation; ``max_delta=None`` means its default."""

    def __call__(self, world: World, max_delta: float | None) -> Perturbation:
        """A perturbation for latents of ``world``, on its device."""


perturbations: Registry[PerturbationFactory] = Registry("perturbation")
