"""Learners find a known optimum, and MPO's policy strays no further from what it was than it may."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from one_step_task import UniformPolicy, make_target_envs, mean_reward, recorded_trajectories, without_logger
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents.learners.a2c import ActorCritic
from agents.learners.mpo import MPO
from agents.learners.reinforce import MIN_ROLLOUT, Reinforce
from agents.learners.sequences.decision_transformer import DecisionTransformer
from agents.learners.sequences.trajectories import RecordedPolicy


def small_mpo(env: VecEnv, **others: Any) -> MPO:
    settings: dict[str, Any] = {
        "learning_rate": 3e-3,
        "learning_starts": 200,
        "batch_size": 64,
        "train_freq": 4,
        "gradient_steps": 8,
        "epsilon_mean": 0.05,
        "target_period": 20,
        "policy_kwargs": {"net_arch": [32], "init_std": 0.4},
    } | others
    return MPO("MlpPolicy", env, seed=0, device="cpu", **settings)


def target_learner(name: str) -> tuple[BaseAlgorithm, int]:
    """A learner of the aiming task, and how many steps it takes."""
    small: dict[str, Any] = {"policy_kwargs": {"net_arch": [32]}, "seed": 0, "device": "cpu"}
    if name == "reinforce":
        return Reinforce("MlpPolicy", make_target_envs(16), n_steps=16, learning_rate=1e-2, **small), 256 * 30
    if name == "actor_critic":
        settings = {"n_steps": 4, "learning_rate": 3e-3, "normalize_advantage": True, **small}
        return ActorCritic("MlpPolicy", make_target_envs(16), **settings), 64 * 120
    return small_mpo(make_target_envs(16)), 64 * 85


@pytest.mark.parametrize("name", ["reinforce", "actor_critic", "mpo"])
def test_a_known_optimum_is_found(name: str) -> None:
    model, steps = target_learner(name)
    without_logger(model)
    before = mean_reward(model)
    model.learn(steps)
    assert before < -0.35
    assert mean_reward(model) > -0.06


def test_reinforce_collects_enough_by_itself() -> None:
    for count in (1, 3):
        model = Reinforce("MlpPolicy", make_target_envs(count), device="cpu")
        assert MIN_ROLLOUT <= model.n_steps * count < MIN_ROLLOUT + count


def test_asked_for_much_a_transformer_does_better_than_the_random_policy_that_it_learned_from() -> None:
    env = make_target_envs(16)
    model = DecisionTransformer(
        "MlpPolicy",
        env,
        [RecordedPolicy(UniformPolicy(env.action_space))],
        n_steps=16,
        gradient_steps=32,
        learning_rate=3e-3,
        policy_kwargs={"context": 1, "net_arch": [32], "heads": 2},
        seed=0,
        device="cpu",
    )
    without_logger(model)
    model.learn(256 * 12)
    returns = recorded_trajectories(model).returns()
    policy = model.policy
    assert float(policy.target_return) == pytest.approx(float(returns.quantile(0.95)))
    assert float(returns.mean()) < -1.5
    high = mean_reward(model)
    assert high > -0.3
    policy.target_return.fill_(float(returns.quantile(0.05)))
    assert mean_reward(model) < high - 0.5  # who asks for little gets less


def policy_divergences(epsilon: float) -> tuple[MPO, list[float]]:
    model = small_mpo(make_target_envs(16), epsilon_mean=epsilon)
    without_logger(model)
    model.learn(64 * 25)
    found = []
    for _ in range(20):
        model.train(1, 64)
        found.append(float(model.logger.name_to_value["train/kl_mean"]))
    return model, found


def test_a_policy_stays_near_what_it_was() -> None:
    strict, held = policy_divergences(1e-3)
    _, free = policy_divergences(10.0)
    assert float(np.mean(held)) < 4e-3
    assert float(np.mean(free)) > 1e-2
    values = strict.logger.name_to_value
    assert values["train/temperature"] > 0
    assert values["train/penalty_mean"] > 1  # what it began with didn't suffice


@pytest.mark.parametrize("epsilon", [0.02, 0.1])
def test_weights_stray_from_equal_ones_as_far_as_they_may(epsilon: float) -> None:
    """Once the temperature has settled, the weights' KL divergence is about epsilon."""
    model = small_mpo(make_target_envs(16), epsilon=epsilon, candidates=64)
    without_logger(model)
    model.learn(64 * 40)
    policy = model.policy
    states = torch.rand(200, 2) * 2 - 1
    with torch.no_grad():
        mean, deviation = policy.target_actor(states)
        taken = (mean + deviation * torch.randn(500, *mean.shape)).clamp(-1, 1)
        values = policy.target_critics.lower(states.expand(500, -1, -1), taken)
        weights = (values / policy.log_temperature.exp()).softmax(0)
    stray = float((weights * (weights * 500).log()).sum(0).mean())
    assert epsilon / 2.5 < stray < epsilon * 2.5


def test_deviations_of_mpo_begin_and_stay_where_told() -> None:
    kwargs = {"net_arch": [8], "init_std": 0.7, "min_std": 0.3}
    model = small_mpo(make_target_envs(4), policy_kwargs=kwargs, epsilon_std=1.0)
    seen = torch.zeros(3, 2)
    torch.testing.assert_close(model.policy.actor(seen)[1], torch.full((3, 2), 0.7))
    without_logger(model)
    model.learn(1200)
    narrowed = model.policy.actor(torch.rand(100, 2))[1].detach()
    assert 0.3 <= float(narrowed.min()) < 0.6
