"""Random actions that change as much as a learned agent's: what is left when size alone is learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agents.base import Agent
from agents.scripted import Actions
from latent_common.errors import UserError
from latent_env.dynamics import Dynamics


class RandomMatchedAgent:
    """Of ``candidates`` uniform actions, plays the one whose ‖Δz‖ is nearest to that of the policy's.

    ‖Δz‖ is the Euclidean length of the whole change that the step makes, after the shell. It comes as
    near as uniform actions reach: with many dense dimensions all of them are about equally long.
    """

    def __init__(self, dynamics: Dynamics, policy: Agent, seed: int, candidates: int) -> None:
        if candidates < 1:
            raise UserError(f"agent.candidates={candidates} must be at least 1")
        self.dynamics, self.policy, self.candidates = dynamics, policy, candidates
        self.rng = np.random.default_rng(seed)

    def predict(self, observation: npt.NDArray[np.float32], *_: Any, **__: Any) -> tuple[Actions, None]:
        """Actions ``(N, k)`` for the worlds as they stand, which ``observation`` must describe."""
        proposed, _state = self.policy.predict(observation)
        wanted = self._lengths(proposed)
        drawn = self.rng.uniform(-1, 1, (self.candidates, *proposed.shape)).astype(np.float32)
        error = torch.stack([(self._lengths(actions) - wanted).abs() for actions in drawn])
        nearest = error.argmin(0).cpu().numpy()  # (N,)
        return drawn[nearest, np.arange(len(proposed))], None

    @torch.inference_mode()
    def _lengths(self, actions: Actions) -> Tensor:
        """‖Δz‖ of ``actions (N, k)``, ``(N,)``."""
        moved = self.dynamics.imagine(torch.from_numpy(actions).to(self.dynamics.world.device))
        return moved.delta.flatten(1).norm(dim=1)
