"""A task of one step whose optimum is known, and how learners of it are measured."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from agents.learners.sequences.decision_transformer import DecisionTransformer
from agents.learners.sequences.trajectories import Trajectories

Array = npt.NDArray[np.float32]


class TargetTask(gym.Env[Array, Array]):
    """One step: an action is worth its negative squared distance from what the observation asks for."""

    numbers = itertools.count()

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gym.spaces.Box(-2, 2, (2,), np.float32)
        self.rng = np.random.default_rng(next(self.numbers))
        self.seen = np.zeros(2, np.float32)

    @staticmethod
    def target(seen: Array) -> Array:
        return 1.2 * seen[..., ::-1]

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[Array, dict[str, Any]]:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.seen = self.rng.uniform(-1, 1, 2).astype(np.float32)
        return self.seen, {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        reward = -float(np.square(action - self.target(self.seen)).mean())
        return self.seen, reward, True, False, {}


def make_target_envs(count: int) -> VecEnv:
    env = DummyVecEnv([TargetTask] * count)
    env.seed(0)
    return env


class UniformPolicy:
    """Draws from a box."""

    def __init__(self, space: gym.spaces.Space[Any]) -> None:
        assert isinstance(space, gym.spaces.Box)
        self.space, self.rng = space, np.random.default_rng(0)

    def predict(self, observation: Array, *_: Any, **__: Any) -> tuple[Array, None]:
        shape = (len(observation), *self.space.shape)
        return self.rng.uniform(self.space.low, self.space.high, shape).astype(np.float32), None


def mean_reward(model: BaseAlgorithm) -> float:
    """The mean reward of the deterministic policy."""
    seen = np.random.default_rng(1).uniform(-1, 1, (500, 2)).astype(np.float32)
    actions, _ = model.predict(seen, deterministic=True)
    return -float(np.square(actions - TargetTask.target(seen)).mean())


def without_logger(model: BaseAlgorithm) -> BaseAlgorithm:
    model.set_logger(Logger(None, []))
    return model


def recorded_trajectories(model: BaseAlgorithm) -> Trajectories:
    assert isinstance(model, DecisionTransformer)
    assert model.trajectories is not None
    return model.trajectories
