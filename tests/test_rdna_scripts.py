"""`detector=rdna` as a user calls it: alone, as the scorer of an agent, and beside the transformer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import tiny_backbones
import torch
from conftest import RunHere, later_wins
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_detector
import train_ppo
from detectors.ensemble import EnsembleDetector
from detectors.rdna import RdnaDetector
from latent_common.machine import resolve_device
from latent_common.training_state import Progress
from latent_env.worlds.artifacts import load_detector
from latent_env.worlds.store import load_world
from stages.detector.trainers import rdna as rdna_trainer

DATA = [
    "dataset=phantom",
    "dataset.size=32",
    "dataset.train=24",
    "dataset.valid=24",
    "dataset.test=8",
    "device=cpu",
    "threads=1",
    "autoencoder.steps=10",
    "autoencoder.width=8",
]
TINY = [*DATA, "detector=rdna", "detector.width=8", "detector.steps=10", "detector.batch_size=4"]


def only_run(here: Path, stage: str) -> Path:
    (path,) = here.glob(f"runs/phantom/{stage}/*/metrics.json")
    return path.parent


def tags(run: Path) -> dict[str, Any]:
    events = EventAccumulator(str(run), {"images": 0, "scalars": 0})
    events.Reload()
    return dict(events.Tags())


def test_from_nothing(tmp_path: Path, run_here: RunHere) -> None:
    code, out, error = run_here(train_detector.main, "train_detector", *TINY, "export=out", cwd=tmp_path)
    assert code == 0, error
    run = only_run(tmp_path, "detector")
    detector = load_detector(run)
    assert isinstance(detector, RdnaDetector)
    assert detector.width == 8
    assert {"image_AUROC", "pixel_AUPRO"} <= json.loads((run / "metrics.json").read_text()).keys()
    assert out.splitlines()[0].split()[0] == "rdna"
    for name in ("training_restorations", "test_detections", "test_curves"):
        assert (run / f"pictures/{name}.png").is_file()
    logged = tags(run)
    assert {"balance/accuracy_on_maps", "losses/discriminator_of_restorations"} <= set(logged["scalars"])
    assert "training/restorations" in logged["images"]
    env = gym.make("LatentAug-v0", artifacts=str(tmp_path / "out"))
    assert env.reset(seed=0)[0].shape == env.observation_space.shape
    _, again, error = run_here(train_detector.main, "train_detector", *TINY, "export=out", cwd=tmp_path)
    assert again.splitlines()[:4] == out.splitlines()[:4]
    assert "detector: using" in error


def test_without_discriminators_is_another_run(tmp_path: Path, run_here: RunHere) -> None:
    for adversarial in ("0", "0.1"):
        keys = [*TINY, "detector.baselines=[]", f"detector.adversarial_weight={adversarial}"]
        assert run_here(train_detector.main, "train_detector", *keys, cwd=tmp_path)[0] == 0
    runs = list(tmp_path.glob("runs/phantom/detector/*"))
    assert len(runs) == 2
    assert sorted("balance/accuracy_on_maps" in tags(run)["scalars"] for run in runs) == [False, True]


def test_stopped_it_goes_on_to_where_it_would_have_come(
    tmp_path: Path, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [*TINY, "detector.baselines=[]"]
    train = rdna_trainer.train_rdna
    weights = []
    for stopped in (False, True):
        here = tmp_path / str(stopped)
        here.mkdir()

        def until(*arguments: Any) -> Iterator[Progress]:
            for progress in train(*arguments):
                yield progress
                if progress.step == 6:
                    raise KeyboardInterrupt

        if stopped:
            with monkeypatch.context() as patch:
                patch.setattr(rdna_trainer, "train_rdna", until)
                patch.setattr("latent_env.training.loop.CHECKPOINT_SECONDS", 0.0)
                code, _, error = run_here(train_detector.main, "train_detector", *keys, cwd=here)
            assert code == 130
            assert "the same command goes on from what is kept" in error
        code, _, error = run_here(train_detector.main, "train_detector", *keys, cwd=here)
        assert code == 0, error
        assert ("detector: going on from step 6 of 10" in error) == stopped
        weights.append((only_run(here, "detector") / "detector.safetensors").read_bytes())
    assert weights[0] == weights[1]


AGENT = ["env.num_envs=4", "samples=16", "rounds=2", "detector.baselines=[]", "share=0.5"]
PPO = ["agent.total_steps=32", "agent.n_steps=4", "agent.batch_size=8", "agent.n_epochs=1"]


@pytest.mark.slow
def test_an_agent_is_paid_by_it_and_it_learns_from_the_agent(tmp_path: Path, run_here: RunHere) -> None:
    keys = later_wins(*TINY, *AGENT, *PPO, "reward=useful", "autoencoder.steps=40", "env.max_delta=30")
    code, out, error = run_here(train_ppo.main, "train_ppo", *keys, cwd=tmp_path)
    assert code == 0, error
    assert "image_AUROC" in out
    before, after = (only_run(tmp_path, stage) for stage in ("detector", "agent"))
    both = [load_detector(run) for run in (before, after)]
    assert all(isinstance(detector, RdnaDetector) for detector in both)
    assert (before / "detector.safetensors").read_bytes() != (after / "detector.safetensors").read_bytes()
    world = load_world(str(after), resolve_device("cpu"))
    assert len(world.reward_ensemble) == 3
    assert isinstance(world.held_out_detector, RdnaDetector)
    assert all(isinstance(member, RdnaDetector) for member in world.reward_ensemble)


def test_beside_the_transformer(tmp_path: Path, run_here: RunHere) -> None:
    keys = [*DATA, "detector=ensemble", "detector.members=[rdna,reconstruction]", "detector.steps=6"]
    small = ["detector.width=16", "detector.heads=2", "detector.batch_size=4"]
    code, _, error = run_here(train_detector.main, "train_detector", *keys, *small, cwd=tmp_path)
    assert code == 0, error
    run = only_run(tmp_path, "detector")
    joined = load_detector(run)
    assert isinstance(joined, EnsembleDetector)
    assert (run / "rdna/detector.safetensors").is_file()
    by_candidate = json.loads((run / "ensemble.json").read_text())
    assert set(by_candidate["image_AUROC by weight of the transformer, 0 to 1"]) == {"rdna", "reconstruction"}


def test_with_a_pretrained_backbone_it_reads_the_images(tmp_path: Path, run_here: RunHere) -> None:
    tiny_backbones.mobilenet(tmp_path / "mobilenet")
    features = ["autoencoder=pretrained", "autoencoder.backbone=mobilenet", "autoencoder.grid=4"]
    features += ["autoencoder.components=8", "autoencoder.steps=3", "detector.baselines=[]"]
    keys = later_wins(*TINY, *features)
    code, _, error = run_here(train_detector.main, "train_detector", *keys, cwd=tmp_path)
    assert code == 0, error
    world = load_world(str(only_run(tmp_path, "detector")), resolve_device("cpu"))
    assert not world.reads_latents
    shown, restored = world.detect_and_reconstruct(torch.rand(2, 1, 32, 32))
    assert shown.map.shape == restored.shape == (2, 1, 32, 32)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["dataset.size=40"], "multiple of 16, not size=40: choose another dataset.size"),
        (["dataset=digits"], "multiple of 16, not size=8: choose another dataset.size"),
        (["detector.input=latent"], "detector.input=latent: detector=rdna reads images"),
        (["detector.adversarial_weight=-1"], "detector.adversarial_weight=-1 must be at least 0"),
        (["detector.adversarial_weight=much"], "detector.adversarial_weight=much must be a number"),
        (["detector.width=0"], "detector.width=0 must be above 0"),
        (["detector.depth=2"], "detector.depth=2 is an unknown key: detector has adversarial"),
        (
            ["detector=ensemble", "detector.members=[rdma]"],
            "choose among reconstruction, knn, positional_knn, gaussian, rdna",
        ),
    ],
)
def test_a_mistake_is_one_clear_line(
    keys: list[str], message: str, tmp_path: Path, run_here: RunHere
) -> None:
    base = [] if "dataset=digits" in keys else DATA[:5]
    given = [*base, "detector=rdna", "device=cpu", *keys]
    if any(key.startswith("detector=") for key in keys):
        given.remove("detector=rdna")
    if "dataset.size=40" in keys:
        given.remove("dataset.size=32")
    code, _, error = run_here(train_detector.main, "train_detector", *given, cwd=tmp_path)
    assert code == 2, error
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("runs/**/metrics.json"))
