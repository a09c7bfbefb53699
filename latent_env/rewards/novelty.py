"""The reward term ``novelty``: how far a change is from the world's last ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latent_env.rewards.base import RewardTerm, reward_terms
from latent_env.rewards.memory import ChangeProjection
from latent_env.transition import Transition


@reward_terms.register("novelty")
class Novelty(RewardTerm):
    """``1 − exp(−d / inner)``, with d the distance of the change from the nearest of the world's last 32.

    ``inner`` is the shell's inner radius. A repetition is worth 0, a change far from all of them nearly 1.
    The memory lasts over episodes, until the world is seeded.
    """

    MEMORY = 32

    def __init__(self) -> None:
        self._project = ChangeProjection()
        self._memory: Tensor | None = None  # (N, MEMORY, d), infinity where nothing is yet
        self._next: Tensor | None = None  # (N,) where the next change goes

    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)`` in [0, 1]."""
        change = self._project(transition)
        squares = self._squared_distances(change)
        if not squares:
            return torch.ones_like(change[:, 0])
        nearest = squares[0].amin(1).add(1e-12).sqrt()
        return 1 - torch.exp(-nearest / transition.shell.inner)

    def _squared_distances(self, change: Tensor) -> list[Tensor]:
        """From ``change (N, d)`` to each remembered one, ``(N, MEMORY)``, infinity where there is none.

        No tensor before the first change.
        """
        if self._memory is None:
            return []
        empty = self._memory[:, :, 0].isinf()  # set aside first: infinity would spoil a gradient
        known = self._memory.masked_fill(empty[:, :, None], 0)
        return [(known - change[:, None]).square().sum(2).masked_fill(empty, math.inf)]

    def remember(self, transition: Transition, worlds: Tensor) -> None:
        """Keep the change of ``worlds (N,)`` bool, in place of the oldest."""
        change = self._project(transition)
        if self._memory is None or self._next is None:
            shape = (len(change), self.MEMORY, change.shape[1])
            self._memory = change.new_full(shape, math.inf)
            self._next = torch.zeros(len(change), dtype=torch.int64, device=change.device)
        place = self._next[:, None, None].expand(-1, 1, change.shape[1])
        kept = torch.where(worlds[:, None, None], change[:, None], self._memory.gather(1, place))
        self._memory.scatter_(1, place, kept)
        self._next = (self._next + worlds) % self.MEMORY

    def forget(self, worlds: Tensor) -> None:
        """Empty the memory of ``worlds (N,)`` bool."""
        if self._memory is not None and self._next is not None:
            self._memory.masked_fill_(worlds[:, None, None], math.inf)
            self._next = self._next.masked_fill(worlds, 0)
