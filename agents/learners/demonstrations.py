"""Forward diffusion played backwards: demonstrations of denoising that cost nothing."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from agents.learners.trajectories import Trajectories
from agents.sb3_vec_env import LatentVecEnv
from latent_common.errors import UserError
from latent_env.denoise.dynamics import DenoiseDynamics
from latent_env.denoise.process import mixed

RENEWED = 0.7
STRIDE = 1_000_003
"""A prime, so that seeds after a stop are those of no other learner nearby."""


class ForwardBackwards:
    """A teacher for ``LatentDenoise-v0``: images on their way to noise, seen in reverse.

    An episode follows one image along the forward process in ``horizon`` parts of equal noise, so an action
    is the change from one point to the one before it. Like episodes that are played, one is over as soon as
    the critic says that the image is done.

    Of the noise a share is new at every point. If all of it stayed, an action could hardly be guessed from
    the state: in whitened latents noise and images look alike, and the best guess is to move little.
    If all of it were new, the way would be too far for steps of ``max_delta``.

    :param renewed: that share, from 0 to 1. At every point, states are those of the forward process whatever
        it is.
    """

    def __init__(self, seed: int, renewed: float = RENEWED) -> None:
        self.seed, self.renewed = seed, renewed
        self.generator = torch.Generator().manual_seed(seed)

    def skip(self, steps: int) -> None:
        """Draw on, not again what was drawn for the first ``steps`` steps, recorded before a stop."""
        self.generator.manual_seed((self.seed + STRIDE * steps) % 2**63)

    def record(self, env: VecEnv, steps: int) -> Trajectories:
        """Episodes of about ``steps`` steps in all: as many as that is if each goes to the horizon."""
        dynamics = env.dynamics if isinstance(env, LatentVecEnv) else None
        if not isinstance(dynamics, DenoiseDynamics):
            raise UserError("agent.teachers: forward is a teacher for env=latent_denoise alone")
        world, horizon = dynamics.world, dynamics.horizon
        count = -(-steps // horizon)
        sources = torch.randint(len(world.images), (count,), generator=self.generator).to(world.device)
        noise = torch.randn(count, *world.states.shape[1:], generator=self.generator).to(world.states)
        path = self.path(world.states[sources], noise, horizon)
        episode = dynamics.canvas(sources, noise, torch.ones_like(noise.flatten(1)[:, 0]))
        qualities = [dynamics.reward.terms(states, episode) for states in path.unbind(1)]
        worth = torch.stack([dynamics.worth(quality) for quality in qualities], dim=1)
        # A step counts if no step before it led to a state that is done.
        done = torch.stack([dynamics.done(quality) for quality in qualities[:-1]], dim=1)
        done[:, 0] = False
        counts = done.cumsum(1) == 0
        times = torch.arange(horizon, device=world.device).expand(count, -1)
        seen = [dynamics.observation(path[:, t], episode.wanted, times[:, t]) for t in range(horizon)]
        actions = (path.diff(dim=1) / dynamics.stride.max_delta).clamp(-1, 1)
        parts = (torch.stack(seen, dim=1), actions.flatten(2), worth.diff(dim=1), times)
        return Trajectories(*(part[counts].cpu() for part in parts))

    def path(self, clean: Tensor, noise: Tensor, points: int) -> Tensor:
        """The states ``(N, points + 1, *shape)`` from ``noise`` to ``clean (N, *shape)``."""
        amounts = torch.linspace(1, 0, points + 1).tolist()
        states, left = [noise], noise
        for now, then in pairwise(amounts):
            # What a chain of the forward process adds between two points, seen from the clean end.
            added = then / now * math.sqrt(1 - (1 - now**2) / (1 - then**2))
            new = self.renewed * added / then if then else 0.0
            fresh = torch.randn(noise.shape, generator=self.generator).to(noise)
            left = math.sqrt(1 - new**2) * left + new * fresh  # of unit variance still
            states.append(mixed(clean, left, left.new_full((len(left),), then)))
        return torch.stack(states, dim=1)
