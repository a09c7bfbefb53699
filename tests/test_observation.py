"""What agents see of a latent: all of it, or the means of squares of its tokens."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import make_world
from gymnasium.vector import SyncVectorEnv
from stable_baselines3.common.env_checker import check_env

from agents.sb3_vec_env import LatentVecEnv
from latent_common.errors import UserError
from latent_env.observation import Observer
from latent_env.settings import Settings

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize(
    ("shape", "seen"),
    [
        ((32, 16, 16), 32 * 4 * 4),
        ((64, 14, 14), 64 * 2 * 2),
        ((8, 16, 16), 8 * 8 * 8),
        ((4, 16, 16), 4 * 8 * 8),
        ((3, 7, 7), 3 * 7 * 7),  # little enough as it is
        ((48, 7, 7), 48 * 3 * 3),  # the last squares are cut
        ((300, 5, 5), 300),
        ((768, 7, 7), 768),  # more channels than numbers that are asked for
    ],
)
def test_pooled_observations_are_means_of_squares(shape: tuple[int, ...], seen: int) -> None:
    latents = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    observer = Observer("pooled", shape)
    observed = observer(latents)
    assert observed.shape == (2, seen) == (2, observer.size)
    side = observer.window
    corner = latents[:, :, :side, :side].mean((2, 3))
    torch.testing.assert_close(observed.view(2, shape[0], -1)[:, :, 0], corner)
    far = latents[:, :, (shape[1] - 1) // side * side :, (shape[2] - 1) // side * side :].mean((2, 3))
    torch.testing.assert_close(observed.view(2, shape[0], -1)[:, :, -1], far)


@pytest.mark.parametrize(
    ("shape", "seen"),
    [((4, 16, 16), 1024), ((8, 16, 16), 512), ((16,), 16), ((4096,), 4096), ((768, 1, 1), 768)],
)
def test_only_large_latents_are_pooled_by_default(shape: tuple[int, ...], seen: int) -> None:
    assert Observer("auto", shape).size == seen
    latents = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    if seen == latents[0].numel():
        assert torch.equal(Observer("auto", shape)(latents), latents.flatten(1))
    else:
        assert torch.equal(Observer("auto", shape)(latents), Observer("pooled", shape)(latents))


def test_what_was_observed_stays_when_the_world_goes_on() -> None:
    dynamics = Settings(observation="latent").dynamics(make_world("spatial"), 2)
    seen = dynamics.reset_tensor()
    before = seen.clone()
    dynamics.step_tensor(torch.ones(2, dynamics.perturbation.action_size))
    assert torch.equal(seen, before)


def test_checkers_and_a_batch_agree_on_pooled_observations() -> None:
    arguments = {
        "artifacts": "phantom",
        "observation": "pooled",
        "reward": {"boundary": 1.0},
        "time_aware": True,
        "horizon": 3,
    }
    single = gym.make("LatentAug-v0", **arguments, disable_env_checker=True)
    check_env(single.unwrapped)
    assert single.observation_space.shape == (4 * 8 * 8 + 1,)
    batch = gym.make_vec("LatentAug-v0", num_envs=2, **arguments, device="cpu")
    singles = SyncVectorEnv([lambda: gym.make("LatentAug-v0", **arguments) for _ in range(2)])
    assert batch.observation_space == singles.observation_space
    np.testing.assert_allclose(batch.reset(seed=5)[0], singles.reset(seed=5)[0], atol=1e-5)
    singles.action_space.seed(0)
    for _ in range(5):
        actions = singles.action_space.sample()
        ours, theirs = batch.step(actions)[0], singles.step(actions)[0]
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
        assert batch.observation_space.contains(ours)


def test_sb3_sees_what_a_single_world_shows() -> None:
    settings = Settings(observation="pooled")
    env = LatentVecEnv(settings.load("phantom", "cpu", 2), seed=30)
    single = gym.make("LatentAug-v0", artifacts="phantom", observation="pooled")
    together, alone = np.asarray(env.reset()), single.reset(seed=31)[0]
    np.testing.assert_allclose(alone, together[1], atol=1e-5)


def test_a_flat_latent_has_no_squares() -> None:
    with pytest.raises(UserError, match="observation=pooled needs a spatial latent"):
        gym.make("LatentAug-v0", artifacts="digits", observation="pooled")
