"""Stable-Baselines3's PPO on the batch of worlds, as the configuration describes it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

from stable_baselines3 import PPO

from agents.learners.batch_ppo import BatchPPO, minibatch
from agents.learners.policies import SharedMeanPolicy
from agents.sb3_vec_env import LatentVecEnv
from latent_common.errors import UserError


def check_policy(settings: Mapping[str, Any]) -> None:
    """Complain about what no policy can be made of."""
    if not settings["hidden"] or any(units < 1 for units in settings["hidden"]):
        raise UserError(f"agent.hidden={settings['hidden']} must name layers of at least 1 unit")
    for name in ("init_std", "min_std", "mean_bias_lr_scale"):
        if not settings.get(name, 1.0) > 0:
            raise UserError(f"agent.{name}={settings[name]} must be above 0")


def gaussian_policy(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What SB3's policies are made with: two networks with ``hidden`` layers, and the first deviation."""
    first = settings.get("init_std", 1.0)
    return {"net_arch": list(settings["hidden"]), "log_std_init": math.log(first)}


def make_ppo(vec_env: LatentVecEnv, settings: Mapping[str, Any], seed: int) -> PPO:
    """An untrained PPO for ``vec_env``; ``settings`` are those of ``conf/agent/ppo.yaml``."""
    rollout = settings["n_steps"] * vec_env.num_envs
    batch = minibatch(rollout, settings["batch_size"])
    if rollout < 2:
        raise UserError("agent.n_steps x env.num_envs must be at least 2 steps")
    check_policy(settings)
    speed = settings.get("mean_bias_lr_scale", 1.0)
    policy, own = ("MlpPolicy", {}) if speed == 1 else (SharedMeanPolicy, {"mean_bias_lr_scale": speed})
    if rollout % batch:
        raise UserError(f"agent.batch_size={batch} must divide agent.n_steps x env.num_envs = {rollout}")
    with warnings.catch_warnings():
        # SB3 says that PPO with an MLP is meant for the CPU; here the frozen models want the GPU.
        warnings.filterwarnings("ignore", message=".*PPO on the GPU.*")
        model = BatchPPO(
            policy,
            vec_env,
            learning_rate=settings["learning_rate"],
            n_steps=settings["n_steps"],
            batch_size=batch,
            n_epochs=settings["n_epochs"],
            gamma=settings["gamma"],
            ent_coef=settings["ent_coef"],
            policy_kwargs=gaussian_policy(settings) | own,
            seed=seed % 2**32,
            device=vec_env.dynamics.world.device,
        )
    vec_env.seed(seed)  # PPO has just seeded the worlds with its own, shorter seed
    return model
