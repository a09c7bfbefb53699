"""The batch: side by side with single worlds, in both autoreset modes."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import WORLDS
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from latent_common.errors import UserError
from latent_env.vector_env import LatentAugVectorEnv

MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]
pytestmark = pytest.mark.filterwarnings("error")


def assert_same(a: Any, b: Any, path: str = "info") -> None:
    """Equal structure; equal numbers up to the rounding of another batch size."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, np.ndarray) and a.dtype == object:
        assert [x is None for x in a] == [x is None for x in b], path
        for x, y in zip(a, b, strict=True):
            if x is not None:
                np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4, err_msg=path)
    else:
        assert a.dtype == b.dtype, path
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=path)


def singles(count: int, mode: AutoresetMode, spec: str = "LatentAug-v0", **arguments: Any) -> SyncVectorEnv:
    make = [lambda: gym.make(spec, **arguments) for _ in range(count)]
    return SyncVectorEnv(make, autoreset_mode=mode)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("limit", [None, 2])
def test_equals_single_worlds_side_by_side(world: str, mode: AutoresetMode, limit: int | None) -> None:
    arguments: dict[str, Any] = {"artifacts": world, "horizon": 3, "time_aware": True}
    if limit:
        arguments["max_episode_steps"] = limit
    batch = gym.make_vec("LatentAug-v0", num_envs=3, **arguments, device="cpu", autoreset_mode=mode.value)
    single = singles(3, mode, **arguments)
    assert batch.single_observation_space == single.single_observation_space
    assert batch.observation_space == single.observation_space
    assert batch.action_space == single.action_space
    for ours, theirs in zip(batch.reset(seed=11), single.reset(seed=11), strict=True):
        assert_same(ours, theirs)
    single.action_space.seed(0)
    for _ in range(9):
        actions = single.action_space.sample()
        for ours, theirs in zip(batch.step(actions), single.step(actions), strict=True):
            assert_same(ours, theirs)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("limit", [None, 3])
def test_denoising_equals_single_worlds_that_end_when_they_are_done(
    mode: AutoresetMode, conditional: bool, limit: int | None
) -> None:
    arguments: dict[str, Any] = {
        "start": "drawn",
        "threshold": 0.35,
        "horizon": 4,
        "conditional": conditional,
    }
    arguments["reward"] = {"critic": 1.0, "interpolate": 0.5}
    if limit:
        arguments["max_episode_steps"] = limit
    spec, lengths = "LatentDenoise-v0", set()
    batch = gym.make_vec(spec, num_envs=4, **arguments, device="cpu", autoreset_mode=mode.value)
    single = singles(4, mode, spec, **arguments)
    assert batch.observation_space == single.observation_space
    assert batch.action_space == single.action_space
    for ours, theirs in zip(batch.reset(seed=11), single.reset(seed=11), strict=True):
        assert_same(ours, theirs)
    single.action_space.seed(0)
    for _ in range(12):
        actions = 0.2 * single.action_space.sample()
        for ours, theirs in zip(batch.step(actions), single.step(actions), strict=True):
            assert_same(ours, theirs)
        lengths.add(tuple(batch.unwrapped.dynamics.elapsed.tolist()))  # type: ignore[attr-defined]
    assert any(len(set(clocks)) > 1 for clocks in lengths)  # some were done before others


@pytest.mark.parametrize("mode", MODES)
def test_worlds_out_of_step(mode: AutoresetMode) -> None:
    """After a partial reset some worlds end earlier than others."""
    batch = LatentAugVectorEnv(3, horizon=3, device="cpu", autoreset_mode=mode)
    single = singles(3, mode, horizon=3)
    mask = np.array([True, False, True])
    batch.reset(seed=5)
    single.reset(seed=5)
    single.action_space.seed(1)
    for i in range(10):
        actions = single.action_space.sample()
        for ours, theirs in zip(batch.step(actions), single.step(actions), strict=True):
            assert_same(ours, theirs)
        if i == 1:
            ours = batch.reset(options={"reset_mask": mask.copy()})
            theirs = single.reset(options={"reset_mask": mask.copy()})
            for a, b in zip(ours, theirs, strict=True):
                assert_same(a, b)


def test_world_i_equals_a_single_world_seeded_s_plus_i() -> None:
    batch = gym.make_vec("LatentAug-v0", num_envs=4, device="cpu")
    actions = batch.action_space.sample()
    observations, _ = batch.reset(seed=20)
    after, rewards, *_ = batch.step(actions)
    for world in range(4):
        env = gym.make("LatentAug-v0")
        observation, _ = env.reset(seed=20 + world)
        np.testing.assert_array_equal(observation, observations[world])
        observation, reward, *_ = env.step(actions[world])
        np.testing.assert_allclose(observation, after[world], rtol=1e-5, atol=1e-5)
        assert reward == pytest.approx(rewards[world], abs=1e-5)


