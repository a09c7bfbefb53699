"""PPO of Stable-Baselines3 as it comes, on a registered task: what agents are compared with."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from stable_baselines3 import PPO

import latent_env  # noqa: F401 - registers the tasks
from agents.sb3_vec_env import LatentVecEnv
from latent_env.dynamics import Episodes

WORLDS, ROLLOUT = 16, 2048
"""Worlds that it learns in, and steps of one rollout of them all: as many as it takes of one world."""


def worlds_of(task: str, count: int, split: str = "train") -> Episodes[Any]:
    """The episodes of ``count`` worlds of a registered task, on the CPU."""
    batch: Any = gym.make_vec(task, num_envs=count, device="cpu", split=split)
    dynamics: Episodes[Any] = batch.unwrapped.dynamics
    return dynamics


def stock_ppo(task: str, seed: int) -> PPO:
    """PPO with default hyperparameters for a registered task, before it has learned anything."""
    env = LatentVecEnv(worlds_of(task, WORLDS), 1000 * seed)
    model = PPO("MlpPolicy", env, n_steps=ROLLOUT // WORLDS, seed=seed, device="cpu")
    env.seed(1000 * seed)  # SB3 has seeded the worlds with the model's own seed
    return model
