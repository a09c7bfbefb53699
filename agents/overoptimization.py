"""The alarm for fooled rewards: what a detector pays that no reward goes by, beside what the judges pay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from latent_env.dynamics import Dynamics, Episodes
from latent_env.rewards.reward import Reward
from latent_env.transition import Transition

EVERY = 8
"""Steps between two looks."""


class OverOptimizationMonitor:
    """Compares the part of the reward that depends on detectors, as the judges and as the unseen one see it.

    Both are asked about each sample by itself, so that neither profits from what came before. As long as an
    agent makes samples that are useful to any detector, the two rise together; when the judges' rises alone,
    it has learned to fool them. Episodes of another kind have no such detector, and it stays silent.
    """

    def __init__(self, dynamics: Episodes[Any]) -> None:
        kinds = ("seen", "held_out") if isinstance(dynamics, Dynamics) else ()
        self._rewards = {name: Reward(dynamics.reward.weights) for name in kinds}
        self._sums: dict[str, Tensor] = {}
        self._steps = self._looks = 0

    @torch.inference_mode()
    def watch(self, transition: Any) -> None:
        """Look at a step, every now and then."""
        self._steps += 1
        if not isinstance(transition, Transition):
            return
        held_out_detector = transition.world.held_out_detector
        if held_out_detector is None or self._steps % EVERY:
            return
        steps = {"seen": transition, "held_out": transition.scored_by([held_out_detector])}
        for name, step in steps.items():
            paid = self._rewards[name].judged(step)
            if paid is None:
                return
            self._sums[name] = self._sums.get(name, torch.zeros_like(paid)) + paid
        self._looks += 1

    def take_statistics(self) -> dict[str, float]:
        """``seen`` and ``held_out_detector`` means since this was last called; nothing if there was no look."""
        found = {name: float(total.mean()) / self._looks for name, total in self._sums.items()}
        self._sums, self._looks = {}, 0
        return found
