"""The two simplest baselines: change nothing, and draw actions uniformly."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from agents.base import Actions
from latent_env.dynamics import Episodes


class NoneAgent:
    """Leaves every image as it is."""

    def __init__(self, dynamics: Episodes[Any]) -> None:
        self.action = dynamics.perturbation.null_action.cpu().numpy()

    def predict(self, observation: npt.NDArray[np.float32], *_: Any, **__: Any) -> tuple[Actions, None]:
        """The action that changes nothing, ``(N, k)``."""
        return np.repeat(self.action[None], len(observation), axis=0), None


class RandomAgent:
    """Draws every action uniformly from the action space."""

    def __init__(self, dynamics: Episodes[Any], seed: int) -> None:
        self.size = dynamics.perturbation.action_size
        self.rng = np.random.default_rng(seed)

    def predict(self, observation: npt.NDArray[np.float32], *_: Any, **__: Any) -> tuple[Actions, None]:
        """Uniform actions ``(N, k)``."""
        drawn = self.rng.uniform(-1, 1, (len(observation), self.size))
        return drawn.astype(np.float32), None
