"""Of what an agent proposes, the best paid is kept."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RunHere
from hypothesis import given, settings
from hypothesis import strategies as st

import train_ppo
from agents.baselines.none_and_random import RandomAgent
from agents.rollout import Augmented, best_paid, collect, load_augmented
from latent_env.settings import Settings
from latent_env.worlds.store import load_world

CPU = torch.device("cpu")
QUICK = ("dataset=digits", "device=cpu", "threads=1", "detector.steps=4", "autoencoder.steps=4")


def paid(rewards: list[float], labels: list[int]) -> Augmented:
    """A set in which only reward and label matter; ``source`` numbers the samples."""
    count = len(rewards)
    empty = torch.zeros(count, 1, 1, 1)
    numbers = torch.arange(count)
    rewarded = torch.tensor(rewards)
    return Augmented(empty, empty, empty, torch.tensor(labels), numbers, empty, rewarded, numbers, empty)


@settings(max_examples=60)
@given(
    samples=st.lists(st.tuples(st.floats(-5, 5, width=32), st.integers(0, 1)), min_size=1, max_size=40),
    keep=st.floats(0.05, 1),
)
def test_the_best_of_each_label_are_kept_in_order(samples: list[tuple[float, int]], keep: float) -> None:
    rewards, labels = (list(part) for part in zip(*samples, strict=True))
    kept = best_paid(paid(rewards, labels), keep)
    assert kept.source.tolist() == sorted(set(kept.source.tolist()))
    for label in set(labels):
        among = [i for i, each in enumerate(labels) if each == label]
        chosen = [i for i in kept.source.tolist() if labels[i] == label]
        assert len(chosen) == math.ceil(keep * len(among))
        left = [rewards[i] for i in among if i not in chosen]
        assert not left or min(rewards[i] for i in chosen) >= max(left)


def test_nothing_made_is_nothing_kept() -> None:
    nothing = paid([], [])
    assert len(best_paid(nothing, 0.5)) == 0


def test_keeping_half_raises_the_mean_reward() -> None:
    made = {}
    for keep in (1.0, 0.5):
        dynamics = Settings(reward={"usefulness": 1.0}, horizon=1).dynamics(load_world("phantom", CPU), 16)
        made[keep] = collect(dynamics, RandomAgent(dynamics, 0), 256, 0, keep_fraction=keep)
    everything, best = made[1.0], made[0.5]
    counts = [torch.bincount(each.labels, minlength=2) for each in (everything, best)]
    halves = (counts[0] / 2).tolist()
    assert counts[1].tolist() == pytest.approx(halves, abs=2)  # a few blocks, each rounded up
    assert best.reward.mean() > everything.reward.mean() + 0.25 * everything.reward.std()
    rows = {tuple(row) for row in everything.delta.flatten(1).numpy().round(4).tolist()}
    assert all(tuple(row) in rows for row in best.delta.flatten(1).numpy().round(4).tolist())


@pytest.mark.parametrize("keep", ["0", "-0.5", "1.5"])
def test_a_share_that_cannot_be_is_a_mistake(keep: str, tmp_path: Path, run_here: RunHere) -> None:
    code, _, error = run_here(
        train_ppo.main, "train_ppo", *QUICK, f"agent.keep_fraction={keep}", cwd=tmp_path
    )
    assert code == 2, error
    (line,) = [line for line in error.splitlines() if line.startswith("train_ppo.py: ")]
    assert "agent.keep_fraction=" in line
    assert "above 0 and at most 1" in line


def test_random_samples_are_chosen_by_the_reward_ensemble(tmp_path: Path, run_here: RunHere) -> None:
    arguments = ("agent=random_useful", "samples=64", "rounds=1", "share=0.5", f"runs={tmp_path}")
    code, _, error = run_here(train_ppo.main, "train_ppo", *QUICK, *arguments, cwd=tmp_path)
    assert code == 0, error
    (folder,) = tmp_path.glob("*/agent/random_useful-*")
    made = load_augmented(folder / "augmented.npz")
    assert 0 < len(made) <= 64 + 2  # as many as asked for, though twice as many were proposed
    assert np.isfinite(made.reward.numpy()).all()
    assert (folder / "reward_ensemble.json").is_file()


def test_random_samples_are_learned_from_once_for_all_agents(tmp_path: Path, run_here: RunHere) -> None:
    small = (
        "samples=128",
        "rounds=1",
        "reward_ensemble.count=0",
        "share=null",
        "env.max_delta=30",
        f"runs={tmp_path}",
    )
    found = []
    for agent in ("untrained", "gradient"):
        code, _, error = run_here(train_ppo.main, "train_ppo", *QUICK, f"agent={agent}", *small, cwd=tmp_path)
        assert code == 0, error
        (detector,) = tmp_path.glob("*/detector/*/random-*/with_random_*/detector.safetensors")
        found.append((detector.stat().st_mtime_ns, detector.read_bytes()))
        (folder,) = tmp_path.glob(f"*/agent/{agent}-*")
        assert not list(folder.glob("with_random_*"))
    assert found[0] == found[1]
