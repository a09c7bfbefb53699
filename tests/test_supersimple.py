"""SuperSimpleNet's heads: what they answer, what noise and labels teach them, and how they are kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_latents import SPATIAL, noise, seeded
from torch import Tensor

from detectors.base import FEATURES, Detection
from detectors.blocks.last_layer import has_last_layer
from detectors.distances.knn import KnnDetector
from detectors.ensemble import EnsembleDetector
from detectors.metrics import image_AUROC, pixel_AP
from detectors.supersimple import MARGIN, SuperSimpleDetector, supersimple_losses
from detectors.training.batches import Batch
from detectors.training.loop import score, train_detector
from detectors.training.noise_batches import NoiseBatchSampler
from detectors.training.samples import Mixture, Samples, SampleSource, make_mixture
from latent_common.errors import UserError
from latent_common.image_source import ImageSource
from latent_common.training_state import Progress, TrainingState
from latent_env.data.placement import StreamedImages
from latent_env.worlds.artifacts import load_detector, save_detector

CPU = torch.device("cpu")
SHAPE = (8, 6, 6)
SPOT = (slice(None), slice(None), slice(2, 4), slice(1, 4))
FINE_SPOT = (slice(None), slice(None), slice(4, 8), slice(2, 8))


def normal_latents(count: int, seed: int = 0) -> Tensor:
    """Tokens that vary in four of eight components, and hardly in the others."""
    scales = torch.tensor([1.0] * 4 + [0.1] * 4).view(1, 8, 1, 1)
    return scales * torch.randn(count, *SHAPE, generator=seeded(seed))


def strange(latents: Tensor) -> Tensor:
    """``latents`` with a spot that differs where normal ones hardly vary: noise is like that too."""
    changed = latents.clone()
    changed[SPOT][:, 4:] += 0.8
    return changed


def ordinary(latents: Tensor) -> Tensor:
    """``latents`` with a spot as normal tokens may look: only a label says that it is abnormal."""
    changed = latents.clone()
    changed[SPOT][:, 0] = 1.2
    return changed


def masks(count: int, grid: int = 12) -> Tensor:
    marks = torch.zeros(count, 1, grid, grid, dtype=torch.bool)
    marks[FINE_SPOT if grid == 12 else SPOT] = True
    return marks


def labelled(latents: Tensor, marked: bool = True, grid: int = 12) -> Samples:
    """Anomalies as samples, with or without masks."""
    count = len(latents)
    marks = masks(count, grid) if marked else torch.zeros(count, 1, grid, grid, dtype=torch.bool)
    ones = torch.ones(count, dtype=torch.int64)
    return Samples(latents, marks, ones, -ones, torch.full((count,), marked))


def make_detector(seed: int = 0, width: int = 32, shape: Sequence[int] = SHAPE) -> SuperSimpleDetector:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SuperSimpleDetector(shape, width=width)


def make_sampler(samples: Samples | None = None, flips: tuple[int, ...] = ()) -> NoiseBatchSampler:
    mixture: Mixture | None = None if samples is None else make_mixture([SampleSource(samples, 0.5)])
    return NoiseBatchSampler(normal_latents(60), 2, 0.5, mixture, flips)


def trained(samples: Samples | None = None, steps: int = 60, seed: int = 0) -> SuperSimpleDetector:
    detector = make_detector(seed)
    state = TrainingState(detector, 1e-2, steps, seed)
    for _ in learning(detector, state, make_sampler(samples)):
        pass
    detector.calibrate(normal_latents(40, seed=1))
    return detector


def learning(
    detector: SuperSimpleDetector, state: TrainingState, sampler: NoiseBatchSampler
) -> Iterator[Progress]:
    """A training, step by step."""
    return train_detector(
        state, detector, sampler, lambda batch: (batch.images, batch.noise), 16, supersimple_losses
    )


def found_by(detector: SuperSimpleDetector, abnormal: Tensor) -> tuple[float, float]:
    """The image AUROC and the pixel AP, at 12 pixels, of 40 normal images and 40 anomalies."""
    normal = normal_latents(40, seed=2)
    found = score(detector, lambda batch: (batch,), torch.cat([normal, abnormal]), 12)
    labels = torch.arange(80) // 40
    truth = torch.cat([torch.zeros(40, 1, 12, 12, dtype=torch.bool), masks(40)])
    return (
        image_AUROC(found.score.numpy(), labels.numpy()),
        pixel_AP(found.map[:, 0].numpy(), truth[:, 0].numpy()),
    )


# --- what it answers ---


@settings(max_examples=8)
@given(st.tuples(*(st.integers(1, 6) for _ in range(3))), st.integers(1, 3), st.integers(1, 20))
def test_every_place_of_a_finer_grid_gets_a_logit(
    shape: tuple[int, int, int], upscale: int, width: int
) -> None:
    detector = SuperSimpleDetector(shape, width, upscale).eval()
    latents = noise(3, shape)
    found, maps = detector(latents)
    assert found.shape == (3,)
    assert maps.shape == (3, 1, shape[1] * upscale, shape[2] * upscale)
    torch.testing.assert_close(detector(latents[1:2]).map, maps[1:2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(detector(latents[1:2]).score, found[1:2], atol=1e-4, rtol=1e-4)


def test_without_the_classification_head_the_map_is_the_score(tmp_path: Path) -> None:
    detector = SuperSimpleDetector(SHAPE, width=16, classifies=False)
    assert not [name for name, _ in detector.named_parameters() if "classify" in name or "of_" in name]
    for _ in learning(detector, TrainingState(detector, 1e-2, 5, 0), make_sampler()):
        pass
    detector.calibrate(normal_latents(40, seed=1))
    with torch.inference_mode():
        found, maps = detector(normal_latents(20, seed=2))
    ranked = maps.flatten(1).topk(5, dim=1).values.mean(1)
    assert found.argsort().tolist() == ranked.argsort().tolist()
    save_detector(tmp_path, detector)
    again = load_detector(tmp_path)
    assert isinstance(again, SuperSimpleDetector)
    assert not again.classifies
    with torch.inference_mode():
        assert torch.equal(again(normal_latents(20, seed=2)).map, maps)


def test_flat_latents_are_refused() -> None:
    with pytest.raises(UserError, match=r"reads tokens on a grid, and the latent is flat, \(6,\)"):
        SuperSimpleDetector((6,))


def test_zero_is_further_out_than_95_percent_of_normal_images() -> None:
    detector, held_out = make_detector().train(), normal_latents(100, seed=1)
    detector.calibrate(held_out)
    assert detector.training
    with torch.inference_mode():
        found, maps = detector.eval()(held_out)
    assert int((found < 0).sum()) == 95
    assert int((maps.flatten(1).amax(1) < 0).sum()) == 95
    assert float(found.std(correction=0)) == pytest.approx(1, abs=1e-3)
    sources: list[ImageSource] = [held_out.half(), StreamedImages(held_out.half().numpy(), CPU)]
    answers = []
    for source in sources:
        detector.calibrate(source)
        answers.append(detector(held_out).score)
    assert torch.equal(*answers)


def test_the_score_can_be_climbed() -> None:
    latents = normal_latents(4).requires_grad_()
    detector = trained(steps=5)
    (gradient,) = torch.autograd.grad(detector(latents).score.sum(), latents)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    with torch.no_grad():
        step = 0.01 * gradient / gradient.flatten(1).norm(dim=1).view(4, 1, 1, 1)
        assert (detector(latents + step).score > detector(latents).score).all()


def test_its_last_layer_gives_the_means_of_its_map() -> None:
    detector = trained(steps=5)
    detector.location.zero_()
    detector.scale.fill_(1)
    latents = normal_latents(3, seed=4)
    layer_input, (weight, bias) = detector.last_layer_input(latents), detector.last_layer()
    assert has_last_layer(detector)
    assert layer_input.features.shape[2:] == layer_input.offset.shape[2:] == SHAPE[1:]
    logits = (layer_input.features * weight).sum(1, keepdim=True) + bias + layer_input.offset
    means = torch.nn.functional.avg_pool2d(detector(latents).map, 2)
    torch.testing.assert_close(logits, means, atol=1e-4, rtol=1e-4)


def test_an_ensemble_has_the_grid_of_the_finest_map() -> None:
    known, new = normal_latents(30), normal_latents(5, seed=3)
    near = KnnDetector(SHAPE, bank=200, reads=FEATURES)
    near.fit(known, torch.ones(8), 0)
    fine = SuperSimpleDetector(SHAPE, 16, reads=FEATURES).eval()
    both = EnsembleDetector({"knn": near, "supersimple": fine}, (0.5, 0.5))
    both.calibrate(known, lambda batch: (batch,))
    found = both(new)
    assert found.map.shape == (5, 1, 12, 12)
    assert found.map.isfinite().all()


# --- batches ---


def test_half_of_a_batch_is_made_anomalous_by_noise() -> None:
    batch = make_sampler().batch(16, seeded())
    assert batch.noise is not None
    assert batch.labels.tolist() == [0] * 8 + [1] * 8
    assert batch.masks.shape == (16, 1, 12, 12)
    assert not batch.masks[:8].any()
    assert batch.masks[8:].flatten(1).any(1).all()
    assert torch.equal(batch.noise.abs().sum(1, keepdim=True) > 0, batch.masks > 0)
    assert float(batch.noise[batch.masks.expand_as(batch.noise) > 0].std()) == pytest.approx(0.5, abs=0.05)
    assert torch.equal(batch.images, normal_latents(60)[batch.sources])


@pytest.mark.parametrize("grid", [12, 6])
def test_labelled_anomalies_take_their_share_and_noise_stays_outside_of_them(grid: int) -> None:
    known = ordinary(normal_latents(5, seed=7))
    sampler, generator = make_sampler(labelled(known, grid=grid)), seeded()
    batches = [sampler.batch(16, generator) for _ in range(10)]
    also = 0
    for batch in batches:
        assert batch.noise is not None
        real = batch.sources == -1
        assert real.tolist() == [False] * 8 + [True] * 4 + [False] * 4
        assert all(any(torch.equal(image, one) for one in known) for image in batch.images[real])
        assert (batch.masks[real][FINE_SPOT] == 1).all()
        assert not batch.noise[real][FINE_SPOT].any()
        also += int(batch.noise[real].flatten(1).any(1).sum())
    assert 8 <= also <= 32, "about half of forty"


def test_what_has_no_mask_teaches_the_score_alone() -> None:
    sampler = make_sampler(labelled(ordinary(normal_latents(5, seed=7)), marked=False))
    batch = sampler.batch(16, seeded())
    assert batch.noise is not None
    assert batch.marked.tolist() == [True] * 8 + [False] * 4 + [True] * 4
    assert not batch.noise[~batch.marked].any()
    maps = torch.zeros(16, 1, 12, 12, requires_grad=True)
    scores = torch.zeros(16, requires_grad=True)
    losses = supersimple_losses(Detection(scores, maps), batch)
    of_maps, of_scores = torch.autograd.grad(sum(losses.values()), [maps, scores])  # type: ignore[arg-type]
    assert (of_maps.flatten(1).any(1) == batch.marked).all()
    assert (of_scores[8:] < 0).all()
    # Nor does it teach the head that draws maps by way of the score.
    detector = make_detector().train()
    score_loss = supersimple_losses(detector(batch.images, batch.noise), batch)["score"]
    assert torch.autograd.grad(score_loss, [detector.out.weight], allow_unused=True) == (None,)


@pytest.mark.parametrize("flips", [(-1,), (-2,), (-2, -1)])
def test_latents_are_mirrored_with_their_masks(flips: tuple[int, ...]) -> None:
    known = strange(normal_latents(5, seed=7))
    batch = make_sampler(labelled(known), flips).batch(64, seeded())
    normal, seen = normal_latents(60), set()
    for image, mask, source in zip(batch.images, batch.masks, batch.sources, strict=True):
        candidates = normal[source : source + 1] if source >= 0 else known
        turned = [(), (-1,), (-2,), (-2, -1)]
        (dims,) = {d for d in turned for one in candidates if torch.equal(image, one.flip(d))}
        seen.add(dims)
        if source < 0:
            assert (mask.flip(dims)[0, 4:8, 2:8] == 1).all()
    assert seen == {(), flips} | ({(-1,), (-2,)} if len(flips) == 2 else set())


def test_losses_are_least_where_all_is_right() -> None:
    batch = make_sampler().batch(16, seeded())
    right = torch.where(batch.masks > 0, 2 * MARGIN, -2 * MARGIN)
    labels = torch.where(batch.labels > 0, 5.0, -5.0)
    good, bad = (supersimple_losses(Detection(sign * labels, sign * right), batch) for sign in (1, -1))
    assert float(good["truncated"]) == 0
    assert float(bad["truncated"]) == pytest.approx(2 * 3 * MARGIN)
    for name in ("focal", "score"):
        assert 0 <= float(good[name]) < 0.1 * float(bad[name])


def test_an_all_unmarked_half_is_no_mistake() -> None:
    marks = torch.zeros(4, 1, 12, 12)
    labels = torch.tensor([0.0, 0, 1, 1])
    batch = Batch(normal_latents(4), marks, labels, torch.arange(4), labels == 0)
    losses = supersimple_losses(Detection(torch.zeros(4), marks), batch)
    assert all(loss.isfinite() for loss in losses.values())


# --- what it learns ---


def test_noise_teaches_it_what_normal_latents_never_do() -> None:
    detector, abnormal = trained(), strange(normal_latents(40, seed=3))
    image, pixels = found_by(detector, abnormal)
    untrained = make_detector()
    untrained.calibrate(normal_latents(40, seed=1))
    assert image > 0.9
    assert pixels > found_by(untrained.eval(), abnormal)[1] + 0.3


def test_five_labels_teach_it_what_noise_does_not() -> None:
    abnormal, known = ordinary(normal_latents(40, seed=3)), ordinary(normal_latents(5, seed=7))
    without, by_masks = found_by(trained(), abnormal), found_by(trained(labelled(known)), abnormal)
    assert without[0] < 0.75
    assert by_masks[0] > without[0] + 0.15
    assert by_masks[1] > without[1] + 0.1


def test_labels_without_masks_help_too() -> None:
    abnormal, known = ordinary(normal_latents(40, seed=3)), ordinary(normal_latents(20, seed=7))
    by_labels = found_by(trained(labelled(known, marked=False), steps=120), abnormal)
    assert by_labels[0] > found_by(trained(steps=120), abnormal)[0] + 0.1


# --- seeds, checkpoints, artifacts ---


def test_the_seed_decides_what_it_becomes() -> None:
    one, again, other = (trained(steps=5, seed=seed) for seed in (3, 3, 4))
    assert all(map(torch.equal, one.state_dict().values(), again.state_dict().values()))
    assert not torch.equal(one.out.weight, other.out.weight)


def test_training_goes_on_exactly_where_it_stopped() -> None:
    sampler = make_sampler(labelled(ordinary(normal_latents(5, seed=7))), (-1,))

    def steps(detector: SuperSimpleDetector, state: TrainingState, last: int) -> None:
        for progress in learning(detector, state, sampler):
            if progress.step == last:
                break

    whole = make_detector()
    steps(whole, TrainingState(whole, 1e-2, 8, 0), 8)
    half = make_detector()
    half_state = TrainingState(half, 1e-2, 8, 0)
    steps(half, half_state, 3)
    kept = {name: tensor.clone() for name, tensor in half_state.tensors().items()}
    other = make_detector(seed=9)
    other_state = TrainingState(other, 1e-2, 8, 9)
    other_state.restore(kept)
    steps(other, other_state, 8)
    for (name, one), again in zip(whole.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(one, again), name


def test_saved_and_loaded_it_scores_the_same(tmp_path: Path) -> None:
    detector = trained(steps=3)
    detector.set_scales(torch.linspace(2, 0.5, 8))
    save_detector(tmp_path, detector)
    again, new = load_detector(tmp_path), normal_latents(5, seed=2)
    assert isinstance(again, SuperSimpleDetector)
    assert again.hyperparameters() == detector.hyperparameters()
    with torch.inference_mode():
        for one, other in zip(detector(new), again(new), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("upscale", 9),
        ("upscale", "two"),
        ("width", 33),
        ("width", -1),
        ("latent_shape", [8]),
        ("reads", "image"),
    ],
)
def test_damaged_facts_are_refused(fact: str, value: object, tmp_path: Path) -> None:
    save_detector(tmp_path, make_detector())
    path = tmp_path / "detector.json"
    description = json.loads(path.read_text())
    description["facts"][fact] = value
    path.write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"detector\."):
        load_detector(tmp_path)


def test_only_the_ratios_of_scales_count() -> None:
    answers = []
    for factor in (1.0, 7.0):
        detector = make_detector(shape=SPATIAL).eval()
        detector.set_scales(factor * torch.linspace(2, 0.5, 6))
        answers.append(detector(noise(3)).score)
    torch.testing.assert_close(*answers)
    assert not torch.allclose(answers[0], make_detector(shape=SPATIAL).eval()(noise(3)).score)
