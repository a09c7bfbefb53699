"""The reward term ``episode_novelty``: how far a latent is from those that its episode has been at."""

from __future__ import annotations

import torch
from torch import Tensor

from latent_env.rewards.base import reward_terms
from latent_env.rewards.novelty import Novelty
from latent_env.transition import Transition


@reward_terms.register("episode_novelty")
class EpisodeNovelty(Novelty):
    """``1 − exp(−d / inner)``, with d the distance of the latent from the nearest of its episode.

    Compared are the episode's start and its last 32 latents; ``inner`` is the shell's inner radius. So a
    step that changes nothing is worth 0, and what a step is worth depends on its episode alone.
    """

    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)`` in [0, 1]."""
        change = self._project(transition)
        squares = [change.square().sum(1, keepdim=True), *self._squared_distances(change)]
        nearest = torch.cat(squares, 1).amin(1).add(1e-12).sqrt()
        return 1 - torch.exp(-nearest / transition.shell.inner)

    def begin(self, worlds: Tensor) -> None:
        """Empty the memory of ``worlds (N,)`` bool: a new episode begins there."""
        self.forget(worlds)
