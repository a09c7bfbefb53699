"""Gradient ascent from noise, projected to a shell, as GLASS makes its anomalies."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from agents.base import Actions
from agents.baselines.feature_noise import FeatureNoiseAgent
from detectors.blocks.tokens import as_tokens
from latent_env.dynamics import Dynamics


class GlassAgent(FeatureNoiseAgent):
    """Climbs the detector's loss from Gaussian noise and is projected back to a shell.

    Each of ``steps`` moves every token by ``step_size`` inner radii along the gradient; after every
    ``project_every`` of them, each token's change is brought to between one and two times ``strength``.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        seed: int,
        strength: float,
        steps: int,
        step_size: float,
        project_every: int,
    ) -> None:
        super().__init__(dynamics, seed, strength)
        self.steps, self.step_size, self.project_every = steps, step_size, project_every

    def predict(self, observation: npt.NDArray[np.float32], *_: Any, **__: Any) -> tuple[Actions, None]:
        """Actions ``(N, d)``, one number a latent dimension."""
        change = self._noise(len(observation))
        for step in range(self.steps):
            with torch.enable_grad():
                moving = change.clone().requires_grad_()
                score = self.dynamics.imagine(moving.flatten(1) / self.max_delta).score
                # The score instead of the loss, whose gradient vanishes where the detector is sure.
                (gradient,) = torch.autograd.grad(-score.sum(), moving)
            length = as_tokens(gradient).flatten(1).norm(dim=1).clamp_min(1e-12)
            # As long a step for the whole latent as if every token moved by step_size radii.
            tokens = as_tokens(gradient).shape[1]
            reach = self.step_size * self.dynamics.shell.inner * tokens**0.5
            change = change + gradient * (reach / length).view(-1, *[1] * (gradient.ndim - 1))
            if (step + 1) % self.project_every == 0:
                change = self._project(change)
        return self._actions(self._project(change)), None

    def _project(self, change: torch.Tensor) -> torch.Tensor:
        length = change.norm(dim=1, keepdim=True).clamp_min(1e-12)  # dimension 1 is the token's
        least = self.strength * self.dynamics.shell.inner
        return change * (length.clamp(least, 2 * least) / length)
