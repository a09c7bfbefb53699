"""The worlds that ship inside the package still do what they were trained for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from conftest import WORLDS
from omegaconf import OmegaConf

from latent_env.autoencoders.training import peak_signal_to_noise
from latent_env.data import Dataset
from latent_env.denoise.training.critic import evaluate_critic
from latent_env.denoise.world import load_denoise_world
from latent_env.training.evaluation import evaluate
from latent_env.worlds.labelled_anomalies import load_labelled_anomalies
from latent_env.worlds.store import BUILTIN, load_world
from stages.cli.compose import compose
from stages.datasets import load_dataset
from stages.denoise.classes import class_labels
from stages.export.copied_anomalies import add_copied_anomalies


def dataset(name: str) -> Dataset:
    """The data set as the scripts load it by default."""
    config = compose("train_ae", [f"dataset={name}"])
    return load_dataset(OmegaConf.to_object(config))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "decibels", "auroc"), [("digits", 18.0, 0.8), ("phantom", 24.0, 0.7)])
def test_builtin_worlds_reconstruct_and_detect_what_they_never_saw(
    name: str, decibels: float, auroc: float
) -> None:
    data, world = dataset(name), load_world(name, torch.device("cpu"))
    images = torch.from_numpy(data.test.normal().images).float() / 255
    with torch.inference_mode():
        psnr = float(peak_signal_to_noise(images, world.autoencoder(images)).mean())
        flat = torch.from_numpy(data.train.images).float().mean(0, keepdim=True) / 255
        trivial = float(peak_signal_to_noise(images, flat.expand_as(images)).mean())
    assert psnr > decibels
    assert psnr > trivial + 2  # better than answering every image with the mean image
    assert evaluate(world, data.test).metrics["image_AUROC"] > auroc
    starts = {image.numpy().tobytes() for image in world.images}
    assert starts <= {image.tobytes() for image in data.train.images}  # not from a test split


@pytest.mark.parametrize("space", ["latent", "pixel"])
def test_builtin_critics_judge_what_they_never_saw(space: str) -> None:
    world = load_denoise_world("digits", space, torch.device("cpu"))
    test = dataset("digits").test.normal()
    numbers = {name: number for number, name in enumerate(world.class_names)}
    labels = torch.from_numpy(class_labels(test, numbers))
    measured = evaluate_critic(world.critic, world.space.encode_all(torch.from_numpy(test.images)), labels)
    assert measured["critic_error"] < 0.15
    assert measured["critic_clean"] > 0.8
    assert measured["critic_noise"] < 0.2
    assert measured["critic_other"] < measured["critic_clean"] - 0.3  # a clean picture of another digit


@pytest.mark.slow
def test_lesions_that_agents_copy_are_none_that_rewards_are_measured_on(tmp_path: Path) -> None:
    folder = tmp_path / "phantom"
    shutil.copytree(BUILTIN / "phantom", folder)
    kept = load_labelled_anomalies(folder)
    add_copied_anomalies(folder)
    world = load_world(str(folder), torch.device("cpu"))
    found, reference_set = world.labelled_anomalies, world.reference_set
    assert found is not None
    assert kept is not None
    assert reference_set is not None
    assert torch.equal(found.images, kept.images)
    torch.testing.assert_close(found.latents, kept.latents, atol=0.01, rtol=0.01)
    copied = {image.numpy().tobytes() for image in found.images}
    assert not copied & {image.numpy().tobytes() for image in reference_set.inputs}


@pytest.mark.parametrize("name", WORLDS)
def test_builtin_worlds_are_small(name: str) -> None:
    assert sum(path.stat().st_size for path in (BUILTIN / name).iterdir()) < 2.5 * 2**20
