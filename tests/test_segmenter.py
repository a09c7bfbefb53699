"""The segmenter of whitened tokens: what it begins as, what batches teach it, and how it is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from random_latents import noise, seeded
from torch import Tensor

from detectors.base import FEATURES, Detection
from detectors.blocks.last_layer import has_last_layer
from detectors.distances.gaussian import GaussianDetector
from detectors.distances.whitened import left_out, with_distance
from detectors.metrics import image_AUROC
from detectors.segmenter import SegmenterDetector, segmenter_losses
from detectors.training.batches import Batch
from detectors.training.loop import train_detector
from detectors.training.samples import Samples, SampleSource, make_mixture
from detectors.training.whitened_batches import WhitenedBatchSampler
from latent_common.errors import UserError
from latent_common.training_state import Progress, TrainingState
from latent_env.worlds.artifacts import load_detector, save_detector

SHAPE = (8, 6, 6)
SPOT = (slice(None), slice(None), slice(2, 4), slice(1, 4))


def along(latents: Tensor, amount: float = 2.0) -> Tensor:
    """``latents`` with a spot that differs in one channel, by as much as normal ones may differ in all."""
    changed = latents.clone()
    changed[SPOT][:, 0] += amount
    return changed


def labelled(latents: Tensor, marked: bool = True) -> Samples:
    count = len(latents)
    marks = torch.zeros(count, 1, *SHAPE[1:], dtype=torch.bool)
    if marked:
        marks[SPOT] = True
    ones = torch.ones(count, dtype=torch.int64)
    return Samples(latents, marks, ones, -ones, torch.full((count,), marked))


def untrained(seed: int = 0, shape: tuple[int, ...] = SHAPE, width: int = 16) -> SegmenterDetector:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        detector = SegmenterDetector(shape, width)
    detector.fit(noise(60, shape, 0), torch.ones(shape[0]), 0)
    return detector


def sampler(
    detector: SegmenterDetector, samples: Samples | None = None, share: float = 0.5
) -> WhitenedBatchSampler:
    mixture = None if samples is None else make_mixture([SampleSource(samples, share)])
    return WhitenedBatchSampler(detector, noise(60, detector.input_shape, 0), 0.7, mixture)


def learning(
    detector: SegmenterDetector, state: TrainingState, batches: WhitenedBatchSampler
) -> Iterator[Progress]:
    """A training, step by step."""
    return train_detector(state, detector.head, batches, lambda batch: (batch.images,), 16, segmenter_losses)


def trained(samples: Samples | None = None, steps: int = 30, seed: int = 0) -> SegmenterDetector:
    detector = untrained(seed)
    for _ in learning(detector, TrainingState(detector.head, 1e-2, steps, seed), sampler(detector, samples)):
        pass
    return detector.requires_grad_(False).eval()


def found_by(detector: GaussianDetector, abnormal: Tensor) -> float:
    """The image AUROC of anomalies among as many normal images."""
    both = torch.cat([noise(len(abnormal), SHAPE, 5), abnormal])
    labels = torch.arange(len(both)) // len(abnormal)
    return image_AUROC(detector(both).score.detach().numpy(), labels.numpy())


# --- what it answers ---


@pytest.mark.parametrize("shape", [SHAPE, (8,)], ids=["spatial", "flat"])
def test_untrained_it_ranks_as_the_distance(shape: tuple[int, ...]) -> None:
    detector, gaussian, new = untrained(shape=shape).eval(), GaussianDetector(shape), noise(50, shape, 1)
    gaussian.fit(noise(60, shape, 0), torch.ones(8), 0)
    with torch.inference_mode():
        found, expected = detector(new), gaussian(new)
    assert found.map.shape == expected.map.shape
    assert found.map.flatten().argsort().tolist() == expected.map.flatten().argsort().tolist()
    assert found.score.argsort().tolist() == expected.score.argsort().tolist()


def test_its_last_layer_gives_its_map() -> None:
    detector, new = trained(steps=5), along(noise(3, SHAPE, 4))
    layer_input, (weight, bias) = detector.last_layer_input(new), detector.last_layer()
    assert has_last_layer(detector)
    logits = (layer_input.features * weight).sum(1, keepdim=True) + bias + layer_input.offset
    torch.testing.assert_close(logits, detector(new).map, atol=1e-4, rtol=1e-4)
    top = logits.flatten(1).topk(detector.score_count(36), dim=1).values.mean(1)
    torch.testing.assert_close(top, detector(new).score, atol=1e-4, rtol=1e-4)


def test_the_score_can_be_climbed() -> None:
    detector, latents = trained(steps=5), noise(4, SHAPE, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(detector(latents).score.sum(), latents)
    step = 0.01 * gradient / gradient.flatten(1).norm(dim=1).view(4, 1, 1, 1)
    assert (detector(latents + step).score > detector(latents).score).all()


def test_no_width_is_refused() -> None:
    with pytest.raises(ValueError, match="can't have width=0"):
        SegmenterDetector(SHAPE, 0)


# --- batches ---


def test_half_of_a_batch_is_noisy_where_its_masks_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detectors.training.whitened_batches.DROPPED", 0.0)
    detector = untrained()
    batch = sampler(detector).batch(16, seeded())
    assert batch.labels.tolist() == [0] * 8 + [1] * 8
    assert batch.images.shape == (16, 9, 6, 6)
    assert batch.masks.shape == (16, 1, 6, 6)
    assert not batch.masks[:8].any()
    assert batch.masks[8:].flatten(1).any(1).all()
    assert batch.marked.all()
    known = noise(60, SHAPE, 0)
    tokens = with_distance(left_out(detector.whitened(known), 60))
    clean = detector.as_maps(detector.standardised(tokens))[batch.sources]
    touched = ((batch.images - clean).abs() > 0.01).any(1, keepdim=True)
    assert torch.equal(touched, batch.masks > 0)
    # The distance is that of the noisy token.
    channels = batch.images[:, 1:] * detector.spread[1:, None, None] + detector.centre[1:, None, None]
    distances = (channels.norm(dim=1) - detector.centre[0]) / detector.spread[0]
    torch.testing.assert_close(batch.images[:, 0], distances, atol=0.01, rtol=0.01)


def test_noise_is_as_strong_as_asked_for_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detectors.training.whitened_batches.DROPPED", 0.0)
    detector = untrained()
    quiet = WhitenedBatchSampler(detector, noise(60, SHAPE, 0), 0.0)
    batches = [each.batch(400, seeded()) for each in (sampler(detector), quiet)]
    added = (batches[0].images - batches[1].images)[:, 1:]
    noisy = batches[0].masks.expand_as(added) > 0
    stds = torch.stack([image[where].std() for image, where in zip(added[200:], noisy[200:], strict=True)])
    assert float(stds.mean()) == pytest.approx(0.7, abs=0.05)
    assert 0.1 < float(stds.min()) < 0.3 < 1.1 < float(stds.max())


def test_channels_are_dropped_but_never_the_distance() -> None:
    batch = sampler(untrained()).batch(64, seeded())
    dropped = (batch.images == 0).flatten(2).all(2)
    assert not dropped[:, 0].any()
    assert float(dropped[:, 1:].float().mean()) == pytest.approx(0.5, abs=0.08)
    whole = sampler(untrained())._without_some(torch.ones(64, 9, 2, 2), seeded())
    assert set(whole[:, 1:].unique().tolist()) == {0.0, 2.0}, "the others make up for it"
    assert (whole[:, 0] == 1).all()


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_samples_take_their_share(share: float) -> None:
    known = labelled(along(noise(5, SHAPE, 7)))
    batch = sampler(untrained(), known, share).batch(16, seeded())
    count = round(8 * share)
    real = batch.sources == -1
    assert real.tolist() == [False] * 8 + [True] * count + [False] * (8 - count)
    assert torch.equal(batch.masks[real] > 0, known.masks[:1].expand(count, -1, -1, -1))
    detector = untrained()
    distances = detector.input_maps(known.images)[:, 0]
    assert all(
        any(torch.allclose(one, each, atol=1e-2) for each in distances) for one in batch.images[real][:, 0]
    )


def test_normal_samples_are_normal() -> None:
    anomalies, normal = labelled(along(noise(4, SHAPE, 7))), labelled(noise(2, SHAPE, 8), marked=False)
    normal = normal._replace(labels=torch.zeros(2, dtype=torch.int64), marked=torch.ones(2, dtype=torch.bool))
    both = Samples(*map(torch.cat, zip(anomalies, normal, strict=True)))
    batch = sampler(untrained(), both).batch(16, seeded())
    assert (batch.sources == -1).tolist() == [True] * 2 + [False] * 6 + [True] * 4 + [False] * 4
    assert not batch.masks[:8].any()
    assert batch.marked.all()


def test_what_has_no_mask_teaches_the_score_alone() -> None:
    batch = sampler(untrained(), labelled(along(noise(5, SHAPE, 7)), marked=False)).batch(16, seeded())
    assert batch.marked.tolist() == [True] * 8 + [False] * 4 + [True] * 4
    maps, scores = torch.zeros(16, 1, 6, 6, requires_grad=True), torch.zeros(16, requires_grad=True)
    losses = segmenter_losses(Detection(scores, maps), batch)
    of_maps, of_scores = torch.autograd.grad(sum(losses.values()), [maps, scores])  # type: ignore[arg-type]
    assert (of_maps.flatten(1).any(1) == batch.marked).all()
    assert (of_scores[8:] < 0).all()


def test_anomalous_and_normal_tokens_weigh_the_same() -> None:
    batch = sampler(untrained(), labelled(along(noise(5, SHAPE, 7)))).batch(16, seeded())
    maps = torch.zeros(16, 1, 6, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        segmenter_losses(Detection(torch.zeros(16), maps), batch)["map"], [maps]
    )
    inside, outside = (torch.where(where, gradient, 0.0).sum((1, 2, 3))[8:12] for where in masks_of(batch))
    torch.testing.assert_close(inside, -outside)


def masks_of(batch: Batch) -> tuple[Tensor, Tensor]:
    return batch.masks > 0, batch.masks == 0


def test_an_all_unmarked_batch_is_no_mistake() -> None:
    maps, labels = torch.zeros(4, 1, 6, 6), torch.ones(4)
    batch = Batch(maps, maps, labels, torch.arange(4), labels == 0)
    losses = segmenter_losses(Detection(torch.zeros(4), maps), batch)
    assert all(loss.isfinite() for loss in losses.values())


# --- what it learns ---


@pytest.mark.parametrize("marked", [True, False], ids=["marked", "unmarked"])
def test_five_labels_teach_it_what_the_distance_does_not_see(marked: bool) -> None:
    new = along(noise(80, SHAPE, 6))
    detector = trained(labelled(along(noise(5, SHAPE, 7)), marked))
    assert found_by(untrained().eval(), new) < 0.85
    assert found_by(detector, new) > found_by(untrained().eval(), new) + 0.06
    inside = detector(new).map[SPOT].mean()
    assert float(inside) > float(detector(new).map.mean()) + 1


def test_without_labels_the_distance_is_not_lost() -> None:
    new = along(noise(80, SHAPE, 6), amount=4.0)
    assert found_by(trained(), new) > found_by(untrained().eval(), new) - 0.02


# --- seeds, checkpoints, artifacts ---


def test_the_seed_decides_what_it_becomes() -> None:
    one, again, other = (trained(steps=3, seed=seed) for seed in (3, 3, 4))
    assert all(map(torch.equal, one.state_dict().values(), again.state_dict().values()))
    assert not torch.equal(one.head.out.weight, other.head.out.weight)


def test_training_goes_on_exactly_where_it_stopped() -> None:
    known = labelled(along(noise(5, SHAPE, 7)))

    def steps(detector: SegmenterDetector, state: TrainingState, last: int) -> None:
        for progress in learning(detector, state, sampler(detector, known)):
            if progress.step == last:
                break

    whole = untrained()
    steps(whole, TrainingState(whole.head, 1e-2, 8, 0), 8)
    half = untrained()
    half_state = TrainingState(half.head, 1e-2, 8, 0)
    steps(half, half_state, 3)
    kept = {name: tensor.clone() for name, tensor in half_state.tensors().items()}
    other = untrained(seed=9)
    other_state = TrainingState(other.head, 1e-2, 8, 9)
    other_state.restore(kept)
    steps(other, other_state, 8)
    assert not torch.equal(whole.head.out.weight, half.head.out.weight)
    for (name, one), again in zip(whole.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(one, again), name


def test_saved_and_loaded_it_scores_the_same(tmp_path: Path) -> None:
    detector = SegmenterDetector(SHAPE, 7, FEATURES)
    detector.fit(noise(60, SHAPE, 0), torch.ones(8), 0)
    torch.nn.init.normal_(detector.head.out.weight, generator=seeded())
    detector.requires_grad_(False).eval().calibrate(noise(20, SHAPE, 1))
    save_detector(tmp_path, detector)
    again, new = load_detector(tmp_path), noise(5, SHAPE, 2)
    assert isinstance(again, SegmenterDetector)
    assert again.hyperparameters() == detector.hyperparameters()
    assert (again.input, again.width) == (FEATURES, 7)
    for one, other in zip(detector(new), again(new), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("fact", "value"),
    [("latent_shape", [8]), ("reads", "image"), ("width", 17), ("width", 0), ("width", "two")],
)
def test_damaged_facts_are_refused(fact: str, value: object, tmp_path: Path) -> None:
    save_detector(tmp_path, untrained())
    path = tmp_path / "detector.json"
    description = json.loads(path.read_text())
    description["facts"][fact] = value
    path.write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"detector\."):
        load_detector(tmp_path)
