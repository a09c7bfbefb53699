"""What labelled validation anomalies are used for, and what stands in where there are none."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import RunHere
from hypothesis import given, settings
from hypothesis import strategies as st
from small_datasets import make_arrays, save_arrays
from torch import Tensor

import stages.detector.validation_sets as validation
import train_ppo
from conf.schema.runs import LabelledConfig
from detectors.base import IMAGE, LATENT, Detection
from detectors.latent_transformer import token_losses
from detectors.synthetic.held_out import HeldOutSynthesis, families
from detectors.synthetic.image_synthesis import ImageSynthesis
from detectors.training.batches import Batch, BatchSampler
from detectors.training.loop import detector_losses
from detectors.training.samples import Samples, SampleSource, make_mixture
from latent_common.errors import UserError
from latent_env.data import Dataset, make_phantom_dataset
from latent_env.training.feature_cache import FeatureCache
from latent_env.worlds.reference_set import MOST, ReferenceSet
from stages.detector.labelled_anomalies import labelled_samples
from stages.detector.labelled_split import LabelledSplit, divide, split_labelled

LABELS = st.lists(st.integers(0, 1), max_size=80).map(lambda labels: np.array(labels, np.int64))
PURPOSES: tuple[validation.Purpose, ...] = ("reference_set", "choice")
SHARES = st.one_of(st.floats(0, 1), st.integers(0, 100).map(float))


# --- the division ---


@given(LABELS, SHARES, SHARES)
def test_every_anomaly_is_in_one_part_of_the_split(labels: Any, known: float, reference_set: float) -> None:
    parts = divide(labels, known, reference_set)
    anomalies = np.flatnonzero(labels)
    assert np.array_equal(np.sort(np.concatenate(parts)), anomalies)
    assert all(np.array_equal(part, np.sort(part)) for part in parts)
    assert len(parts.choice) >= min(len(anomalies), 1)


@given(LABELS, SHARES, SHARES)
def test_as_many_as_promised_as_long_as_one_is_left(labels: Any, known: float, reference_set: float) -> None:
    parts, anomalies = divide(labels, known, reference_set), int(labels.sum())

    def wanted(number: float) -> int:
        return int(number) if number >= 1 else round(number * anomalies)

    free = max(anomalies - 1, 0)
    assert len(parts.train) == min(wanted(known), free)
    assert len(parts.reference_set) == min(wanted(reference_set), free - len(parts.train))


@given(st.integers(1, 12), st.integers(2, 5), st.floats(0.1, 0.6), st.floats(0.1, 0.3))
def test_every_kind_is_in_every_part(each: int, kinds: int, known: float, reference_set: float) -> None:
    kind = np.repeat(np.arange(kinds), each)  # names are in order of kind
    for part in divide(np.ones(len(kind), np.int64), known, reference_set):
        counts = np.bincount(kind[part], minlength=kinds)
        assert counts.max() - counts.min() <= 2
        if len(part) >= 2 * kinds:
            assert counts.min() > 0


@pytest.mark.parametrize("wrong", [-0.1, 1.5, -1.0, float("nan"), float("inf")])
def test_impossible_numbers_are_refused(wrong: float) -> None:
    labels = np.ones(10, np.int64)
    with pytest.raises(UserError, match=r"labelled\.train=.* must be a share"):
        divide(labels, wrong, 0)
    with pytest.raises(UserError, match=r"labelled\.reference_set=.* must be a share"):
        divide(labels, 0, wrong)


# --- a command's parts ---


@functools.cache
def phantom(track: str = "few_labelled") -> Dataset:
    """A small data set; the images are drawn."""
    return make_phantom_dataset(32, 24, 24, 8, 0).for_track(track)


def shares_of(train: float = 0.5, reference_set: float = 0.25) -> LabelledSplit:
    """How the labelled anomalies of that data set are divided."""
    return split_labelled(
        phantom().valid,
        LabelledConfig(None, 0, 0, train, reference_set, weight=0.5, step_multiplier=1.0, folds=0),
    )


NOTHING = divide(phantom("one_class").valid.labels, 0.5, 0.25)
"""The division where nothing is labelled."""


@settings(max_examples=20)
@given(st.floats(0, 1), st.floats(0, 1))
def test_no_anomaly_is_in_two_parts(known: float, reference_set: float) -> None:
    valid, labelled = phantom().valid, shares_of(known, reference_set)
    normal, anomalous = (
        {name for name, label in zip(valid.names, valid.labels, strict=True) if label == kind}
        for kind in (0, 1)
    )
    learned = {valid.names[row] for row in labelled.train}
    found = []
    for purpose in PURPOSES:
        split = validation.validation_part(valid, labelled, purpose)
        names = {name for name, label in zip(split.names, split.labels, strict=True) if label}
        assert {name for name, label in zip(split.names, split.labels, strict=True) if not label} == normal
        found.append(names)
    reference_names, choice_names = found
    assert not reference_names & choice_names
    assert not learned & (reference_names | choice_names)
    assert learned | reference_names | choice_names >= anomalous
    assert choice_names <= anomalous
    # Labelled ones, or else synthetic ones.
    assert reference_names <= anomalous or not reference_names & anomalous


def test_synthetic_anomalies_stand_in_for_labelled_ones() -> None:
    valid = phantom("one_class").valid
    assert not valid.labels.any()
    parts = [validation.validation_part(valid, NOTHING, purpose) for purpose in PURPOSES]
    for split in parts:
        half = len(valid)
        assert np.array_equal(split.labels, np.repeat([0, 1], half))
        assert np.array_equal(split.images[:half], valid.images)
        assert split.masks is not None
        changed = (split.images[half:] != valid.images).any(1)
        assert changed.any((1, 2)).all()
        assert not (changed & ~split.masks[half:]).any()  # nothing changes outside the masks
        assert not split.masks[:half].any()
        again = validation.validation_part(valid, NOTHING, "reference_set")
        assert np.array_equal(again.images, parts[0].images)  # always the same
    assert (parts[0].images[half:] != parts[1].images[half:]).any((1, 2, 3)).all()


def test_kinds_of_synthetic_anomalies_are_never_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def spy(names: Sequence[str]) -> HeldOutSynthesis:
        asked.append(tuple(names))
        return HeldOutSynthesis(names)

    monkeypatch.setattr(validation, "HeldOutSynthesis", spy)
    for purpose in PURPOSES:
        validation.validation_part(phantom("one_class").valid, NOTHING, purpose)
    reference_set, choice = asked
    assert not set(reference_set) & set(choice)
    assert set(reference_set) | set(choice) == set(families())


def test_the_reference_set_holds_both_labels_and_not_too_many() -> None:
    labels = torch.tensor([0] * 100 + [1] * 50)
    inputs = torch.arange(150).view(-1, 1)
    made = ReferenceSet.of(inputs, labels)
    assert made is not None
    assert made.labels.bincount().tolist() == [MOST, MOST]
    assert torch.equal(labels[made.inputs[:, 0]], made.labels)
    marks = torch.arange(150).view(-1, 1, 1, 1) % 7 == 0
    marked = ReferenceSet.of(inputs, labels, marks)
    assert marked is not None
    assert marked.marks is not None
    assert torch.equal(marked.marks.flatten(), marked.inputs[:, 0] % 7 == 0)
    assert ReferenceSet.of(inputs[:100], labels[:100]) is None
    assert ReferenceSet.of(inputs[100:], labels[100:]) is None


def test_rewards_that_need_a_reference_set_tell_that_there_will_be_none(
    data: Path, tmp_path: Path, run_here: RunHere
) -> None:
    arrays = make_arrays(size=32)
    arrays["valid"]["labels"][:] = 1
    save_arrays(data / "mine", arrays)
    where = ["dataset=npz", "dataset.root=mine", "dataset.name=mine", "dataset.size=32", f"data_root={data}"]
    arguments = [*where, "device=cpu", "threads=1", "reward=useful", "detector=transformer", "share=0.5"]
    code, _, log = run_here(train_ppo.main, "train_ppo", *arguments, cwd=tmp_path)
    assert code == 2
    assert "mine: the valid split needs normal images: the reward measures usefulness" in log
    code, _, log = run_here(
        train_ppo.main, "train_ppo", *arguments[:-3], "detector=transformer", "reward=boundary", cwd=tmp_path
    )
    assert code == 2
    assert "mine: the valid split needs normal images, or nothing tells how much" in log
    assert not (tmp_path / "runs/mine").exists()


# --- what detectors learn from labelled anomalies ---


class Pooling:
    """Stands in for an encoder: latents are means of the image's quarters."""

    latent_shape: tuple[int, ...] = (1, 2, 2)
    size = 32
    natural_scales = torch.ones(1)

    def encode(self, images: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, 2)


