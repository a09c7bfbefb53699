"""Two networks that restore images and compare, their discriminators, and how they learn."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from conftest import make_world
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from random_latents import seeded
from stable_baselines3.common.env_checker import check_env as check_env_sb3
from torch import Tensor

from conf.schema.detectors import RdnaConfig, RewardEnsembleConfig, TrainedConfig
from conf.schema.runs import DetectorRun
from detectors.blocks.last_layer import has_last_layer
from detectors.rdna import RdnaDetector
from detectors.synthetic.image_synthesis import ImageSynthesis
from detectors.training.batches import BatchSampler
from detectors.training.discriminators import INITIAL_NOISE, Discriminator, adversarial_loss
from detectors.training.loop import score
from detectors.training.rdna import (
    AdversarialState,
    Discriminators,
    known_pixels,
    restoration_losses,
    train_rdna,
)
from detectors.training.samples import Samples, SampleSource, make_mixture
from latent_common.errors import UserError
from latent_common.training_state import Progress, TrainingState
from latent_env.data.augmentation import Augmentation
from latent_env.rendering import restorations
from latent_env.worlds.artifacts import load_detector, save_detector
from latent_env.worlds.reference_set import ReferenceSet
from latent_env.worlds.store import save_world
from latent_env.worlds.world import World
from stages.cli.compose import compose
from stages.detector.trainers.rdna import check_config

PERLIN = ImageSynthesis({"perlin": 1.0})
ADVERSARIAL = pytest.mark.parametrize("adversarial", [0.1, 0.0])


def untrained(channels: int = 1, size: int = 16, width: int = 8, seed: int = 0) -> RdnaDetector:
    """Random weights, also in the last layer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        detector = RdnaDetector(channels, size, width)
        torch.nn.init.normal_(detector.segmenter.out.weight, std=0.5)
    return detector.eval()


def stripes(count: int, size: int = 32, channels: int = 1) -> Tensor:
    """Easy normal images: vertical stripes of random phase, ``(count, channels, size, size)`` uint8."""
    phase = 6 * torch.rand(count, 1, 1, 1, generator=seeded(count))
    x = torch.arange(size).float()[None, None, None, :]
    return ((x * 16 / size + phase).sin().expand(count, channels, size, size) * 100 + 127).to(torch.uint8)


# --- the networks ---


@settings(max_examples=8)
@given(st.integers(1, 6).map(lambda n: 16 * n), st.sampled_from([1, 3]), st.sampled_from([8, 12, 16]))
def test_any_multiple_of_16(size: int, channels: int, width: int) -> None:
    detector = RdnaDetector(channels, size, width)
    found, drawn = detector.outputs(torch.rand(2, channels, size, size)).detection
    assert found.shape == (2,)
    assert drawn.shape == (2, 1, size, size)
    restored = detector.restore(torch.rand(2, channels, size, size)).detach()
    assert restored.shape == (2, channels, size, size)
    assert 0 <= float(restored.min()) <= float(restored.max()) <= 1


@pytest.mark.parametrize("size", [8, 24, 60, 0])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(UserError, match=f"multiple of 16, not size={size}: choose another dataset.size"):
        RdnaDetector(1, size)


def test_small_and_full() -> None:
    small, full = (sum(p.numel() for p in RdnaDetector(3, 16, width).parameters()) for width in (16, 64))
    assert full > 14 * small


@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_reach_every_weight_and_the_image(channels: int) -> None:
    detector = untrained(channels, 32).train()
    images = torch.rand(3, channels, 32, 32).requires_grad_()
    restored, detection = detector.outputs(images)
    (detection.score.sum() + restored.square().mean()).backward()
    assert images.grad is not None
    assert float(images.grad.abs().sum()) > 0
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_an_image_scores_the_same_alone_and_among_others() -> None:
    detector, images = untrained(3, 32), stripes(7, channels=3)
    together = score(detector, lambda x: (x,), images, 32)
    again = score(detector, lambda x: (x,), images, 32)
    assert torch.equal(together.score, again.score)
    assert torch.equal(together.map, again.map)
    alone = score(detector, lambda x: (x,), images, 32, batch_size=1)
    torch.testing.assert_close(alone.score, together.score, atol=1e-4, rtol=1e-4)
    assert not torch.equal(together.map.round(), together.map)  # raw logits


