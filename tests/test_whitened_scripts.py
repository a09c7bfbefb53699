"""`detector=probe` and `detector=segmenter` as a user calls them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny_backbones
from conftest import RunHere
from omegaconf import DictConfig

import latent_env
import train_detector
import train_ppo
from detectors.base import FEATURES, LATENT
from detectors.probe import ProbeDetector
from detectors.segmenter import SegmenterDetector
from latent_common.training_state import Progress
from latent_env.worlds.artifacts import load_detector
from stages.detector.trainers import segmenter as segmenter_trainer

DATA = ["dataset=phantom", "dataset.size=32", "dataset.train=24", "dataset.valid=12", "dataset.test=8"]
SMALL = ["device=cpu", "threads=1", "autoencoder.steps=3", "autoencoder.width=8"]
BACKBONE = ["detector.backbone=mobilenet", "detector.grid=4", "detector.components=8"]
TINY = {
    "probe": ["detector=probe"],
    "segmenter": ["detector=segmenter", "detector.steps=4", "detector.width=16", "detector.batch_size=4"],
}
KINDS = {"probe": ProbeDetector, "segmenter": SegmenterDetector}
BOTH = pytest.mark.parametrize("kind", KINDS)
MAINS: dict[str, Callable[[DictConfig], None]] = {
    "train_detector": train_detector.main,
    "train_ppo": train_ppo.main,
}


@pytest.fixture
def command(tmp_path: Path, run_here: RunHere) -> Callable[..., str]:
    tiny_backbones.mobilenet(tmp_path / "mobilenet")

    def run(script: str, *arguments: str, code: int = 0, cwd: Path = tmp_path) -> str:
        ended, out, error = run_here(MAINS[script], script, *DATA, *SMALL, *arguments, cwd=cwd)
        assert ended == code, error
        return out + error

    return run


def only_run(here: Path, stage: str) -> Path:
    (path,) = here.glob(f"runs/phantom/{stage}/*/metrics.json")
    return path.parent


@BOTH
@pytest.mark.parametrize(("reads", "count"), [(LATENT, 0), (LATENT, 1), (LATENT, 5), (FEATURES, 5)])
def test_with_a_handful_of_labelled_anomalies_or_none(
    kind: str, reads: str, count: int, tmp_path: Path, command: Callable[..., str]
) -> None:
    keys = BACKBONE if reads == FEATURES else []
    command("train_detector", *TINY[kind], *keys, f"labelled.count={count}", "detector.baselines=[gaussian]")
    run = only_run(tmp_path, "detector")
    detector = load_detector(run)
    assert isinstance(detector, KINDS[kind])
    assert detector.input == reads
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"image_AUROC", "pixel_AUPRO", "gaussian_image_AUROC"} <= metrics.keys()
    if isinstance(detector, ProbeDetector):
        # Random weights may see anomalies as nearer than normal tokens: then the distance stays.
        assert bool(detector.weights[1:].any()) == (count > 0 and reads == LATENT)
    if (kind, count) == ("probe", 0):
        assert metrics["image_AUROC"] == metrics["gaussian_image_AUROC"]


@BOTH
def test_what_was_trained_can_be_used(kind: str, tmp_path: Path, command: Callable[..., str]) -> None:
    command("train_detector", *TINY[kind], *BACKBONE, "detector.baselines=[]")
    run = only_run(tmp_path, "detector")
    env = gym.make("LatentAug-v0", artifacts=str(run))
    env.reset(seed=0)
    assert np.isfinite(float(env.step(env.action_space.sample())[1]))
    prediction = latent_env.load_detector(str(run)).predict(np.zeros((40, 40), np.uint8))
    assert prediction.map.shape == (32, 32)


@BOTH
def test_labelled_anomalies_without_weight_teach_nothing(
    kind: str, tmp_path: Path, command: Callable[..., str]
) -> None:
    command("train_detector", *TINY[kind], "labelled.weight=0", "detector.baselines=[]")
    detector = load_detector(only_run(tmp_path, "detector"))
    assert not isinstance(detector, ProbeDetector) or not detector.weights[1:].any()


def test_a_stopped_segmenter_goes_on_to_where_it_would_have_come(
    tmp_path: Path, command: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [*TINY["segmenter"], "detector.baselines=[]", "labelled.step_multiplier=1"]
    train = segmenter_trainer.train_detector
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
                patch.setattr(segmenter_trainer, "train_detector", until)
                patch.setattr("latent_env.training.loop.CHECKPOINT_SECONDS", 0.0)
                command("train_detector", *keys, code=130, cwd=here)
        told = command("train_detector", *keys, cwd=here)
        assert ("detector: going on from step 2 of 4" in told) == stopped
        weights.append((only_run(here, "detector") / "detector.safetensors").read_bytes())
    assert weights[0] == weights[1]


@BOTH
def test_it_learns_from_an_agents_samples(kind: str, tmp_path: Path, command: Callable[..., str]) -> None:
    agent = ["agent=random", "samples=8", "env.num_envs=4", "share=0.5"]
    command("train_ppo", *TINY[kind], *agent, "labelled.step_multiplier=1")
    run = only_run(tmp_path, "agent")
    report = json.loads((run / "report.json").read_text())
    assert report["share_agent"] == 0.5
    assert isinstance(load_detector(run), KINDS[kind])
    if kind == "segmenter":  # which would learn a handful of anomalies by heart without samples
        assert (report["detector_steps"], report["detector_steps_with_samples"]) == (4, 12)


def test_random_samples_are_compared_with(tmp_path: Path, command: Callable[..., str]) -> None:
    agent = ["agent=gradient", "agent.steps=2", "samples=8", "env.num_envs=4", "labelled.count=3"]
    printed = command("train_ppo", *TINY["segmenter"], *agent, "mixture.compare_random=true", "rounds=1")
    run = only_run(tmp_path, "agent")
    report = json.loads((run / "report.json").read_text())
    assert report["share_agent"] == 0.5
    assert {"without", "random", "with"} <= report["metrics"]["pixel_AUPRO"].keys()
    assert "| without | random | with" in printed
    assert (run / "pictures" / "test_changes.png").is_file()
    assert "with random samples" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("kind", "key", "message"),
    [
        ("probe", "detector.input=image", "detector.input=image: detector=probe reads tokens"),
        ("segmenter", "detector.input=image", "detector.input=image: detector=segmenter reads tokens"),
        ("probe", "detector.strength=0", "detector.strength=0 must be above 0"),
        ("probe", "detector.strength=nan", "detector.strength=nan"),
        ("probe", "detector.strength=inf", "detector.strength=inf"),
        ("segmenter", "detector.noise=0", "detector.noise=0 must be above 0"),
        ("segmenter", "detector.width=0", "detector.width=0"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(command: Callable[..., str], kind: str, key: str, message: str) -> None:
    log = command("train_detector", *TINY[kind], key, code=2)
    (line,) = [line for line in log.splitlines() if line.startswith("train_detector.py: ")]
    assert message in line
    assert "Traceback" not in log
