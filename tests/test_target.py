"""The reward term ``target``: a step is worth what can be seen, and the anomaly asked for is worth most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import make_world

from latent_common.errors import UserError
from latent_env.rewards.reward import WITHOUT_TARGETS
from latent_env.rewards.target import targets_of
from latent_env.settings import Settings
from latent_env.worlds.reference_set import ReferenceSet
from latent_env.worlds.store import load_world, save_world

CPU = torch.device("cpu")


def batch(world: str, count: int = 16, **settings: Any) -> Any:
    return Settings(reward={"target": 1.0}, **settings).load(world, "cpu", count)


def test_a_sample_that_equals_the_anomaly_asked_for_is_worth_one() -> None:
    dynamics = batch("digits", shell_ratio=100.0, max_delta=50.0)
    world, anomalies = dynamics.world, dynamics.world.reference_set.labels == 1
    wanted = world.autoencoder.encode(world.reference_set.inputs[anomalies].float() / 255)
    seeds = torch.arange(16)
    dynamics.reset_tensor(seeds=seeds)
    which = (dynamics.last.draws * len(wanted)).long()
    there = (wanted[which] - dynamics.last.latent) / dynamics.perturbation.max_delta
    near = dynamics.step_tensor(there).rewards
    dynamics.reset_tensor(seeds=seeds)
    others = (wanted[(which + 7) % len(wanted)] - dynamics.last.latent) / dynamics.perturbation.max_delta
    assert near.mean() > 0.5  # decoding and encoding an anomaly doesn't give back all of it
    assert near.mean() > dynamics.step_tensor(others).rewards.mean() + 0.5


@pytest.mark.parametrize("world", ["digits", "phantom"])
def test_doing_nothing_is_worth_least(world: str) -> None:
    dynamics = batch(world)
    dynamics.reset_tensor(seeds=torch.arange(16))
    nothing = dynamics.perturbation.null_action.expand(16, -1)
    assert dynamics.step_tensor(nothing).rewards.tolist() == [-1.0] * 16


def test_the_observation_says_which_anomaly_is_asked_for() -> None:
    env = gym.make("LatentAug-v0", reward={"target": 1.0}, time_aware=True)
    without = gym.make("LatentAug-v0", reward={"boundary": 1.0}, time_aware=True)
    size = without.observation_space.shape[0]  # type: ignore[index]
    seen = [env.reset(seed=seed, options={"source": 0})[0] for seed in range(200)]
    plain = without.reset(options={"source": 0})[0]
    assert all(np.array_equal(each[: size - 1], plain[:-1]) for each in seen)
    assert seen[0][-1] == plain[-1] == 1
    asked = {each[size - 1 : -1].tobytes() for each in seen}
    assert len(asked) == 32  # any image may ask for any of the 32 anomalies
    assert all(env.observation_space.contains(each) for each in seen)


def test_the_largest_draw_asks_for_the_last_anomaly() -> None:
    targets = targets_of(batch("phantom").world)
    ends = targets.wanted(torch.tensor([0.0, 1.0]))  # numbers in (0, 1) may round to either end
    assert ends.tolist() == [0, len(targets.seen) - 1]


def test_a_new_episode_from_the_same_image_draws_what_it_asks_for_anew() -> None:
    env = gym.make("LatentAug-v0")
    first, _ = env.reset(seed=3, options={"source": 0})
    later = [env.reset(options={"source": 0})[0] for _ in range(5)]
    assert any(not np.array_equal(first, each) for each in later)


def test_the_same_step_from_the_same_observation_is_worth_the_same() -> None:
    env = gym.make("LatentAug-v0")
    env.action_space.seed(1)
    actions = [env.action_space.sample() for _ in range(6)]

    def paid(other: int) -> list[float]:
        env.reset(seed=other)  # whatever happened before
        return [env.step(action)[1] for action in actions if env.reset(seed=7, options={"source": 4})]  # type: ignore[misc]

    assert paid(0) == paid(1)


def test_worlds_without_known_anomalies_have_another_default(tmp_path: Path) -> None:
    spatial = make_world("spatial")
    assert Settings().dynamics(spatial, 1).reward.weights == WITHOUT_TARGETS
    with pytest.raises(UserError, match=r"target.* need a reference set"):
        Settings(reward={"target": 1.0}).dynamics(spatial, 1)
    inputs, labels = torch.zeros(4, 1, 32, 32, dtype=torch.uint8), torch.tensor([0, 0, 1, 1])
    save_world(tmp_path, spatial.with_reference_set(ReferenceSet(inputs, labels)))
    assert Settings().load(str(tmp_path), "cpu", 1).reward.weights == WITHOUT_TARGETS
    with pytest.raises(UserError, match="target needs a reference set with masks"):
        Settings(reward={"target": 1.0}).dynamics(load_world(str(tmp_path), CPU), 1)
