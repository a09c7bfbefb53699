"""Mixup in the latent space: part of the way towards another training image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agents.base import Actions
from latent_common.errors import UserError
from latent_env.dynamics import Dynamics
from latent_env.perturbations.linear import Dense


class MixupAgent:
    """Moves the current latent a share from ``low`` to ``high`` of the way to another image's latent."""

    def __init__(self, dynamics: Dynamics, seed: int, low: float, high: float) -> None:
        if not isinstance(dynamics.perturbation, Dense):
            raise UserError(
                "agent=mixup changes every number of a latent by itself: it needs env.perturbation=dense, "
                "which is its default"
            )
        if not 0 <= low <= high <= 1:
            raise UserError(f"agent.low={low:g} and agent.high={high:g} must be 0 <= low <= high <= 1")
        if len(dynamics.world.latents) < 2:
            raise UserError("agent=mixup needs at least 2 training images")
        self.dynamics, self.low, self.high = dynamics, low, high
        self.max_delta = dynamics.perturbation.max_delta
        self.rng = np.random.default_rng(seed)

    def predict(self, observation: npt.NDArray[np.float32], *_: Any, **__: Any) -> tuple[Actions, None]:
        """Actions ``(N, d)`` for the worlds' current state; of ``observation`` only the length counts."""
        share = self.rng.uniform(self.low, self.high, (len(observation), 1)).astype(np.float32)
        latent = self.dynamics.last.latent
        way = (self.dynamics.world.latents[self._partners()] - latent).flatten(1)
        change = torch.from_numpy(share).to(way) * way
        return (change / self.max_delta).clamp(-1, 1).cpu().numpy(), None

    def _partners(self) -> Tensor:
        """``(N,)``: the image to move towards, uniform among those that the episode didn't start from."""
        sources = self.dynamics.sources
        images = len(self.dynamics.world.latents)
        steps = torch.from_numpy(self.rng.integers(1, images, len(sources)))
        return (sources + steps.to(sources)) % images


def largest_difference(latents: Tensor) -> float:
    """The largest difference between any two of ``latents (N, *latent_shape)`` in any one number."""
    return float((latents.amax(0) - latents.amin(0)).max())
