"""The alarm for fooled rewards: what a detector pays that no reward goes by, beside what the judges pay."""

from __future__ import annotations

import torch
from torch import Tensor

from latent_env.dynamics import Dynamics
from latent_env.rewards import Reward
from latent_env.transition import Transition

EVERY = 8
"""Steps between two looks."""


class Alarm:
    """Compares the part of the reward that depends on detectors, as the judges and as the unseen one see it.

    Both are asked about each sample by itself, so that neither profits from what came before. As long as an
    agent makes samples that are useful to any detector, the two rise together; when the judges' rises alone,
    it has learned to fool them.
    """

    def __init__(self, dynamics: Dynamics) -> None:
        self.dynamics = dynamics
        self._rewards = {name: Reward(dynamics.reward.weights) for name in ("seen", "unseen")}
        self._sums: dict[str, Tensor] = {}
        self._steps = self._looks = 0

    @torch.inference_mode()
    def watch(self, transition: Transition) -> None:
        """Look at a step, every now and then."""
        self._steps += 1
        unseen = self.dynamics.world.unseen
        if unseen is None or self._steps % EVERY:
            return
        steps = {"seen": transition, "unseen": transition.judged_by([unseen])}
        for name, step in steps.items():
            paid = self._rewards[name].judged(step)
            if paid is None:
                return
            self._sums[name] = self._sums.get(name, torch.zeros_like(paid)) + paid
        self._looks += 1

    def take_statistics(self) -> dict[str, float]:
        """``seen`` and ``unseen`` means since this was last called; nothing if there was no look."""
        found = {name: float(total.mean()) / self._looks for name, total in self._sums.items()}
        self._sums, self._looks = {}, 0
        return found
