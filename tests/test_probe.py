"""The linear probe: the Gaussian's distance, and what labelled anomalies add to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from conftest import make_world
from random_latents import noise, seeded
from torch import Tensor

from detectors.base import FEATURES
from detectors.blocks.last_layer import has_last_layer
from detectors.distances.gaussian import GaussianDetector
from detectors.distances.whitened import WhitenedDetector
from detectors.metrics import image_AUROC
from detectors.probe import ProbeDetector
from detectors.training.samples import Samples, SampleSource
from latent_common.errors import UserError
from latent_env.settings import Settings
from latent_env.worlds.artifacts import load_detector, save_detector
from latent_env.worlds.reference_set import ReferenceSet

SHAPE = (8, 6, 6)
SPOT = (slice(None), slice(None), slice(2, 4), slice(1, 4))


def along(latents: Tensor, channel: int = 0, amount: float = 2.0) -> Tensor:
    """``latents`` with a spot that differs in one channel, by as much as normal ones may differ in all."""
    changed = latents.clone()
    changed[SPOT][:, channel] += amount
    return changed


def labelled(latents: Tensor, marked: bool = True) -> Samples:
    count = len(latents)
    marks = torch.zeros(count, 1, *(latents.shape[2:] or (1, 1)), dtype=torch.bool)
    if marked and latents.ndim == 4:
        marks[SPOT] = True
    ones = torch.ones(count, dtype=torch.int64)
    return Samples(latents, marks, ones, -ones, torch.full((count,), marked))


def learned(
    *known: Samples, normal: Tensor | None = None, strength: float = 0.2, share: float = 0.5
) -> ProbeDetector:
    normal = noise(60, SHAPE, 0) if normal is None else normal
    detector = ProbeDetector(tuple(normal.shape[1:]))
    detector.fit(normal, torch.ones(normal.shape[1]), 0)
    detector.learn(normal, [SampleSource(samples, share) for samples in known], strength)
    return detector.eval()


def gaussian(normal: Tensor | None = None) -> GaussianDetector:
    normal = noise(60, SHAPE, 0) if normal is None else normal
    detector = GaussianDetector(tuple(normal.shape[1:]))
    detector.fit(normal, torch.ones(normal.shape[1]), 0)
    return detector


def order(detector: GaussianDetector, latents: Tensor) -> list[int]:
    """The images, from the most normal to the least."""
    found: Tensor = detector(latents).score
    return found.argsort().tolist()


def found_by(detector: GaussianDetector, abnormal: Tensor, normal: Tensor | None = None) -> float:
    """The image AUROC of anomalies among as many normal images."""
    normal = noise(len(abnormal), SHAPE, 5) if normal is None else normal
    labels = torch.arange(2 * len(normal)) // len(normal)
    return image_AUROC(detector(torch.cat([normal, abnormal])).score.numpy(), labels.numpy())


# --- what it learns ---


@pytest.mark.parametrize("shape", [SHAPE, (8,)], ids=["spatial", "flat"])
def test_without_labelled_anomalies_it_ranks_as_the_gaussian(shape: Sequence[int]) -> None:
    normal, new = noise(60, tuple(shape), 0), noise(100, tuple(shape), 1)
    only_normal = labelled(normal[:5])._replace(labels=torch.zeros(5, dtype=torch.int64))
    for samples in ((), (labelled(normal[:0]),), (only_normal,)):
        probe = learned(*samples, normal=normal)
        assert order(probe, new) == order(gaussian(normal), new)
        assert order(probe, new) != list(range(100))


def test_five_anomalies_along_a_channel_show_where_to_look() -> None:
    known, new = along(noise(5, SHAPE, 7)), along(noise(80, SHAPE, 6))
    probe = learned(labelled(known))
    assert found_by(gaussian(), new) < 0.85
    assert found_by(probe, new) > found_by(gaussian(), new) + 0.1
    assert float(probe.weights[1:].abs().argmax()) == 0
    # Where it looks is shown too.
    maps = probe(new).map
    inside = maps[SPOT].mean((1, 2, 3))
    assert (inside > maps.mean((1, 2, 3))).all()
    # What differs in the opposite direction isn't meant.
    assert found_by(probe, along(noise(80, SHAPE, 6), amount=-2.0)) < found_by(probe, new) - 0.2


def test_masks_are_not_needed() -> None:
    known, new = labelled(along(noise(20, SHAPE, 7), amount=4.0), marked=False), noise(80, SHAPE, 6)
    probe = learned(known)
    assert float(probe.weights[1:].abs().argmax()) == 0
    assert found_by(probe, along(new)) > found_by(gaussian(), along(new)) + 0.02


def test_masks_that_are_known_say_which_tokens_are_anomalous() -> None:
    """The furthest tokens would be others: a label says that those of the spot are meant."""
    known = along(noise(10, SHAPE, 7))
    known[:, 3, 5] += 6
    marked, unmarked = learned(labelled(known)), learned(labelled(known, marked=False))
    assert float(marked.weights[1:].abs().argmax()) == 0
    assert float(unmarked.weights[1:].abs().argmax()) == 3


def test_held_back_enough_the_gaussian_is_left() -> None:
    known, new = labelled(along(noise(5, SHAPE, 7))), along(noise(80, SHAPE, 6), channel=3)
    sizes = []
    for strength in (0.1, 10.0, 1e3, 1e6):
        probe = learned(known, strength=strength)
        sizes.append(float(probe.weights[1:].norm() / probe.weights[0]))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 1e-3 * sizes[0]
    both = torch.cat([noise(80, SHAPE, 5), new])
    ranks = torch.tensor([order(detector, both) for detector in (probe, gaussian())]).argsort(1)
    assert int((ranks[0] - ranks[1]).abs().max()) <= 2, "all but ties are ranked as by the Gaussian"


def test_sources_count_by_their_shares() -> None:
    one, other = labelled(along(noise(5, SHAPE, 7))), labelled(along(noise(50, SHAPE, 8), channel=3))
    normal = noise(60, SHAPE, 0)

    def weights(first: float, second: float) -> Tensor:
        detector = ProbeDetector(SHAPE)
        detector.fit(normal, torch.ones(8), 0)
        detector.learn(normal, [SampleSource(one, first), SampleSource(other, second)], 0.2)
        return detector.weights

    even = weights(0.5, 0.5)
    assert float(even[1]) == pytest.approx(float(even[4]), rel=0.35), "however many there are of each"
    assert weights(0.9, 0.1)[1] > 2 * weights(0.9, 0.1)[4]
    torch.testing.assert_close(weights(0.5, 0.0), learned(one).weights)
    assert torch.equal(weights(0.0, 0.0), learned().weights), "what has no share teaches nothing"


def test_normal_samples_are_no_anomalies() -> None:
    anomalies, normal = labelled(along(noise(5, SHAPE, 7))), labelled(noise(5, SHAPE, 8))
    normal = normal._replace(labels=torch.zeros(5, dtype=torch.int64))
    both = Samples(*map(torch.cat, zip(anomalies, normal, strict=True)))
    torch.testing.assert_close(learned(both).weights, learned(anomalies).weights)


# --- the same for the same ---


def test_neither_repetition_nor_order_changes_it() -> None:
    known, normal = labelled(along(noise(70, SHAPE, 7))), noise(60, SHAPE, 0)  # more than are read at once
    first = learned(known, normal=normal)
    assert torch.equal(first.weights, learned(known, normal=normal).weights)
    again = ProbeDetector(SHAPE)
    again.fit(normal, torch.ones(8), 0)
    for samples in (labelled(along(noise(5, SHAPE, 9), channel=2)), known):  # from scratch each time
        again.learn(normal, [SampleSource(samples, 0.5)], 0.2)
    assert torch.equal(first.weights, again.weights)
    shuffled = learned(known.at(torch.randperm(70, generator=seeded())), normal=normal)
    torch.testing.assert_close(shuffled.weights, first.weights, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(shuffled.bias, first.bias, atol=1e-5, rtol=1e-4)


def test_what_is_there_twice_counts_once() -> None:
    known = labelled(along(noise(5, SHAPE, 7)))
    twice = learned(known.at(torch.arange(10) % 5))
    torch.testing.assert_close(twice.weights, learned(known).weights, atol=1e-5, rtol=1e-4)


# --- odd data ---


def test_a_channel_that_never_varies_does_not_take_over() -> None:
    def still(latents: Tensor) -> Tensor:
        latents[:, 7] = 0.3
        return latents

    normal, new = still(noise(60, SHAPE, 0)), still(noise(80, SHAPE, 5))
    probe = learned(labelled(along(still(noise(5, SHAPE, 7)), channel=7, amount=1.0)), normal=normal)
    assert found_by(probe, along(still(noise(80, SHAPE, 6)), channel=7, amount=1.0), new) > 0.99
    other = along(still(noise(80, SHAPE, 6)), channel=3, amount=4.0)
    assert found_by(probe, other, new) > 0.95, "what it wasn't shown is as far from normal as before"


@pytest.mark.parametrize("count", [2, 6])
@pytest.mark.parametrize("shape", [(20, 6, 6), (20,)], ids=["spatial", "flat"])
def test_fewer_normal_images_than_channels_are_enough(shape: tuple[int, ...], count: int) -> None:
    normal, known = noise(count, shape, 0), noise(3, shape, 7) + 5
    probe = learned(labelled(known, marked=False), normal=normal)
    assert probe.weights.isfinite().all()
    probe.calibrate(noise(10, shape, 1))
    assert probe(noise(4, shape, 2) + 5).score.min() > probe(noise(4, shape, 3)).score.max()


def test_copies_of_an_image_are_normal() -> None:
    normal = noise(10, SHAPE, 0)[torch.arange(40) % 10]
    probe = learned(labelled(along(noise(5, SHAPE, 7), amount=4.0)), normal=normal)
    assert probe.weights.isfinite().all()
    assert found_by(probe, along(noise(40, SHAPE, 6), amount=4.0)) > 0.9


# --- what others make of it ---


def test_its_last_layer_gives_its_map() -> None:
    probe, new = learned(labelled(along(noise(5, SHAPE, 7)))), along(noise(3, SHAPE, 4))
    layer_input, (weight, bias) = probe.last_layer_input(new), probe.last_layer()
    assert has_last_layer(probe)
    logits = (layer_input.features * weight).sum(1, keepdim=True) + bias + layer_input.offset
    torch.testing.assert_close(logits, probe(new).map, atol=1e-4, rtol=1e-4)
    top = logits.flatten(1).topk(probe.score_count(36), dim=1).values.mean(1)
    torch.testing.assert_close(top, probe(new).score, atol=1e-4, rtol=1e-4)


def test_the_score_can_be_climbed() -> None:
    probe, latents = learned(labelled(along(noise(5, SHAPE, 7)))), noise(4, SHAPE, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(probe(latents).score.sum(), latents)
    step = 0.01 * gradient / gradient.flatten(1).norm(dim=1).view(4, 1, 1, 1)
    assert (probe(latents + step).score > probe(latents).score).all()


def test_it_pays_for_samples_by_what_they_teach_it() -> None:
    world = make_world("spatial")
    shape, latents = world.autoencoder.latent_shape, world.latents
    change = torch.zeros_like(latents[:4])
    change[:, :, 1, 1] = torch.tensor([3.0, -3.0, 2.0, 2.0, -2.0, 3.0])
    probe = ProbeDetector(shape)
    probe.fit(latents, torch.ones(shape[0]), 0)
    probe.calibrate(latents)
    reference = ReferenceSet(torch.cat([latents[:8], latents[:4] + change]), torch.tensor([0] * 8 + [1] * 4))
    made = world.with_detector(probe.eval().requires_grad_(False)).with_reference_set(reference)
    batch = Settings(
        perturbation="dense", max_delta=4.0, reward={"usefulness": 1.0}, shell_ratio=50.0
    ).dynamics(made, 4)

    def paid(actions: Tensor) -> Tensor:
        batch.reset_tensor(sources=torch.arange(4))
        return batch.step_tensor(actions).reward_terms["usefulness"]

    useful = paid((change / 4).flatten(1))
    other = paid(0.5 * noise(4, tuple(shape), 3).flatten(1).clamp(-1, 1))
    assert useful.isfinite().all()
    assert useful.mean() > other.mean()


def test_saved_and_loaded_it_scores_the_same(tmp_path: Path) -> None:
    probe = ProbeDetector(SHAPE, FEATURES)
    normal, new = noise(60, SHAPE, 0), noise(5, SHAPE, 2)
    probe.fit(normal, torch.ones(8), 0)
    probe.learn(normal, [SampleSource(labelled(along(noise(5, SHAPE, 7))), 0.5)], 0.2)
    probe.calibrate(noise(20, SHAPE, 1))
    save_detector(tmp_path, probe)
    again = load_detector(tmp_path)
    assert isinstance(again, ProbeDetector)
    assert isinstance(again, WhitenedDetector)
    assert (
        again.hyperparameters() == probe.hyperparameters() == {"latent_shape": [8, 6, 6], "reads": FEATURES}
    )
    for one, other in zip(probe(new), again(new), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("fact", "value"), [("latent_shape", [8]), ("latent_shape", [9, 6, 6]), ("reads", "image"), ("width", 4)]
)
def test_damaged_facts_are_refused(fact: str, value: object, tmp_path: Path) -> None:
    save_detector(tmp_path, ProbeDetector(SHAPE))
    path = tmp_path / "detector.json"
    description = json.loads(path.read_text())
    description["facts"][fact] = value
    path.write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"detector\."):
        load_detector(tmp_path)
