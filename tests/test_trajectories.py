"""Recorded episodes: their bookkeeping, what is watched, and forward diffusion played backwards."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import make_world
from denoise_worlds import make_denoise_world
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import Tensor

from agents.baselines.none_and_random import RandomAgent
from agents.learners.sequences.demonstrations import ReversedDiffusion
from agents.learners.sequences.trajectories import RecordedPolicy, Trajectories
from agents.sb3_vec_env import LatentVecEnv
from latent_common.errors import UserError
from latent_env.denoise.dynamics import DenoiseDynamics
from latent_env.denoise.settings import DenoiseSettings
from latent_env.settings import Settings

Array = npt.NDArray[np.float32]
LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=6)


def invented(lengths: list[int], seed: int = 0) -> Trajectories:
    """Episodes of these lengths with random content."""
    generator = torch.Generator().manual_seed(seed)
    count = sum(lengths)
    return Trajectories(
        torch.randn(count, 3, generator=generator),
        torch.rand(count, 2, generator=generator) * 2 - 1,
        torch.randn(count, generator=generator),
        torch.cat([torch.arange(length) for length in lengths]),
    )


def assert_same(one: Trajectories, other: Trajectories) -> None:
    for field in fields(Trajectories):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=field.name)


@settings(max_examples=20)
@given(lengths=LENGTHS)
def test_returns_are_sums_of_episodes(lengths: list[int]) -> None:
    made = invented(lengths)
    parts = made.rewards.split(lengths)
    torch.testing.assert_close(made.returns(), torch.stack([part.sum() for part in parts]))
    numbers = [number for number, length in enumerate(lengths) for _ in range(length)]
    assert made.episodes().tolist() == numbers


@settings(max_examples=30)
@given(lengths=LENGTHS, length=st.integers(1, 7), data=st.data())
def test_windows_are_the_steps_before(lengths: list[int], length: int, data: st.DataObject) -> None:
    made = invented(lengths)
    ends = data.draw(st.lists(st.integers(0, len(made) - 1), min_size=1, max_size=5))
    returns = made.returns()[made.episodes()]
    windows = made.windows(torch.tensor(ends), length, returns)
    assert windows.known.shape == (len(ends), length)
    for row, end in enumerate(ends):
        episode = int(made.episodes()[end])
        begin = sum(lengths[:episode])
        expected = [step for step in range(begin, end + 1) if step > end - length]
        known = windows.known[row].tolist()
        assert known == [True] * len(expected) + [False] * (length - len(expected))
        held = len(expected)
        assert windows.observations[row, :held].equal(made.observations[expected])
        assert windows.actions[row, :held].equal(made.actions[expected])
        assert windows.times[row, :held].tolist() == [step - begin for step in expected]
        paid = made.rewards[begin : begin + lengths[episode]].sum()
        torch.testing.assert_close(windows.returns[row, :held], paid.expand(held))


@settings(max_examples=30)
@given(lengths=LENGTHS, steps=st.integers(0, 40))
def test_the_last_steps_are_whole_episodes(lengths: list[int], steps: int) -> None:
    made = invented(lengths)
    kept: list[int] = []
    for length in reversed(lengths):
        if kept and sum(kept) + length > steps:
            break
        kept.insert(0, length)
    last = made.last(steps)
    assert len(last) == sum(kept)
    parts = {f.name: getattr(made, f.name)[len(made) - sum(kept) :] for f in fields(Trajectories)}
    assert_same(last, Trajectories(**parts))


def test_joined_and_back_from_tensors() -> None:
    first, second = invented([2, 3], seed=1), invented([4], seed=2)
    joined = Trajectories.joined(first, second)
    assert len(joined) == 9
    assert joined.times.tolist() == [0, 1, 0, 1, 2, 0, 1, 2, 3]
    torch.testing.assert_close(joined.returns(), torch.cat([first.returns(), second.returns()]))
    assert_same(joined.last(4), second)
    assert_same(Trajectories.from_tensors(joined.tensors()), joined)


class Counting:
    """Acts by its memory alone: a tenth of the steps since the episode began, in the units of ``space``."""

    def __init__(self, space: gym.spaces.Box) -> None:
        self.space = space

    def predict(
        self,
        observation: Array,
        state: tuple[npt.NDArray[Any], ...] | None = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[Array, Any]:
        assert episode_start is not None
        assert not deterministic
        before = np.zeros(len(observation)) if state is None else state[0]
        count = np.where(episode_start, 0, before)
        middle, half = (self.space.high + self.space.low) / 2, (self.space.high - self.space.low) / 2
        return (middle + half * count[:, None] / 10).astype(np.float32), (count + 1,)


def pendulum(length: int) -> gym.Env[Any, Any]:
    return gym.make("Pendulum-v1", max_episode_steps=length)


def pendulums(*lengths: int) -> DummyVecEnv:
    return DummyVecEnv([partial(pendulum, length) for length in lengths])


def augmenting(count: int = 4, horizon: int = 3) -> LatentVecEnv:
    return LatentVecEnv(Settings(horizon=horizon).dynamics(make_world("flat"), count), 0)


def denoising(count: int = 4, seed: int = 0, **arguments: Any) -> LatentVecEnv:
    chosen = DenoiseSettings(**{"threshold": None, "horizon": 4, **arguments})
    return LatentVecEnv(chosen.dynamics(make_denoise_world(), count), seed)


def dynamics_of(env: LatentVecEnv) -> DenoiseDynamics:
    assert isinstance(env.dynamics, DenoiseDynamics)
    return env.dynamics


def played(env: VecEnv, actions: list[Array], times: int) -> list[tuple[Array, Array, float, int]]:
    """Steps of the first episode of every world, world by world, ``times`` over; ``actions`` one a step."""
    found, upcoming = [], iter(actions)
    for _ in range(times):
        now = np.asarray(env.reset())
        episodes: list[list[tuple[Array, Array, float, int]]] = [[] for _ in range(env.num_envs)]
        ended = np.zeros(env.num_envs, dtype=np.bool_)
        while not ended.all():
            action = next(upcoming)
            following, rewards, dones, _ = env.step(action)
            for world in np.flatnonzero(~ended):
                step = (now[world].copy(), action[world], float(rewards[world]), len(episodes[world]))
                episodes[world].append(step)
            ended |= dones
            now = np.asarray(following)
        found += [step for episode in episodes for step in episode]
    assert next(upcoming, None) is None  # nothing else was done
    return found


class Noting:
    """A random agent that keeps what it did."""

    def __init__(self, space: gym.spaces.Space[Any]) -> None:
        self.space, self.done = space, list[Array]()

    def predict(self, observation: Array, *_: Any, **__: Any) -> tuple[Array, None]:
        self.done.append(np.stack([self.space.sample() for _ in observation]))
        return self.done[-1], None


WATCHED = ["augment", "denoise", "pendulum"]


def watched(kind: str) -> VecEnv:
    match kind:
        case "augment":
            return augmenting()
        case "denoise":  # worlds end at different steps
            return denoising(8, threshold=0.5, start="drawn")
    return pendulums(5, 3, 4)


@pytest.mark.parametrize("kind", WATCHED)
def test_watching_tells_what_happened(kind: str) -> None:
    env = watched(kind)
    env.seed(7)
    env.action_space.seed(0)
    agent = Noting(env.action_space)
    made = RecordedPolicy(agent).record(env, 13)
    begins = int((made.times == 0).sum())
    assert begins % env.num_envs == 0
    assert len(made) >= 13
    env.seed(7)
    steps = played(env, agent.done, begins // env.num_envs)
    observations, actions, rewards, times = (np.stack(part) for part in zip(*steps, strict=True))
    assert made.times.tolist() == times.tolist()
    np.testing.assert_allclose(made.observations, observations, atol=1e-6)
    np.testing.assert_allclose(made.rewards, rewards, rtol=1e-5, atol=1e-6)
    assert made.observations.dtype == made.actions.dtype == made.rewards.dtype == torch.float32
    high = 2 if kind == "pendulum" else 1
    np.testing.assert_allclose(made.actions, actions / high, atol=1e-6)
    assert 0.5 < float(made.actions.abs().max()) <= 1
    if kind == "denoise":
        lengths = np.diff([*np.flatnonzero(times == 0), len(times)])
        assert len(set(lengths)) > 1


def test_watching_stops_after_enough_steps() -> None:
    for steps, expected in ((1, 8), (8, 8), (9, 16), (17, 24)):
        env = pendulums(5, 3)
        assert len(RecordedPolicy(Noting(env.action_space)).record(env, steps)) == expected


@pytest.mark.parametrize("kind", WATCHED)
def test_the_watched_keep_their_memory_within_an_episode(kind: str) -> None:
    env = watched(kind)
    space = env.action_space
    assert isinstance(space, gym.spaces.Box)
    made = RecordedPolicy(Counting(space)).record(env, 20)
    assert int(made.times.max()) >= 2
    torch.testing.assert_close(made.actions, (made.times / 10)[:, None].expand_as(made.actions))


def test_watching_a_box_that_is_not_centred() -> None:
    class Uneven(gym.Env[Array, Array]):
        def __init__(self) -> None:
            self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
            self.action_space = gym.spaces.Box(
                np.array([0, -3], np.float32), np.array([1, 5], np.float32), dtype=np.float32
            )

        def reset(self, **_: Any) -> tuple[Array, dict[str, Any]]:
            return np.zeros(2, np.float32), {}

        def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
            return np.zeros(2, np.float32), float(action.sum()), True, False, {}

    class Constant:
        def predict(self, observation: Array, *_: Any, **__: Any) -> tuple[Array, None]:
            return np.repeat(np.array([[0.25, 5.0]], np.float32), len(observation), axis=0), None

    made = RecordedPolicy(Constant()).record(DummyVecEnv([Uneven]), 1)
    assert made.actions.tolist() == [[-0.5, 1.0]]
    assert made.rewards.tolist() == [5.25]  # the world was given its own units


POINTS, DRAWS = 5, 40_000


@pytest.mark.parametrize("renewed", [0.0, 0.7, 1.0])
def test_every_point_of_a_path_has_the_statistics_of_the_forward_process(renewed: float) -> None:
    clean = torch.full((DRAWS, 1), 1.5)
    noise = torch.randn(DRAWS, 1, generator=torch.Generator().manual_seed(1))
    path = ReversedDiffusion(0, renewed).path(clean, noise, POINTS)
    assert path.shape == (DRAWS, POINTS + 1, 1)
    assert path[:, 0].equal(noise)
    assert path[:, -1].equal(clean)
    for point in range(POINTS + 1):
        amount = 1 - point / POINTS
        states = path[:, point, 0]
        assert float(states.mean()) == pytest.approx((1 - amount**2) ** 0.5 * 1.5, abs=0.03)
        assert float(states.std()) == pytest.approx(amount, abs=0.02)


def test_a_path_keeps_its_noise_or_is_the_forward_chain() -> None:
    clean = torch.full((DRAWS, 1), 1.5)
    noise = torch.randn(DRAWS, 1, generator=torch.Generator().manual_seed(1))
    straight = ReversedDiffusion(0, 0.0).path(clean, noise, POINTS)
    chain = ReversedDiffusion(0, 1.0).path(clean, noise, POINTS)[..., 0]
    for point in range(POINTS):
        amount = 1 - point / POINTS
        kept = (1 - amount**2) ** 0.5
        torch.testing.assert_close(straight[:, point], kept * clean + amount * noise)
        # Where all is renewed, a noisier state is the one before it, shrunk, and noise of its own.
        less = amount - 1 / POINTS
        shrunk = (kept**2 / (1 - less**2)) ** 0.5
        together = float(torch.cov(chain[:, point : point + 2].T)[0, 1])
        assert together == pytest.approx(shrunk * less**2, abs=0.02)


def states_of(made: Trajectories) -> Tensor:
    return made.observations[:, :6]  # a state of 6 numbers, then the class


def test_demonstrations_lead_from_noise_to_images() -> None:
    env = denoising(time_aware=True, max_delta=20.0)  # so far that nothing is cut off
    made = ReversedDiffusion(3).record(env, 400)
    worlds = dynamics_of(env)
    assert len(made) == 400
    assert made.times.tolist() == [0, 1, 2, 3] * 100
    assert made.observations.shape == (400, 6 + 3 + 1)
    assert float(made.actions.abs().max()) < 1
    states = states_of(made)
    first, last = states[made.times == 0], (states + 20 * made.actions)[made.times == 3]
    assert abs(float(first.mean())) < 0.15
    assert float(first.std()) == pytest.approx(1, abs=0.1)
    away = torch.cdist(last, worlds.world.states)
    sources = away.argmin(1)
    assert float(away.min(1).values.max()) < 1e-2
    assert len(sources.unique()) > 12  # of 24 images
    classes = made.observations[made.times == 3, 6:9]
    assert classes.argmax(1).equal(worlds.world.labels[sources])
    torch.testing.assert_close(made.observations[:, 9], 1 - made.times / 4)
    # Rewards add up to what the way was worth.
    gained = worlds.reward.critic(last, classes) - worlds.reward.critic(first, classes)
    assert float(gained.abs().max()) > 0.1
    torch.testing.assert_close(made.returns(), gained, atol=1e-4, rtol=0)


def test_demonstrated_actions_lead_on_unless_they_are_cut_off() -> None:
    env = denoising(horizon=8)
    made = ReversedDiffusion(3).record(env, 800)
    states = states_of(made)
    reached = states + dynamics_of(env).perturbation.max_delta * made.actions
    inner = (made.times < 7)[:, None] & (made.actions.abs() < 1)
    following = states.roll(-1, 0)
    torch.testing.assert_close(reached[inner], following[inner], atol=1e-4, rtol=0)
    assert float(made.actions.abs().max()) == 1  # some ways are too far
    assert float((made.actions.abs() == 1).float().mean()) < 0.2


def test_demonstrations_are_rewarded_by_every_term() -> None:
    env = denoising(reward={"interpolate": 2.0})
    made = ReversedDiffusion(3, renewed=0.0).record(env, 200)
    torch.testing.assert_close(made.returns(), torch.full((50,), 2.0), atol=1e-3, rtol=0)
    without = denoising(conditional=False)
    assert ReversedDiffusion(3).record(without, 8).observations.shape == (8, 6)


def test_demonstrations_end_where_an_image_is_done() -> None:
    env = denoising(threshold=0.5, horizon=6, max_delta=20.0)
    worlds = dynamics_of(env)
    made = ReversedDiffusion(0).record(env, 600)
    states, wanted = states_of(made), made.observations[:, 6:9]
    assert not worlds.done({"critic": worlds.reward.critic(states, wanted)})[made.times > 0].any()
    done = worlds.done({"critic": worlds.reward.critic(states + 20 * made.actions, wanted)})
    ends = torch.cat([made.times[1:] == 0, torch.tensor([True])])
    assert ends.equal(done | (made.times == 5))
    assert {0, 5} < set(made.times[ends].tolist())


def test_demonstrations_have_steps_where_noise_passes_for_an_image() -> None:
    """Episodes that are played have a first step whatever they start with, and learning needs some."""
    made = ReversedDiffusion(0).record(denoising(threshold=1e-6), 32)
    assert len(made) > 0
    assert (made.times == 0).all()


def test_the_same_seed_demonstrates_the_same() -> None:
    one, same = ReversedDiffusion(3), ReversedDiffusion(3)
    first = one.record(denoising(), 20)
    assert_same(first, same.record(denoising(seed=9), 20))
    again = one.record(denoising(), 20)
    assert_same(again, same.record(denoising(), 20))
    assert not again.observations.equal(first.observations)
    assert not ReversedDiffusion(4).record(denoising(), 20).observations.equal(first.observations)


def test_demonstrations_dont_touch_the_worlds() -> None:
    env = denoising()
    before = env.reset()
    ReversedDiffusion(0).record(env, 20)
    np.testing.assert_array_equal(dynamics_of(env).observe().numpy(), np.asarray(before))
    assert env.take_statistics()[0] == {}


def test_demonstrations_are_refused_elsewhere() -> None:
    for env in (augmenting(), pendulums(3)):
        with pytest.raises(UserError, match="forward is for env=latent_denoise alone"):
            ReversedDiffusion(0).record(env, 4)


def test_random_agents_can_be_watched_on_denoising() -> None:
    env = denoising()
    made = RecordedPolicy(RandomAgent(env.dynamics, 0)).record(env, 16)
    assert len(made) == 16
    assert float(made.actions.abs().max()) <= 1
