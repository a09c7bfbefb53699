"""Copies of a detector's last layer: what they learn of a sample, and what the trial says of it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from detectors.blocks.last_layer import (
    DAMPING,
    FINEST,
    STEP,
    LastLayerLearner,
    Reading,
    at_places,
    is_headed,
    patches,
    stride,
)
from detectors.knn import KnnDetector
from detectors.latent_transformer import LatentTransformer
from detectors.synthetic.image_synthesis import ImageSynthesis
from detectors.training.batches import BatchSampler
from detectors.training.loop import train_detector
from detectors.transformer import TransformerDetector
from latent_common.training_state import TrainingState

SEEDS = st.integers(0, 2**31)
KINDS = pytest.mark.parametrize("kind", ["image", "latent"])
kinds = st.sampled_from(["image", "latent"])
IMAGES = 6


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def of_images(size: int = 16) -> TransformerDetector:
    """Random weights, also in the last layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        detector = TransformerDetector(1, size, width=16, depth=1, heads=2)
        torch.nn.init.normal_(detector.out.weight, std=0.3)
    return detector.double().eval().requires_grad_(False)


def of_latents(grid: int = 4, channels: int = 4) -> LatentTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        detector = LatentTransformer((channels, grid, grid), 8, width=16, depth=1, heads=2)
    normal = torch.randn(8, channels, grid, grid, generator=seeded(1))
    detector.memory.fill(normal, torch.arange(8))
    return detector.double().eval().requires_grad_(False)


def drawn(kind: str, count: int, seed: int, side: int | None = None) -> tuple[Tensor, ...]:
    """What a detector sees: images and reconstructions, or latents."""
    if kind == "latent":
        side = side or 4
        return (torch.randn(count, 4, side, side, generator=seeded(seed), dtype=torch.double),)
    side = side or 16
    images, noise = torch.rand(2, count, 1, side, side, generator=seeded(seed), dtype=torch.double)
    return images, 0.8 * images + 0.2 * noise


def forward(detector: Any, seen: tuple[Tensor, ...]) -> Tensor:
    """The detector's own map, ``(B, 1, h, w)``: for latents without what calibration adds to it."""
    if not isinstance(detector, LatentTransformer):
        return detector(*seen).map
    try:
        return detector.train()(*seen).map
    finally:
        detector.eval()


@dataclass
class Scene:
    """A detector, its head before a trial, and the images of it."""

    detector: Any
    reference_set: LastLayerLearner
    seen: tuple[Tensor, ...]
    labels: Tensor

    def copies(self, count: int, seed: int, far: float = 0.1) -> Tensor:
        noise = torch.randn(count, len(self.reference_set.start), generator=seeded(seed), dtype=torch.double)
        return self.reference_set.start + far * noise

    def samples(self, kind: str, count: int, seed: int) -> tuple[Reading, Tensor]:
        """Readings of other images, and masks: of none, of some and of all places."""
        reading = self.detector.reading(*drawn(kind, count, seed))
        shape = (count, 1, *reading.features.shape[2:])
        share = torch.tensor([0.0, 0.2, 1.0]).repeat(count)[:count].view(-1, 1, 1, 1)
        return reading, torch.rand(shape, generator=seeded(seed)) < share


