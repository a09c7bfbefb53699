"""PPO that stays broad, and the over-optimisation that it logs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_world
from learner_configs import small_learner
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_usefulness import world as ensemble_world
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

import latent_env
from agents.learners.training import learn
from agents.sb3_vec_env import LatentVecEnv
from latent_common.errors import UserError
from latent_common.progress import progress_bar
from latent_env import RewardTerm, Transition
from latent_env.settings import Settings
from latent_env.worlds.world import World
from stages.agents.learners import make_learner

SETTINGS: dict[str, Any] = {
    "n_steps": 8,
    "batch_size": 16,
    "n_epochs": 4,
    "learning_rate": 0.05,
    "gamma": 0.9,
    "ent_coef": 0.0,
    "hidden": [8],
    "init_std": 1.0,
}


def ppo(vec_env: LatentVecEnv, **changes: Any) -> PPO:
    model = make_learner(small_learner("ppo", **{**SETTINGS, **changes}), vec_env, seed=0)
    assert isinstance(model, PPO)
    return model


@latent_env.register_reward("quiet")
class Quiet(RewardTerm):
    """Pays for small changes: a policy that learns this narrows."""

    def value(self, transition: Transition) -> Tensor:
        return -transition.delta.flatten(1).square().mean(1)


@latent_env.register_reward("rising")
class Rising(RewardTerm):
    """Pays for moving every number of a latent upwards, whatever the image."""

    def value(self, transition: Transition) -> Tensor:
        return transition.delta.flatten(1).mean(1)


def learned(
    of: World, reward: Mapping[str, float], folder: Path, steps: int, least: float, **settings: float
) -> PPO:
    vec_env = LatentVecEnv(Settings(reward=reward, horizon=2, max_delta=1.0).dynamics(of, 4), 0)
    model = ppo(vec_env, **settings)
    kept: list[float] = []

    def keep() -> None:
        kept.append(float(deviations(model).min()))

    with progress_bar("test", steps, hidden=True) as bar:
        learn(model, SummaryWriter(str(folder)), steps, bar, keep, least)
    assert kept
    assert min(kept) >= least * (1 - 1e-6)  # what is saved is what was promised
    return model


def deviations(model: PPO) -> Tensor:
    found = model.policy.log_std
    assert isinstance(found, Tensor)
    return found.detach().exp()


def test_no_deviation_falls_below_the_least(tmp_path: Path) -> None:
    of = make_world("flat")
    free = learned(of, {"quiet": 1.0}, tmp_path / "free", 512, 1e-3)
    assert deviations(free).min() < 0.45  # it would narrow
    held = learned(of, {"quiet": 1.0}, tmp_path / "held", 512, 0.5)
    assert deviations(held).min() >= 0.5 * (1 - 1e-6)
    observation = np.zeros((400, 6), np.float32)
    spread = held.predict(observation, deterministic=False)[0].std(0)
    assert spread.min() > 0.3  # actions are cut off at 1


def test_a_floor_above_where_it_begins(tmp_path: Path) -> None:
    model = learned(make_world("flat"), {"quiet": 1.0}, tmp_path, 64, 1.5)
    assert deviations(model).min() >= 1.5 * (1 - 1e-6)


def test_what_pays_for_all_images_is_learned_quickly(tmp_path: Path) -> None:
    observations = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    means = []
    for speed in (1.0, 30.0):
        folder = tmp_path / f"{speed:g}"
        model = learned(
            make_world("flat"),
            {"rising": 1.0},
            folder,
            128,
            0.5,
            learning_rate=2e-3,
            mean_bias_lr_scale=speed,
        )
        means.append(model.predict(observations, deterministic=True)[0])
    assert means[1].mean() > means[0].mean() + 0.3
    assert (means[1] > means[0]).mean() > 0.9
    model.save(tmp_path / "policy.zip")
    again = PPO.load(tmp_path / "policy.zip", device="cpu")
    np.testing.assert_allclose(again.predict(observations, deterministic=True)[0], means[1])
    again.policy.save(str(tmp_path / "policy.pt"))
    alone = type(again.policy).load(str(tmp_path / "policy.pt"), device="cpu")
    np.testing.assert_allclose(alone.predict(observations, deterministic=True)[0], means[1])


def test_by_default_the_policy_is_sb3s_own(tmp_path: Path) -> None:
    model = learned(make_world("flat"), {"quiet": 1.0}, tmp_path, 32, 0.5)
    assert type(model.policy) is ActorCriticPolicy


@pytest.mark.parametrize("least", [0.0, -1.0, math.nan])
def test_an_impossible_floor_is_refused(least: float) -> None:
    vec_env = LatentVecEnv(Settings().dynamics(make_world("flat"), 4), 0)
    with pytest.raises(UserError, match=r"agent\.min_std=.* must be above 0"):
        ppo(vec_env, min_std=least)


@pytest.mark.parametrize("speed", [0.0, -1.0, math.nan])
def test_an_impossible_speed_is_refused(speed: float) -> None:
    vec_env = LatentVecEnv(Settings().dynamics(make_world("flat"), 4), 0)
    with pytest.raises(UserError, match=r"agent\.mean_bias_lr_scale=.* must be above 0"):
        ppo(vec_env, mean_bias_lr_scale=speed)


def logged(folder: Path) -> dict[str, list[float]]:
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_learning_logs_over_optimisation(tmp_path: Path) -> None:
    of = ensemble_world("latent")
    learned(of, {"usefulness": 1.0, "coverage": 0.5}, tmp_path / "with", 96, 0.3)
    scalars = logged(tmp_path / "with")
    for name in (
        "overoptimization/reward_ensemble",
        "overoptimization/held_out",
        "reward/usefulness",
        "reward/coverage",
        "reward/total",
    ):
        assert len(scalars[name]) == 3, name  # one a rollout
        assert np.isfinite(scalars[name]).all()
    assert scalars["overoptimization/reward_ensemble"] != scalars["overoptimization/held_out"]
    assert len(set(scalars["overoptimization/reward_ensemble"])) == 3
    learned(of.with_reward_ensemble(of.reward_ensemble), {"usefulness": 1.0}, tmp_path / "without", 32, 0.3)
    assert not [tag for tag in logged(tmp_path / "without") if tag.startswith("overoptimization")]
    torch.set_num_threads(1)