def test_an_autoencoders_reconstruction_makes_no_difference() -> None:
    detector, images = untrained(), torch.rand(2, 1, 16, 16)
    for one, other in zip(detector(images), detector(images, 1 - images), strict=True):
        assert torch.equal(one, other)


def test_its_last_layer_gives_its_map() -> None:
    detector, images = untrained(), torch.rand(2, 1, 16, 16)
    assert has_last_layer(detector)
    layer_input, (weight, bias) = detector.last_layer_input(images), detector.last_layer()
    logits = torch.nn.functional.conv2d(layer_input.features, weight[None], bias[None], padding=1)
    torch.testing.assert_close(logits + layer_input.offset, detector(images).map)


def test_a_saved_one_scores_the_same(tmp_path: Path) -> None:
    detector, images = untrained(3, 32), torch.rand(2, 3, 32, 32)
    save_detector(tmp_path, detector)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["detector.json", "detector.safetensors"]
    again = load_detector(tmp_path)
    assert again.hyperparameters() == detector.hyperparameters()
    for one, other in zip(detector(images), again(images), strict=True):
        assert torch.equal(one, other)


# --- what it learns from ---


def samples(images: Tensor, labels: list[int], sources: list[int], marked: bool = True) -> Samples:
    masks = torch.zeros_like(images, dtype=torch.bool)
    masks[:, :, 4:8, 4:8] = torch.tensor(labels).bool()[:, None, None, None]
    known = torch.full((len(labels),), marked)
    return Samples(images, masks, torch.tensor(labels), torch.tensor(sources), known)


def test_a_batch_knows_what_its_anomalies_were_made_of() -> None:
    images = stripes(10, 16)
    plain = BatchSampler(images, PERLIN).batch(8, seeded())
    assert plain.clean is None
    batch = BatchSampler(images, PERLIN, keep_clean=True).batch(8, seeded())
    assert torch.equal(batch.images, plain.images)
    assert batch.clean is not None
    assert torch.equal(batch.clean, images[batch.sources].float() / 255)
    changed = (batch.clean != batch.images).any(1, keepdim=True)
    assert torch.equal(changed, batch.masks > 0)


def test_images_and_their_clean_versions_are_moved_together() -> None:
    moving = Augmentation(True, True, 0.2, 20, 0.2).with_masks
    images = stripes(10, 16, 3)
    batch = BatchSampler(images, PERLIN, augment=moving, keep_clean=True).batch(8, seeded())
    assert batch.clean is not None
    assert torch.equal(batch.images[:4], batch.clean[:4])
    plain = BatchSampler(images, PERLIN, augment=moving).batch(8, seeded())
    assert torch.equal(batch.images, plain.images)
    assert torch.equal(batch.masks, plain.masks)


def test_an_agents_anomaly_goes_back_to_its_image_and_a_collected_one_is_not_known() -> None:
    images, white = stripes(10, 16), torch.full((4, 1, 16, 16), 255, dtype=torch.uint8)
    made = samples(white, [1, 1, 0, 0], [3, 3, 5, -1])
    batch = BatchSampler(images, PERLIN, make_mixture([SampleSource(made, 0.5)]), keep_clean=True).batch(
        8, seeded()
    )
    assert batch.clean is not None
    assert torch.equal(batch.clean[4], images[3].float() / 255)
    assert torch.equal(batch.clean[0], batch.images[0])  # changed too little: normal as it is
    assert float(batch.images[0].min()) == 1
    assert torch.all(known_pixels(batch) == 1)
    for marked in (True, False):
        found = samples(white[:1], [1], [-1], marked)
        batch = BatchSampler(images, PERLIN, make_mixture([SampleSource(found, 0.5)]), keep_clean=True).batch(
            8, seeded()
        )
        known = known_pixels(batch)
        assert torch.equal(known[4, 0], 1 - batch.masks[4, 0] if marked else torch.zeros(16, 16))
        assert torch.all(known[6:] == 1)
        # Whatever stands where nothing is known has no part in the losses.
        assert batch.clean is not None
        wild = torch.where(known > 0, batch.clean, torch.rand(batch.images.shape))
        assert float(restoration_losses(wild, batch)["squared"]) == 0
        assert float(restoration_losses(wild, batch)["structure"]) < 1e-5


# --- discriminators ---


