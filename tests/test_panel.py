"""`detector=panel`: detectors that learn and detectors that are fitted, each counting as much."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import tiny_backbones
import torch
from conftest import RunHere

import latent_env
import train_detector
import train_ppo
from detectors.ensemble import EnsembleDetector
from detectors.segmenter import SegmenterDetector
from latent_env.worlds.artifacts import load_detector
from latent_env.worlds.store import load_world

KEYS = [
    *("dataset=phantom", "dataset.size=32", "dataset.train=24", "dataset.valid=12", "dataset.test=8"),
    *("device=cpu", "threads=1", "autoencoder.steps=3", "autoencoder.width=8", "labelled.count=5"),
    *("detector.backbone=mobilenet", "detector.grid=4", "detector.components=8"),
    *("detector.steps=4", "detector.width=16", "detector.batch_size=4"),
]
PANEL = [*KEYS, "detector=panel", "detector.drawing.steps=3", "detector.drawing.width=16"]
BACKBONE = ("detector.backbone", "detector.grid", "detector.components")
PARTS = ("segmenter", "probe", "positional_knn", "supersimple")
AGENT = [
    *("agent=ppo", "agent.total_steps=32", "agent.n_steps=4", "agent.batch_size=8", "agent.n_epochs=1"),
    *("env.num_envs=4", "env.max_delta=30", "samples=16", "rounds=1", "reward=useful"),
    "reward_ensemble.count=2",
]


def only_run(here: Path, stage: str) -> Path:
    (path,) = here.glob(f"runs/phantom/{stage}/*/metrics.json")
    return path.parent


@pytest.fixture
def here(tmp_path: Path) -> Path:
    tiny_backbones.mobilenet(tmp_path / "mobilenet")
    return tmp_path


def test_every_part_counts_as_much_and_stands_in_the_report(here: Path, run_here: RunHere) -> None:
    code, out, error = run_here(train_detector.main, "train_detector", *PANEL, cwd=here)
    assert code == 0, error
    for part in PARTS:
        assert part in out
    run = only_run(here, "detector")
    panel = load_detector(run)
    assert isinstance(panel, EnsembleDetector)
    assert panel.weights == (1 / 3, 1 / 3, 1 / 3, 0)
    assert panel.map_weights == (1 / 4, 1 / 4, 1 / 4, 1 / 4)
    assert tuple(panel.named_members()) == PARTS
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"image_AUROC", "segmenter_image_AUROC", "probe_pixel_AUPRO"} <= metrics.keys()
    env = gym.make("LatentAug-v0", artifacts=str(run))
    env.reset(seed=0)
    assert np.isfinite(float(env.step(env.action_space.sample())[1]))
    assert latent_env.load_detector(str(run)).predict(np.zeros((40, 40), np.uint8)).map.shape == (32, 32)


def test_folds_judge_by_scores_and_draw_nothing(here: Path, run_here: RunHere) -> None:
    code, _, error = run_here(train_detector.main, "train_detector", *PANEL, cwd=here)
    assert code == 0, error
    assert "detector, fold 5 of 5" in error
    drawn = [line for line in error.splitlines() if "supersimple" in line]
    assert drawn
    assert not any("fold" in line for line in drawn)


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param([*PANEL, "labelled.train=0"], id="labelled anomalies"),
        pytest.param([key for key in PANEL if not key.startswith(BACKBONE)], id="a backbone"),
    ],
)
def test_nothing_is_drawn_without(here: Path, run_here: RunHere, keys: list[str]) -> None:
    code, _, error = run_here(train_detector.main, "train_detector", *keys, cwd=here)
    assert code == 0, error
    panel = load_detector(only_run(here, "detector"))
    assert isinstance(panel, EnsembleDetector)
    assert tuple(panel.named_members()) == PARTS[:-1]
    assert panel.weights == panel.map_weights == (1 / 3, 1 / 3, 1 / 3)


def test_a_killed_command_draws_with_what_it_had_trained(
    here: Path, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, error = run_here(train_detector.main, "train_detector", *PANEL, cwd=here)
    assert code == 0, error
    whole = load_detector(only_run(here, "detector"))
    shutil.rmtree(only_run(here, "detector"))

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(EnsembleDetector, "calibrate", stopped)
        code, _, error = run_here(train_detector.main, "train_detector", *PANEL, cwd=here)
        assert code != 0
    code, _, error = run_here(train_detector.main, "train_detector", *PANEL, cwd=here)
    assert code == 0, error
    again = load_detector(only_run(here, "detector"))
    for (name, one), other in zip(
        whole.state_dict().items(),  # type: ignore[attr-defined]
        again.state_dict().values(),  # type: ignore[attr-defined]
        strict=True,
    ):
        assert torch.equal(one, other), name


def test_the_trained_part_is_what_it_is_alone(here: Path, run_here: RunHere) -> None:
    for keys in (PANEL, [*KEYS, "detector=segmenter"]):
        code, _, error = run_here(train_detector.main, "train_detector", *keys, cwd=here)
        assert code == 0, error
    alone, panel = (
        load_detector(next(here.glob(f"runs/phantom/detector/{name}-*"))) for name in ("segmenter", "panel")
    )
    assert isinstance(panel, EnsembleDetector)
    inside = panel.named_members()["segmenter"].state_dict()
    for name, value in alone.state_dict().items():  # type: ignore[attr-defined]
        assert torch.equal(value, inside[name]), name


def test_samples_teach_those_that_score_and_not_the_one_that_draws(here: Path, run_here: RunHere) -> None:
    agent = ["agent=random", "samples=8", "env.num_envs=4", "env.max_delta=30", "share=0.5"]
    code, _, error = run_here(train_ppo.main, "train_ppo", *PANEL, *agent, cwd=here)
    assert code == 0, error
    members = []
    for stage in ("detector", "agent"):
        panel = load_detector(only_run(here, stage))
        assert isinstance(panel, EnsembleDetector)
        members.append(panel.named_members())
    before, after = members
    _, retrained, later = error.partition("detector, 50% agent")
    assert retrained
    assert "supersimple" not in later
    same = {
        name: all(
            torch.equal(value, after[name].state_dict()[key]) for key, value in part.state_dict().items()
        )
        for name, part in before.items()
        if name != "probe"  # which may learn nothing from what random weights see
    }
    assert same == {"segmenter": False, "positional_knn": True, "supersimple": True}


@pytest.mark.slow
def test_it_learns_from_an_agent_that_its_segmenter_pays(here: Path, run_here: RunHere) -> None:
    code, out, error = run_here(train_ppo.main, "train_ppo", *PANEL, *AGENT, cwd=here)
    assert code == 0, error
    assert "the share was fixed, nothing was chosen" in out
    world = load_world(str(only_run(here, "agent")), torch.device("cpu"))
    assert isinstance(world.detector, EnsembleDetector)
    assert all(isinstance(member, SegmenterDetector) for member in world.reward_ensemble)


@pytest.mark.parametrize(
    "members", ["[]", "[gaussian,probe,probe]", "[probe,rdna]", "[gaussian,supersimple]"]
)
def test_members_that_can_not_be_are_refused(here: Path, run_here: RunHere, members: str) -> None:
    code, _, error = run_here(
        train_detector.main, "train_detector", *PANEL, f"detector.members={members}", cwd=here
    )
    assert code == 2
    assert "must name each once, of segmenter, probe, knn, positional_knn, gaussian, supersimple" in error
    assert not list(here.glob("runs/phantom/*/*/metrics.json"))
