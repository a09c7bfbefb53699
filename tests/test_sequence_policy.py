"""The decision transformer's policy: step by step it is the whole sequence, and nothing later is seen."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest
import torch
from one_step_task import Array, UniformPolicy, make_target_envs, mean_reward, without_logger

from agents.learners.sequences.decision_transformer import DecisionTransformer
from agents.learners.sequences.sequence_policy import DecisionTransformerPolicy
from agents.learners.sequences.trajectories import RecordedPolicy


def sequence_policy(context: int) -> DecisionTransformerPolicy:
    """A policy that isn't fresh in any respect."""
    torch.manual_seed(0)
    env = make_target_envs(1)
    space = env.action_space
    assert isinstance(space, gym.spaces.Box)
    policy = DecisionTransformerPolicy(
        env.observation_space, space, lambda _: 1e-3, context, net_arch=(16, 16), heads=2
    )
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        policy.target_return.fill_(-0.5)
        policy.return_scale.fill_(3.0)
        policy.location.copy_(torch.tensor([0.1, -0.2]))
        policy.scale.copy_(torch.tensor([0.5, 0.7]))
    return policy


def acted(
    policy: DecisionTransformerPolicy, seen: Sequence[Array], starts: Sequence[list[bool]]
) -> list[Array]:
    """Deterministic actions, step by step, in [-2, 2]."""
    memory: tuple[npt.NDArray[Any], ...] | None = None
    made = []
    for observation, begins in zip(seen, starts, strict=True):
        actions, memory = policy.predict(observation, memory, np.array(begins), deterministic=True)
        made.append(actions)
    return made


def at_once(policy: DecisionTransformerPolicy, seen: Array, done: Array, first: int = 0) -> Array:
    """Actions from all steps of one world together, ``(K, k)``; ``first`` is the first one's number."""
    times = torch.arange(first, first + len(seen))[None]
    target_return = policy.target_return.expand(times.shape)
    with torch.no_grad():
        means, _ = policy.actions(
            target_return, torch.from_numpy(seen)[None], torch.from_numpy(done)[None] / 2, times
        )
    return 2 * means[0].numpy()


def test_step_by_step_is_the_whole_sequence() -> None:
    policy = sequence_policy(context=6)
    seen = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    made = np.stack(acted(policy, list(seen), [[True] * 3, *[[False] * 3] * 3]))
    for world in range(3):
        expected = at_once(policy, seen[:, world], made[:, world])
        np.testing.assert_allclose(made[:, world], expected, atol=1e-5)
    # The past matters: without it the last action would be another one.
    alone, _ = policy.predict(seen[-1], deterministic=True)
    assert np.abs(alone - made[-1]).min() > 1e-3


def test_nobody_sees_what_comes_later() -> None:
    policy = sequence_policy(context=6)
    rng = np.random.default_rng(0)
    seen, done = (rng.uniform(-1, 1, (4, 2)).astype(np.float32) for _ in range(2))
    before = at_once(policy, seen, done)
    seen[3], done[2] = 5, -done[2]
    after = at_once(policy, seen, done)
    np.testing.assert_allclose(before[:3], after[:3], atol=1e-6)
    assert np.abs(before[3] - after[3]).max() > 1e-3


def test_a_new_episode_forgets_and_others_dont() -> None:
    policy = sequence_policy(context=6)
    seen = np.random.default_rng(0).normal(size=(4, 2, 2)).astype(np.float32)
    starts = [[True, True], [False, False], [True, False], [False, False]]
    made = np.stack(acted(policy, list(seen), starts))
    np.testing.assert_allclose(made[:, 1], at_once(policy, seen[:, 1], made[:, 1]), atol=1e-5)
    np.testing.assert_allclose(made[:2, 0], at_once(policy, seen[:2, 0], made[:2, 0]), atol=1e-5)
    np.testing.assert_allclose(made[2:, 0], at_once(policy, seen[2:, 0], made[2:, 0]), atol=1e-5)


def test_the_oldest_step_makes_room() -> None:
    policy = sequence_policy(context=3)
    seen = np.random.default_rng(0).normal(size=(6, 2, 2)).astype(np.float32)
    made = np.stack(acted(policy, list(seen), [[True] * 2, *[[False] * 2] * 5]))
    for world, step in itertools.product(range(2), range(6)):
        begin = max(step - 2, 0)
        part = slice(begin, step + 1)
        expected = at_once(policy, seen[part, world], made[part, world], begin)[-1]
        np.testing.assert_allclose(made[step, world], expected, atol=1e-5)
    # What has been dropped has no say.
    seen[0] += 9
    other = np.stack(acted(policy, list(seen[3:]), [[True] * 2, *[[False] * 2] * 2]))
    assert np.abs(other[-1] - made[-1]).max() > 1e-3  # only its number is known from before


def test_a_memory_that_was_handed_out_doesnt_change() -> None:
    policy = sequence_policy(context=2)
    seen = np.random.default_rng(0).normal(size=(3, 2, 2)).astype(np.float32)
    _, memory = policy.predict(seen[0], deterministic=True)
    assert memory is not None
    copied = [part.copy() for part in memory]
    one, _ = policy.predict(seen[1], memory, deterministic=True)
    for part, copy in zip(memory, copied, strict=True):
        np.testing.assert_array_equal(part, copy)
    other, _ = policy.predict(seen[1], memory, np.zeros(2, np.bool_), deterministic=True)
    np.testing.assert_array_equal(one, other)


def test_a_transformer_without_demonstrations_says_so() -> None:
    with pytest.raises(ValueError, match="pass at least one source"):
        DecisionTransformer("MlpPolicy", make_target_envs(1), device="cpu").learn(1)


def test_a_transformer_saves_neither_demonstrations_nor_memory() -> None:
    env = make_target_envs(2)
    recorded, small = [RecordedPolicy(UniformPolicy(env.action_space))], {"context": 2, "net_arch": [8]}
    model = DecisionTransformer(
        "MlpPolicy", env, recorded, gradient_steps=2, policy_kwargs=small, device="cpu"
    )
    without_logger(model).learn(8)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    loaded = DecisionTransformer.load(file, device="cpu")
    assert loaded.demonstrations == []
    assert loaded.trajectories is None
    assert mean_reward(loaded) == mean_reward(model)