def test_a_discriminator_learns_and_then_the_instance_noise_grows() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        discriminator = Discriminator(1, 4)
    assert float(discriminator.weight) == 0
    assert float(discriminator.instance_noise) == pytest.approx(INITIAL_NOISE)
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=1e-2)
    real, made = torch.rand(8, 1, 16, 16), torch.rand(8, 1, 16, 16) * 0.2
    losses = []
    for _ in range(60):
        loss = discriminator.loss(real, made)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert float(discriminator.accuracy) > 0.9
    assert float(discriminator.weight) == 1
    assert float(discriminator.instance_noise) > INITIAL_NOISE
    before = float(discriminator.instance_noise)
    for _ in range(40):  # nothing is to be told apart
        discriminator.loss(real, real)
    assert float(discriminator.instance_noise) < before
    assert float(discriminator.weight) < 0.1


def test_instance_noise_has_its_std_and_follows_from_the_generator() -> None:
    discriminator, images = Discriminator(1, 4), torch.rand(8, 1, 64, 64)
    discriminator.instance_noise.fill_(0.5)
    first, again, other = (discriminator.with_instance_noise(images, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float((first - images).std()) == pytest.approx(0.5, rel=0.05)


def test_an_adversarial_gradient_has_the_asked_for_weight() -> None:
    output = torch.randn(4, 5, requires_grad=True)
    loss, target = output.square().sum(), torch.randn(4, 5)
    (wanted,) = torch.autograd.grad(loss, output, retain_graph=True)
    added = adversarial_loss(output, loss, lambda x: 1000 * x * target, torch.tensor(0.3))
    (gradient,) = torch.autograd.grad(added, output)
    assert float(gradient.norm()) == pytest.approx(0.3 * float(wanted.norm()), rel=1e-4)
    assert float((gradient * target).sum()) < 0  # down this is where the logits rise
    nothing = adversarial_loss(output, loss, lambda x: x * 0, torch.tensor(0.3))
    assert float(nothing.detach()) == 0


# --- training ---


def state_of(adversarial: float, steps: int, seed: int = 0) -> tuple[RdnaDetector, TrainingState]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        detector, discriminators = RdnaDetector(1, 32, 8), Discriminators(1, 8)
    if not adversarial:
        return detector, TrainingState(detector, 3e-3, steps, seed)
    return detector, AdversarialState(detector, discriminators, 3e-3, steps, seed)


@functools.cache
def trained(adversarial: float) -> tuple[RdnaDetector, list[Progress]]:
    """After a short training on stripes, and what was reported at every step."""
    detector, state = state_of(adversarial, 120)
    sampler = BatchSampler(stripes(64), PERLIN, keep_clean=True)
    return detector, list(train_rdna(state, detector, sampler, 8, adversarial))


@pytest.mark.slow
@ADVERSARIAL
def test_a_short_training_finds_what_it_never_saw(adversarial: float) -> None:
    detector, progress = trained(adversarial)
    assert not detector.training
    losses = [float(each.losses["total"]) for each in progress]
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    normal = stripes(40)
    broken = normal.clone()
    broken[:, :, 9:17, 11:17] = 255  # no synthesis makes white squares
    found = score(detector, lambda x: (x,), torch.cat([normal, broken]), 32)
    assert float((found.score[40:, None] > found.score[None, :40]).float().mean()) > 0.9
    inside, outside = found.map[40:, 0, 9:17, 11:17].mean(), found.map[40:, 0].mean()
    assert inside > outside + 1


@ADVERSARIAL
def test_it_draws_what_is_normal(adversarial: float) -> None:
    detector, _ = trained(adversarial)
    normal = stripes(20).float() / 255
    spoilt = PERLIN(normal, seeded(3))
    with torch.inference_mode():
        restored = detector.restore(spoilt.images)
    before, after = ((images - normal).square() * spoilt.masks for images in (spoilt.images, restored))
    assert float(after.sum()) < 0.6 * float(before.sum())


def test_no_discriminator_collapses() -> None:
    _, progress = trained(0.1)
    for name in ("restorations", "maps"):
        late = torch.stack([each.measured[f"balance/accuracy_on_{name}"] for each in progress[-30:]])
        # Neither does it win for good, nor does it know nothing.
        assert 0.55 < float(late.min()) < float(late.max()) < 0.88
        weights = torch.stack([each.measured[f"balance/weight_on_{name}"] for each in progress[-30:]])
        assert float(weights.mean()) > 0.5
        assert all(torch.isfinite(each.losses[f"discriminator_of_{name}"]) for each in progress)


def test_without_discriminators_there_are_none() -> None:
    _, progress = trained(0.0)
    assert not progress[-1].measured
    assert progress[-1].losses.keys() == {"squared", "structure", "focal", "dice", "score", "total"}
    weights = [list(trained(adversarial)[0].parameters()) for adversarial in (0.0, 0.1)]
    assert not all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@ADVERSARIAL
def test_training_goes_on_exactly_where_it_stopped(adversarial: float) -> None:
    sampler = BatchSampler(stripes(16), PERLIN, keep_clean=True)
    whole, state = state_of(adversarial, 8)
    ended = list(train_rdna(state, whole, sampler, 4, adversarial))[-1]
    half, state = state_of(adversarial, 8)
    for progress in train_rdna(state, half, sampler, 4, adversarial):
        if progress.step == 5:
            break
    kept = {name: tensor.clone() for name, tensor in state.tensors().items()}
    other, state = state_of(adversarial, 8, seed=9)
    state.restore(kept)
    resumed = list(train_rdna(state, other, sampler, 4, adversarial))
    assert len(resumed) == 3
    for (name, a), b in zip(whole.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    for name, value in {**ended.losses, **ended.measured}.items():
        assert torch.equal(value, {**resumed[-1].losses, **resumed[-1].measured}[name]), name


def test_a_picture_of_the_training() -> None:
    batch = BatchSampler(stripes(8, channels=3), PERLIN, keep_clean=True).batch(4, seeded())
    picture = restorations(untrained(3, 32), batch)
    assert picture.ndim == 3
    assert picture.shape[1] > 4 * 150
    assert picture.shape[0] > 4 * 150


# --- as the scorer of the environment ---


def rdna_world() -> World:
    made = make_world("spatial").with_detector(untrained(1, 32).requires_grad_(False))
    normal, spoilt = made.images[:4], made.images[:4].clone()
    spoilt[:, :, 5:13, 4:12] = 255
    reference_set = ReferenceSet(torch.cat([normal, spoilt]), torch.tensor([0] * 4 + [1] * 4))
    reward_ensemble = [untrained(1, 32, seed=seed).requires_grad_(False) for seed in (1, 2, 3)]
    return made.with_reward_ensemble(reward_ensemble[:2], reward_ensemble[2]).with_reference_set(
        reference_set
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("term", ["boundary", "usefulness"])
def test_both_checkers(term: str, tmp_path: Path) -> None:
    save_world(tmp_path, rdna_world())
    arguments: dict[str, Any] = {"artifacts": str(tmp_path), "reward": {term: 1.0}}
    env = gym.make("LatentAug-v0", **arguments, disable_env_checker=True)
    # The render check tries every mode, and "human" needs a screen to open its window on.
    check_env(env.unwrapped)
    check_env_sb3(gym.make("LatentAug-v0", **arguments).unwrapped)


# --- configuration ---


def detector_config(*arguments: str) -> TrainedConfig:
    """The configuration of a detector that train_detector.py would train."""
    config: DetectorRun = OmegaConf.to_object(compose("train_detector", arguments))  # type: ignore[assignment]
    assert isinstance(config.detector, TrainedConfig)
    return config.detector


def test_reward_detectors_are_smaller() -> None:
    ensemble = RewardEnsembleConfig(count=3, width=8, depth=1, effort=0.25)
    small = detector_config("detector=rdna", "detector.width=16", "detector.steps=400").smaller(ensemble)
    assert isinstance(small, RdnaConfig)
    assert (small.width, small.steps, small.adversarial_weight) == (8, 100, 0.1)
    large = detector_config(
        "detector=transformer", "detector.width=12", "detector.heads=3", "detector.steps=3"
    )
    assert large.smaller(ensemble) == replace(large, width=8, heads=1, depth=1, steps=1)


def test_latents_are_refused() -> None:
    config = detector_config("detector=rdna", "detector.input=latent")
    assert isinstance(config, RdnaConfig)
    with pytest.raises(UserError, match=r"detector\.input=latent: detector=rdna reads images"):
        check_config(config)
