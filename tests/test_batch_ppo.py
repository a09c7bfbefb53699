"""PPO whose rollouts stay on the device: the same learning as Stable-Baselines3's, and its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import make_world
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor

import latent_env
from agents.learners.batch_ppo import MIN_BATCH, BatchPPO, minibatch, scaled_to
from agents.learners.device_buffer import LEARNED_FROM, DeviceRolloutBuffer
from agents.sb3_vec_env import LatentVecEnv
from latent_env import RewardTerm, Transition
from latent_env.settings import Settings

TARGET = 0.5
SMALL = {"net_arch": [16]}


@latent_env.register_reward("halfway")
class Halfway(RewardTerm):
    """Best, at 0, where every number of the action is ``TARGET``: an optimum that is known."""

    def value(self, transition: Transition) -> Tensor:
        return -(transition.delta.flatten(1) - TARGET).square().mean(1)


def vec_env(count: int = 8, horizon: int = 3) -> LatentVecEnv:
    settings = Settings(reward={"halfway": 1.0}, horizon=horizon, max_delta=1.0, shell_ratio=100.0)
    return LatentVecEnv(settings.dynamics(make_world("flat"), count), 0)


def make(kind: type[PPO], **others: Any) -> PPO:
    settings: dict[str, Any] = {
        "n_steps": 10,
        "batch_size": 20,
        "n_epochs": 3,
        "learning_rate": 3e-3,
    } | others
    return kind("MlpPolicy", vec_env(), seed=1, policy_kwargs={"net_arch": [16]}, device="cpu", **settings)


def test_it_learns_what_stock_ppo_learns() -> None:
    models, returns = [], []
    for kind in (BatchPPO, PPO):
        models.append(make(kind).learn(5 * 80))  # both draw from the generators that making one seeds
        returns.append([episode["r"] for episode in models[-1].ep_info_buffer or ()])
    ours, stock = models
    assert ours.num_timesteps == stock.num_timesteps == 400
    for name, expected in stock.policy.state_dict().items():
        torch.testing.assert_close(ours.policy.state_dict()[name], expected, atol=1e-4, rtol=1e-3)
    assert len(returns[0]) == 100  # SB3 keeps the last 100; every world ends every third step
    np.testing.assert_allclose(returns[0], returns[1], rtol=1e-3, atol=1e-4)


def test_it_finds_a_known_optimum() -> None:
    env = vec_env(count=32, horizon=1)
    model = BatchPPO("MlpPolicy", env, seed=0, learning_rate=1e-2, policy_kwargs=SMALL, device="cpu")
    observations = env.reset()

    def miss() -> float:
        actions, _ = model.predict(observations, deterministic=True)  # type: ignore[arg-type]
        return float(np.abs(actions - TARGET).mean())

    before = miss()
    model.learn(40 * model.n_steps * 32)
    assert before > 0.4
    assert miss() < 0.1


def test_stock_ppo_loads_it_and_goes_on(tmp_path: Path) -> None:
    model = make(BatchPPO)
    model.learn(160)
    model.save(tmp_path / "policy.zip")
    observations = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    loaded = PPO.load(tmp_path / "policy.zip", env=vec_env())
    assert type(loaded) is PPO
    assert type(loaded.rollout_buffer) is RolloutBuffer
    for one, other in zip(
        model.predict(observations, deterministic=True)[0],
        loaded.predict(observations, deterministic=True)[0],
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    loaded.learn(80, reset_num_timesteps=False)
    assert loaded.num_timesteps == 240
    ours = BatchPPO.load(tmp_path / "policy.zip", env=vec_env())
    assert isinstance(ours.rollout_buffer, DeviceRolloutBuffer)
    assert (ours.n_steps, ours.batch_size, ours.n_epochs) == (10, 20, 3)
    ours.learn(80, reset_num_timesteps=False)
    assert ours.num_timesteps == 240


def test_learning_on_continues_the_episodes() -> None:
    model = make(BatchPPO)
    model.learn(80)
    env = model.get_env()
    assert isinstance(env, LatentVecEnv)
    elapsed = env.dynamics.elapsed.clone()
    assert (elapsed == 10 % 3).all()
    seen: list[Tensor] = []

    class First(BaseCallback):
        def _on_step(self) -> bool:
            seen.append(env.dynamics.elapsed.clone())
            return True

    model.learn(80, callback=First(), reset_num_timesteps=False)
    assert (seen[0] == elapsed + 1).all()
    model.learn(80, callback=First())  # a new start resets the worlds
    assert (seen[10] == 1).all()


def test_callbacks_can_stop_it_and_see_what_happens() -> None:
    class Stopping(BaseCallback):
        def _on_step(self) -> bool:
            assert self.locals["reward"].shape == (8,)
            assert self.locals["dones"].dtype == torch.bool
            return self.n_calls < 4

    class StopAtFour(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 4

    places = []
    for kind in (BatchPPO, PPO):
        model = make(kind)
        model.learn(800, callback=Stopping() if kind is BatchPPO else StopAtFour())
        assert model.num_timesteps == 4 * 8
        places.append(torch.as_tensor(model._last_obs))  # where learning on would begin
    torch.testing.assert_close(*places)


def test_other_environments_are_learned_as_ever() -> None:
    both = []
    for kind in (BatchPPO, PPO):
        env = make_vec_env("CartPole-v1", 2, seed=0)
        model = kind("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=2, seed=0, device="cpu")
        model.learn(128)
        assert type(model.rollout_buffer) is RolloutBuffer
        both.append(model.policy.state_dict())
    assert all(both[0][name].equal(both[1][name]) for name in both[1])


def test_noise_that_depends_on_the_state_is_left_to_stock() -> None:
    model = make(BatchPPO, use_sde=True, sde_sample_freq=4)
    model.learn(160)
    assert model.num_timesteps == 160


def spaces() -> tuple[gym.spaces.Box, gym.spaces.Box]:
    return gym.spaces.Box(-1, 1, (3,), np.float32), gym.spaces.Box(-1, 1, (2,), np.float32)


def test_the_buffer_is_sb3s() -> None:
    settings: dict[str, Any] = {"gamma": 0.8, "gae_lambda": 0.7, "n_envs": 4}
    ours = DeviceRolloutBuffer(6, *spaces(), device="cpu", **settings)
    stock = RolloutBuffer(6, *spaces(), device="cpu", **settings)
    rng = np.random.default_rng(0)
    for _ in range(6):
        arrays = [rng.normal(size=(4, 3)), rng.normal(size=(4, 2)), rng.normal(size=4), rng.random(4) < 0.3]
        obs, action, reward, start = (array.astype(np.float32) for array in arrays)
        value, log_prob = torch.randn(4, 1), torch.randn(4)
        stock.add(obs, action, reward, start, value, log_prob)
        tensors: list[Any] = [torch.from_numpy(array) for array in (obs, action, reward, start)]
        ours.add(*tensors, value, log_prob)
    last, dones = torch.randn(4, 1), rng.random(4) < 0.5
    ours.compute_returns_and_advantage(last, torch.from_numpy(dones))
    stock.compute_returns_and_advantage(last, dones)
    for name in ("values", "returns", "advantages"):
        np.testing.assert_allclose(getattr(ours, name), getattr(stock, name), rtol=1e-5, atol=1e-6)
    batches = []
    for buffer in (ours, stock):
        np.random.seed(3)  # noqa: NPY002 - the generator that SB3 uses
        batches.append(list(buffer.get(10)))
    assert [len(batch.actions) for batch in batches[0]] == [10, 10, 4]
    for mine, theirs in zip(*batches, strict=True):
        for name, one, other in zip(LEARNED_FROM, mine, theirs, strict=False):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = ours.nothing


@pytest.mark.parametrize("num_envs", [1, 3, 16, 32, 64, 1000, 1024])
def test_settings_follow_the_number_of_worlds(num_envs: int) -> None:
    settings = scaled_to(num_envs)
    rollout = settings["n_steps"] * num_envs
    assert rollout >= 512
    assert rollout % settings["batch_size"] == 0
    assert rollout / settings["batch_size"] <= 4
    assert scaled_to(32) == {"n_steps": 16, "batch_size": 128, "n_epochs": 8}


@pytest.mark.parametrize("rollout", [2, 15, 66, 130, 512, 1022, 16384])
def test_minibatches_divide_a_rollout(rollout: int) -> None:
    size = minibatch(rollout)
    assert rollout % size == 0
    assert size >= min(MIN_BATCH, rollout)
