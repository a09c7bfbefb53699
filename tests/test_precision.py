"""Steps in bfloat16: faster, and nearly the same."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from latent_common.training_state import TrainingState
from latent_env import compilation
from latent_env.autoencoders import ConvAutoencoder
from latent_env.autoencoders.training import train_autoencoder
from latent_env.dynamics import StepResult
from latent_env.settings import Settings
from latent_env.training.loop import validation_interval


def stepped(world: str, precision: str) -> StepResult[Any]:
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


def learned(precision: str) -> tuple[float, torch.Tensor]:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (16, 1, 4, 4), dtype=np.uint8))
    images = torch.nn.functional.interpolate(images.float(), 32, mode="bilinear").byte()
    torch.manual_seed(0)
    model = ConvAutoencoder(1, 32, "spatial", latent_size=4, width=8)
    state = TrainingState(model, 3e-3, 80, 0, precision)
    loss = torch.inf
    for progress in train_autoencoder(state, model, images, 8):
        loss = progress.losses["total"]
        assert loss.dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    return float(loss), model.encoder[-1].weight.detach().clone()  # type: ignore[union-attr,operator]


def test_autoencoders_learn_as_well_in_half_the_bits() -> None:
    (full, weights), (half, others) = learned("float32"), learned("bfloat16")
    assert not weights.equal(others)
    assert half == pytest.approx(full, rel=0.2)


@pytest.mark.parametrize(
    ("steps", "batch_size", "images", "interval"),
    [(1000, 32, 64, 200), (1000, 32, 3200, 333), (1000, 32, 10**6, 1000), (3, 8, 10, 3), (1, 2, 0, 1)],
)
def test_validation_takes_a_tenth_at_most(steps: int, batch_size: int, images: int, interval: int) -> None:
    assert validation_interval(steps, batch_size, images) == interval


def test_compiled_steps_are_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        compilation, "BACKEND", "eager"
    )  # traced as for a compiler, which would take a minute
    torch.compiler.reset()
    made = {flag: Settings(compiled=flag, horizon=2).load("digits", "cpu", 4) for flag in (False, True)}
    assert made[True].world.autoencoder is not made[False].world.autoencoder
    actions = torch.zeros(4, made[True].perturbation.action_size) + 0.3
    for dynamics in made.values():
        dynamics.reset_tensor(seeds=torch.arange(4))
    rewards = {flag: dynamics.step_tensor(actions).rewards for flag, dynamics in made.items()}
    torch.testing.assert_close(rewards[True], rewards[False])
    assert not capsys.readouterr().err


def test_what_cannot_be_compiled_goes_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compilation, "BACKEND", "no such compiler")
    env = gym.make("LatentAug-v0", compiled=True)
    assert "compiled=True: networks can't be compiled here, steps go without" in capsys.readouterr().err
    env.reset(seed=0)
    assert np.isfinite(env.step(env.action_space.sample())[1])