def test_list_of_seeds_and_unseeded_batches() -> None:
    batch = gym.make_vec("LatentAug-v0", num_envs=3, device="cpu")
    listed, _ = batch.reset(seed=[4, 9, 4])
    assert np.array_equal(listed[0], listed[2])
    assert not np.array_equal(listed[0], listed[1])
    kept, _ = batch.reset(seed=[None, 9, None])
    assert np.array_equal(kept[1], listed[1])
    first, _ = LatentAugVectorEnv(3, device="cpu").reset(seed=[None, 9, None])
    assert np.array_equal(first[1], listed[1])
    partly = LatentAugVectorEnv(64, device="cpu")
    partly.reset(options={"reset_mask": np.arange(64) == 0})
    assert len(set(partly.reset()[1]["source"])) > 16  # worlds without a seed are worlds of their own
    fresh = [gym.make_vec("LatentAug-v0", num_envs=64, device="cpu").reset()[1]["source"] for _ in range(2)]
    assert not np.array_equal(*fresh)


@pytest.mark.parametrize("mode", MODES)
def test_registered_autoreset_mode(mode: AutoresetMode) -> None:
    batch = gym.make_vec("LatentAug-v0", num_envs=2, autoreset_mode=mode)
    assert batch.metadata["autoreset_mode"] is mode
    assert isinstance(batch.unwrapped, LatentAugVectorEnv)


def test_observations_are_the_callers_own() -> None:
    batch = gym.make_vec("LatentAug-v0", num_envs=2, device="cpu")
    first, _ = batch.reset(seed=0)
    copy = first.copy()
    batch.step(batch.action_space.sample())
    first_again = first.copy()
    assert np.array_equal(copy, first_again)
    first[:] = 0
    assert not np.array_equal(batch.reset(seed=0)[0], first)


def test_spec_of_a_batch_survives_json() -> None:
    batch = gym.make_vec("LatentAug-v0", num_envs=2, device="cpu", horizon=3)
    assert batch.spec is not None
    twin = gym.make_vec(gym.envs.registration.EnvSpec.from_json(batch.spec.to_json()))
    assert twin.num_envs == 2
    assert np.array_equal(batch.reset(seed=1)[0], twin.reset(seed=1)[0])


def test_pictures_of_every_world() -> None:
    batch = gym.make_vec("LatentAug-v0", num_envs=3, render_mode="rgb_array", device="cpu")
    batch.reset(seed=0)
    batch.step(batch.action_space.sample())
    frames = batch.render()
    assert frames is not None
    assert len(frames) == 3
    env = gym.make("LatentAug-v0", render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == frames[0].shape  # type: ignore[union-attr]


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"num_envs": 0}, "at least 1"),
    ({"num_envs": 2, "autoreset_mode": "Never"}, "autoreset_mode='Never'"),
    ({"num_envs": 2, "autoreset_mode": "Disabled"}, "autoreset_mode='Disabled'"),
    ({"num_envs": 2, "render_mode": "human"}, "render_mode='human'"),
    ({"num_envs": 2, "max_episode_steps": 0}, "max_episode_steps=0"),
    ({"num_envs": 2, "max_episode_steps": 1.5}, "max_episode_steps=1.5"),
    ({"num_envs": 2.5}, "num_envs=2.5"),
    ({"num_envs": "8"}, "num_envs='8'"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=str)
def test_mistakes_are_explained(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LatentAugVectorEnv(**arguments)


def test_wrong_seeds_masks_and_order() -> None:
    batch = LatentAugVectorEnv(2, device="cpu")
    with pytest.raises(gym.error.ResetNeeded):
        batch.step(batch.action_space.sample())
    with pytest.raises(UserError, match="seed=-1"):
        batch.reset(seed=-1)
    with pytest.raises(UserError, match="3 seeds"):
        batch.reset(seed=[1, 2, 3])
    for mask in ([True, False], np.array([1, 0]), np.array([True]), np.array([False, False])):
        with pytest.raises(UserError, match="reset_mask"):
            batch.reset(options={"reset_mask": mask})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_computes_with_one_thread() -> None:
    """OpenMP's threads aren't inherited, and whoever waits for them waits for ever."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        child = multiprocessing.get_context("fork").Process(target=_exit_with_number_of_threads)
        child.start()
        child.join(60)
    finally:
        torch.set_num_threads(before)
    assert child.exitcode == 1


def _exit_with_number_of_threads() -> None:
    os._exit(torch.get_num_threads())


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_workers_step_after_their_parent_has_computed() -> None:
    code = """
import gymnasium, latent_env, torch
torch.set_num_threads(2)
torch.randn(1000, 1000).exp().sum()
env = gymnasium.make_vec("LatentAug-v0", num_envs=2, vectorization_mode="async", artifacts="phantom")
env.reset(seed=0)
env.step(env.action_space.sample())
env.close()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("spec", ["LatentAug-v0", "LatentDenoise-v0"])
def test_gymnasiums_classes_are_direct_bases(spec: str) -> None:
    """Libraries such as skrl look no deeper."""
    registered = gym.spec(spec)
    single, batch = (
        load_env_creator(str(entry)) for entry in (registered.entry_point, registered.vector_entry_point)
    )
    assert gym.Env in single.__bases__  # type: ignore[attr-defined]
    assert gym.vector.VectorEnv in batch.__bases__  # type: ignore[attr-defined]
