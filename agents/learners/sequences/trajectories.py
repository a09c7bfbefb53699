"""Recorded episodes: observations, actions and rewards, and how a policy's are recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from agents.base import Agent
from agents.baselines.none_and_random import RandomAgent


class Windows(NamedTuple):
    """Parts of episodes, up to ``K`` steps each, padded at their end. All tensors are ``(B, K, ...)``."""

    observations: Tensor
    actions: Tensor
    returns: Tensor
    """The return of the whole episode."""
    times: Tensor
    """int64: the step's number in its episode, from 0."""
    known: Tensor
    """bool: False where a part is padded."""


@dataclass(frozen=True)
class Trajectories:
    """Whole episodes, one after the other. All tensors lead with the steps, ``(M, ...)``."""

    observations: Tensor
    actions: Tensor
    """In [-1, 1], whatever the action space."""
    rewards: Tensor
    times: Tensor
    """int64: the step's number in its episode, from 0; a 0 begins the next one."""

    def __len__(self) -> int:
        return len(self.times)

    @classmethod
    def joined(cls, *parts: Trajectories) -> Trajectories:
        """Several sets as one."""
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def last(self, steps: int) -> Trajectories:
        """The latest whole episodes, of at most so many steps in all, but at least one."""
        starts = (self.times == 0).nonzero().flatten()
        enough = starts[starts >= len(self) - steps]
        begin = int(enough[0]) if len(enough) else int(starts[-1])
        return Trajectories(*(getattr(self, f.name)[begin:] for f in fields(self)))

    def episodes(self) -> Tensor:
        """The number of every step's episode, ``(M,)``."""
        return (self.times == 0).cumsum(0) - 1

    def returns(self) -> Tensor:
        """The return of every episode, ``(episodes,)``."""
        episodes = self.episodes()
        return self.rewards.new_zeros(int(episodes[-1]) + 1).index_add(0, episodes, self.rewards)

    def windows(self, ends: Tensor, length: int, returns: Tensor) -> Windows:
        """The ``length`` steps up to each of ``ends (B,)``, fewer where an episode began later.

        ``returns (M,)`` are those of every step's episode.
        """
        count = self.times[ends].clamp_max(length - 1) + 1
        steps = torch.arange(length, device=ends.device)
        known = steps < count[:, None]
        rows = (ends - count + 1)[:, None] + torch.where(known, steps, torch.zeros_like(steps))
        return Windows(self.observations[rows], self.actions[rows], returns[rows], self.times[rows], known)

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Trajectories:
        """What :meth:`tensors` returned."""
        return cls(*(tensors[f.name] for f in fields(cls)))


class Demonstrations(Protocol):
    """A source of trajectories to learn from."""

    def record(self, env: VecEnv, steps: int) -> Trajectories:
        """Whole episodes of at least ``steps`` steps in all."""

    def state(self) -> Any:
        """What decides what it records next beside ``env`` and PyTorch's random numbers: plain values."""

    def restore(self, state: Any, env: VecEnv) -> None:
        """Go on in ``env`` from where :meth:`state` was asked for; PyTorch's random numbers may change."""


class RecordedPolicy:
    """Records what ``agent`` does in an environment when it acts stochastically."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    def record(self, env: VecEnv, steps: int) -> Trajectories:
        """Whole episodes of at least ``steps`` steps in all, equally many in every world."""
        parts = [self._episodes(env)]
        while sum(map(len, parts)) < steps:
            parts.append(self._episodes(env))
        return Trajectories.joined(*parts)

    def state(self) -> Any:
        """That of the random numbers of an agent that acts at random."""
        return self.agent.rng.bit_generator.state if isinstance(self.agent, RandomAgent) else None

    def restore(self, state: Any, _: VecEnv) -> None:
        """Go on from where :meth:`state` was asked for."""
        if isinstance(self.agent, RandomAgent):
            self.agent.rng.bit_generator.state = state

    def _episodes(self, env: VecEnv) -> Trajectories:
        """One episode in every world; short ones wait for the others, or they would be too frequent."""
        now, memory = np.asarray(env.reset()), None
        begins = np.ones(env.num_envs, dtype=np.bool_)
        going = begins.copy()
        played: list[tuple[np.ndarray[Any, Any], ...]] = []
        while going.any():
            actions, memory = self.agent.predict(now, memory, begins)
            following, rewards, begins, _ = env.step(actions)
            played.append((now, scaled(actions, env.action_space), rewards, going.copy()))
            now, going = np.asarray(following), going & ~begins
        stacked = [torch.from_numpy(np.stack(part, axis=1)) for part in zip(*played, strict=True)]
        observations, taken, rewards_of, counts = stacked
        times = torch.arange(len(played)).expand(counts.shape)
        parts = (observations.flatten(2).float(), taken.flatten(2).float(), rewards_of.float(), times)
        return Trajectories(*(part[counts] for part in parts))


def scaled(actions: np.ndarray[Any, Any], space: spaces.Space[Any]) -> np.ndarray[Any, Any]:
    """Actions of a box as numbers in [-1, 1]."""
    assert isinstance(space, spaces.Box)
    numbers: np.ndarray[Any, Any] = 2 * (actions - space.low) / (space.high - space.low) - 1
    return numbers
