"""Autoencoders, the detector, and their training."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.synthetic.image_synthesis import ImageSynthesis
from detectors.training.batches import BatchSampler
from detectors.training.loop import score, train_detector
from detectors.training.samples import Samples, SampleSource, make_mixture
from detectors.transformer import TransformerDetector, default_patch
from latent_common.errors import UserError
from latent_common.training_state import TrainingState
from latent_env.autoencoders import ConvAutoencoder, FrozenAutoencoder
from latent_env.autoencoders.frozen import as_tokens
from latent_env.autoencoders.training import peak_signal_to_noise, train_autoencoder


@settings(max_examples=15)
@given(st.integers(1, 32).map(lambda n: 8 * n), st.sampled_from([1, 3]), st.sampled_from(["flat", "spatial"]))
def test_any_multiple_of_8(size: int, channels: int, latent: str) -> None:
    model = ConvAutoencoder(channels, size, latent, latent_size=4, width=4)
    detector = TransformerDetector(channels, size, width=16, depth=1, heads=2)
    images = torch.rand(2, channels, size, size)
    latents = model.encode(images)
    assert latents.shape == (2, *model.latent_shape)
    decoded = model.decode(latents).detach()
    assert decoded.shape == images.shape
    assert 0 <= float(decoded.min()) <= float(decoded.max()) <= 1
    score, heat = detector(images, decoded)
    assert score.shape == (2,)
    assert heat.shape == (2, 1, size, size)
    assert size % default_patch(size) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 60, "flat", 4), "size=60"),
        ((1, 520, "flat", 4), "size=520"),
        ((1, 64, "round", 4), "latent=round is unknown: choose one of flat, spatial"),
        ((1, 64, "flat", 0), "latent_size=0"),
    ],
)
def test_impossible_autoencoders(arguments: tuple[int, int, str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ConvAutoencoder(*arguments)


def test_impossible_detectors() -> None:
    for patch in (3, 1, 32):
        with pytest.raises(UserError, match=f"patch={patch}"):
            TransformerDetector(1, 16, patch=patch)
    with pytest.raises(UserError, match="heads=3 must divide"):
        TransformerDetector(1, 16, width=16, heads=3)


@pytest.mark.parametrize("latent", ["flat", "spatial"])
def test_frozen_latents_are_white_and_statistics_hold(latent: str) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (40, 1, 16, 16), dtype=torch.uint8)
    frozen = FrozenAutoencoder(ConvAutoencoder(1, 16, latent, 5, width=8)).calibrate(images)
    latents = frozen.encode_all(images)
    torch.testing.assert_close(latents.mean(0), torch.zeros(frozen.latent_shape), atol=1e-4, rtol=0)
    # A flat latent is white in every dimension, a spatial one in every channel over all places.
    variance = latents.var(0, correction=0).view(5, -1).mean(1)
    torch.testing.assert_close(variance, torch.ones(5), atol=2e-3, rtol=0)
    decoded = frozen.decode(latents)
    torch.testing.assert_close(frozen(images.float() / 255), decoded)
    directions = frozen.directions
    torch.testing.assert_close(directions @ directions.T, torch.eye(len(directions)), atol=1e-4, rtol=0)
    along = latents.flatten(1) @ directions.T
    torch.testing.assert_close(along.std(0), frozen.direction_scales, atol=1e-3, rtol=1e-3)
    assert torch.all(frozen.direction_scales.diff() <= 1e-5)
    tokens = as_tokens(latents)
    slow = [
        min(float((tokens[i, t] - tokens[j, t]).norm()) for j in range(40) if j != i)
        for i in range(40)
        for t in range(tokens.shape[1])
    ]
    assert float(frozen.normal_distances[0]) == pytest.approx(min(slow), rel=1e-3)
    assert float(frozen.normal_distances[-1]) == pytest.approx(max(slow), rel=1e-3)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def _stripes(count: int, size: int = 16) -> torch.Tensor:
    """Easy normal images: vertical stripes of random phase."""
    phase = torch.linspace(0, 6, count)[:, None, None, None]
    x = torch.arange(size).float()[None, None, None, :]
    return ((x + phase).sin().expand(count, 1, size, size) * 100 + 127).to(torch.uint8)


def _autoencoder_state(seed: int = 0, steps: int = 12) -> tuple[ConvAutoencoder, TrainingState]:
    torch.manual_seed(seed)
    model = ConvAutoencoder(1, 16, "flat", 4, width=8)
    return model, TrainingState(model, 3e-3, steps, seed)


@pytest.mark.parametrize("latent", ["flat", "spatial"])
def test_an_autoencoder_starts_from_its_images(latent: str) -> None:
    torch.manual_seed(0)
    model = ConvAutoencoder(3, 32, latent, 6, width=8)
    images = torch.rand(20, 3, 32, 32) * torch.tensor([0.1, 0.5, 1.0]).view(3, 1, 1)
    model.start_from(images)
    with torch.no_grad():
        latents = model.encode(images).transpose(0, 1).flatten(1)
        mean = model.decode(model.encode(images)).mean((0, 2, 3))
    torch.testing.assert_close(latents.std(1, correction=0), torch.ones(6), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.mean(1), torch.zeros(6), atol=1e-3, rtol=0)
    torch.testing.assert_close(mean, images.mean((0, 2, 3)), atol=0.1, rtol=0)


def test_a_flat_latent_learns_bright_marks_on_black() -> None:
    # Black is the median of every pixel: an autoencoder that starts too faint answers it for ever.
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(200, 1, 32, 32, dtype=torch.uint8)
    for image, place in zip(images, torch.randint(0, 24, (200, 2), generator=generator), strict=True):
        image[0, place[0] : place[0] + 8, place[1] : place[1] + 8] = 255
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ConvAutoencoder(1, 32, "flat", 16, width=8)
    for _ in train_autoencoder(TrainingState(model, 2e-3, 150, 0), model, images, 32):
        pass
    floats = images.float() / 255
    with torch.inference_mode():
        learned = peak_signal_to_noise(floats, model(floats)).mean()
    black = peak_signal_to_noise(floats, torch.zeros_like(floats)).mean()
    assert learned > black + 2


def test_training_goes_on_exactly_where_it_stopped() -> None:
    images = _stripes(32)
    model, state = _autoencoder_state()
    for _ in train_autoencoder(state, model, images, 8):
        pass
    half, half_state = _autoencoder_state()
    for progress in train_autoencoder(half_state, half, images, 8):
        if progress.step == 5:
            break
    kept = {name: tensor.clone() for name, tensor in half_state.tensors().items()}
    other, other_state = _autoencoder_state(seed=9)
    other_state.restore(kept)
    for _ in train_autoencoder(other_state, other, images, 8):
        pass
    for (name, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_autoencoder_learns_and_detector_finds_what_it_never_saw() -> None:
    images = _stripes(64)
    model, state = _autoencoder_state(steps=150)
    losses = [float(p.losses["total"]) for p in train_autoencoder(state, model, images, 16)]
    assert losses[-1] < losses[0] / 2
    frozen = FrozenAutoencoder(model).calibrate(images)

    torch.manual_seed(0)
    detector = TransformerDetector(1, 16, width=16, depth=1, heads=2)
    state = TrainingState(detector, 3e-3, 150, 0)
    sampler = BatchSampler(images, ImageSynthesis({"perlin": 1.0}))
    for _ in train_detector(state, detector, sampler, lambda b: (b.images, frozen(b.images)), 16):
        pass
    assert not detector.training
    broken = images.clone()
    broken[:, :, 5:9, 5:9] = 255  # no synthesis makes white squares
    scores, heat = score(detector, lambda x: (x, frozen(x)), torch.cat([images, broken]), 16)
    assert float((scores[64:, None] > scores[None, :64]).float().mean()) > 0.9
    inside, outside = heat[64:, 0, 5:9, 5:9].mean(), heat[64:, 0].mean()
    assert inside > outside


def test_batches_mix_in_the_agents_samples() -> None:
    images = torch.zeros(10, 1, 16, 16, dtype=torch.uint8)
    made = torch.full((6, 1, 16, 16), 255, dtype=torch.uint8)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    masks = (labels == 1)[:, None, None, None].expand(6, 1, 16, 16)
    samples = Samples(made, masks, labels, labels + 7, labels == 0)
    sampler = BatchSampler(
        images, ImageSynthesis({"perlin": 1.0}), make_mixture([SampleSource(samples, 0.5)])
    )
    batch = sampler.batch(16, torch.Generator().manual_seed(0))
    white = batch.images.flatten(1).mean(1) == 1
    assert white.tolist() == [True] * 2 + [False] * 6 + [True] * 4 + [False] * 4
    assert batch.labels.tolist() == [0.0] * 8 + [1.0] * 8
    assert torch.all(batch.masks[:8] == 0)
    assert torch.all(batch.masks[8:12] == 1)
    # A sample keeps its source, and that its mask is unknown.
    assert batch.marked.tolist() == [True] * 8 + [False] * 4 + [True] * 4
    assert batch.sources[white].tolist() == [7, 7, 8, 8, 8, 8]
    empty = BatchSampler(
        images, ImageSynthesis({"perlin": 1.0}), make_mixture([SampleSource(samples.of(2), 1.0)])
    )
    assert float(empty.batch(8, torch.Generator().manual_seed(0)).images[:4].sum()) == 0
