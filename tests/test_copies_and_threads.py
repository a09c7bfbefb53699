"""Environments that are copied, or used in threads and processes, as clients do it."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from latent_env.worlds.tasks import FIXED, GENERAL

IDS = [task.id for task in (*GENERAL, *FIXED)]


def play(env: gym.Env[Any, Any], steps: int = 3) -> list[Any]:
    """What happens next, with actions that are the same for everyone."""
    drawing = np.random.default_rng(5)
    seen: list[Any] = []
    for _ in range(steps):
        action = drawing.uniform(-1, 1, env.action_space.shape or ()).astype(np.float32)
        observation, reward, terminated, _, info = env.step(action)
        seen += [observation, reward, terminated, *info.values()]
        if np.all(terminated):
            seen.append(env.reset()[0])
    return seen


def same(one: list[Any], other: list[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("how", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("task", IDS)
def test_a_copy_goes_on_as_the_original_does_and_alone(task: str, batch: bool, how: Any) -> None:
    env: Any = gym.make_vec(task, num_envs=2, device="cpu") if batch else gym.make(task)
    env.reset(seed=3)
    twin = how(env)
    first = play(env)
    assert same(play(twin), first)
    assert not same(play(env), first)


@pytest.mark.parametrize("task", [task.id for task in FIXED])
def test_threads_dont_disturb_each_other(task: str) -> None:
    def alone(seed: int) -> list[Any]:
        env = gym.make(task)
        return [env.reset(seed=seed)[0], *play(env, 8)]

    expected = [alone(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(alone, range(4)))
    assert all(same(one, other) for one, other in zip(found, expected, strict=True))


def in_another_process(env: gym.Env[Any, Any], seed: int) -> list[Any]:
    return [env.reset(seed=seed)[0], *play(env)]


@pytest.mark.slow
def test_a_spawned_process_gets_an_environment_and_plays_it() -> None:
    env = gym.make("LatentAug-v0")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        elsewhere = pool.apply(in_another_process, (env, 3))
    assert same(elsewhere, in_another_process(env, 3))


@pytest.mark.slow
def test_async_worlds_may_be_spawned() -> None:
    worlds = gym.make_vec(
        "LatentAug-v0", num_envs=2, vectorization_mode="async", vector_kwargs={"context": "spawn"}
    )
    try:
        observations, _ = worlds.reset(seed=3)
        *_, infos = worlds.step(worlds.action_space.sample())
    finally:
        worlds.close()
    assert np.array_equal(observations[0], gym.make("LatentAug-v0").reset(seed=3)[0])
    assert "reward_terms/target" in infos
