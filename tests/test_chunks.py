"""Many worlds are worked through some at a time, and a step never asks the device for an answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import make_world
from hypothesis import given
from hypothesis import strategies as st
from test_usefulness import world as ensemble_world
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from detectors.base import Detection
from latent_env import chunks
from latent_env.dynamics import Dynamics
from latent_env.settings import Settings
from latent_env.worlds.world import World

WORLDS = 10
USEFUL = {"usefulness": 1.0, "similarity": 1.0, "matching": 1.0, "coverage": 0.5}


def stepped(world: World, reward: dict[str, float] | None) -> tuple[Dynamics, Tensor, dict[str, Tensor]]:
    dynamics = Settings(reward=reward, horizon=2).dynamics(world, WORLDS)
    dynamics.reset_tensor(seeds=torch.arange(WORLDS))
    generator = torch.Generator().manual_seed(0)
    actions = 2 * torch.rand(WORLDS, dynamics.perturbation.action_size, generator=generator) - 1
    result = dynamics.step_tensor(actions)
    return dynamics, result.rewards, result.reward_terms


@pytest.mark.parametrize("reward", [None, USEFUL], ids=["default", "useful"])
@pytest.mark.parametrize("at_once", [1, 3, 5])
def test_some_at_a_time_is_the_same(
    reward: dict[str, float] | None, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world() if reward is None else ensemble_world("image")
    whole, rewards, terms = stepped(world, reward)
    size = world.autoencoder.size
    monkeypatch.setitem(chunks.PIXELS_AT_ONCE, "cpu", at_once * size**2)
    parted, parted_rewards, parted_terms = stepped(world, reward)
    torch.testing.assert_close(parted_rewards, rewards, atol=1e-4, rtol=1e-4)
    for name, term in terms.items():
        torch.testing.assert_close(parted_terms[name], term, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(parted.last.image, whole.last.image, atol=1e-3, rtol=1e-3)
        assert parted.last.label.equal(whole.last.label)


def test_what_was_found_on_the_way_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    monkeypatch.setitem(chunks.PIXELS_AT_ONCE, "cpu", 3 * world.autoencoder.size**2)
    decoded: list[int] = []
    decode = world.autoencoder.decode

    def counted(latents: Tensor) -> Tensor:
        decoded.append(len(latents))
        return decode(latents)

    dynamics, _, _ = stepped(world, {"boundary": 1.0})
    monkeypatch.setattr(world.autoencoder, "decode", counted)
    step = dynamics.last
    with torch.no_grad():
        assert step.image.shape == (WORLDS, 1, world.autoencoder.size, world.autoencoder.size)
        assert step.decoded.shape == step.image.shape
    assert not decoded


def test_no_more_than_that_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    seen: list[int] = []
    encode = world.autoencoder.encode

    def counted(images: Tensor) -> Tensor:
        seen.append(len(images))
        return encode(images)

    monkeypatch.setattr(world.autoencoder, "encode", counted)
    monkeypatch.setitem(chunks.PIXELS_AT_ONCE, "cpu", 4 * world.autoencoder.size**2)
    stepped(world, {"boundary": 1.0})
    assert seen == [4, 4, 2]


def test_gradients_pass_through_all_worlds_together(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    monkeypatch.setitem(chunks.PIXELS_AT_ONCE, "cpu", world.autoencoder.size**2)
    dynamics, _, _ = stepped(world, None)
    actions = torch.zeros(WORLDS, dynamics.perturbation.action_size, requires_grad=True)
    rewards, _ = dynamics.reward(dynamics.imagine(actions + 0.1))
    rewards.sum().backward()
    assert actions.grad is not None
    assert (actions.grad.abs().sum(1) > 0).all()


@given(count=st.integers(1, 20), at_once=st.integers(1, 25))
def test_split_and_joined_is_what_it_was(count: int, at_once: int) -> None:
    score, marks = torch.arange(float(count)), torch.rand(count, 2, 3)
    value = [Detection(score, marks), (score, marks)]
    parts = chunks.split(value, at_once)
    assert len(parts) == -(-count // at_once)
    joined = chunks.join(parts)
    assert isinstance(joined[0], Detection)
    assert isinstance(joined[1], tuple)
    assert joined[0].score.equal(score)
    assert joined[0].map.equal(marks)
    assert joined[1][1].equal(marks)


class Asked(TorchDispatchMode):
    """Notes what makes the host wait for a device: reading a number, or a size that depends on data."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__
        by_flags = name.startswith("index") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool
            for index in (args[1] if isinstance(args[1], list | tuple) else ())
        )
        if by_flags or any(wait in name for wait in self.WAITS):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_the_detector_of_waits_works() -> None:
    with Asked() as asked:
        flags = torch.tensor([True, False])
        float(torch.ones(2)[flags].sum())
    assert len(asked.found) >= 2


@pytest.mark.parametrize("reward", [None, USEFUL], ids=["default", "useful"])
@pytest.mark.parametrize("at_once", [4, WORLDS])
def test_a_step_waits_for_nothing(
    reward: dict[str, float] | None, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world() if reward is None else ensemble_world("image")
    monkeypatch.setitem(chunks.PIXELS_AT_ONCE, "cpu", at_once * world.autoencoder.size**2)
    dynamics, _, _ = stepped(world, reward)
    actions = torch.zeros(WORLDS, dynamics.perturbation.action_size)
    with Asked() as asked:
        result = dynamics.step_tensor(actions)
        dynamics.reset_tensor(result.terminated)
        dynamics.step_tensor(actions, torch.arange(WORLDS) % 2 == 0)
    assert not asked.found
