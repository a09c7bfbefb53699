"""Copies of a detector's last layer: what they learn of a sample, and what that is worth."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_latents import seeded
from torch import Tensor
from torch.nn import functional

from detectors.blocks.last_layer import (
    DAMPING,
    MAX_SIDE,
    STEP,
    LastLayerInput,
    LastLayerLearner,
    at_positions,
    has_last_layer,
    patches,
    stride,
)
from detectors.distances.knn import KnnDetector
from detectors.latent_transformer import LatentTransformerDetector
from detectors.synthetic.image_synthesis import ImageSynthesis
from detectors.training.batches import BatchSampler
from detectors.training.loop import train_detector
from detectors.transformer import TransformerDetector
from latent_common.training_state import TrainingState

SEEDS = st.integers(0, 2**31)
KINDS = pytest.mark.parametrize("kind", ["image", "latent"])
kinds = st.sampled_from(["image", "latent"])
IMAGES = 6


def image_detector(size: int = 16) -> TransformerDetector:
    """Random weights, also in the last layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        detector = TransformerDetector(1, size, width=16, depth=1, heads=2)
        torch.nn.init.normal_(detector.out.weight, std=0.3)
    return detector.double().eval().requires_grad_(False)


def latent_detector(grid: int = 4, channels: int = 4) -> LatentTransformerDetector:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        detector = LatentTransformerDetector((channels, grid, grid), 8, width=16, depth=1, heads=2)
    normal = torch.randn(8, channels, grid, grid, generator=seeded(1))
    detector.memory.fill(normal, torch.arange(8))
    return detector.double().eval().requires_grad_(False)


def random_inputs(kind: str, count: int, seed: int, side: int | None = None) -> tuple[Tensor, ...]:
    """What a detector sees: images and reconstructions, or latents."""
    if kind == "latent":
        side = side or 4
        return (torch.randn(count, 4, side, side, generator=seeded(seed), dtype=torch.double),)
    side = side or 16
    images, noise = torch.rand(2, count, 1, side, side, generator=seeded(seed), dtype=torch.double)
    return images, 0.8 * images + 0.2 * noise


def predicted_maps(detector: Any, seen: tuple[Tensor, ...]) -> Tensor:
    """The detector's own map, ``(B, 1, h, w)``: for latents without what calibration adds to it."""
    if not isinstance(detector, LatentTransformerDetector):
        return detector(*seen).map
    try:
        return detector.train()(*seen).map
    finally:
        detector.eval()


@dataclass
class LearnerScene:
    """A detector, the learner of its last layer, and the reference images."""

    detector: Any
    learner: LastLayerLearner
    seen: tuple[Tensor, ...]
    labels: Tensor

    def copies(self, count: int, seed: int, far: float = 0.1) -> Tensor:
        noise = torch.randn(count, len(self.learner.start), generator=seeded(seed), dtype=torch.double)
        return self.learner.start + far * noise

    def samples(self, kind: str, count: int, seed: int) -> tuple[LastLayerInput, Tensor]:
        """Readings of other images, and masks: of none, of some and of all places."""
        layer_input = self.detector.last_layer_input(*random_inputs(kind, count, seed))
        shape = (count, 1, *layer_input.features.shape[2:])
        share = torch.tensor([0.0, 0.2, 1.0]).repeat(count)[:count].view(-1, 1, 1, 1)
        return layer_input, torch.rand(shape, generator=seeded(seed)) < share


