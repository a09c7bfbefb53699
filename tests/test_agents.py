"""Agents behind one interface, and what rollouts make of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import WORLDS, make_world

from agents.baselines.gradient import GradientAgent
from agents.baselines.none_and_random import NoneAgent, RandomAgent
from agents.rollout import collect, save_augmented
from latent_common.errors import UserError
from latent_env.dynamics import Dynamics
from latent_env.settings import Settings
from latent_env.shell import ANOMALY, NORMAL
from latent_env.worlds.store import load_world
from stages.augmentation.report import Row, table, verdict


def dynamics(latent: str = "spatial", worlds: int = 4, **settings: object) -> Dynamics:
    made = Settings(**settings).dynamics(make_world(latent), worlds)  # type: ignore[arg-type]
    made.reset_tensor(seeds=torch.arange(worlds))
    return made


@pytest.mark.parametrize("latent", ["flat", "spatial"])
def test_none_changes_nothing(latent: str) -> None:
    world = dynamics(latent)
    made = collect(world, NoneAgent(world), 8, seed=0)
    assert len(made) == 8
    assert torch.equal(made.delta, torch.zeros_like(made.delta))
    assert torch.equal(made.images, world.world.images[made.source])
    assert not made.masks.any()
    assert torch.all(made.labels == NORMAL)


def test_random_is_uniform_and_seeded() -> None:
    world = dynamics()
    observation = world.observe().numpy()
    actions = np.concatenate([RandomAgent(world, seed).predict(observation)[0] for seed in range(200)])
    assert actions.dtype == np.float32
    assert abs(actions.mean()) < 0.02
    assert abs(actions.std() - 3**-0.5) < 0.02
    assert np.array_equal(
        RandomAgent(world, 1).predict(observation)[0], RandomAgent(world, 1).predict(observation)[0]
    )


@pytest.mark.parametrize("name", WORLDS)
def test_gradient_lowers_the_score_below_that_of_its_start(name: str) -> None:
    world = Settings(horizon=1).dynamics(load_world(name, torch.device("cpu")), 16)
    observation = world.reset_tensor(seeds=torch.arange(16)).numpy()
    start, _ = RandomAgent(world, 3).predict(observation)
    climbed, _ = GradientAgent(world, 3, steps=5, step_size=0.2).predict(observation)
    assert np.abs(climbed).max() <= 1
    with torch.no_grad():
        before = world.imagine(torch.from_numpy(start)).detection.score.mean()
        after = world.imagine(torch.from_numpy(climbed)).detection.score.mean()
    assert after < before - 0.3


def test_a_rollout_is_a_labelled_data_set(tmp_path: Path) -> None:
    world = dynamics(worlds=3, horizon=2)
    made = collect(world, RandomAgent(world, 0), 50, seed=7)
    assert 0 < len(made) <= 50
    assert made.images.dtype == torch.uint8
    assert made.masks.shape == (len(made), 1, 32, 32)
    assert set(made.labels.tolist()) <= {NORMAL, ANOMALY}
    assert torch.all(made.masks.flatten(1).any(1) == (made.labels == ANOMALY))
    distance = world.shell.distance(made.delta, torch.zeros_like(made.delta))
    assert torch.all((distance > world.shell.inner) == (made.labels == ANOMALY))
    again = collect(world, RandomAgent(world, 0), 50, seed=7)
    assert torch.equal(made.images, again.images)
    assert not torch.equal(made.source, collect(world, RandomAgent(world, 0), 50, seed=8).source[: len(made)])

    save_augmented(tmp_path / "augmented.npz", made)
    with np.load(tmp_path / "augmented.npz") as held:  # allow_pickle is off by default
        assert sorted(held) == [
            *("contains", "copied", "delta", "images", "labels", "masks", "reward", "source", "tokens")
        ]
        assert held["images"].shape == made.images.shape
    assert (made.copied == -1).all()  # the brush copies nothing
    assert made.contains.shape == (len(made), 0)


def test_a_rollout_needs_a_sample() -> None:
    world = dynamics()
    with pytest.raises(UserError, match="samples=0"):
        collect(world, NoneAgent(world), 0, seed=0)


def test_the_report_says_what_the_interval_allows() -> None:
    def log(low: float, high: float) -> str:
        return verdict([Row("image_AUROC", 0.8, 0.8 + (low + high) / 2, (low, high))])

    assert "better with augmentation" in log(0.01, 0.05)
    assert "worse with augmentation" in log(-0.05, -0.01)
    assert "no different" in log(-0.01, 0.05)
    assert "All test images are normal" in verdict([Row("false_alarms", 0.1, 0.2, None)])
    text = table([Row("image_AUROC", 0.8, 0.85, (0.01, 0.09)), Row("pixel_AP", 0.5, 0.4, None)])
    assert "| image_AUROC | 0.8000  | 0.8500 | +0.0500    | +0.0100 to +0.0900 |" in text
    assert "-0.1000" in text
