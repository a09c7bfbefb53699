"""Stable-Baselines3 on single worlds, as strangers write it, and on the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import make_world
from learner_configs import small_learner
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from torch.utils.tensorboard import SummaryWriter

from agents.learners.saving import load_policy, save_policy
from agents.learners.training import learn
from agents.sb3_vec_env import LatentVecEnv
from latent_common.errors import UserError
from latent_common.progress import progress_bar
from latent_env.settings import Settings
from stages.agents.learners import make_learner

PPO_SETTINGS = {
    "n_steps": 16,
    "batch_size": 64,
    "n_epochs": 4,
    "learning_rate": 1e-3,
    "gamma": 0.9,
    "ent_coef": 0.0,
    "hidden": [32],
    "init_std": 1.0,
}


def ppo(env: LatentVecEnv, seed: int = 0, **changes: Any) -> BaseAlgorithm:
    return make_learner(small_learner("ppo", **{**PPO_SETTINGS, **changes}), env, seed)


@pytest.mark.parametrize("algorithm", [PPO, SAC, TD3])
def test_strangers_code(algorithm: type[BaseAlgorithm]) -> None:
    arguments = {"n_steps": 32, "batch_size": 32} if algorithm is PPO else {"learning_starts": 16}
    model = algorithm("MlpPolicy", "latent_env:LatentAug-v0", seed=0, **arguments)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(64)
    assert model.num_timesteps == 64
    changed = {n for n, value in model.policy.state_dict().items() if not value.equal(before[n])}
    # Actor and critic both, whatever the algorithm calls them.
    assert any("action_net" in name or "actor" in name for name in changed)
    assert any("value_net" in name or "critic" in name for name in changed)
    assert np.isfinite(evaluate_policy(model, gym.make("LatentAug-v0"), n_eval_episodes=2, warn=False)[0])


def test_neighbouring_seeds_share_no_world() -> None:
    seeds = [ppo(vec_env(), seed).get_env() for seed in (10**15, 2 * 10**15)]
    first, second = ({env.dynamics.streams.seeds.tolist()[0] for _ in [env.reset()]} for env in seeds)  # type: ignore[union-attr]
    assert first == {10**15}
    assert second == {2 * 10**15}


def vec_env(count: int = 4, seed: int | None = 0, horizon: int = 3) -> LatentVecEnv:
    return LatentVecEnv(Settings(horizon=horizon).dynamics(make_world("flat"), count), seed)


def test_vec_env_resets_in_the_same_step() -> None:
    env = vec_env()
    start = env.reset()
    assert start.shape == (4, 6)  # type: ignore[union-attr]
    actions = np.full((4, 6), 0.2, np.float32)  # three such steps stay inside the shell: all of them move
    for step in range(1, 7):
        observations, rewards, dones, infos = env.step(actions)
        assert rewards.shape == dones.shape == (4,)
        if step % 3:
            assert not dones.any()
            assert not any("terminal_observation" in info for info in infos)
            before = observations
        else:
            assert dones.all()
            for world, info in enumerate(infos):
                terminal = info["terminal_observation"]
                assert not np.array_equal(terminal, observations[world])  # type: ignore[call-overload]
                assert np.linalg.norm(terminal - before[world]) > 0  # type: ignore[call-overload]
                assert info["episode"]["l"] == 3
                assert info["TimeLimit.truncated"] is False
        for world, info in enumerate(infos):
            terms = [
                info[f"reward_terms/{name}"] * weight for name, weight in env.dynamics.reward.weights.items()
            ]
            assert sum(terms) == pytest.approx(rewards[world], abs=1e-5)
            assert env.reset_infos[world].keys() <= info.keys()
            assert env.reset_infos[world]["distance"] == 0 < info["distance"]


def test_the_vec_env_returns_what_a_single_world_returns() -> None:
    env = LatentVecEnv(Settings().load("digits", "cpu", 2), seed=30)
    observations = env.reset()
    for world in range(2):
        single, _ = gym.make("LatentAug-v0").reset(seed=30 + world)
        np.testing.assert_array_equal(single, observations[world])  # type: ignore[index]


def test_vec_env_methods_sb3_relies_on() -> None:
    env = vec_env()
    assert env.get_attr("render_mode") == ["rgb_array"] * 4
    assert env.env_is_wrapped(object) == [False] * 4
    assert len(env.get_images()) == 4
    assert env.env_method("take_statistics", indices=[0])[0][0] == {}
    env.set_attr("note", 1)
    assert env.get_attr("note", indices=0) == [1]
    env.close()


def test_options_of_the_vec_env_are_used_once() -> None:
    env = vec_env()
    env.set_options({"source": 3})
    env.reset()
    assert [info["source"] for info in env.reset_infos] == [3] * 4
    sources = {info["source"] for _ in range(5) if env.reset() is not None for info in env.reset_infos}
    assert len(sources) > 1
    env.set_options({"sorce": 3})
    with pytest.raises(UserError, match="'sorce': …} is unknown"):
        env.reset()
    env.set_options([{"source": world} for world in range(4)])
    with pytest.raises(UserError, match="one dictionary for all worlds"):
        env.reset()


def test_ppo_learns_on_the_batch(tmp_path: Path) -> None:
    """Paid for realism alone, PPO must find changes that survive decoding and encoding."""
    env = LatentVecEnv(
        Settings(reward={"realism": 1.0}, max_delta=2.0, horizon=2).dynamics(make_world("flat"), 16), 0
    )
    model = ppo(env)

    def mean_reward() -> float:
        env.seed(123)
        observation = env.reset()
        total = 0.0
        for _ in range(20):
            actions, _ = model.predict(observation, deterministic=False)  # type: ignore[arg-type]
            observation, rewards, *_ = env.step(actions)
            total += float(rewards.mean()) / 20
        return total

    before = mean_reward()
    with progress_bar("test", 12288) as bar:
        learn(
            model,
            SummaryWriter(str(tmp_path)),
            12288,
            bar,
            lambda: save_policy(tmp_path, model, PPO_SETTINGS),
        )
    assert model.num_timesteps >= 12288
    assert mean_reward() > before + 0.05

    twin = ppo(env, seed=1)
    load_policy(tmp_path, twin)
    observation = env.reset()
    ours, _ = model.predict(observation, deterministic=True)  # type: ignore[arg-type]
    theirs, _ = twin.predict(observation, deterministic=True)  # type: ignore[arg-type]
    stock, _ = PPO.load(tmp_path / "policy.zip").predict(observation, deterministic=True)  # type: ignore[arg-type]
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(ours, stock)
    assert twin.num_timesteps == model.num_timesteps


def test_a_policy_of_another_world_is_refused(tmp_path: Path) -> None:
    save_policy(tmp_path, ppo(vec_env()), PPO_SETTINGS)
    other = LatentVecEnv(Settings().dynamics(make_world("spatial"), 2), 0)
    with pytest.raises(UserError, match="doesn't fit this world"):
        load_policy(tmp_path, ppo(other, batch_size=32))


def test_batch_size_must_divide_the_rollout() -> None:
    with pytest.raises(UserError, match=r"agent.batch_size=48 must divide"):
        ppo(vec_env(), batch_size=48)
