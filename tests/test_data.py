from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.metrics import roc_auc_score

from latent_common.errors import UserError
from latent_env.data import (
    Dataset,
    Split,
    check_size,
    load_digits_dataset,
    make_phantom_dataset,
)
from latent_env.data.builtin.phantom import VISIBLE, draw_slice


def make_split(normal: int = 3, anomalous: int = 0, size: int = 8, masks: bool = False) -> Split:
    count = normal + anomalous
    return Split(
        np.arange(count * size * size).astype(np.uint8).reshape(count, 1, size, size),
        np.array([0] * normal + [1] * anomalous, np.int64),
        np.zeros((count, size, size), np.bool_) if masks else None,
        tuple(f"image {i}" for i in range(count)),
    )


@pytest.fixture(scope="module")
def phantom() -> Dataset:
    return make_phantom_dataset(train=100, valid=20, test=300)


# --- splits and data sets ---


def test_split_takes_subsets_with_masks_and_names() -> None:
    split = make_split(2, 2, masks=True)
    part = split.subset([3, 0])
    assert part.labels.tolist() == [1, 0]
    assert part.names == ("image 3", "image 0")
    assert np.array_equal(part.images, split.images[[3, 0]])
    assert part.masks is not None
    assert part.masks.shape == (2, 8, 8)
    assert len(split.normal()) == 2
    assert not split.normal().labels.any()
    assert len(split.subset([])) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((3, 8, 8), np.uint8)}, r"\(N, C, H, W\)"),
        ({"images": np.zeros((3, 1, 8, 8), np.float32)}, "uint8"),
        ({"images": np.zeros((3, 2, 8, 8), np.uint8)}, "1 or 3 channels"),
        ({"labels": np.zeros(2, np.int64)}, "labels"),
        ({"labels": np.array([0, 1, 2])}, "0 .normal. or 1"),
        ({"masks": np.zeros((3, 8, 4), np.bool_)}, "masks"),
        ({"masks": np.zeros((3, 8, 8), np.uint8)}, "masks"),
        ({"names": ("one",)}, "names"),
    ],
)
def test_split_checks_shapes(change: dict[str, object], message: str) -> None:
    split = make_split()
    parts = {name: getattr(split, name) for name in ("images", "labels", "masks", "names")}
    with pytest.raises(UserError, match=message):
        Split(**{**parts, **change})


def test_dataset_checks_its_splits() -> None:
    normal, mixed = make_split(3), make_split(2, 2)
    Dataset("ok", normal, normal, mixed)
    with pytest.raises(UserError, match="image 2 is labelled an anomaly"):
        Dataset("train with anomalies", mixed, normal, mixed)
    assert not Dataset("test without anomalies", normal, normal, normal).test.measurable
    with pytest.raises(UserError, match="all 2 are anomalous"):
        Dataset("test without normals", normal, normal, make_split(0, 2))
    with pytest.raises(UserError, match="valid split has no images"):
        Dataset("empty valid", normal, normal.subset([]), mixed)
    with pytest.raises(UserError, match="one size"):
        Dataset("two sizes", normal, normal, make_split(2, 2, size=16))


def test_summary_and_fingerprint() -> None:
    normal, mixed = make_split(3), make_split(2, 2, masks=True)
    dataset = Dataset("tiny", normal, normal, mixed)
    assert dataset.summary() == "tiny: train 3 · valid 3 normal · test 2 + 2 · 8×8 grey · pixel masks"
    assert "valid 3 normal · test 3 normal · " in Dataset("tiny", normal, normal, normal).summary()
    both = Dataset("tiny", normal, mixed, make_split(2, 2))
    assert "valid 2 normal + 2 anomalous" in both.summary()
    assert "no pixel masks" in both.summary()
    assert dataset.fingerprint() == Dataset("other", normal, normal, mixed).fingerprint()
    assert dataset.fingerprint() != both.fingerprint()
    assert (dataset.channels, dataset.size) == (1, 8)


@pytest.mark.parametrize("size", [8, 64, np.int64(256)])
def test_check_size_accepts(size: int) -> None:
    assert check_size(size) == size


@pytest.mark.parametrize("size", [0, -8, 4, 30, 520, 64.0, True, "64", None])
def test_check_size_refuses_and_names_the_value(size: object) -> None:
    with pytest.raises(UserError, match=f"size={size!r}"):
        check_size(size)  # type: ignore[arg-type]


# --- digits ---


def test_digits_split() -> None:
    dataset = load_digits_dataset([3])
    parts = dataset.train, dataset.valid, dataset.test
    assert [int((part.labels == 0).sum()) for part in parts] == [110, 27, 46]
    assert [int(part.labels.sum()) for part in parts] == [0, 27, 1797 - 183 - 27]
    assert dataset.train.images.shape == (110, 1, 8, 8)
    assert dataset.train.images.max() == 255
    names = [name for part in parts for name in part.names]
    assert len(set(names)) == len(names) == 1797
    assert len({name.split("/")[0] for name in dataset.valid.names}) == 10  # three of every other digit
    for part in parts:
        assert part.masks is None
        assert [name.startswith("digit 3") for name in part.names] == (part.labels == 0).tolist()


