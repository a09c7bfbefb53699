"""The forward diffusion process in reverse: demonstrations of denoising that need no trained policy."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from agents.base import Actions
from agents.learners.sequences.trajectories import Trajectories
from agents.sb3_vec_env import LatentVecEnv
from latent_common.errors import UserError
from latent_env.denoise.dynamics import DenoiseDynamics, EpisodeBatch
from latent_env.denoise.process import mixed

RENEWED = 0.7
"""The default share of fresh noise at every point."""

STRIDE = 1_000_003
"""A prime: a resumed recording then shares its seeds with no learner of a neighbouring seed."""


class ReversedDiffusion:
    """Demonstrations for ``LatentDenoise-v0``: images on their way to noise, in reverse order.

    An episode follows one image along the forward process in ``horizon`` parts of equal noise, so an action
    is the change from one point to the one before it. An episode ends as soon as the critic calls the image
    done, as in the environment.

    A share of the noise is drawn afresh at every point. If none were, an action could hardly be predicted
    from the state: whitened latents are distributed like noise, and the best prediction is to move little.
    If all were, two points would lie further apart than ``max_delta`` allows.

    :param renewed: that share, from 0 to 1. It doesn't change how the states at one point are distributed.
    """

    def __init__(self, seed: int, renewed: float = RENEWED) -> None:
        self.seed, self.renewed = seed, renewed
        self.generator = torch.Generator().manual_seed(seed)

    def skip(self, steps: int) -> None:
        """Go on with fresh random numbers after ``steps`` steps that were recorded before a stop."""
        self.generator.manual_seed((self.seed + STRIDE * steps) % 2**63)

    def state(self) -> list[int]:
        """The state of its random numbers."""
        held: list[int] = self.generator.get_state().tolist()
        return held

    def restore(self, state: list[int], _: VecEnv) -> None:
        """Go on from where :meth:`state` was asked for."""
        self.generator.set_state(torch.tensor(state, dtype=torch.uint8))

    def record(self, env: VecEnv, steps: int) -> Trajectories:
        """About ``steps`` steps in all: so many if every episode lasts until the horizon."""
        dynamics = env.dynamics if isinstance(env, LatentVecEnv) else None
        if not isinstance(dynamics, DenoiseDynamics):
            raise UserError(
                "agent.demonstrations: forward is for env=latent_denoise alone; choose random, self or a "
                "folder of a saved policy"
            )
        world, horizon = dynamics.world, dynamics.horizon
        count = -(-steps // horizon)
        sources = torch.randint(len(world.images), (count,), generator=self.generator).to(world.device)
        noise = torch.randn(count, *world.states.shape[1:], generator=self.generator).to(world.states)
        path = self.path(world.states[sources], noise, horizon)
        episode = dynamics.begin_at(sources, noise, torch.ones_like(noise.flatten(1)[:, 0]))
        qualities = [dynamics.reward.terms(states, episode) for states in path.unbind(1)]
        worth = torch.stack([dynamics.weighted_quality(quality) for quality in qualities], dim=1)
        # A step counts if no step before it led to a state that is done.
        done = torch.stack([dynamics.done(quality) for quality in qualities[:-1]], dim=1)
        done[:, 0] = False
        counts = done.cumsum(1) == 0
        times = torch.arange(horizon, device=world.device).expand(count, -1)
        observed = [dynamics.observation(path[:, t], episode.wanted, times[:, t]) for t in range(horizon)]
        actions = (path.diff(dim=1) / dynamics.perturbation.max_delta).clamp(-1, 1)
        parts = (torch.stack(observed, dim=1), actions.flatten(2), worth.diff(dim=1), times)
        return Trajectories(*(part[counts].cpu() for part in parts))

    def path(self, clean: Tensor, noise: Tensor, points: int, first: Tensor | None = None) -> Tensor:
        """The states ``(N, points + 1, *shape)`` from ``noise`` to ``clean (N, *shape)``.

        :param first: the amounts of noise ``(N,)`` that they begin with, above 0; without, pure noise.
        """
        begin = noise.new_ones(len(noise)) if first is None else first
        amounts = [share * begin.double() for share in torch.linspace(1, 0, points + 1).tolist()]
        one = [1] * (noise.ndim - 1)
        states, left = [noise if first is None else mixed(clean, noise, first)], noise
        for now, then in pairwise(amounts):
            # What a chain of the forward process adds between two points, seen from the clean end; of that
            # the share of its noise, which is nothing where no noise is left.
            added = then / now * (1 - (1 - now**2) / (1 - then**2)).sqrt()
            new = torch.where(then > 0, self.renewed * added / then, 0.0)
            fresh = torch.randn(noise.shape, generator=self.generator).to(noise)
            kept, drawn = (each.to(noise).view(-1, *one) for each in ((1 - new**2).sqrt(), new))
            left = kept * left + drawn * fresh  # of unit variance still
            states.append(mixed(clean, left, then.to(left)))
        return torch.stack(states, dim=1)


class ReversingAgent:
    """Plays the forward process in reverse; it knows image and noise of every episode of ``dynamics``.

    It follows a path of :class:`ReversedDiffusion`, step by step from where an episode really is, so what it
    plays are episodes of the environment like any other agent's. The states that that class records are those
    of the path, even where an action is cut off and would not lead there.
    """

    def __init__(self, dynamics: DenoiseDynamics, seed: int) -> None:
        self.dynamics, self.source = dynamics, ReversedDiffusion(seed)
        self._path: Tensor | None = None

    def predict(
        self,
        observation: npt.NDArray[np.float32],  # noqa: ARG002 - what it knows isn't observed
        state: Any = None,  # noqa: ARG002
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = False,  # noqa: ARG002
    ) -> tuple[Actions, None]:
        """Actions ``(N, k)`` towards the next points; where ``episode_start``, all worlds get new paths."""
        dynamics, now = self.dynamics, self.dynamics.last
        if self._path is None or episode_start is None or episode_start.any():
            first = _amounts(now) if dynamics.drawn else None
            self._path = self.source.path(now.clean, now.noise, dynamics.horizon, first)
        goals = self._path[torch.arange(len(now.state)), dynamics.elapsed.clamp_max(dynamics.horizon - 1) + 1]
        actions = ((goals - now.state) / dynamics.perturbation.max_delta).clamp(-1, 1).flatten(1)
        return actions.cpu().numpy(), None


def _amounts(episodes: EpisodeBatch) -> Tensor:
    """How much of their noise the first states of ``episodes`` hold, ``(N,)``."""
    parts = torch.stack([episodes.clean.flatten(1), episodes.noise.flatten(1)], dim=2)
    shares = torch.linalg.lstsq(parts, episodes.visited[:, 0].flatten(1)[..., None]).solution
    return shares[:, 1, 0].clamp(1e-3, 1)
