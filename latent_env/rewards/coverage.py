"""The reward term ``coverage``: how far a change is from the last ones of all worlds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latent_env.rewards.base import RewardTerm, reward_terms
from latent_env.rewards.memory import Latest, Sketch
from latent_env.transition import Transition


@reward_terms.register("coverage")
class Coverage(RewardTerm):
    """How far the change is from the last 512 that any world made, and from what others make in this step.

    A reward for the set, where novelty is one for a world: 0 for a repetition, towards 1 for what nobody
    has made. It depends on the worlds beside it, so a batch isn't paid as single worlds would be.
    """

    MEMORY = 512

    def __init__(self) -> None:
        self._describe = Sketch()
        self._made = Latest(self.MEMORY)

    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)`` in [0, 1]."""
        change = self._describe(transition)
        known = [_apart(change, change).fill_diagonal_(math.inf)]
        if self._made.values is not None and self._made.held is not None:
            known.append(_apart(change, self._made.values).masked_fill(~self._made.held[None], math.inf))
        nearest = torch.cat(known, 1).amin(1)
        return 1 - torch.exp(-nearest / transition.shell.inner)

    def remember(self, transition: Transition, worlds: Tensor) -> None:
        """Keep the changes of ``worlds (N,)`` bool, in place of the oldest."""
        self._made.add(self._describe(transition), worlds)

    def forget(self, worlds: Tensor) -> None:
        """Drop what ``worlds (N,)`` bool made."""
        self._made.drop(worlds)


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """The distances of vectors ``(N, d)`` and ``(M, d)``, ``(N, M)``: exactly 0 for what is the same."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
