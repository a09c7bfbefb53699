"""Stable-Baselines3's PPO for a batch of worlds: what is collected never leaves the device."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from agents.device_buffer import DeviceRolloutBuffer
from agents.sb3_vec_env import LatentVecEnv

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


class BatchPPO(PPO):
    """PPO over a :class:`~agents.sb3_vec_env.LatentVecEnv`; over any other ``VecEnv`` it is PPO as it stands.

    Rollouts are tensors on the device from the policy's action to the advantage, worlds that end are reset in
    the same pass, and the host doesn't wait for the device before a rollout is over. With the same settings
    and seed it learns what PPO learns. Without ``n_steps``, ``batch_size`` and ``n_epochs`` these follow
    the number of worlds, :func:`scaled_to`.

    Callbacks find tensors where PPO has arrays in ``locals``, and no infos: episodes are counted once a
    rollout. ``save`` writes what ``PPO.load`` reads.
    """

    def __init__(self, policy: Any, env: Any, **settings: Any) -> None:
        if isinstance(env, VecEnv):
            settings = scaled_to(env.num_envs) | settings
        super().__init__(policy, env, **settings)

    def _setup_model(self) -> None:
        if self.rollout_buffer_class is None and isinstance(self.env, LatentVecEnv):
            self.rollout_buffer_class = DeviceRolloutBuffer
        super()._setup_model()

    def _excluded_save_params(self) -> list[str]:
        """Tensors of the running batch, and the buffer that PPO doesn't know."""
        running = ["_last_obs", "_last_original_obs", "_last_episode_starts"]
        return [*super()._excluded_save_params(), *running, "rollout_buffer_class"]

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """Let the policy act for ``n_rollout_steps`` steps of every world; False if a callback says stop."""
        ours = isinstance(env, LatentVecEnv) and isinstance(rollout_buffer, DeviceRolloutBuffer)
        if not ours or self.use_sde:
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        assert isinstance(env, LatentVecEnv)
        assert isinstance(rollout_buffer, DeviceRolloutBuffer)
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        callback.on_rollout_start()
        now = torch.as_tensor(self._last_obs, device=self.device)
        begins = torch.as_tensor(self._last_episode_starts, device=self.device)
        for _ in range(n_rollout_steps):
            with torch.no_grad():
                actions, values, log_probs = self.policy(now)
            new, reward, dones = env.step_tensors(actions.clamp(-1, 1))
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            rollout_buffer.add(now, actions, reward, begins, values, log_probs)
            now, begins = new, dones
            # SB3 has arrays there, and only asks whether there are any.
            self._last_obs, self._last_episode_starts = now, begins  # type: ignore[assignment]
        with torch.no_grad():
            values = self.policy.predict_values(now)
        rollout_buffer.compute_returns_and_advantage(values, begins)
        assert self.ep_info_buffer is not None
        self.ep_info_buffer.extend(env.take_episodes(self._stats_window_size))
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True