@functools.cache
def make_scene(kind: str) -> LearnerScene:
    detector: Any = image_detector() if kind == "image" else latent_detector()
    seen, labels = random_inputs(kind, IMAGES, 5), torch.tensor([0, 1] * (IMAGES // 2))
    seen[0][labels == 1] += 0.5
    return LearnerScene(
        detector, LastLayerLearner(detector, detector.last_layer_input(*seen), labels), seen, labels
    )


# --- the input and the output of the last layer ---


@pytest.mark.parametrize(("kind", "side"), [("image", 16), ("image", 32), ("latent", 1), ("latent", 5)])
def test_the_last_layer_gives_the_detectors_map(kind: str, side: int) -> None:
    detector: Any = image_detector(side) if kind == "image" else latent_detector(side)
    seen = random_inputs(kind, 3, 0, side)
    layer_input, (weight, bias) = detector.last_layer_input(*seen), detector.last_layer()
    rows = patches(layer_input.features, weight.shape[-1])
    found = rows @ torch.cat([weight.flatten(), bias.reshape(1)]) + at_positions(layer_input.offset)
    torch.testing.assert_close(found.view(3, 1, side, side), predicted_maps(detector, seen))
    if kind == "image":
        score = found.topk(detector.score_count(found.shape[1]), dim=1).values.mean(1)
        torch.testing.assert_close(score, detector(*seen).score)


@pytest.mark.parametrize(("kind", "side"), [("image", 40), ("image", 72), ("latent", 33)])
def test_of_fine_maps_evenly_spaced_positions_are_read(kind: str, side: int) -> None:
    detector: Any = image_detector(side) if kind == "image" else latent_detector(side)
    seen = random_inputs(kind, 2, 0, side)
    layer_input, (weight, bias) = detector.last_layer_input(*seen), detector.last_layer()
    apart = stride(layer_input.features)
    assert apart == -(-side // MAX_SIDE) > 1
    rows = patches(layer_input.features, weight.shape[-1])
    assert rows.shape[1] == (-(-side // apart)) ** 2 <= MAX_SIDE**2
    found = rows @ torch.cat([weight.flatten(), bias.reshape(1)]) + at_positions(layer_input.offset)
    expected = predicted_maps(detector, seen)[:, 0, ::apart, ::apart].flatten(1)
    torch.testing.assert_close(found, expected)
    learner = LastLayerLearner(detector, layer_input, torch.tensor([0, 1]))
    assert learner.score_count == detector.score_count(rows.shape[1])
    torch.testing.assert_close(
        learner.scores(learner.start[None])[0],
        found.topk(learner.score_count).values.mean(1),
    )


@KINDS
def test_the_learner_scores_the_reference_set_as_the_detector_does(kind: str) -> None:
    here = make_scene(kind)
    maps = predicted_maps(here.detector, here.seen).flatten(1)
    expected = maps.topk(here.detector.score_count(maps.shape[1]), dim=1).values.mean(1)
    torch.testing.assert_close(here.learner.scores(here.learner.start[None])[0], expected)


def test_which_detectors_have_a_head() -> None:
    assert has_last_layer(image_detector())
    assert has_last_layer(latent_detector())
    assert not has_last_layer(KnnDetector((4, 2, 2)))


# --- gradients ---


@settings(max_examples=20)
@given(kind=kinds, seed=SEEDS, far=st.floats(0, 1))
def test_the_slope_is_the_gradient_of_the_loss(kind: str, seed: int, far: float) -> None:
    here = make_scene(kind)
    copies = here.copies(3, seed, far).requires_grad_()
    (expected,) = torch.autograd.grad(here.learner.loss(copies).sum(), copies)
    torch.testing.assert_close(here.learner.loss_gradient(copies.detach()), expected)


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
    here = make_scene(kind)
    copies = here.copies(4, seed, far).requires_grad_()
    layer_input, masks = here.samples(kind, 4, seed)
    side = here.learner.side
    maps = []
    for own, features, offset in zip(copies, layer_input.features, layer_input.offset, strict=True):
        weight = own[:-1].view(1, -1, side, side)
        maps.append(functional.conv2d(features, weight, own[-1:], padding=side // 2) + offset)
    (expected,) = torch.autograd.grad(balanced_entropy(torch.stack(maps), masks), copies)
    torch.testing.assert_close(here.learner.sample_gradients(layer_input, masks, copies.detach()), expected)


# --- steps ---


@settings(max_examples=20)
@given(kind=kinds, seed=SEEDS, scale=st.floats(1e-3, 1e3))
def test_every_step_is_equally_long(kind: str, seed: int, scale: float) -> None:
    here = make_scene(kind)
    layer_input, masks = here.samples(kind, 3, seed)
    sample_gradients = here.learner.sample_gradients(layer_input, masks, here.copies(3, seed))
    steps = here.learner.step(sample_gradients)
    torch.testing.assert_close(here.learner.step(scale * sample_gradients), steps)
    rows = patches(here.detector.last_layer_input(*here.seen).features, here.learner.side).flatten(0, 1)
    change = (steps @ rows.T).square().mean(1)
    damping = DAMPING * rows.square().mean() * steps.square().sum(1)
    torch.testing.assert_close((change + damping).sqrt(), torch.full_like(change, STEP))
    assert change.sqrt().min() > 0.5 * STEP


@KINDS
def test_where_nothing_is_to_be_learned_there_is_no_step(kind: str) -> None:
    learner = make_scene(kind).learner
    assert not learner.step(torch.zeros(2, len(learner.start), dtype=torch.double)).any()


@settings(max_examples=20)
@given(kind=kinds, seed=SEEDS)
def test_the_loss_falls_against_the_slope(kind: str, seed: int) -> None:
    here = make_scene(kind)
    copies = here.copies(3, seed, 0.05)
    loss_gradient = here.learner.loss_gradient(copies)
    before, after = (
        here.learner.loss(copies),
        here.learner.loss(copies + here.learner.step(loss_gradient)),
    )
    assert (after < before).all()
    assert (here.learner.loss(copies - here.learner.step(loss_gradient)) > before).all()


@settings(max_examples=20)
@given(kind=kinds, seed=SEEDS)
def test_no_step_gains_more_than_the_best(kind: str, seed: int) -> None:
    here = make_scene(kind)
    learner = here.learner
    loss_gradient = learner.loss_gradient(learner.start[None])[0]
    sample_gradients = torch.randn(20, len(loss_gradient), generator=seeded(seed), dtype=torch.double)
    gains = -learner.step(sample_gradients) @ loss_gradient  # to first order
    assert gains.abs().max() <= learner.max_gain * (1 + 1e-9)
    # And what is called first order here is what a very short step gains.
    little = 1e-4
    moved = learner.start + little * learner.step(sample_gradients)
    found = (learner.loss(learner.start[None]) - learner.loss(moved)) / little
    torch.testing.assert_close(found, gains, rtol=1e-2, atol=1e-4 * float(learner.max_gain))


# --- what learning is worth ---


@functools.cache
def trained_detector() -> tuple[Any, Tensor]:
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


def with_white_squares(images: Tensor) -> tuple[Tensor, Tensor]:
    """Images with a brighter square each, and where it is."""
    masks = torch.zeros_like(images, dtype=torch.bool)
    for number in range(len(images)):
        row, column = 2 * (number % 5), 3 * (number % 4)
        masks[number, :, row : row + 4, column : column + 4] = True
    return torch.where(masks, images + 0.5, images).clamp(0, 1), masks


def test_what_equals_an_anomaly_of_the_reference_set_is_worth_learning_but_not_for_ever() -> None:
    detector, images = trained_detector()
    spoilt, masks = with_white_squares(images[:8])
    inputs = torch.cat([images[16:24], spoilt])
    labels = torch.tensor([0] * 8 + [1] * 8)
    learner = LastLayerLearner(detector, detector.last_layer_input(inputs, inputs), labels)
    layer_input = detector.last_layer_input(spoilt, spoilt)
    copies, gains = learner.start.expand(8, -1), []
    for _ in range(12):
        moved = copies + learner.step(learner.sample_gradients(layer_input, masks, copies))
        gains.append((learner.loss(copies) - learner.loss(moved)) / learner.max_gain)
        copies = moved
    assert 0 < gains[0].min() < gains[0].max() < 1
    assert gains[-1].mean() < gains[0].mean() / 2
    # What calls the anomaly normal does harm.
    wrong = learner.step(
        learner.sample_gradients(layer_input, torch.zeros_like(masks), learner.start.expand(8, -1))
    )
    assert (learner.loss(learner.start + wrong) > learner.loss(learner.start[None])).all()
