"""``observation="image"``: what policies with convolutions see."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import make_world
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv
from omegaconf import OmegaConf
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from agents.sb3_vec_env import LatentVecEnv
from latent_common.errors import UserError
from latent_env.dynamics import Dynamics
from latent_env.settings import Settings
from stages.augmentation.dynamics import make_dynamics
from stages.cli.compose import compose

pytestmark = pytest.mark.filterwarnings("error")
SHAPES = {"LatentAug-Digits-v0": (1 + 32, 40, 40), "LatentAug-Phantom-v0": (1 + 15, 64, 64)}
"""The image, and a channel for each number of what is asked for."""


def dynamics_of(env: Any) -> Dynamics:
    found: Dynamics = env.unwrapped.dynamics
    return found


@pytest.mark.parametrize("task", SHAPES)
def test_both_checkers_pass(task: str) -> None:
    env = gym.make(task, observation="image", disable_env_checker=True)
    check_env(env.unwrapped)
    check_env_sb3(env.unwrapped)
    assert env.observation_space == gym.spaces.Box(0, 255, SHAPES[task], np.uint8)


def test_an_episode_begins_with_its_image_and_what_is_asked_for() -> None:
    env = gym.make("LatentAug-Phantom-v0", observation="image")
    seen, info = env.reset(seed=4)
    dynamics = dynamics_of(env)
    assert np.array_equal(seen[:1], dynamics.world.images[info["source"]].numpy())
    asked = dynamics.reward.asked(dynamics.last)
    assert asked is not None
    planes = torch.from_numpy(seen[1:]).float()
    assert planes.flatten(1).std(1).max() == 0  # each is filled with one number
    assert torch.allclose(planes[:, 0, 0] / 255 * 10 - 5, asked[0], atol=0.02)


def test_small_images_are_enlarged_pixel_by_pixel() -> None:
    env = gym.make("LatentAug-Digits-v0", observation="image")
    seen, info = env.reset(seed=0)
    image = dynamics_of(env).world.images[info["source"], 0].numpy()
    assert np.array_equal(seen[0], np.kron(image, np.ones((5, 5), np.uint8)))


def test_steps_show_the_augmented_image_and_the_time() -> None:
    dynamics = Settings(observation="image", horizon=4, time_aware=True, reward={"boundary": 1.0}).dynamics(
        make_world("spatial"), 3
    )
    first = dynamics.reset_tensor(seeds=torch.arange(3))
    assert (first[:, -1] == 255).all()
    step = dynamics.step_tensor(torch.ones(3, dynamics.perturbation.action_size))
    size = dynamics.world.autoencoder.size
    factor = first.shape[-1] // size
    shown = step.observations[:, :-1, ::factor, ::factor]
    assert torch.equal(shown, step.transition.image.mul(255).round().byte())
    assert not torch.equal(step.observations[:, :-1], first[:, :-1])
    assert (step.observations[:, -1] == round(255 * 3 / 4)).all()
    restarted = dynamics.reset_tensor(torch.tensor([True, False, False]))
    assert torch.equal(restarted[1:], step.observations[1:])  # the others go on where they were
    image = dynamics.world.images[dynamics.sources[0]]
    assert torch.equal(restarted[0, :-1, ::factor, ::factor], image)


def test_a_batch_and_sb3_see_what_single_worlds_show() -> None:
    task, arguments = "LatentAug-Phantom-v0", {"observation": "image", "horizon": 3}
    batch = gym.make_vec(task, num_envs=2, **arguments, device="cpu")
    singles = SyncVectorEnv([lambda: gym.make(task, **arguments) for _ in range(2)])
    assert batch.observation_space == singles.observation_space
    seen = batch.reset(seed=5)[0]
    assert np.array_equal(seen, singles.reset(seed=5)[0])
    sb3 = LatentVecEnv(Settings(**arguments).load("phantom", "cpu", 2), seed=5)  # type: ignore[arg-type]
    assert np.array_equal(np.asarray(sb3.reset()), seen)
    singles.action_space.seed(0)
    for _ in range(5):
        actions = singles.action_space.sample()
        ours, theirs = batch.step(actions)[0], singles.step(actions)[0]
        assert batch.observation_space.contains(ours)
        assert np.abs(ours.astype(int) - theirs).max() <= 1  # rounded from numbers that differ by rounding


def test_cnn_policies_learn_from_a_single_world_and_from_a_batch() -> None:
    for env in (
        gym.make("LatentAug-Digits-v0", observation="image"),
        LatentVecEnv(Settings(observation="image").load("digits", "cpu", 2), seed=0),
    ):
        model = PPO("CnnPolicy", env, n_steps=4, batch_size=4, n_epochs=1, seed=0, device="cpu")
        before = [part.clone() for part in model.policy.parameters()]
        model.learn(8)
        after = model.policy.parameters()
        assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_the_learners_of_the_scripts_refuse_images() -> None:
    run: Any = OmegaConf.to_object(compose("train_ppo", ["env.observation=image"]))
    with pytest.raises(UserError, match=r"env\.observation=image is for policies with convolutions"):
        make_dynamics(run.env, run.reward, run.agent, make_world("spatial"))
