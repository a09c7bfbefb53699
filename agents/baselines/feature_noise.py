"""Gaussian noise on every token, as SimpleNet makes its anomalies."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from agents.base import Actions
from latent_common.errors import UserError
from latent_env.dynamics import Dynamics
from latent_env.perturbations.linear import Dense


class FeatureNoiseAgent:
    """Adds Gaussian noise to every token.

    :param strength: the root mean square length of a token's change, in inner radii of the shell.
    """

    def __init__(self, dynamics: Dynamics, seed: int, strength: float) -> None:
        if not isinstance(dynamics.perturbation, Dense):
            raise UserError(
                "agent=feature_noise and agent=glass change every token by itself: they need "
                "env.perturbation=dense, which is their default"
            )
        self.dynamics, self.strength = dynamics, strength
        self.max_delta = dynamics.perturbation.max_delta
        self.shape = dynamics.world.autoencoder.latent_shape
        self.rng = np.random.default_rng(seed)

    def predict(self, observation: npt.NDArray[np.float32], *_: Any, **__: Any) -> tuple[Actions, None]:
        """Actions ``(N, d)``, one number a latent dimension."""
        return self._actions(self._noise(len(observation))), None

    def _noise(self, count: int) -> torch.Tensor:
        """Changes ``(N, *latent_shape)``."""
        drawn = torch.from_numpy(self.rng.standard_normal((count, *self.shape), dtype=np.float32))
        length = self.strength * self.dynamics.shell.inner
        return drawn.to(self.dynamics.world.device) * (length / self.shape[0] ** 0.5)

    def _actions(self, change: torch.Tensor) -> Actions:
        return (change.flatten(1) / self.max_delta).clamp(-1, 1).cpu().numpy()
