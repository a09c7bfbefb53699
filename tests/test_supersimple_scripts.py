"""`detector=supersimple` as a user calls it: alone, with an agent's samples, and beside the transformer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny_backbones
import torch
from conftest import RunHere
from omegaconf import DictConfig

import latent_env
import train_detector
import train_ppo
from detectors.base import FEATURES, LATENT
from detectors.ensemble import EnsembleDetector
from detectors.supersimple import SuperSimpleDetector
from latent_common.training_state import Progress
from latent_env.worlds.artifacts import load_detector
from latent_env.worlds.store import load_world
from stages.cli.compose import compose
from stages.detector.trainers import ensemble as ensemble_trainer
from stages.detector.trainers import supersimple as supersimple_trainer

DATA = ["dataset=phantom", "dataset.size=32", "dataset.train=24", "dataset.valid=12", "dataset.test=8"]
SMALL = ["device=cpu", "threads=1", "autoencoder.steps=3", "autoencoder.width=8"]
BACKBONE = ["detector.backbone=mobilenet", "detector.grid=4", "detector.components=8"]
TINY = ["detector=supersimple", "detector.steps=4", "detector.width=16", "detector.batch_size=4"]
MAINS: dict[str, Callable[[DictConfig], None]] = {
    "train_detector": train_detector.main,
    "train_ppo": train_ppo.main,
}


@pytest.fixture
def command(tmp_path: Path, run_here: RunHere) -> Callable[..., str]:
    tiny_backbones.mobilenet(tmp_path / "mobilenet")

    def run(script: str, *arguments: str, code: int = 0, cwd: Path = tmp_path) -> str:
        keys = [*DATA, *SMALL, *arguments]
        ended, out, error = run_here(MAINS[script], script, *keys, cwd=cwd)
        assert ended == code, error
        return out + error

    return run


def only_run(here: Path, stage: str) -> Path:
    (path,) = here.glob(f"runs/phantom/{stage}/*/metrics.json")
    return path.parent


def test_on_a_backbone_no_synthetic_image_is_encoded(tmp_path: Path, command: Callable[..., str]) -> None:
    told = command("train_detector", *TINY, *BACKBONE, "dataset.augment.flip_horizontal=true")
    run = only_run(tmp_path, "detector")
    detector = load_detector(run)
    assert isinstance(detector, SuperSimpleDetector)
    assert (detector.input, detector.upscale) == (FEATURES, 2)
    assert detector.token_scales[0] > 2 * detector.token_scales[-1], "components have their natural scales"
    assert {"image_AUROC", "pixel_AP", "knn_image_AUROC"} <= json.loads(
        (run / "metrics.json").read_text()
    ).keys()
    assert "threshold" in told
    features = only_run(tmp_path, "features")
    assert not list(features.glob("latents-varied*")), "there is no use for a pool of images"
    assert list(features.glob("latents-mirrored*")), "labelled anomalies are mirrored"
    env = gym.make("LatentAug-v0", artifacts=str(run))
    env.reset(seed=0)
    assert np.isfinite(float(env.step(env.action_space.sample())[1]))
    prediction = latent_env.load_detector(str(run)).predict(np.zeros((40, 40), np.uint8))
    assert prediction.map.shape == (32, 32)


def test_stopped_it_goes_on_to_where_it_would_have_come(
    tmp_path: Path, command: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [*TINY, "detector.baselines=[]", "labelled.step_multiplier=1"]
    train = supersimple_trainer.train_detector
    weights = []
    for stopped in (False, True):
        here = tmp_path / str(stopped)
        here.mkdir()

        def until(*arguments: Any) -> Iterator[Progress]:
            for progress in train(*arguments):
                yield progress
                if progress.step == 2:
                    raise KeyboardInterrupt

        if stopped:
            with monkeypatch.context() as patch:
                patch.setattr(supersimple_trainer, "train_detector", until)
                patch.setattr("latent_env.training.loop.CHECKPOINT_SECONDS", 0.0)
                command("train_detector", *keys, code=130, cwd=here)
        told = command("train_detector", *keys, cwd=here)
        assert ("detector: going on from step 2 of 4" in told) == stopped
        weights.append((only_run(here, "detector") / "detector.safetensors").read_bytes())
    assert weights[0] == weights[1]
    detector = load_detector(only_run(tmp_path / "True", "detector"))
    assert detector.input == LATENT, "without a backbone it reads the autoencoder's latent"


def test_it_learns_from_samples_in_an_autoencoders_latent(
    tmp_path: Path, command: Callable[..., str]
) -> None:
    keys = ["agent=random", "samples=8", "share=0.5", "env.num_envs=4", "reward_ensemble.count=1"]
    command("train_ppo", *TINY, *keys, "track=few_labelled", "labelled.step_multiplier=1")
    report = json.loads((only_run(tmp_path, "agent") / "report.json").read_text())
    assert report["share_agent"] == 0.5


def test_beside_the_transformer(tmp_path: Path, command: Callable[..., str]) -> None:
    keys = ["detector=ensemble", "detector.members=[supersimple,knn]", "detector.steps=3", "synthesis.pool=8"]
    command("train_detector", *keys, *BACKBONE, "detector.width=16", "detector.heads=2")
    run = only_run(tmp_path, "detector")
    assert isinstance(load_detector(run), EnsembleDetector)
    assert isinstance(load_detector(run / "supersimple"), SuperSimpleDetector)
    told = json.loads((run / "ensemble.json").read_text())
    assert set(told["image_AUROC by weight of the transformer, 0 to 1"]) == {"supersimple", "knn"}


def test_as_a_member_it_is_what_it_is_alone() -> None:
    alone = compose("train_detector", ["detector=supersimple"]).detector
    beside = (
        ensemble_trainer.SUPERSIMPLE_WIDTH,
        ensemble_trainer.SUPERSIMPLE_UPSCALE,
        ensemble_trainer.SUPERSIMPLE_NOISE,
        ensemble_trainer.SUPERSIMPLE_RATE,
    )
    assert beside == (alone.width, alone.upscale, alone.noise, alone.learning_rate)


@pytest.mark.slow
def test_an_agent_is_paid_by_it_and_it_learns_from_the_agent(
    tmp_path: Path, command: Callable[..., str]
) -> None:
    steps = ["agent.total_steps=32", "agent.n_steps=4", "agent.batch_size=8", "agent.n_epochs=1"]
    agent = ["agent=ppo", *steps, "env.num_envs=4", "env.max_delta=30", "samples=16", "rounds=1"]
    rewards = ["reward=useful", "reward_ensemble.count=2"]
    command("train_ppo", *TINY, *BACKBONE, *agent, *rewards, "share=0.5")
    before, after = (only_run(tmp_path, stage) for stage in ("detector", "agent"))
    assert (before / "detector.safetensors").read_bytes() != (after / "detector.safetensors").read_bytes()
    world = load_world(str(after), torch.device("cpu"))
    assert len(world.reward_ensemble) == 2
    members = [*world.reward_ensemble, world.detector, world.held_out_detector]
    assert all(isinstance(member, SuperSimpleDetector) for member in members)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["detector.input=image"], "detector.input=image: detector=supersimple reads tokens"),
        (["autoencoder.latent=flat"], "reads tokens on a grid, and the latent is flat"),
        (["detector.upscale=9"], "detector.upscale=9 must lie from 1 to 8"),
        (["detector.noise=0"], "detector.noise=0 must be above 0"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(command: Callable[..., str], keys: list[str], message: str) -> None:
    log = command("train_detector", *TINY, *keys, code=2)
    (line,) = [line for line in log.splitlines() if line.startswith("train_detector.py: ")]
    assert message in line