def test_digits_are_seeded() -> None:
    prints = {load_digits_dataset([0, 8], seed).fingerprint() for seed in (0, 0, 1)}
    assert len(prints) == 2


def test_digits_with_one_anomalous_class_leave_some_for_test() -> None:
    dataset = load_digits_dataset(list(range(9)))
    assert dataset.valid.labels.sum() == 90
    assert dataset.test.labels.sum() == 90


@pytest.mark.parametrize(
    ("normal", "value"),
    [
        ([], r"\[\]"),
        (list(range(10)), "no digit to be the anomaly"),
        ([3, 10], "10"),
        ([-1], "-1"),
        ([3, 3], "3 twice"),
        ([1.5], "1.5"),
        ([True], "True"),
        ("3", "'3'"),
        (3, "3"),
    ],
)
def test_digits_refuse_and_name_the_choices(normal: object, value: str) -> None:
    with pytest.raises(UserError, match=f"{value}.*0 to 9"):
        load_digits_dataset(normal)  # type: ignore[arg-type]


# --- phantom ---


def test_phantom_splits(phantom: Dataset) -> None:
    assert phantom.summary() == (
        "phantom: train 100 · valid 10 normal + 10 anomalous · test 150 + 150 · 64×64 grey · pixel masks"
    )
    for part in (phantom.train, phantom.valid, phantom.test):
        assert part.masks is not None
        assert np.array_equal(part.masks.any((1, 2)), part.labels == 1)
    images = np.concatenate([phantom.train.images, phantom.valid.images, phantom.test.images])
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)  # a patient each


def test_phantom_is_deterministic_and_splits_are_independent() -> None:
    first = make_phantom_dataset(32, train=4, valid=4, test=6, seed=3)
    assert first.fingerprint() == make_phantom_dataset(32, train=4, valid=4, test=6, seed=3).fingerprint()
    assert first.fingerprint() != make_phantom_dataset(32, train=4, valid=4, test=6, seed=4).fingerprint()
    step_multiplier = make_phantom_dataset(32, train=6, valid=2, test=6, seed=3)
    assert np.array_equal(step_multiplier.test.images, first.test.images)
    assert np.array_equal(step_multiplier.train.images[:4], first.train.images)


def test_phantom_masks_are_exact() -> None:
    inside = outside = 0
    for seed in range(30):
        random_samples = draw_slice(np.random.default_rng(seed), 64, lesions=True)
        change = np.abs(random_samples.image.astype(int) - random_samples.healthy)
        # Rounding moves either image by half a grey level at most.
        assert (change[random_samples.mask] > VISIBLE - 1).all()
        assert (change[~random_samples.mask] <= VISIBLE + 1).all()
        inside, outside = inside + int(random_samples.mask.sum()), outside + int((~random_samples.mask).sum())
        twin = draw_slice(np.random.default_rng(seed), 64, lesions=False)
        assert np.array_equal(twin.image, random_samples.healthy)
        assert not twin.mask.any()
    assert 0.005 < inside / (inside + outside) < 0.06


def test_phantom_is_not_told_by_a_single_number(phantom: Dataset) -> None:
    pixels = phantom.test.images.reshape(len(phantom.test), -1)
    scalars = {
        "mean": pixels.mean(1),
        "std": pixels.std(1),
        "max": pixels.max(1),
        "min": pixels.min(1),
        "1 %": np.percentile(pixels, 1, axis=1),
        "99 %": np.percentile(pixels, 99, axis=1),
        "entropy": [entropy(np.bincount(row, minlength=256)) for row in pixels],
    }
    for name, scores in scalars.items():
        assert 0.4 < roc_auc_score(phantom.test.labels, scores) < 0.68, name


def test_phantom_has_signal_but_is_not_easy(phantom: Dataset) -> None:
    train, test = (part.images[:, 0].astype(np.float32) for part in (phantom.train, phantom.test))
    far = np.abs(test - train.mean(0)) / (train.std(0) + 2)
    assert 0.55 < roc_auc_score(phantom.test.labels, far.max((1, 2))) < 0.85


@pytest.mark.parametrize("size", [32, 40, 128, 256])
def test_phantom_scales(size: int) -> None:
    dataset = make_phantom_dataset(size, train=2, valid=2, test=4)
    assert dataset.size == size
    assert dataset.test.masks is not None
    assert dataset.test.masks[dataset.test.labels == 1].any((1, 2)).all()


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"size": 24}, "size=24"),
        ({"size": 33}, "size=33"),
        ({"train": 0}, "train=0"),
        ({"test": 1}, "test=1"),
    ],
)
def test_phantom_refuses(arguments: dict[str, int], value: str) -> None:
    with pytest.raises(UserError, match=value):
        make_phantom_dataset(**arguments)
