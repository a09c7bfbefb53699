"""Qualities of a state, from 0 (noise) to 1 (clean); rewards are differences of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from latent_common.errors import UserError
from latent_env.denoise.process import ForwardProcess
from latent_env.denoise.world import DenoiseWorld

OUTSIDE = -1.0
"""The quality of a state too far from its image's trajectory."""

PATH_POINTS = 16
"""A forward trajectory is cut into so many parts of equal time."""

TERMS = ("critic", "interpolate")


class Episode(Protocol):
    """What qualities need of N episodes."""

    @property
    def clean(self) -> Tensor:
        """``(N, *shape)``: the images that their forward trajectories start from, as states."""

    @property
    def noise(self) -> Tensor:
        """``(N, *shape)``: the noise that their forward trajectories end in."""

    @property
    def wanted(self) -> Tensor:
        """``(N, classes)``: the class that is asked for, one-hot; zeros for any."""


class Quality:
    """The qualities that a reward is made of, by name, and their weights."""

    def __init__(
        self, weights: Mapping[str, float], world: DenoiseWorld, process: ForwardProcess, corridor: float
    ) -> None:
        unknown = [name for name in weights if name not in TERMS]
        if unknown:
            raise UserError(f"reward={unknown[0]} is unknown: choose one of {', '.join(TERMS)}")
        self.weights = {name: float(weight) for name, weight in weights.items() if weight}
        if not self.weights:
            raise UserError(
                "the reward has no term with a weight other than 0: give one, such as {'critic': 1.0}"
            )
        self.world, self.process, self.corridor = world, process, corridor

    def critic(self, states: Tensor, wanted: Tensor) -> Tensor:
        """1 less the amount of noise that the critic estimates, ``(N,)``."""
        return 1 - self.world.critic(states, wanted)

    def terms(self, states: Tensor, episode: Episode) -> dict[str, Tensor]:
        """The qualities of ``states (N, *shape)`` with a weight, and always the critic's: ``(N,)`` each."""
        found = {"critic": self.critic(states, episode.wanted)}
        if "interpolate" in self.weights:
            found["interpolate"] = interpolated(
                states, episode.clean, episode.noise, self.process, self.corridor
            )
        return found


def interpolated(
    states: Tensor, clean: Tensor, noise: Tensor, process: ForwardProcess, corridor: float
) -> Tensor:
    """Where ``states (N, *shape)`` lie on the forward trajectories from ``clean`` to ``noise``, ``(N,)``.

    A trajectory is cut into ``PATH_POINTS`` parts of equal time. The state is projected onto the line between
    the nearest and the second nearest point, and the quality is 1 less the amount of noise there. It is -1
    where that isn't possible: where both points are no neighbours, or where the state is farther than
    ``corridor`` (root mean square a dimension) from its projection.
    """
    x, start, end = states.flatten(1), clean.flatten(1), noise.flatten(1)
    amounts = process.amount(torch.linspace(0, 1, PATH_POINTS + 1, device=x.device))  # (K + 1,)
    kept = (1 - amounts.square()).clamp_min(0).sqrt()
    # Squared distances to all points from inner products: the points themselves would be K times as much.
    near, far, both = (x * start).sum(1), (x * end).sum(1), (start * end).sum(1)
    size, other, own = start.square().sum(1), end.square().sum(1), x.square().sum(1)
    squared = own[:, None] - 2 * (kept * near[:, None] + amounts * far[:, None])
    squared = squared + kept.square() * size[:, None] + amounts.square() * other[:, None]
    squared = squared + 2 * kept * amounts * both[:, None]
    first, second = squared.topk(2, dim=1, largest=False).indices.unbind(1)

    def point(index: Tensor) -> Tensor:
        return kept[index, None] * start + amounts[index, None] * end

    here, way = point(first), point(second) - point(first)
    share = ((x - here) * way).sum(1) / way.square().sum(1).clamp_min(1e-12)
    share = share.clamp(0, 1)
    away = (x - here - share[:, None] * way).square().mean(1).sqrt()
    amount = amounts[first] + share * (amounts[second] - amounts[first])
    possible = ((first - second).abs() == 1) & (away <= corridor)
    return torch.where(possible, 1 - amount, torch.full_like(amount, OUTSIDE))
