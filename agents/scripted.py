"""Agents that don't learn: what a learned one is measured against."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from latent_env.dynamics import Dynamics

Actions = npt.NDArray[np.float32]


class NoneAgent:
    """Leaves every image as it is."""

    def __init__(self, dynamics: Dynamics) -> None:
        self.action = dynamics.perturbation.null_action.cpu().numpy()

    def predict(self, observation: npt.NDArray[np.float32], *_: Any, **__: Any) -> tuple[Actions, None]:
        """The action that changes nothing, ``(N, k)``."""
        return np.repeat(self.action[None], len(observation), axis=0), None


class RandomAgent:
    """Draws every action uniformly from the action space."""

    def __init__(self, dynamics: Dynamics, seed: int) -> None:
        self.size = dynamics.perturbation.action_size
        self.rng = np.random.default_rng(seed)

    def predict(self, observation: npt.NDArray[np.float32], *_: Any, **__: Any) -> tuple[Actions, None]:
        """Uniform actions ``(N, k)``."""
        drawn = self.rng.uniform(-1, 1, (len(observation), self.size))
        return drawn.astype(np.float32), None


class GradientAgent:
    """Climbs the detector's loss: from a random action towards what it takes for normal.

    The gradient runs through detector, decoder, shell and perturbation to the action itself, so that
    what comes out is a step any other agent could have taken. Each of ``steps`` moves the action by
    ``step_size`` along the gradient's direction.
    """

    def __init__(self, dynamics: Dynamics, seed: int, steps: int, step_size: float) -> None:
        self.dynamics, self.steps, self.step_size = dynamics, steps, step_size
        self.start = RandomAgent(dynamics, seed)

    def predict(self, observation: npt.NDArray[np.float32], *_: Any, **__: Any) -> tuple[Actions, None]:
        """Actions ``(N, k)`` for the worlds as they stand; ``observation`` says no more than they do."""
        drawn, _state = self.start.predict(observation)
        actions = torch.from_numpy(drawn).to(self.dynamics.world.device)
        for _step in range(self.steps):
            with torch.enable_grad():
                moving = actions.clone().requires_grad_()
                score = self.dynamics.imagine(moving).detection.score
                loss = functional.softplus(-score).sum()  # cross entropy against "anomaly"
                (gradient,) = torch.autograd.grad(loss, moving)
            # By its direction: the gradient is tiny exactly where the detector is sure.
            direction = gradient / gradient.abs().amax(1, keepdim=True).clamp_min(1e-12)
            actions = (actions + self.step_size * direction).clamp(-1, 1)
        return actions.cpu().numpy(), None
