"""What the critic learns from, the diffusion model beside it, and how both are measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from denoise_worlds import make_denoise_world, striped_images

from latent_common.errors import UserError
from latent_common.training_state import TrainingState
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.autoencoders.sample_features import SampleClassifier
from latent_env.denoise.critic import Critic
from latent_env.denoise.process import ForwardProcess, mixed
from latent_env.denoise.training.critic import NoiseEstimator, evaluate_critic, train_critic
from latent_env.denoise.training.diffusion import Diffusion, train_diffusion
from latent_env.denoise.training.sample_evaluation import (
    evaluate_images,
    predicted,
    train_labelled_classifier,
)
from latent_env.denoise.world import load_denoise_world, save_critic
from latent_env.worlds.artifacts import save_autoencoder


def clusters(count: int = 60, dimensions: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes of states around a point each."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    centres = 1.3 * torch.randn(3, dimensions, generator=generator)
    return centres[labels] + 0.3 * torch.randn(count, dimensions, generator=generator), labels


def test_explained_noise_is_what_was_added() -> None:
    states, labels = clusters()
    explain = NoiseEstimator(states, labels)
    noise = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
    for amount in (0.5, 0.8):
        found = explain(mixed(states, noise, torch.full((60,), amount)), labels)
        assert float(found.mean()) == pytest.approx(amount, abs=0.15)
    assert float(explain(states, labels).max()) < 0.2
    assert float(explain(states, (labels + 1) % 3).min()) > 0.6  # good pictures of something else
    assert float(explain(states, torch.full_like(labels, -1)).max()) < 0.2  # but any will do here
    assert float(explain(torch.zeros(1, 8), labels[:1])[0]) > 0.6  # the mean image is no image
    assert float(explain(10 * states, labels).min()) > 0.9


def test_a_critic_learns_noise_and_classes_and_the_same_from_the_same_seed() -> None:
    states, labels = clusters()
    generated = (torch.zeros(10, 8), torch.zeros(10, dtype=torch.int64))

    def taught(seed: int) -> Critic:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            critic = Critic((8,), 3, width=32, depth=1)
        state = TrainingState(critic, 5e-3, 250, seed)
        losses = [
            float(p.losses["total"]) for p in train_critic(state, critic, states, labels, 48, generated)
        ]
        assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:20])
        return critic

    critic, twin = taught(0), taught(0)
    assert all(torch.equal(a, b) for a, b in zip(critic.parameters(), twin.parameters(), strict=True))
    measured = evaluate_critic(critic, states, labels)
    assert measured["critic_error"] < 0.2
    assert measured["critic_clean"] > 0.7 > 0.4 > measured["critic_noise"]
    assert measured["critic_other"] < 0.4
    assert not any(parameter.requires_grad for parameter in critic.parameters())


def test_diffusion_finds_the_classes() -> None:
    states, labels = clusters()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Diffusion((8,), 3, [64])
    process, state = ForwardProcess("cosine"), TrainingState(model, 5e-3, 300, 0)
    wanted = torch.nn.functional.one_hot(labels, 3).float()
    for _ in train_diffusion(state, model, process, states, wanted, 64):
        pass
    noise = torch.randn(60, 8, generator=torch.Generator().manual_seed(2))
    made = model.sample(noise, wanted, process, 8)
    nearest = torch.cdist(made, states).argmin(1)
    assert float((labels[nearest] == labels).float().mean()) > 0.95
    assert float((made - noise).abs().mean()) > 0.3


def test_quality_measures_classes_distance_and_diversity() -> None:
    images, labels = striped_images(60)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        member = SampleClassifier(1, 3)
    state = TrainingState(member, 5e-3, 120, 0)
    for _ in train_labelled_classifier(state, member, images, labels, 32):
        pass
    real = images.float() / 255
    assert float((predicted(member, real) == labels).float().mean()) > 0.95
    same = evaluate_images(member, real, labels, real, labels)
    assert same["accuracy"] > 0.95
    assert same["frechet"] == pytest.approx(0, abs=1e-4)
    assert same["diversity"] == pytest.approx(1)
    copies = evaluate_images(member, real[:3].repeat(20, 1, 1, 1), labels, real, labels)
    assert copies["diversity"] == pytest.approx(0, abs=1e-6)
    wrong = evaluate_images(member, real, (labels + 1) % 3, real, labels)
    assert wrong["accuracy"] < 0.05


@pytest.mark.parametrize("space", ["latent", "pixel"])
def test_a_world_is_what_was_saved(tmp_path: Path, space: str) -> None:
    world = make_denoise_world(space)
    if isinstance(world.space, FrozenAutoencoder):
        save_autoencoder(tmp_path, world.space)
    save_critic(tmp_path, world, space)
    again = load_denoise_world(str(tmp_path), space, torch.device("cpu"))
    assert again.class_names == world.class_names
    assert torch.equal(again.images, world.images)
    wanted = world.one_hot(world.labels)
    assert torch.equal(again.critic(again.states, wanted), world.critic(world.states, wanted))
    other = "pixel" if space == "latent" else "latent"
    with pytest.raises(UserError, match=f"no critic for space='{other}', but one for '{space}'"):
        load_denoise_world(str(tmp_path), other, torch.device("cpu"))


def test_a_critic_of_another_world_is_refused(tmp_path: Path) -> None:
    world = make_denoise_world()
    assert isinstance(world.space, FrozenAutoencoder)
    save_autoencoder(tmp_path, world.space)
    save_critic(tmp_path, world, "latent")
    world.space.mean.add_(1)
    save_autoencoder(tmp_path, world.space)
    with pytest.raises(UserError, match="critic and autoencoder come from different worlds"):
        load_denoise_world(str(tmp_path), "latent", torch.device("cpu"))
    (tmp_path / "critic_latent.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="damaged"):
        load_denoise_world(str(tmp_path), "latent", torch.device("cpu"))


def test_a_link_to_nowhere_is_named(tmp_path: Path) -> None:
    world = make_denoise_world()
    assert isinstance(world.space, FrozenAutoencoder)
    save_autoencoder(tmp_path, world.space)
    save_critic(tmp_path, world, "latent")
    (tmp_path / "autoencoder.json").unlink()
    (tmp_path / "autoencoder.json").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"autoencoder\.json"):
        load_denoise_world(str(tmp_path), "latent", torch.device("cpu"))
