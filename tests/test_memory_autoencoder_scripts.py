"""The four variants through the scripts: what they show, resuming, scoring, and in the environment."""

from __future__ import annotations

import json
import os
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from composed_runs import compose_run
from conftest import ROOT, TINY, RunHere

import train_ae
import train_detector
from conf.schema.autoencoders import MemoryAutoencoderConfig
from detectors.metrics import image_AUROC
from detectors.reconstruction import ReconstructionDetector
from detectors.training.loop import score
from latent_common.errors import UserError
from latent_env.training.loop import follow
from stages.autoencoder.epoch_reports import report_every
from stages.autoencoder.memory import MemoryPlan
from stages.autoencoder.scoring import ReconstructionScorer

SMALL = ["dataset=digits", "device=cpu", "threads=1", "autoencoder.width=8", "autoencoder.generated=40"]


def variant_keys(variant: str) -> list[str]:
    return [*SMALL, f"autoencoder={variant}", "autoencoder.steps=20"] + (
        ["autoencoder.items=20"] if "mem" in variant else []
    )


def make_plan(folder: Path, *keys: str) -> MemoryPlan:
    """How a command with these keys makes its memory autoencoder."""
    config, context, data = compose_run(folder, *keys)
    assert isinstance(config.autoencoder, MemoryAutoencoderConfig)
    return MemoryPlan(config.autoencoder, context, data)


def metrics_of(folder: Path) -> dict[str, float]:
    (path,) = folder.glob("runs/digits/autoencoder/*/metrics.json")
    found: dict[str, float] = json.loads(path.read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["ae", "vae", "memae", "memvae"])
def test_a_variant_is_trained_and_shown(variant: str, tmp_path: Path, run_here: RunHere) -> None:
    code, log, error = run_here(train_ae.main, "train_ae", *variant_keys(variant), cwd=tmp_path)
    assert code == 0, error
    metrics = metrics_of(tmp_path)
    (folder,) = tmp_path.glob("runs/digits/autoencoder/*")
    assert folder.name.startswith(f"{variant}-")
    pictures = {path.stem for path in (folder / "pictures").glob("*.png")}
    # 541 images in batches of 64: an epoch is 9 steps, and the end is looked at too.
    shown = {"epoch_0001", "epoch_0002", "plots_losses", "plots_auroc", "plots_errors"}
    assert shown | {"samples_generated", "samples_interpolations"} <= pictures
    assert ("plots_memory" in pictures) == ("mem" in variant)
    assert "AUROC" in log
    assert ("prototypes ever matter" in log) == ("mem" in variant)
    epochs = json.loads((folder / "epochs.json").read_text())
    assert [seen["step"] for seen in epochs] == [9, 18, 20]
    assert epochs[-1]["image_AUROC"] == metrics["valid_image_AUROC"]
    assert {"train_loss", "valid_loss", "sample_frechet", "sample_precision"} <= metrics.keys()
    assert ("valid_kl" in metrics) == ("vae" in variant)
    assert all(np.isfinite(list(metrics.values())))
    if "mem" in variant:
        assert 0 <= metrics["memory_dead"] < metrics["memory_items"] == 20


def test_a_variant_carries_the_environment_and_reconstruction_scores(
    tmp_path: Path, run_here: RunHere
) -> None:
    keys = variant_keys("memvae")
    detector = [key for key in TINY if key.startswith("detector.")]
    code, _, error = run_here(
        train_detector.main, "train_detector", *keys, *detector, "export=world", cwd=tmp_path
    )
    assert code == 0, error
    env = gym.make("LatentAug-v0", artifacts=str(tmp_path / "world"))
    observation, _ = env.reset(seed=0)
    assert observation.shape == (16 + 32,)
    _, reward, *_ = env.step(env.action_space.sample())
    assert np.isfinite(float(reward))

    code, log, error = run_here(
        train_detector.main, "train_detector", *keys, "detector=reconstruction", cwd=tmp_path
    )
    assert code == 0, error
    assert "autoencoder: using" in error
    assert "image_AUROC" in log
    (folder,) = tmp_path.glob("runs/digits/detector/reconstruction-*")
    (made,) = tmp_path.glob("runs/digits/autoencoder/*")
    scorer = ReconstructionScorer.load(made, folder)
    images = torch.rand(3, 1, 8, 8)
    first, second = scorer.score(images), scorer.score(images)
    assert torch.equal(first.score, second.score)
    assert torch.equal(first.map, second.map)
    assert first.score.shape == (3,)
    assert first.map.shape == (3, 1, 8, 8)
    # In a batch or alone, an image gets the same score.
    torch.testing.assert_close(scorer.score(images[1:2]).score, first.score[1:2])
    (other,) = tmp_path.glob("runs/digits/detector/transformer-*")
    with pytest.raises(UserError, match="another detector"):
        ReconstructionScorer.load(made, other)


