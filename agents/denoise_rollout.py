"""From an agent to images: whole episodes of ``LatentDenoise-v0``, one an image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.base import Agent
from latent_env.denoise.dynamics import DenoiseDynamics


class Generated(NamedTuple):
    """What an agent made. All tensors lead with the images."""

    states: Tensor
    """``(N, *shape)``: the state that each episode ended in."""
    classes: Tensor
    """``(N,)``: the class that was asked for, or that the noise was made of."""
    returns: Tensor
    """``(N,)``: what the environment paid."""
    steps: Tensor
    """``(N,)``: how many steps it took."""
    visited: Tensor
    """``(M, *shape)``: all states on the way, those at the ends among them."""
    asked: Tensor
    """``(M,)``: the class that each was asked for, -1 for any."""


def generate(
    dynamics: DenoiseDynamics, agent: Agent, count: int, seed: int, deterministic: bool = True
) -> Generated:
    """Let ``agent`` finish ``count`` images.

    A learned policy acts by its mean unless told otherwise: what makes images differ is the noise that they
    begin with. World by world an episode is played to its end, and the others wait.
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
