"""How good a state is, from 0 (noise) to 1 (clean): what rewards are differences of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from latent_common.errors import UserError
from latent_env.denoise.process import ForwardProcess
from latent_env.denoise.world import DenoiseWorld

OUTSIDE = -1.0
"""The quality of a state that lies beside its image's trajectory."""

PATH_POINTS = 16
"""Parts of equal time that a forward trajectory is cut into."""

TERMS = ("critic", "interpolate")


class Episode(Protocol):
    """What a quality may ask of N episodes."""

    @property
    def clean(self) -> Tensor:
        """``(N, *shape)``: the images that they are about."""

    @property
    def noise(self) -> Tensor:
        """``(N, *shape)``: the noise that these end in."""

    @property
    def wanted(self) -> Tensor:
        """``(N, classes)``: the class, one-hot; zeros where any will do."""


class Quality:
    """The qualities that a reward is made of, by name, with their weights."""

    def __init__(
        self, weights: Mapping[str, float], world: DenoiseWorld, process: ForwardProcess, corridor: float
    ) -> None:
        unknown = [name for name in weights if name not in TERMS]
        if unknown:
            raise UserError(f"reward={unknown[0]} is unknown: choose one of {', '.join(TERMS)}")
        self.weights = {name: float(weight) for name, weight in weights.items() if weight}
        if not self.weights:
            raise UserError("reward has no term with a weight: for example {'critic': 1.0}")
        self.world, self.process, self.corridor = world, process, corridor

    def critic(self, states: Tensor, wanted: Tensor) -> Tensor:
        """1 less the amount of noise that the critic sees, ``(N,)``."""
        return 1 - self.world.critic(states, wanted)

    def terms(self, states: Tensor, episode: Episode) -> dict[str, Tensor]:
        """Every quality of ``states (N, *shape)`` that has a weight, ``(N,)``; the critic's always comes."""
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

    A trajectory is cut into ``PATH_POINTS`` parts of equal time. Between the point nearest to the state and
    the second nearest the foot of the perpendicular says how much noise there is, and the
    quality is 1 less that. It is -1 where interpolation isn't possible: where the two nearest points of all
    are no neighbours, or the state is farther than ``corridor`` (root mean square a dimension) from the foot.
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
