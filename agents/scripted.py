"""Agents that don't learn: what a learned one is measured against."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from detectors.blocks.tokens import as_tokens
from latent_common.errors import UserError
from latent_env.dynamics import Dynamics, Episodes
from latent_env.perturbations.linear import Dense

Actions = npt.NDArray[np.float32]


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
                score = self.dynamics.imagine(moving).score
                # The loss (cross entropy against "anomaly") climbs as the score falls, but its own gradient
                # vanishes where the detector is sure.
                (gradient,) = torch.autograd.grad(-score.sum(), moving)
            direction = gradient / gradient.abs().amax(1, keepdim=True).clamp_min(1e-12)
            actions = (actions + self.step_size * direction).clamp(-1, 1)
        return actions.cpu().numpy(), None


class FeatureNoiseAgent:
    """Adds Gaussian noise to every token, as SimpleNet makes its anomalies.

    :param strength: the usual length of a token's change, in inner radii of the shell.
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


class GlassAgent(FeatureNoiseAgent):
    """Climbs the detector's loss from noise and is pulled back into a shell, as GLASS does.

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
                (gradient,) = torch.autograd.grad(-score.sum(), moving)  # as above
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
