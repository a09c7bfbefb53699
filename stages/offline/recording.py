"""Episodes of many worlds at once, as Minari stores them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from minari.data_collector import EpisodeBuffer

from agents.base import Agent
from latent_env.dynamics import Episodes
from latent_env.vector_env import as_arrays

Arrays = dict[str, np.ndarray[Any, Any]]


def played(dynamics: Episodes[Any], agent: Agent, first: int, count: int) -> Iterator[list[EpisodeBuffer]]:
    """``count`` episodes that ``agent`` plays, some at a time, with the seeds from ``first`` on."""
    worlds = dynamics.num_worlds
    for begin in range(first, first + count, worlds):
        yield _batch(dynamics, agent, torch.arange(begin, begin + worlds))[: first + count - begin]


def _batch(dynamics: Episodes[Any], agent: Agent, seeds: torch.Tensor) -> list[EpisodeBuffer]:
    """One episode in every world, each from its own one of ``seeds (N,)``; ended ones wait for the others."""
    seen = [dynamics.reset_tensor(seeds=seeds).numpy()]
    infos, steps = [as_arrays(dynamics.info())], []
    going, begins, memory = torch.ones_like(seeds, dtype=torch.bool), np.ones(len(seeds), np.bool_), None
    while going.any():
        actions, memory = agent.predict(seen[-1], memory, begins)
        result = dynamics.step_tensor(torch.from_numpy(actions), going)
        ends = result.terminated & going
        steps.append({"actions": actions, "rewards": result.rewards.double().numpy()})
        steps[-1] |= {"terminations": ends.numpy(), "truncations": np.zeros_like(begins)}
        seen.append(result.observations.numpy())
        infos.append(as_arrays(dynamics.info()))
        going, begins = going & ~ends, np.zeros_like(begins)
    lengths = dynamics.elapsed.tolist()
    found = {"observations": np.stack(seen, 1)}, _stacked(steps), _stacked(infos)
    return [_buffer(seed, world, lengths[world], *found) for world, seed in enumerate(seeds.tolist())]


def _stacked(parts: list[Arrays]) -> Arrays:
    """Arrays ``(N, T, ...)`` of ``T`` parts of ``(N, ...)`` each."""
    return {name: np.stack([part[name] for part in parts], axis=1) for name in parts[0]}


def _buffer(seed: int, world: int, length: int, seen: Arrays, steps: Arrays, infos: Arrays) -> EpisodeBuffer:
    """The episode of one world, with what came after its last step."""
    return EpisodeBuffer(
        seed=seed,
        **{name: values[world, : length + 1] for name, values in seen.items()},
        **{name: values[world, :length] for name, values in steps.items()},
        infos={name: values[world, : length + 1] for name, values in infos.items()},
    )