def test_a_stopped_training_ends_where_it_would_have_ended(tmp_path: Path) -> None:
    keys = [*variant_keys("memvae"), "autoencoder.steps=30"]
    whole, plan = (make_plan(tmp_path / name, *keys) for name in ("whole", "stopped"))
    whole.train()
    model = plan.untrained()
    state, training = plan.start_training(model)
    run = plan.run_folder()
    reports = plan.reports(run, model)
    run.begin()

    def stop() -> dict[str, float]:
        seen = reports.report(state.step)
        if state.step == 18:
            os.kill(os.getpid(), 2)  # Ctrl-C, which is held back until the step is done
        return seen

    with pytest.raises(KeyboardInterrupt):
        follow(run, "autoencoder", training, state, stop, 9)
    plan.train()
    one, other = (next(tmp_path.glob(f"{name}/runs/digits/autoencoder/*")) for name in ("whole", "stopped"))
    assert (one / "autoencoder.safetensors").read_bytes() == (other / "autoencoder.safetensors").read_bytes()
    assert (one / "epochs.json").read_text() == (other / "epochs.json").read_text()
    assert (one / "metrics.json").read_text() == (other / "metrics.json").read_text()


def test_reports_come_every_epoch_but_not_too_often() -> None:
    assert report_every(images=100, batch_size=32, steps=40) == 4
    assert report_every(images=100, batch_size=32, steps=2000) == 40
    assert report_every(images=5300, batch_size=64, steps=2000) == 83


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("autoencoder.items=1", "autoencoder.items=1 must be at least 2"),
        ("autoencoder.items=0", "is another variant: choose autoencoder=vae"),
        ("autoencoder.join=glue", "join=glue is unknown"),
        ("autoencoder.kl=-1", "autoencoder.kl=-1 must be at least 0"),
        ("autoencoder.heads=3", "heads=3 must divide"),
        ("autoencoder.warmup=1", "autoencoder.warmup=1 must lie from 0 to below 1"),
        ("autoencoder.pooling=best", "pooling=best is unknown: choose one of top, mean, relative, centred"),
        ("autoencoder.temperature=0", "autoencoder.temperature=0 must be above 0"),
        ("autoencoder.itmes=5", "autoencoder.itmes=5 is an unknown key"),
    ],
)
def test_a_mistake_is_one_clear_line(key: str, message: str, tmp_path: Path, run_here: RunHere) -> None:
    code, _, error = run_here(train_ae.main, "train_ae", *SMALL, "autoencoder=memvae", key, cwd=tmp_path)
    assert code == 2, error
    assert message in error
    assert not list(tmp_path.glob("runs/**/metrics.json"))


def trained_auroc(tmp_path: Path, *keys: str) -> float:
    """AUROC on the test split of an autoencoder that is really trained, by its reconstruction error."""
    plan = make_plan(tmp_path, *keys)
    model = plan.untrained()
    for _ in plan.start_training(model)[1]:
        pass
    test = plan.data.dataset.test
    error = ReconstructionDetector(model.channels, model.size, pooling=plan.config.pooling)
    images = torch.from_numpy(np.array(test.images))
    found = score(error, lambda batch: (batch, model(batch)), images, model.size, keep_maps=False)
    return image_AUROC(found.score.numpy(), test.labels)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["memae", "memvae"])
def test_a_short_training_finds_digits_it_never_saw(variant: str, tmp_path: Path) -> None:
    keys = ["dataset=digits", "dataset.normal=[0]", "device=cpu", "threads=1", f"autoencoder={variant}"]
    small = ["autoencoder.width=8", "autoencoder.steps=300", "autoencoder.items=50", "seed=0"]
    assert trained_auroc(tmp_path, *keys, *small) > 0.9


SHARED = ROOT.parent / "shared" / "data"


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="needs MNIST beside the checkout")
def test_a_short_training_finds_mnist_digits_it_never_saw(tmp_path: Path) -> None:
    keys = ["dataset=mnist", "dataset.normal=0", "dataset.limit=600", "device=cpu", "threads=1"]
    small = ["autoencoder=memvae", "autoencoder.width=8", "autoencoder.steps=120", "seed=0"]
    (tmp_path / "data").symlink_to(SHARED)
    assert trained_auroc(tmp_path, *keys, *small) > 0.9
