"""From an agent to images: whole episodes of ``LatentDenoise-v0``, one an image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.base import Agent
from latent_env.denoise.dynamics import DenoiseDynamics


class Generated(NamedTuple):
    """Images that an agent made, as states. All tensors lead with the images."""

    states: Tensor
    """``(N, *shape)``: the state that each episode ended in."""
    classes: Tensor
    """``(N,)``: the class asked for; without one, that of the image which the noise was mixed with."""
    returns: Tensor
    """``(N,)``: the return of the episode."""
    steps: Tensor
    """``(N,)``: how many steps the episode took."""
    visited: Tensor
    """``(M, *shape)``: all states of the episodes, the last ones among them."""
    asked: Tensor
    """``(M,)``: the class that was asked for in each of these states, -1 for any."""


def generate(
    dynamics: DenoiseDynamics, agent: Agent, count: int, seed: int, deterministic: bool = True
) -> Generated:
    """Let ``agent`` play ``count`` episodes to their end; each makes an image.

    By default a learned policy acts by its mean: images differ by the noise that they begin with. A world
    whose episode has ended waits for the others.
    """
    worlds = torch.arange(dynamics.num_worlds, device=dynamics.world.device)
    dynamics.reset_tensor(seeds=worlds + seed)
    parts: list[Generated] = []
    made = 0
    while made < count:
        if made:
            dynamics.reset_tensor()
        part = _episodes(dynamics, agent, deterministic)
        parts.append(part)
        made += len(part.states)
    states, classes, returns, steps, visited, asked = map(torch.cat, zip(*parts, strict=True))
    return Generated(states[:count], classes[:count], returns[:count], steps[:count], visited, asked)


@torch.inference_mode()
def _episodes(dynamics: DenoiseDynamics, agent: Agent, deterministic: bool) -> Generated:
    observation = dynamics.observe()
    paid = torch.zeros(len(observation), device=observation.device)
    going = torch.ones_like(paid, dtype=torch.bool)
    memory, begins = None, np.ones(len(observation), dtype=np.bool_)
    while going.any():
        actions, memory = agent.predict(observation.cpu().numpy(), memory, begins, deterministic)
        begins = np.zeros_like(begins)
        result = dynamics.step_tensor(torch.from_numpy(actions).to(observation), going)
        paid = paid + torch.where(going, result.rewards, torch.zeros_like(paid))
        going = going & ~result.terminated
        observation = result.observations
    visited, steps = dynamics.last.visited, dynamics.elapsed
    reached = torch.arange(visited.shape[1], device=steps.device) <= steps[:, None]
    asked = dynamics.classes if dynamics.conditional else torch.full_like(dynamics.classes, -1)
    everywhere = asked[:, None].expand(reached.shape)[reached]
    last = dynamics.last.state
    return Generated(last, dynamics.classes, paid, steps, visited[reached], everywhere)
