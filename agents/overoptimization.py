"""The over-optimisation monitor: the reward by a held-out detector, beside the one by the reward ensemble."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from latent_env.dynamics import Dynamics, Episodes
from latent_env.rewards.reward import Reward
from latent_env.transition import Transition

INTERVAL = 8
"""Every so many steps are measured."""

REWARD_ENSEMBLE, HELD_OUT = "reward_ensemble", "held_out"


class OverOptimizationMonitor:
    """Measures the detectors' part of the reward twice: by the reward ensemble, and by a held-out detector.

    No reward depends on the held-out detector. As long as an agent makes samples that are useful to any
    detector, both figures rise together. When the ensemble's rises alone, the agent has learned to fool it.
    Rewards with a memory are measured without it, so both figures are of the sample alone. Without a held-out
    detector, and in ``LatentDenoise-v0``, nothing is measured.
    """

    def __init__(self, dynamics: Episodes[Any]) -> None:
        names = (REWARD_ENSEMBLE, HELD_OUT) if isinstance(dynamics, Dynamics) else ()
        self._rewards = {name: Reward(dynamics.reward.weights) for name in names}
        self._sums: dict[str, Tensor] = {}
        self.steps = self._measured = 0

    @torch.inference_mode()
    def watch(self, transition: Any) -> None:
        """Take note of a step of all worlds; one in ``INTERVAL`` is measured."""
        self.steps += 1
        if not isinstance(transition, Transition):
            return
        held_out_detector = transition.world.held_out_detector
        if held_out_detector is None or self.steps % INTERVAL:
            return
        steps = {REWARD_ENSEMBLE: transition, HELD_OUT: transition.with_reward_ensemble([held_out_detector])}
        for name, step in steps.items():
            paid = self._rewards[name].detector_part(step)
            if paid is None:
                return
            self._sums[name] = self._sums.get(name, torch.zeros_like(paid)) + paid
        self._measured += 1

    def take_statistics(self) -> dict[str, float]:
        """The means of both figures since the last call, by name; empty if nothing was measured."""
        found = {name: float(total.mean()) / self._measured for name, total in self._sums.items()}
        self._sums, self._measured = {}, 0
        return found
