"""Rollouts of Stable-Baselines3's on-policy learners on a batch of worlds, without leaving the device."""

from __future__ import annotations

import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents.learners.device_buffer import DeviceRolloutBuffer
from agents.sb3_vec_env import LatentVecEnv


class BatchRollouts(OnPolicyAlgorithm):
    """A mixin that lets an on-policy learner collect its rollouts as tensors on the device.

    Put it before the learner among a class's bases. It takes effect over a
    :class:`~agents.sb3_vec_env.LatentVecEnv` without gSDE, and changes nothing otherwise.

    From the policy's action to the advantage everything is a tensor on the device, worlds that end are reset
    in the same pass, and the host doesn't wait for the device before a rollout is over. In ``locals``,
    callbacks find tensors where SB3 has arrays, and no infos: finished episodes are collected once a rollout.
    """

    def _setup_model(self) -> None:
        if self.rollout_buffer_class is None and isinstance(self.env, LatentVecEnv):
            self.rollout_buffer_class = DeviceRolloutBuffer
        super()._setup_model()

    def _excluded_save_params(self) -> list[str]:
        """Names that ``save`` leaves out: the running batch's tensors, and a buffer that SB3 doesn't have."""
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
        if self.use_sde or not isinstance(env, LatentVecEnv):
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        if not isinstance(rollout_buffer, DeviceRolloutBuffer):  # the user's own
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
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
            # SB3 declares arrays here, and only asks whether they are None.
            self._last_obs, self._last_episode_starts = now, begins  # type: ignore[assignment]
        with torch.no_grad():
            values = self.policy.predict_values(now)
        rollout_buffer.compute_returns_and_advantage(values, begins)
        assert self.ep_info_buffer is not None
        self.ep_info_buffer.extend(env.take_episodes(self._stats_window_size))
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True
