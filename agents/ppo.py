"""Stable-Baselines3's PPO on the batch of worlds: learning, its log, saving and going on."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from torch import Tensor
from tqdm import tqdm

from agents.batch_ppo import BatchPPO, minibatch
from agents.sb3_vec_env import LatentVecEnv
from detectors.errors import UserError
from detectors.training_state import optimizer_tensors, restore_optimizer
from latent_env.artifacts import load_artifact, save_artifact
from latent_env.supervision import Interrupt, interrupt_deferred

KEEP_SECONDS = 30.0


def make_ppo(vec_env: LatentVecEnv, settings: Mapping[str, Any], seed: int) -> PPO:
    """An untrained PPO for ``vec_env``; ``settings`` are those of ``conf/agent/ppo.yaml``."""
    rollout = settings["n_steps"] * vec_env.num_envs
    batch = minibatch(rollout, settings["batch_size"])
    if rollout < 2:
        raise UserError("agent.n_steps x env.num_envs must be at least 2 steps")
    if any(units < 1 for units in settings["hidden"]):
        raise UserError(f"agent.hidden={settings['hidden']} must name layers of at least 1 unit")
    if "least_deviation" in settings and not settings["least_deviation"] > 0:
        raise UserError(f"agent.least_deviation={settings['least_deviation']} must be above 0")
    if not settings.get("first_deviation", 1.0) > 0:
        raise UserError(f"agent.first_deviation={settings['first_deviation']} must be above 0")
    if rollout % batch:
        raise UserError(f"agent.batch_size={batch} must divide agent.n_steps x env.num_envs = {rollout}")
    with warnings.catch_warnings():
        # SB3 says that PPO with an MLP is meant for the CPU; here the frozen models want the GPU.
        warnings.filterwarnings("ignore", message=".*PPO on the GPU.*")
        model = BatchPPO(
            "MlpPolicy",
            vec_env,
            learning_rate=settings["learning_rate"],
            n_steps=settings["n_steps"],
            batch_size=batch,
            n_epochs=settings["n_epochs"],
            gamma=settings["gamma"],
            ent_coef=settings["ent_coef"],
            policy_kwargs={
                "net_arch": list(settings["hidden"]),
                "log_std_init": math.log(settings.get("first_deviation", 1.0)),
            },
            seed=seed % 2**32,
            device=vec_env.dynamics.world.device,
        )
    vec_env.seed(seed)  # PPO has just seeded the worlds with its own, shorter seed
    return model


class ProgressCallback(BaseCallback):
    """Moves a progress bar, logs once a rollout, and keeps the policy now and then.

    Between an update and the next rollout is the one place where nothing collected is lost: there it
    calls ``keep`` every ``KEEP_SECONDS``, and there Ctrl-C takes effect.
    """

    def __init__(
        self,
        bar: tqdm[Any],
        vec_env: LatentVecEnv,
        keep: Callable[[], None],
        interrupt: Interrupt,
        least_deviation: float,
    ) -> None:
        super().__init__()
        self.least_deviation = least_deviation
        self.bar, self.vec_env, self.keep, self.interrupt = bar, vec_env, keep, interrupt
        self.kept = perf_counter()
        self.began, self.ended = perf_counter(), perf_counter()
        self.update_seconds = 0.0

    def _on_step(self) -> bool:
        self.bar.update(self.vec_env.num_envs)
        return True

    def _on_rollout_start(self) -> None:
        self._stay_broad()
        self.began = perf_counter()
        self.update_seconds = self.began - self.ended
        if self.interrupt.requested or self.began - self.kept > KEEP_SECONDS:
            self.keep()
            self.kept = perf_counter()
        if self.interrupt.requested:
            raise KeyboardInterrupt

    def _on_training_end(self) -> None:
        self._stay_broad()  # the last update has no rollout after it

    def _stay_broad(self) -> None:
        """Keep every deviation of the policy's actions above the floor, after each update."""
        deviations = self.model.policy.log_std
        assert isinstance(deviations, Tensor)
        with torch.no_grad():
            deviations.clamp_(min=math.log(self.least_deviation))

    def _on_rollout_end(self) -> None:
        self.ended = perf_counter()
        rollout = self.ended - self.began
        terms, env_seconds = self.vec_env.take_statistics()
        whole = rollout + self.update_seconds
        steps = self.model.n_steps * self.vec_env.num_envs  # type: ignore[attr-defined]
        self.logger.record("time/env", env_seconds / whole)
        self.logger.record("time/policy", (rollout - env_seconds) / whole)
        self.logger.record("time/update", self.update_seconds / whole)
        self.logger.record("charts/SPS", steps / whole)
        self.logger.record("charts/learning_rate", self.model.learning_rate)
        for name, value in terms.items():
            self.logger.record(f"reward/{name}", value)
        total = sum(self.vec_env.dynamics.reward.weights[name] * value for name, value in terms.items())
        self.logger.record("reward/total", total)
        for name, value in self.vec_env.alarm.take_statistics().items():
            self.logger.record(f"alarm/{name}", value)
        self.bar.set_postfix_str(f"reward {total:.3f}", refresh=False)


