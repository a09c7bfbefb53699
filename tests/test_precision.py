"""Steps in bfloat16 and the number of threads: faster, and nearly the same."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch

from latent_env import threads
from latent_env.dynamics import StepResult
from latent_env.settings import Settings


def stepped(world: str, precision: str) -> StepResult:
    dynamics = Settings(precision=precision).load(world, "cpu", 32)
    dynamics.reset_tensor(seeds=torch.arange(32))
    generator = torch.Generator().manual_seed(0)
    actions = 2 * torch.rand(32, dynamics.perturbation.action_size, generator=generator) - 1
    return dynamics.step_tensor(actions)


@pytest.mark.parametrize("world", ["digits", "phantom"])
def test_rewards_hardly_move(world: str) -> None:
    full, half = stepped(world, "float32"), stepped(world, "bfloat16")
    assert half.rewards.dtype == torch.float32
    assert not half.rewards.equal(full.rewards)
    moved = (half.rewards - full.rewards).abs()
    assert moved.mean() < 0.01
    assert moved.amax() < 0.1
    spread = full.rewards.std()
    assert moved.mean() < spread / 4  # what an agent can tell apart, it still can
    torch.testing.assert_close(half.observations, full.observations)
    assert (half.transition.label == full.transition.label).float().mean() >= 0.9


def test_worlds_of_both_precisions_share_their_parts() -> None:
    half = gym.make("LatentAug-v0", precision="bfloat16")
    full = gym.make("LatentAug-v0")
    worlds = [env.unwrapped.dynamics.world for env in (half, full)]  # type: ignore[attr-defined]
    assert [world.precision for world in worlds] == ["bfloat16", "float32"]
    assert worlds[0].autoencoder is worlds[1].autoencoder


@pytest.mark.parametrize("available", [1, 2, 64])
def test_threads_are_measured_and_left_as_they_were(available: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: available)
    before = torch.get_num_threads()
    chosen, gain = threads.measured_threads()
    assert torch.get_num_threads() == before
    assert chosen in [count for count in threads.CANDIDATES if count <= available]
    assert gain >= 1 if chosen == 1 else gain > threads.WORTH