@functools.cache
def scene(kind: str) -> Scene:
    detector: Any = of_images() if kind == "image" else of_latents()
    seen, labels = drawn(kind, IMAGES, 5), torch.tensor([0, 1] * (IMAGES // 2))
    seen[0][labels == 1] += 0.5
    return Scene(detector, LastLayerLearner(detector, detector.reading(*seen), labels), seen, labels)


# --- what the last layer reads, and what it says ---


@pytest.mark.parametrize(("kind", "side"), [("image", 16), ("image", 32), ("latent", 1), ("latent", 5)])
def test_the_last_layer_gives_the_detectors_map(kind: str, side: int) -> None:
    detector: Any = of_images(side) if kind == "image" else of_latents(side)
    seen = drawn(kind, 3, 0, side)
    reading, (weight, bias) = detector.reading(*seen), detector.head()
    rows = patches(reading.features, weight.shape[-1])
    found = rows @ torch.cat([weight.flatten(), bias.reshape(1)]) + at_places(reading.offset)
    torch.testing.assert_close(found.view(3, 1, side, side), forward(detector, seen))
    if kind == "image":
        score = found.topk(detector.top(found.shape[1]), dim=1).values.mean(1)
        torch.testing.assert_close(score, detector(*seen).score)


@pytest.mark.parametrize(("kind", "side"), [("image", 40), ("image", 72), ("latent", 33)])
def test_of_fine_maps_evenly_spaced_positions_are_read(kind: str, side: int) -> None:
    detector: Any = of_images(side) if kind == "image" else of_latents(side)
    seen = drawn(kind, 2, 0, side)
    reading, (weight, bias) = detector.reading(*seen), detector.head()
    apart = stride(reading.features)
    assert apart == -(-side // FINEST) > 1
    rows = patches(reading.features, weight.shape[-1])
    assert rows.shape[1] == (-(-side // apart)) ** 2 <= FINEST**2
    found = rows @ torch.cat([weight.flatten(), bias.reshape(1)]) + at_places(reading.offset)
    expected = forward(detector, seen)[:, 0, ::apart, ::apart].flatten(1)
    torch.testing.assert_close(found, expected)
    reference_set = LastLayerLearner(detector, reading, torch.tensor([0, 1]))
    assert reference_set.top == detector.top(rows.shape[1])
    torch.testing.assert_close(
        reference_set.scores(reference_set.start[None])[0], found.topk(reference_set.top).values.mean(1)
    )


@KINDS
def test_the_learner_scores_the_reference_set_as_the_detector_does(kind: str) -> None:
    here = scene(kind)
    maps = forward(here.detector, here.seen).flatten(1)
    expected = maps.topk(here.detector.top(maps.shape[1]), dim=1).values.mean(1)
    torch.testing.assert_close(here.reference_set.scores(here.reference_set.start[None])[0], expected)


def test_which_detectors_have_a_head() -> None:
    assert is_headed(of_images())
    assert is_headed(of_latents())
    assert not is_headed(KnnDetector((4, 2, 2)))


# --- gradients ---


@settings(max_examples=20)
@given(kind=kinds, seed=SEEDS, far=st.floats(0, 1))
def test_the_slope_is_the_gradient_of_the_loss(kind: str, seed: int, far: float) -> None:
    here = scene(kind)
    copies = here.copies(3, seed, far).requires_grad_()
    (expected,) = torch.autograd.grad(here.reference_set.loss(copies).sum(), copies)
    torch.testing.assert_close(here.reference_set.slope(copies.detach()), expected)


def balanced_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross entropies of maps ``(B, 1, h, w)``; where there is both, each counts half."""
    losses = []
    for logit, mask in zip(logits, masks, strict=True):
        entropy = functional.binary_cross_entropy_with_logits(logit, mask.to(logit), reduction="none")
        parts = [entropy[mask == kind].mean() for kind in (True, False) if (mask == kind).any()]
        losses.append(torch.stack(parts).mean())
    return torch.stack(losses).sum()


@settings(max_examples=20)
@given(kind=kinds, seed=SEEDS, far=st.floats(0, 1))
def test_a_sample_gradient_is_that_of_its_cross_entropy(kind: str, seed: int, far: float) -> None:
    here = scene(kind)
    copies = here.copies(4, seed, far).requires_grad_()
    reading, masks = here.samples(kind, 4, seed)
    side = here.reference_set.side
    maps = []
    for own, features, offset in zip(copies, reading.features, reading.offset, strict=True):
        weight = own[:-1].view(1, -1, side, side)
        maps.append(functional.conv2d(features, weight, own[-1:], padding=side // 2) + offset)
    (expected,) = torch.autograd.grad(balanced_entropy(torch.stack(maps), masks), copies)
    torch.testing.assert_close(here.reference_set.lessons(reading, masks, copies.detach()), expected)


# --- steps ---


@settings(max_examples=20)
@given(kind=kinds, seed=SEEDS, scale=st.floats(1e-3, 1e3))
def test_every_step_is_equally_long(kind: str, seed: int, scale: float) -> None:
    here = scene(kind)
    reading, masks = here.samples(kind, 3, seed)
    lessons = here.reference_set.lessons(reading, masks, here.copies(3, seed))
    steps = here.reference_set.step(lessons)
    torch.testing.assert_close(here.reference_set.step(scale * lessons), steps)
    rows = patches(here.detector.reading(*here.seen).features, here.reference_set.side).flatten(0, 1)
    change = (steps @ rows.T).square().mean(1)
    damping = DAMPING * rows.square().mean() * steps.square().sum(1)
    torch.testing.assert_close((change + damping).sqrt(), torch.full_like(change, STEP))
    assert change.sqrt().min() > 0.5 * STEP


@KINDS
def test_where_nothing_is_to_be_learned_there_is_no_step(kind: str) -> None:
    reference_set = scene(kind).reference_set
    assert not reference_set.step(torch.zeros(2, len(reference_set.start), dtype=torch.double)).any()


@settings(max_examples=20)
@given(kind=kinds, seed=SEEDS)
def test_the_loss_falls_against_the_slope(kind: str, seed: int) -> None:
    here = scene(kind)
    copies = here.copies(3, seed, 0.05)
    slope = here.reference_set.slope(copies)
    before, after = (
        here.reference_set.loss(copies),
        here.reference_set.loss(copies + here.reference_set.step(slope)),
    )
    assert (after < before).all()
    assert (here.reference_set.loss(copies - here.reference_set.step(slope)) > before).all()


@settings(max_examples=20)
@given(kind=kinds, seed=SEEDS)
def test_no_step_gains_more_than_the_best(kind: str, seed: int) -> None:
    here = scene(kind)
    reference_set = here.reference_set
    slope = reference_set.slope(reference_set.start[None])[0]
    lessons = torch.randn(20, len(slope), generator=seeded(seed), dtype=torch.double)
    gains = -reference_set.step(lessons) @ slope  # to first order
    assert gains.abs().max() <= reference_set.best * (1 + 1e-9)
    # And what is called first order here is what a very short step gains.
    little = 1e-4
    moved = reference_set.start + little * reference_set.step(lessons)
    found = (reference_set.loss(reference_set.start[None]) - reference_set.loss(moved)) / little
    torch.testing.assert_close(found, gains, rtol=1e-2, atol=1e-4 * float(reference_set.best))


# --- what learning is worth ---


@functools.cache
def taught() -> tuple[Any, Tensor]:
    """A detector after some steps on stripes and synthetic anomalies, and the images it knows."""
    phase, x = torch.linspace(0, 6, 32)[:, None, None, None], torch.arange(16).float()
    images = ((x + phase).sin().expand(32, 1, 16, 16) * 100 + 127).to(torch.uint8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        detector = TransformerDetector(1, 16, width=16, depth=1, heads=2)
    detector.calibrate(images.float() / 255, images.float() / 255)
    state = TrainingState(detector, 3e-3, 40, 0)
    sampler = BatchSampler(images, ImageSynthesis({"perlin": 1.0}))
    for _ in train_detector(state, detector, sampler, lambda batch: (batch.images, batch.images), 16):
        pass
    return detector.double().eval().requires_grad_(False), images.double() / 255


def broken(images: Tensor) -> tuple[Tensor, Tensor]:
    """Images with a brighter square each, and where it is."""
    masks = torch.zeros_like(images, dtype=torch.bool)
    for number in range(len(images)):
        row, column = 2 * (number % 5), 3 * (number % 4)
        masks[number, :, row : row + 4, column : column + 4] = True
    return torch.where(masks, images + 0.5, images).clamp(0, 1), masks


def test_what_equals_an_anomaly_of_the_reference_set_is_worth_learning_but_not_for_ever() -> None:
    detector, images = taught()
    spoilt, masks = broken(images[:8])
    inputs = torch.cat([images[16:24], spoilt])
    labels = torch.tensor([0] * 8 + [1] * 8)
    reference_set = LastLayerLearner(detector, detector.reading(inputs, inputs), labels)
    reading = detector.reading(spoilt, spoilt)
    copies, gains = reference_set.start.expand(8, -1), []
    for _ in range(12):
        moved = copies + reference_set.step(reference_set.lessons(reading, masks, copies))
        gains.append((reference_set.loss(copies) - reference_set.loss(moved)) / reference_set.best)
        copies = moved
    assert 0 < gains[0].min() < gains[0].max() < 1
    assert gains[-1].mean() < gains[0].mean() / 2
    # What calls the anomaly normal does harm.
    wrong = reference_set.step(
        reference_set.lessons(reading, torch.zeros_like(masks), reference_set.start.expand(8, -1))
    )
    assert (
        reference_set.loss(reference_set.start + wrong) > reference_set.loss(reference_set.start[None])
    ).all()