MakeFeatures = Callable[[Dataset], FeatureCache]


@pytest.fixture
def features_of(tmp_path: Path) -> MakeFeatures:
    return lambda dataset: FeatureCache(Pooling(), dataset, tmp_path, torch.device("cpu"), None)


def with_masks(dataset: Dataset, masks: Any) -> Dataset:
    return replace(dataset, valid=replace(dataset.valid, masks=masks))


@pytest.mark.parametrize("reads", [IMAGE, LATENT])
def test_detectors_learn_from_their_part_of_the_labelled_anomalies_only(
    reads: str, features_of: MakeFeatures
) -> None:
    valid, rows = phantom().valid, shares_of().train
    made = labelled_samples(features_of(phantom()), rows, reads)
    assert made is not None
    assert len(made.labels) == len(rows) > 0
    expected: Tensor = torch.from_numpy(valid.images[rows])
    assert valid.masks is not None
    masks = torch.from_numpy(valid.masks[rows])[:, None]
    if reads == LATENT:
        expected = Pooling().encode(expected.float() / 255)
        covered = Pooling().encode(masks.float())
        assert (made.masks.bool() | (covered < 0.1)).all()  # all that are anomalous by a tenth
        assert (covered[made.masks.bool()] > 0).all()
    else:
        assert torch.equal(made.masks.bool(), masks)
    torch.testing.assert_close(made.images.float(), expected.float(), atol=1e-3, rtol=0)
    assert made.labels.tolist() == [1] * len(rows)
    assert made.sources.tolist() == [-1] * len(rows)
    assert made.marked.all()


