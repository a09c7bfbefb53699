"""PPO from end to end: ours, and Stable-Baselines3's over single worlds and over the batch."""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv
from torch.utils.hooks import RemovableHandle

from agents.learners.batch_ppo import BatchPPO, scaled_to
from agents.sb3_vec_env import LatentVecEnv
from benchmarks.speed.steps import make_dynamics, make_single
from benchmarks.speed.timing import Rates, Work, in_turns, wait

ENV, OURS, STOCK, STOCK_ALIKE, SINGLES = (
    "worlds alone",
    "BatchPPO",
    "PPO over the batch",
    "PPO over the batch, our settings",
    "PPO over single worlds",
)
SINGLE_WORLDS = 16
STOCK_EPOCHS, STOCK_BATCH = 10, 64


class TimeShares(BaseCallback):
    """Seconds that a learner spends on its parts; waiting for the device between them costs a little.

    ``policy`` are its passes while it collects, ``env`` the time from an action to the worlds' answer,
    ``copy`` the rest of collecting, and ``update`` the learning.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = dict.fromkeys(("env", "policy", "copy", "update"), 0.0)
        self._since = perf_counter()
        self._hooks: list[RemovableHandle] = []

    def _on_training_start(self) -> None:
        policy = self.model.policy
        self._hooks = [
            policy.register_forward_pre_hook(lambda *_: self._lap("copy")),
            policy.register_forward_hook(lambda *_: self._lap("policy")),
        ]
        wait()
        self._since = perf_counter()

    def _on_rollout_start(self) -> None:
        self._lap("update")

    def _on_step(self) -> bool:
        self._lap("env")
        return True

    def _on_rollout_end(self) -> None:
        self._lap("copy")

    def _on_training_end(self) -> None:
        self._lap("update")
        for hook in self._hooks:
            hook.remove()

    def _lap(self, part: str) -> None:
        wait()
        before, self._since = self._since, perf_counter()
        self.seconds[part] += self._since - before


def split_time(
    kind: type[PPO], world: str, num_worlds: int, device: str, settings: dict[str, Any]
) -> dict[str, float]:
    """Shares of a learner's time over two rollouts, after one that warms up."""
    env = LatentVecEnv(make_dynamics(world, num_worlds, device), seed=0)
    model = kind("MlpPolicy", env, device=device_of(env), seed=0, **settings)
    rollout = settings["n_steps"] * num_worlds
    model.learn(rollout)
    parts = TimeShares()
    model.learn(2 * rollout, callback=parts, reset_num_timesteps=False)
    return {name: seconds / sum(parts.seconds.values()) for name, seconds in parts.seconds.items()}


def learner(kind: type[PPO], env: Any, steps: int, **settings: Any) -> Work:
    """A PPO that learns for one rollout of ``steps`` steps of every world a call."""
    model = kind("MlpPolicy", env, n_steps=steps, device=device_of(env), seed=0, **settings)

    def work() -> int:
        before = model.num_timesteps
        model.learn(steps * model.n_envs, reset_num_timesteps=before == 0)
        return model.num_timesteps - before

    return work


def device_of(env: Any) -> Any:
    """Where a policy belongs: on the device of a batch of worlds; single ones give arrays, so on the CPU."""
    return env.dynamics.world.device if isinstance(env, LatentVecEnv) else "cpu"


def measure(world: str, num_worlds: int, device: str, repeats: int, seconds: float) -> Rates:
    """World steps a second of every learner, and of the worlds alone."""

    def batch() -> LatentVecEnv:
        return LatentVecEnv(make_dynamics(world, num_worlds, device), seed=0)

    scaled: dict[str, Any] = dict(scaled_to(num_worlds))
    steps = scaled.pop("n_steps")
    stock: dict[str, Any] = {"batch_size": STOCK_BATCH, "n_epochs": STOCK_EPOCHS}
    dynamics = make_dynamics(world, num_worlds, device)
    generator = torch.Generator(dynamics.world.device).manual_seed(0)
    size = (num_worlds, dynamics.perturbation.action_size)

    def env_alone() -> int:
        for _ in range(steps):
            drawn = torch.rand(size, device=dynamics.world.device, generator=generator)
            dynamics.reset_tensor(dynamics.step_tensor(2 * drawn - 1).terminated)
        return steps * num_worlds

    ways: dict[str, Work] = {
        ENV: env_alone,
        OURS: learner(BatchPPO, batch(), steps, **scaled),
        STOCK: learner(PPO, batch(), steps, **stock),
        STOCK_ALIKE: learner(PPO, batch(), steps, **scaled),
    }
    singles: list[Any] = [partial(make_single, world, device, torch.get_num_threads())] * SINGLE_WORLDS
    ways[SINGLES] = learner(PPO, DummyVecEnv(singles), 16, **stock)
    return in_turns(ways, repeats, seconds, f"PPO, {world}, {num_worlds} worlds")