def learn(
    model: PPO,
    folder: Path,
    total_steps: int,
    bar: tqdm[Any],
    keep: Callable[[], None],
    least_deviation: float = 0.05,
) -> None:
    """Learn until ``total_steps`` world steps are done, logging to TensorBoard in ``folder``.

    ``keep`` is called when the policy is worth saving, also on Ctrl-C. No deviation of the policy's actions
    falls below ``least_deviation``: a policy that narrows what it proposes teaches a detector less.
    """
    vec_env = model.get_env()
    assert isinstance(vec_env, LatentVecEnv)
    model.set_logger(Logger(None, [TensorBoardOutputFormat(str(folder))]))
    vec_env.take_statistics()
    try:
        with interrupt_deferred() as interrupt:
            model.learn(
                total_steps - model.num_timesteps,
                callback=ProgressCallback(bar, vec_env, keep, interrupt, least_deviation),
                reset_num_timesteps=False,
            )
    finally:
        model.logger.close()
    keep()


def policy_tensors(model: PPO) -> dict[str, Tensor]:
    """Policy, optimiser and step count as tensors."""
    kept = {f"policy.{name}": tensor for name, tensor in model.policy.state_dict().items()}
    kept |= optimizer_tensors(model.policy.optimizer)
    kept["num_timesteps"] = torch.tensor(model.num_timesteps)
    return kept


def restore_policy(model: PPO, tensors: Mapping[str, Tensor]) -> None:
    """Put what :func:`policy_tensors` returned back."""
    policy = {
        name.removeprefix("policy."): tensor for name, tensor in tensors.items() if name.startswith("policy.")
    }
    try:
        model.policy.load_state_dict(policy)
    except RuntimeError as error:
        raise UserError(
            f"the saved policy doesn't fit this world: {str(error).splitlines()[-1].strip()}"
        ) from error
    restore_optimizer(model.policy.optimizer, tensors)
    model.num_timesteps = int(tensors["num_timesteps"])


def save_policy(folder: Path, model: PPO, settings: Mapping[str, Any]) -> None:
    """Write ``policy.safetensors`` and ``policy.json``, and ``policy.zip`` for ``PPO.load``.

    The zip is for users; this project itself never loads it, because it holds pickled objects.
    """
    save_artifact(folder, "policy", "policy", policy_tensors(model), settings)
    model.save(folder / "policy.zip", exclude=["logger"])


def load_policy(folder: Path, model: PPO) -> None:
    """Read ``policy.safetensors`` into ``model``."""
    tensors, _ = load_artifact(folder, "policy", "policy")
    restore_policy(model, tensors)