@pytest.mark.parametrize("reads", [IMAGE, LATENT])
def test_without_masks_nothing_tells_where_anomalies_are(reads: str, features_of: MakeFeatures) -> None:
    rows = shares_of().train
    made = labelled_samples(features_of(with_masks(phantom(), None)), rows, reads)
    assert made is not None
    assert not made.marked.any()
    # One forgotten mask among others is not known either: an anomaly is somewhere.
    masks = np.array(phantom().valid.masks)
    masks[rows[0]] = False
    made = labelled_samples(features_of(with_masks(phantom(), masks)), rows, reads)
    assert made is not None
    assert made.marked.tolist() == [False] + [True] * (len(rows) - 1)


@pytest.mark.parametrize("track", ["few_labelled", "one_class"])
@pytest.mark.parametrize("reads", [IMAGE, LATENT])
def test_the_reference_set_keeps_masks(reads: str, track: str, features_of: MakeFeatures) -> None:
    dataset = phantom(track)
    labelled = divide(dataset.valid.labels, 0.5, 0.25)
    made = validation.reference_set(features_of(dataset), labelled, reads)
    assert made is not None
    assert made.marks is not None
    assert torch.equal(made.marks.flatten(1).any(1), made.labels == 1)
    blind = validation.reference_set(features_of(with_masks(dataset, None)), labelled, reads)
    assert blind is not None
    assert (blind.marks is None) == (track == "few_labelled")  # what is synthetic is known


def test_nothing_labelled_is_learned_where_nothing_is_labelled(features_of: MakeFeatures) -> None:
    assert labelled_samples(features_of(phantom("one_class")), NOTHING.train, IMAGE) is None
    assert labelled_samples(features_of(phantom()), shares_of(0, 0.5).train, IMAGE) is None


LOSSES = pytest.mark.parametrize("losses", [detector_losses, token_losses])


@LOSSES
@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), unmarked=st.integers(0, 4))
def test_anomalies_without_a_mask_dont_touch_the_maps_loss(losses: Any, seed: int, unmarked: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(8, 1, 5, 5, generator=generator, requires_grad=True)
    score = torch.randn(8, generator=generator, requires_grad=True)
    labels = torch.tensor([0.0] * 4 + [1.0] * 4)
    masks = (torch.rand(8, 1, 5, 5, generator=generator) < 0.3).float() * labels.view(-1, 1, 1, 1)
    marked = torch.arange(8) < 8 - unmarked
    none = torch.zeros(8, dtype=torch.int64)

    def of(batch: Tensor) -> dict[str, Tensor]:
        made = Batch(maps[batch], masks[batch], labels[batch], none[batch], marked[batch])
        found: dict[str, Tensor] = losses(Detection(score[batch], maps[batch]), made)
        return found

    together, without = of(torch.arange(8)), of(marked.nonzero().flatten())
    for name in together.keys() - {"score"}:
        torch.testing.assert_close(together[name], without[name])
        assert together[name].isfinite()
    by_map, by_score = torch.autograd.grad(torch.stack(list(together.values())).sum(), [maps, score])
    assert not by_map[~marked].any()
    assert by_map[marked].flatten(1).any(1).all()
    assert by_score.all()  # the image's label is known of all


def test_a_batch_tells_which_of_its_anomalies_have_masks() -> None:
    images = torch.zeros(10, 1, 16, 16, dtype=torch.uint8)
    white = torch.full((4, 1, 16, 16), 255, dtype=torch.uint8)
    nobody, label = torch.full((4,), -1), torch.ones(4, dtype=torch.int64)
    unmarked = Samples(white, torch.zeros(4, 1, 16, 16).bool(), label, nobody, torch.zeros(4).bool())
    sampler = BatchSampler(
        images, ImageSynthesis({"perlin": 1.0}), make_mixture([SampleSource(unmarked, 0.5)])
    )
    batch = sampler.batch(16, torch.Generator().manual_seed(0))
    is_white = batch.images.flatten(1).amin(1) == 1
    assert is_white.tolist() == [False] * 8 + [True] * 4 + [False] * 4
    assert torch.equal(batch.marked, ~is_white)
    assert batch.labels.tolist() == [0.0] * 8 + [1.0] * 8
    assert batch.sources[is_white].tolist() == [-1] * 4
