"""What can be seen of a change, measured on a decoder."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from conftest import make_world
from hypothesis import given, settings
from hypothesis import strategies as st

from latent_env.autoencoders.frozen import LEAST_REACH, LEAST_VISIBLE
from latent_env.settings import Settings
from latent_env.shell import ANOMALY, NORMAL
from latent_env.visibility import (
    CLEARLY,
    MOST_REACH,
    MOST_VISIBLE,
    measure_visibility,
    strength_of,
    visible_support,
)
from latent_env.worlds.store import load_world
from latent_env.worlds.world import World

CPU = torch.device("cpu")


def random_perturbations(world: World, count: int = 256, **changes: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The strongest change of the decoded image ``(count,)`` by a random perturbation each, and its label."""
    dynamics = Settings(reward={"novelty": 1.0}, horizon=1, **changes).dynamics(world, count)
    dynamics.reset_tensor(seeds=torch.arange(count))
    size = dynamics.perturbation.action_size
    actions = 2 * torch.rand(count, size, generator=torch.Generator().manual_seed(1)) - 1
    step = dynamics.step_tensor(actions).transition
    return strength_of(step.decoded - step.start_decoded).flatten(1).amax(1), step.label


def test_few_pixels_of_normal_images_are_decoded_worse() -> None:
    world = load_world("phantom", CPU)
    every = torch.arange(len(world.images))
    errors = strength_of(world.start_images(every) - world.start_decoded(every))
    barely = world.autoencoder.barely_visible
    assert barely >= LEAST_VISIBLE
    assert 0.002 < float((errors > barely).float().mean()) < 0.03  # it was measured on other images


def test_half_of_random_perturbations_show() -> None:
    world = load_world("phantom", CPU)
    peaks, labels = random_perturbations(world, perturbation="brush")
    clearly = CLEARLY * world.autoencoder.barely_visible
    assert 0.35 < float((peaks > clearly).float().mean()) < 0.75
    assert float(world.autoencoder.reach) > LEAST_REACH
    assert (peaks[labels == ANOMALY] > world.autoencoder.barely_visible).all()
    assert (peaks[labels == NORMAL] < clearly).all()
    nearer, _ = random_perturbations(world, perturbation="brush", shell_ratio=LEAST_REACH)
    assert float((nearer > clearly).float().mean()) < 0.35  # it had to be measured


def test_a_decoder_that_answers_to_nothing_has_no_anomalies() -> None:
    world = make_world("spatial")
    with torch.no_grad():
        world.autoencoder.model.decoder[-1].weight.zero_()  # type: ignore[union-attr, index]
    blind = measure_visibility(world.autoencoder, world.images)
    assert float(blind.reach) == pytest.approx(MOST_REACH, rel=1e-3)
    _, labels = random_perturbations(world, 32)
    assert not (labels == ANOMALY).any()


def test_where_a_decoder_gets_more_wrong_less_shows() -> None:
    world = load_world("phantom", CPU)
    standard, mine = float(world.autoencoder.barely_visible), copy.deepcopy(world.autoencoder)
    with torch.no_grad():
        easy = (mine(world.images.float() / 255) * 255).round().to(torch.uint8)
    assert float(measure_visibility(mine, easy).barely_visible) < standard
    noise = torch.randint(0, 256, world.images.shape, dtype=torch.uint8)
    assert float(measure_visibility(mine, noise).barely_visible) == pytest.approx(MOST_VISIBLE)


def test_flat_latents_keep_their_reach() -> None:
    world = make_world("flat")
    assert float(measure_visibility(world.autoencoder, world.images).reach) == LEAST_REACH


@settings(max_examples=30)
@given(
    strength=st.floats(0, 1, width=32),
    barely=st.floats(0.0625, 0.5, width=32),
    size=st.sampled_from([8, 32]),
)
def test_support_fades_in(strength: float, barely: float, size: int) -> None:
    change = torch.full((1, 3, size, size), strength)
    change[:, 1] *= -1  # darker counts as brighter
    found = visible_support(change, barely)
    assert found.shape == (1, 1, size, size)
    if strength <= barely:
        assert found.max() < 1e-5
    elif strength >= CLEARLY * barely:
        assert found.min() > 1 - 1e-5
    else:
        expected = (strength - barely) / ((CLEARLY - 1) * barely)
        torch.testing.assert_close(found, torch.full_like(found, expected), atol=1e-4, rtol=1e-4)
