"""The cross-entropy method: one distribution of actions for all images, refitted to those that paid best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from agents.scripted import Actions
from latent_common.artifacts import load_artifact, save_artifact
from latent_common.errors import UserError
from latent_env.dynamics import Dynamics


class CrossEntropyAgent:
    """Draws actions from a diagonal Gaussian, clipped to [-1, 1], whatever the observation.

    :param steps: steps of every world in a generation.
    :param elites: the share of a generation's actions that the Gaussian is fitted to.
    :param smoothing: how far mean and deviation move towards that fit, above 0 up to 1.
    :param least_deviation: no deviation falls below it, so that what is proposed stays broad.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        seed: int,
        steps: int,
        elites: float,
        smoothing: float,
        least_deviation: float,
    ) -> None:
        if not 0 < elites < 1:
            raise UserError(f"agent.elites={elites:g} must lie between 0 and 1")
        if not 0 < smoothing <= 1:
            raise UserError(f"agent.smoothing={smoothing:g} must be above 0 and at most 1")
        if least_deviation < 0:
            raise UserError(f"agent.least_deviation={least_deviation:g} must be at least 0")
        self.dynamics, self.steps, self.elites = dynamics, steps, elites
        self.smoothing, self.least_deviation = smoothing, least_deviation
        size = dynamics.perturbation.action_size
        self.mean, self.deviation = np.zeros(size), np.ones(size)
        self.rng = np.random.default_rng(seed)
        self.num_timesteps = 0
        """World steps it has learned from."""

    def predict(self, observation: npt.NDArray[np.float32], *_: Any, **__: Any) -> tuple[Actions, None]:
        """Actions ``(N, k)``."""
        return self._draw(self.rng, len(observation)), None

    def learn(self, total_steps: int, seed: int) -> Iterator[dict[str, float]]:
        """Generations until ``total_steps`` world steps are done; after each, what it was paid.

        Its random numbers are its own: what :meth:`predict` draws later doesn't depend on how often
        learning was interrupted.
        """
        rng = np.random.default_rng(seed)
        worlds = torch.arange(self.dynamics.num_worlds, device=self.dynamics.world.device)
        self.dynamics.reset_tensor(seeds=worlds + seed)
        while self.num_timesteps < total_steps:
            actions, rewards, terms = self._play(rng)
            self._refit(actions, rewards)
            self.num_timesteps += len(actions)
            yield {
                **{f"reward/{name}": value for name, value in terms.items()},
                "reward/total": float(rewards.mean()),
                "agent/deviation": float(self.deviation.mean()),
            }

    def _draw(self, rng: np.random.Generator, count: int) -> Actions:
        drawn = rng.normal(self.mean, self.deviation, (count, len(self.mean)))
        return drawn.clip(-1, 1).astype(np.float32)

    def _play(self, rng: np.random.Generator) -> tuple[Actions, Actions, dict[str, float]]:
        """One generation: its actions ``(S, k)``, their rewards ``(S,)``, and the mean of every term."""
        dynamics = self.dynamics
        played, rewards, terms = [], [], []
        for _step in range(self.steps):
            actions = self._draw(rng, dynamics.num_worlds)
            result = dynamics.step_tensor(torch.from_numpy(actions).to(dynamics.world.device))
            played.append(actions)
            rewards.append(result.rewards)
            terms.append({name: term.mean() for name, term in result.reward_terms.items()})
            if bool(result.terminated.any()):
                dynamics.reset_tensor(result.terminated)
        means = {name: float(torch.stack([step[name] for step in terms]).mean()) for name in terms[0]}
        return np.concatenate(played), torch.cat(rewards).cpu().numpy(), means

    def _refit(self, actions: Actions, rewards: Actions) -> None:
        """Move mean and deviation towards those of the best of ``actions (S, k)``."""
        count = max(round(self.elites * len(actions)), 1)
        best = actions[np.argsort(-rewards, kind="stable")[:count]].astype(np.float64)
        self.mean += self.smoothing * (best.mean(0) - self.mean)
        self.deviation += self.smoothing * (best.std(0) - self.deviation)
        self.deviation = self.deviation.clip(min=self.least_deviation)


def save_distribution(folder: Path, agent: CrossEntropyAgent, settings: Mapping[str, Any]) -> None:
    """Write ``distribution.safetensors`` and ``distribution.json``."""
    tensors = {
        "mean": torch.from_numpy(agent.mean),
        "deviation": torch.from_numpy(agent.deviation),
        "num_timesteps": torch.tensor(agent.num_timesteps),
    }
    save_artifact(folder, "distribution", "distribution", tensors, settings)


def load_distribution(folder: Path, agent: CrossEntropyAgent) -> None:
    """Read what :func:`save_distribution` wrote into ``agent``."""
    tensors, _ = load_artifact(folder, "distribution", "distribution")
    if tensors["mean"].shape != agent.mean.shape:
        raise UserError(f"{folder}: the saved distribution doesn't fit this world")
    agent.mean, agent.deviation = tensors["mean"].numpy().copy(), tensors["deviation"].numpy().copy()
    agent.num_timesteps = int(tensors["num_timesteps"])
