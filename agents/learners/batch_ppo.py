"""Stable-Baselines3's PPO for a batch of worlds: what is collected never leaves the device."""

from __future__ import annotations

from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from agents.learners.batch_rollouts import BatchRollouts

LEAST_STEPS, LEAST_ROLLOUT = 16, 512
MINIBATCHES, LEAST_BATCH = 4, 64
EPOCHS = 8


def minibatch(rollout: int, wanted: int | None = None) -> int:
    """How many of a rollout's steps to learn from together: a quarter, where nothing else is ``wanted``.

    A quarter of few steps would be too few.
    """
    if wanted is not None:
        return min(wanted, rollout)
    parts = (n for n in range(MINIBATCHES, 1, -1) if rollout % n == 0 and rollout // n >= LEAST_BATCH)
    return rollout // next(parts, 1)


def scaled_to(num_envs: int) -> dict[str, int]:
    """``n_steps``, ``batch_size`` and ``n_epochs`` for so many worlds.

    The number of updates follows the number of rollouts, not of steps: SB3's own defaults (ten times through
    64 steps at a time) spend far more on the policy than the worlds cost as soon as these are many.
    """
    n_steps = max(LEAST_STEPS, -(-LEAST_ROLLOUT // num_envs))
    return {"n_steps": n_steps, "batch_size": minibatch(n_steps * num_envs), "n_epochs": EPOCHS}


class BatchPPO(BatchRollouts, PPO):
    """PPO over a :class:`~agents.sb3_vec_env.LatentVecEnv`; over any other ``VecEnv`` it is PPO as it stands.

    With the same settings and seed it learns what PPO learns, see
    :class:`~agents.learners.batch_rollouts.BatchRollouts`. Without ``n_steps``, ``batch_size`` and ``n_epochs`` these
    follow the number of worlds, :func:`scaled_to`. ``save`` writes what ``PPO.load`` reads.
    """

    def __init__(self, policy: Any, env: Any, **settings: Any) -> None:
        if isinstance(env, VecEnv):
            settings = scaled_to(env.num_envs) | settings
        super().__init__(policy, env, **settings)
