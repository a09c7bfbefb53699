"""The reward term ``coverage``: how far a change is from the last ones of all worlds."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from latent_env.rewards.base import RewardTerm, reward_terms
from latent_env.rewards.memory import ChangeProjection, RecentVectors
from latent_env.transition import Transition


@reward_terms.register("coverage")
class Coverage(RewardTerm):
    """``1 − exp(−d / inner)``, with d the distance of the change from the nearest of the batch.

    Compared are the last 512 changes of all worlds and those that the other worlds make in this step;
    ``inner`` is the shell's inner radius. It depends on the worlds beside it, so a batch is not paid as
    single worlds would be.
    """

    MEMORY = 512

    def __init__(self) -> None:
        self._project = ChangeProjection()
        self._recent = RecentVectors(self.MEMORY)

    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)`` in [0, 1]."""
        change = self._project(transition)
        distances = [_distances(change, change).fill_diagonal_(math.inf)]
        if self._recent.values is not None and self._recent.filled is not None:
            earlier = _distances(change, self._recent.values)
            distances.append(earlier.masked_fill(~self._recent.filled[None], math.inf))
        nearest = torch.cat(distances, 1).amin(1)
        return 1 - torch.exp(-nearest / transition.shell.inner)

    def remember(self, transition: Transition, worlds: Tensor) -> None:
        """Keep the changes of ``worlds (N,)`` bool, in place of the oldest."""
        self._recent.add(self._project(transition), worlds)

    def forget(self, worlds: Tensor) -> None:
        """Drop the changes that ``worlds (N,)`` bool made."""
        self._recent.drop(worlds)

    def state(self) -> dict[str, Tensor]:
        """The last changes."""
        return self._recent.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Remember what :meth:`state` returned."""
        self._recent.restore(state)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """The distances of vectors ``(N, d)`` and ``(M, d)``, ``(N, M)``: exactly 0 for equal ones."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
