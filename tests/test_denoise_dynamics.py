"""The batched world of denoising: starts, steps, what they are paid, and when an image is done."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from denoise_worlds import make_denoise_world
from torch import Tensor

from agents.baselines.none_and_random import NoneAgent, RandomAgent
from agents.denoise_rollout import generate
from agents.sb3_vec_env import LatentVecEnv
from latent_common.errors import UserError
from latent_env.denoise.dynamics import DenoiseDynamics
from latent_env.denoise.settings import DenoiseSettings
from latent_env.rendering import GAP

SPACES = ["latent", "pixel"]


def dynamics(count: int = 5, space: str = "latent", **arguments: Any) -> DenoiseDynamics:
    settings = DenoiseSettings(space=space, **{"threshold": None, **arguments})
    made = settings.dynamics(make_denoise_world(space), count)
    made.reset_tensor(seeds=torch.arange(count))
    return made


def actions(worlds: DenoiseDynamics, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(worlds.num_worlds, worlds.perturbation.action_size, generator=generator) - 1


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("start", ["full", "drawn"])
def test_rewards_add_up_to_what_was_gained(space: str, start: str) -> None:
    weights = {"critic": 1.0, "interpolate": 0.5}
    worlds = dynamics(space=space, start=start, reward=weights)
    first, total = worlds.last.qualities, torch.zeros(5)
    for step in range(worlds.horizon):
        result = worlds.step_tensor(0.3 * actions(worlds, step))
        total = total + result.rewards
        assert bool(result.terminated.all()) == (step == worlds.horizon - 1)
    last = worlds.last.qualities
    gained = sum(weights[name] * (last[name] - first[name]) for name in weights)
    np.testing.assert_allclose(total, gained, atol=1e-5)
    for name, lowest in (("critic", 0), ("interpolate", -1)):
        assert lowest <= float(last[name].min()) <= float(last[name].max()) <= 1


def test_full_noise_is_noise_and_drawn_starts_lie_on_the_trajectory() -> None:
    full = dynamics(200, start="full")
    assert torch.equal(full.last.state, full.last.noise)
    assert abs(float(full.last.state.mean())) < 0.1
    assert float(full.last.state.std()) == pytest.approx(1, abs=0.05)
    drawn = dynamics(200, start="drawn", reward={"interpolate": 1.0})
    quality = drawn.last.qualities["interpolate"]
    assert float(quality.min()) >= 0  # everywhere on the trajectory
    assert float(quality.min()) < 0.1 < 0.8 < float(quality.max())


def test_the_stride_suffices_to_reach_any_image() -> None:
    worlds = dynamics(50)
    for _ in range(worlds.horizon):
        way = (worlds.last.clean - worlds.last.state) / worlds.perturbation.max_delta
        worlds.step_tensor(way.flatten(1).clamp(-1, 1))
    away = (worlds.last.clean - worlds.last.state).flatten(1).norm(dim=1)
    assert float((away < 1e-4).float().mean()) > 0.95


@pytest.mark.parametrize("conditional", [True, False])
def test_the_class_stands_behind_the_state(conditional: bool) -> None:
    worlds = dynamics(conditional=conditional, time_aware=True)
    seen = worlds.observe()
    assert seen.shape == (5, 6 + 3 * conditional + 1)
    assert torch.equal(seen[:, -1], torch.ones(5))
    if conditional:
        assert torch.equal(seen[:, 6:9].argmax(1), worlds.classes)
        assert torch.equal(seen[:, 6:9].sum(1), torch.ones(5))
    else:
        assert not worlds.last.wanted.any()


def test_an_image_is_done_when_the_critic_finds_it_good() -> None:
    worlds = dynamics(64, threshold=0.5, start="drawn", horizon=6)
    for step in range(1, 7):
        result = worlds.step_tensor(0.2 * actions(worlds, step))
        wanted = (worlds.last.qualities["critic"] >= 0.5) | (torch.tensor(step) == 6)
        assert torch.equal(result.terminated, wanted)
        if step == 1:
            assert result.terminated.any()
            assert not result.terminated.all()


def test_worlds_that_wait_dont_change() -> None:
    worlds = dynamics()
    before = worlds.last
    going = torch.tensor([True, False, True, False, True])
    worlds.step_tensor(actions(worlds), going)
    assert torch.equal(worlds.last.state[~going], before.state[~going])
    assert torch.equal(worlds.last.visited[~going], before.visited[~going])
    assert not torch.equal(worlds.last.state[going], before.state[going])
    assert worlds.elapsed.tolist() == going.long().tolist()
    assert torch.equal(worlds.states_of(0)[1], worlds.last.state[0])
    assert len(worlds.states_of(1)) == 1


def test_a_world_goes_its_own_way_in_any_company() -> None:
    together, alone = dynamics(4), dynamics(1)
    alone.reset_tensor(seeds=torch.tensor([2]))
    np.testing.assert_array_equal(together.observe()[2], alone.observe()[0])
    moves = actions(together)
    ours, theirs = together.step_tensor(moves), alone.step_tensor(moves[2:3])
    np.testing.assert_allclose(ours.rewards[2], theirs.rewards[0], atol=1e-6)


def test_states_stay_within_the_observation_space() -> None:
    worlds = dynamics(max_delta=50.0)
    for _ in range(3):
        worlds.step_tensor(torch.ones(5, 6))
    assert float(worlds.observe().abs().max()) <= worlds.observation_bound


def test_sb3s_batch_ends_worlds_one_by_one() -> None:
    env = LatentVecEnv(DenoiseSettings(threshold=0.5, start="drawn").dynamics(make_denoise_world(), 32), 0)
    env.reset()
    seen = []
    for _ in range(10):
        _, rewards, dones, infos = env.step(np.zeros((32, 6), np.float32))
        assert np.abs(rewards).max() < 1e-6  # nothing moves, so nothing is gained
        seen += [info["episode"]["l"] for info in infos if "episode" in info]
        assert all(("episode" in info) == done for info, done in zip(infos, dones, strict=True))
    assert {1, 8} <= set(seen)
    assert set(env.take_statistics()[0]) == {"critic"}
    assert len(env.get_images()) == 32


def test_generating_plays_episodes_to_their_end() -> None:
    worlds = dynamics(8, threshold=0.5, start="drawn")
    generated = generate(worlds, RandomAgent(worlds, 0), 20, seed=5)
    assert generated.states.shape == (20, 6)
    assert generated.steps.min() >= 1
    assert generated.steps.max() <= worlds.horizon
    assert len(generated.visited) == len(generated.asked) >= 40
    again = generate(worlds, RandomAgent(worlds, 0), 20, seed=5)
    assert torch.equal(generated.states, again.states)
    still = generate(worlds, NoneAgent(worlds), 8, seed=5)
    assert float(still.returns.abs().max()) < 1e-6


def test_strips_have_room_for_the_horizon() -> None:
    worlds = dynamics(2, horizon=3)
    start = worlds.picture(1, tile=32)
    worlds.step_tensor(actions(worlds))
    after = worlds.picture(1, tile=32)
    assert start.shape == after.shape
    assert after.shape[1] == 5 * (32 + GAP) + GAP

    def tile(picture: Any, index: int) -> Any:
        return picture[-32 - GAP : -GAP, GAP + index * (32 + GAP) :][:, :32]

    assert np.array_equal(tile(start, 0), tile(after, 0))
    assert not tile(start, 1).any()
    assert tile(after, 1).any()


MISTAKES: list[tuple[dict[str, Any], str]] = [
    (
        {"artifacts": "nowhere"},
        "nowhere is no built-in world .digits. and has no critic.*train_ppo",
    ),
    ({"artifacts": 3}, "artifacts=3 must be"),
    ({"space": "audio"}, "space='audio' is unknown: choose latent or pixel"),
    ({"start": "half"}, "start='half' is unknown: choose full or drawn"),
    ({"schedule": "steps"}, "schedule='steps' is unknown"),
    ({"reward": {"beauty": 1.0}}, "reward=beauty is unknown: choose one of critic, interpolate"),
    ({"reward": {}}, "no term with a weight"),
    ({"reward": {"critic": float("nan")}}, r"reward\['critic'\]=nan must be a finite number"),
    ({"reward": "critic"}, "reward='critic' must map"),
    ({"threshold": 0.0}, "threshold=0 must be above 0"),
    ({"threshold": 1.5}, "threshold=1.5"),
    ({"threshold": "high"}, "threshold='high'"),
    ({"corridor": -1.0}, "corridor=-1 must be above 0"),
    ({"max_delta": 0.0}, "max_delta=0 must be above 0"),
    ({"horizon": 0}, "horizon=0"),
    ({"conditional": "yes"}, "conditional='yes' must be True or False"),
    ({"time_aware": 1}, "time_aware=1"),
    ({"device": "abacus"}, "device=abacus is unknown"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda value: str(value)[:40])
def test_mistakes_are_explained(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        gym.make("LatentDenoise-v0", **arguments)
    with pytest.raises(UserError, match=message):
        gym.make_vec("LatentDenoise-v0", num_envs=2, **arguments)
