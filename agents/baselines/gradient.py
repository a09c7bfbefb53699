"""Gradient ascent on the detector's loss, in the space of actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from agents.base import Actions
from agents.baselines.none_and_random import RandomAgent
from latent_env.dynamics import Dynamics


class GradientAgent:
    """Climbs the detector's loss from a random action, towards anomalies that the detector takes for normal.

    The gradient runs through detector, decoder, shell and perturbation to the action itself, so the result is
    an action that any other agent could have chosen. Each of ``steps`` moves the action by ``step_size``
    along the gradient's direction.
    """

    def __init__(self, dynamics: Dynamics, seed: int, steps: int, step_size: float) -> None:
        self.dynamics, self.steps, self.step_size = dynamics, steps, step_size
        self.start = RandomAgent(dynamics, seed)

    def predict(self, observation: npt.NDArray[np.float32], *_: Any, **__: Any) -> tuple[Actions, None]:
        """Actions ``(N, k)`` for the worlds' current state; of ``observation`` only the length counts."""
        drawn, _state = self.start.predict(observation)
        actions = torch.from_numpy(drawn).to(self.dynamics.world.device)
        for _step in range(self.steps):
            with torch.enable_grad():
                moving = actions.clone().requires_grad_()
                score = self.dynamics.imagine(moving).score
                # The loss (cross entropy against "anomaly") climbs as the score falls, but its own gradient
                # vanishes where the detector is sure.
                (gradient,) = torch.autograd.grad(-score.sum(), moving)
            direction = gradient / gradient.abs().amax(1, keepdim=True).clamp_min(1e-12)
            actions = (actions + self.step_size * direction).clamp(-1, 1)
        return actions.cpu().numpy(), None
