"""Small configurations of learners, as ``conf/agent/`` has large ones, and worlds to learn in."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from conftest import make_world
from denoise_worlds import make_denoise_world

from agents.sb3_vec_env import LatentVecEnv
from conf.schema.agents import LearnerConfig
from latent_env.denoise.settings import DenoiseSettings
from latent_env.settings import Settings
from stages.agents.learners import LEARNERS

SETTINGS: dict[str, Any] = {
    "perturbation": "auto",
    "keep_fraction": 1.0,
    "total_steps": 64,
    "n_steps": 8,
    "learning_rate": 1e-2,
    "gamma": 0.9,
    "ent_coef": 0.01,
    "init_std": 0.8,
    "min_std": 0.1,
    "hidden": [8],
}
"""What several learners have in common."""

OWN: dict[str, dict[str, Any]] = {
    "ppo": {"batch_size": 16, "n_epochs": 2, "mean_bias_lr_scale": 1.0},
    "reinforce": {"baseline_epochs": 2},
    "actor_critic": {"gae_lambda": 0.9},
    "mpo": {
        "n_steps": 4,
        "gradient_steps": 2,
        "batch_size": 16,
        "buffer_size": 1000,
        "learning_starts": 16,
        "candidates": 4,
        "epsilon": 0.1,
        "epsilon_mean": 0.05,
        "epsilon_std": 1e-3,
    },
    "decision_transformer": {
        "demonstrations": ["random"],
        "target_return": None,
        "context": 3,
        "heads": 2,
        "gradient_steps": 2,
        "batch_size": 16,
        "memory_size": 1000,
    },
}


def small_learner(name: str, **changes: Any) -> LearnerConfig:
    """The configuration of a learner that has little to learn."""
    made = LEARNERS[name]
    known = {field.name for field in fields(made)}
    shared = {key: value for key, value in SETTINGS.items() if key in known}
    return made(**{"name": name, **shared, **OWN[name], **changes})


def worlds(kind: str = "augment", count: int = 4, seed: int = 0, **arguments: Any) -> LatentVecEnv:
    """Episodes of four steps, of one kind or the other."""
    if kind == "augment":
        of = make_world(arguments.pop("latent", "flat"))
        return LatentVecEnv(Settings(horizon=4, **arguments).dynamics(of, count), seed)
    chosen = DenoiseSettings(**{"threshold": None, "horizon": 4, **arguments})
    return LatentVecEnv(chosen.dynamics(make_denoise_world(), count), seed)
