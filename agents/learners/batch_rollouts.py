"""Rollouts of Stable-Baselines3's on-policy learners on a batch of worlds: nothing leaves the device."""

from __future__ import annotations

import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents.learners.device_buffer import DeviceRolloutBuffer
from agents.sb3_vec_env import LatentVecEnv


class BatchRollouts(OnPolicyAlgorithm):
    """What turns a learner into one for a :class:`~agents.sb3_vec_env.LatentVecEnv`.

    Stands before the learner among a class's bases. Over any other ``VecEnv``, and with gSDE, it changes
    nothing.

    Rollouts are tensors on the device from the policy's action to the advantage, worlds that end are reset in
    the same pass, and the host doesn't wait for the device before a rollout is over. Callbacks find tensors
    where SB3 has arrays in ``locals``, and no infos: episodes are counted once a rollout.
    """

    def _setup_model(self) -> None:
        if self.rollout_buffer_class is None and isinstance(self.env, LatentVecEnv):
            self.rollout_buffer_class = DeviceRolloutBuffer
        super()._setup_model()

    def _excluded_save_params(self) -> list[str]:
        """Tensors of the running batch, and the buffer that SB3 doesn't know."""
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
