"""The batch of worlds as a Stable-Baselines3 ``VecEnv``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from torch import Tensor

from agents.overoptimization import OverOptimizationMonitor
from latent_common.errors import UserError
from latent_common.training_state import below
from latent_env.dynamics import Episodes, StepResult
from latent_env.env import make_spaces
from latent_env.episode_state import episode_state, restore_episodes
from latent_env.reset_options import LARGEST_SEED, checked_start


class LatentVecEnv(VecEnv):
    """``dynamics.num_worlds`` worlds that behave as SB3 expects.

    A world that ends is reset in the same step, and its last observation is in its
    ``info["terminal_observation"]``. Infos hold what those of single worlds do, and :attr:`reset_infos` has
    those of the last resets. Observations, rewards, ends and each key of the infos are copied from the device
    once a step, whatever the number of worlds; where episodes ended, observations and infos of the new ones
    are copied as well. :meth:`step_tensors` copies nothing.
    """

    def __init__(self, dynamics: Episodes[Any], seed: int | None = None) -> None:
        observation_space, action_space = make_spaces(dynamics)
        self.render_mode = "rgb_array"  # VecEnv asks for it through get_attr
        self.dynamics = dynamics
        super().__init__(dynamics.num_worlds, observation_space, action_space)
        self.actions = np.zeros((self.num_envs, *(action_space.shape or ())), dtype=np.float32)
        self._returns = torch.zeros(self.num_envs, device=dynamics.world.device)
        self._finished: list[tuple[Tensor, ...]] = []  # of each step: ends, returns, lengths
        self._began = perf_counter()
        self.seconds = 0.0
        """Time spent in steps since :meth:`take_statistics`."""
        self._terms: dict[str, Tensor] = {}
        self._steps = 0
        self.overoptimization = OverOptimizationMonitor(dynamics)
        self.seed(seed)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """World ``i`` will be seeded ``seed + i`` at the next reset."""
        if seed is None:
            seed = int(np.random.default_rng().integers(LARGEST_SEED - self.num_envs))
        self._seeds = [seed + world for world in range(self.num_envs)]
        return self._seeds

    def reset(self) -> VecEnvObs:
        """Start an episode in every world; seeds and options given before are used once."""
        seeds = None
        if self._seeds[0] is not None:
            seeds = torch.tensor(self._seeds, device=self.dynamics.world.device)
        if any(options != self._options[0] for options in self._options):
            raise UserError("set_options was given one for each world: give one dictionary for all worlds")
        among = checked_start(self._options[0], self.dynamics)
        reset = self.dynamics.reset_tensor(seeds=seeds, among=among)
        observations: np.ndarray[Any, Any] = reset.cpu().numpy()
        self._reset_seeds()
        self._reset_options()
        self._returns.zero_()
        self._finished.clear()
        self.reset_infos = self._infos()
        return observations

    def step_async(self, actions: np.ndarray[Any, Any]) -> None:
        """Store ``actions (num_envs, k)`` for :meth:`step_wait`."""
        self.actions = np.asarray(actions, dtype=np.float32)

    def step_wait(self) -> VecEnvStepReturn:
        """Step all worlds, and reset those that ended."""
        began = perf_counter()
        dynamics = self.dynamics
        result = self._advance(torch.from_numpy(self.actions).to(dynamics.world.device))
        rewards = result.rewards.cpu().numpy()
        dones = result.terminated.cpu().numpy()
        observations = result.observations.cpu().numpy()
        infos = self._infos()
        if dones.any():
            last, returns = observations, self._returns.cpu().numpy()
            lengths = dynamics.elapsed.cpu().numpy()
            fresh = None if dones.all() else result.terminated
            observations = dynamics.reset_tensor(fresh).cpu().numpy()
            begun = self._infos()
            for world in np.flatnonzero(dones):
                infos[world] |= {
                    "terminal_observation": last[world],
                    "TimeLimit.truncated": False,
                    "episode": self._episode(returns[world], lengths[world]),
                }
                self.reset_infos[world] = begun[world]
            self._returns = self._returns.masked_fill(result.terminated, 0)
        self.seconds += perf_counter() - began
        return observations, rewards, dones, infos

    def step_tensors(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step all worlds by ``actions (N, k)``: observations ``(N, d)``, rewards and ends, on the device.

        The host never waits for the device. Worlds that ended are reset, so the observations are those of the
        new episodes; the last observations of the old ones aren't returned.
        """
        began = perf_counter()
        result = self._advance(actions)
        self._finished.append((result.terminated, self._returns, self.dynamics.elapsed))
        self._returns = self._returns.masked_fill(result.terminated, 0)
        observations = self.dynamics.reset_tensor(result.terminated)
        self.seconds += perf_counter() - began
        return observations, result.rewards, result.terminated

    def take_episodes(self, most: int) -> list[dict[str, Any]]:
        """The last ``most`` episodes ended by :meth:`step_tensors` since the last call, as in ``Monitor``."""
        if not self._finished:
            return []
        parts = zip(*self._finished, strict=True)
        ended, returns, lengths = (torch.stack(steps).cpu().numpy() for steps in parts)
        self._finished.clear()
        last = zip(returns[ended][-most:], lengths[ended][-most:], strict=True)
        return [self._episode(value, length) for value, length in last]

    def _advance(self, actions: Tensor) -> StepResult[Any]:
        """Step all worlds, and add to the statistics."""
        result = self.dynamics.step_tensor(actions)
        for name, term in result.reward_terms.items():
            self._terms[name] = self._terms.get(name, torch.zeros_like(term)) + term
        self._steps += 1
        self.overoptimization.watch(result.transition)
        self._returns = self._returns + result.rewards
        return result

    def _infos(self) -> list[dict[str, Any]]:
        """The ``info`` of every world, as Python numbers."""
        info = self.dynamics.info()
        columns = [values.tolist() for values in info.values()]
        return [dict(zip(info, numbers, strict=True)) for numbers in zip(*columns, strict=True)]

    def _episode(self, value: float, length: int) -> dict[str, Any]:
        return {"r": float(value), "l": int(length), "t": perf_counter() - self._began}

    def take_statistics(self) -> tuple[dict[str, float], float]:
        """The mean of every reward term, and the seconds spent in steps, since the last call."""
        steps = max(self._steps, 1)
        means = {name: float(total.mean()) / steps for name, total in self._terms.items()}
        seconds = self.seconds
        self._terms, self._steps, self.seconds = {}, 0, 0.0
        return means, seconds

    def state(self) -> dict[str, Tensor]:
        """The running episodes and their returns so far, by name."""
        return {
            "returns": self._returns,
            "watched": torch.tensor(self.overoptimization.steps),
            **{f"episodes.{name}": tensor for name, tensor in episode_state(self.dynamics).items()},
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on with the episodes that :meth:`state` returned; seeds that wait for a reset are dropped."""
        restore_episodes(self.dynamics, dict(below(tensors, "episodes")))
        self._returns = tensors["returns"].to(self._returns)
        self.overoptimization.steps = int(tensors["watched"])
        self._reset_seeds()

    def close(self) -> None:
        """Do nothing: no resource is open."""

    def get_images(self) -> Sequence[np.ndarray[Any, Any] | None]:
        """One picture a world."""
        return [self.dynamics.picture(world) for world in range(self.num_envs)]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of this object, which stands for every world's."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:  # noqa: ARG002
        """Set an attribute of this object; worlds have none of their own, so ``indices`` is all."""
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of this object once for every world named."""
        method = getattr(self, method_name)
        return [method(*method_args, **method_kwargs) for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """No world is wrapped, but episodes are monitored as ``Monitor`` would."""
        from stable_baselines3.common.monitor import Monitor

        return [wrapper_class is Monitor for _ in self._get_indices(indices)]
