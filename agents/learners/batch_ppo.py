"""Stable-Baselines3's PPO for a batch of worlds: rollouts never leave the device."""

from __future__ import annotations

from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from agents.learners.batch_rollouts import BatchRollouts

MIN_STEPS, MIN_ROLLOUT = 16, 512
MINIBATCHES, MIN_BATCH = 4, 64
EPOCHS = 8


def minibatch(rollout: int, wanted: int | None = None) -> int:
    """The minibatch size for a rollout of so many steps: ``wanted``, or a quarter.

    Of a short rollout a larger part is taken, so that a minibatch has at least ``MIN_BATCH`` steps.
    """
    if wanted is not None:
        return min(wanted, rollout)
    parts = (n for n in range(MINIBATCHES, 1, -1) if rollout % n == 0 and rollout // n >= MIN_BATCH)
    return rollout // next(parts, 1)


def scaled_to(num_envs: int) -> dict[str, int]:
    """``n_steps``, ``batch_size`` and ``n_epochs`` for ``num_envs`` worlds.

    The number of updates follows the number of rollouts, not of steps. SB3's own defaults (ten epochs of
    minibatches of 64) cost far more time than the worlds do, as soon as there are many.
    """
    n_steps = max(MIN_STEPS, -(-MIN_ROLLOUT // num_envs))
    return {"n_steps": n_steps, "batch_size": minibatch(n_steps * num_envs), "n_epochs": EPOCHS}


class BatchPPO(BatchRollouts, PPO):
    """PPO over a :class:`~agents.sb3_vec_env.LatentVecEnv`; over any other ``VecEnv`` it is PPO as it stands.

    With equal settings and seeds it learns what PPO learns, see
    :class:`~agents.learners.batch_rollouts.BatchRollouts`. The defaults of ``n_steps``, ``batch_size`` and
    ``n_epochs`` follow the number of worlds, see :func:`scaled_to`. ``save`` writes what ``PPO.load`` reads.
    """

    def __init__(self, policy: Any, env: Any, **settings: Any) -> None:
        if isinstance(env, VecEnv):
            settings = scaled_to(env.num_envs) | settings
        super().__init__(policy, env, **settings)
