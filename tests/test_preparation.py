"""What is stored of a prepared data set, and how its images and masks are converted."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from preparation_setup import FolderSetup, facts_of, folder_of, make_source, random_samples, write_image

import latent_env
from latent_common.errors import UserError
from latent_env.data import Parts, Problems, Split, Splitting, folder_source, prepare, prepare_textures
from latent_env.data.prepared import preparation
from latent_env.data.prepared.split_files import open_split
from latent_env.data.samples import ArraySample

# --- what is stored ---


@pytest.mark.parametrize("channels", [1, 3])
def test_numpy_opens_what_is_stored(files: FolderSetup, channels: int) -> None:
    problems = Problems()
    source = folder_source(files.root, "mine", Parts(), Splitting(), problems, channels)
    dataset = prepare(source, 16, files.prepared, problems)
    assert folder_of(dataset).parent == files.prepared / "mine"
    for name, count in (("train", 7), ("valid", 1), ("test", 4)):
        split: Split = getattr(dataset, name)
        with np.load(folder_of(dataset) / f"{name}.npz") as stored:  # pickles are not allowed here
            assert set(stored.files) == {"images", "labels", "masks", "names"}
            assert stored["images"].shape == (count, channels, 16, 16)
            assert stored["images"].dtype == np.uint8
            assert stored["labels"].dtype == np.int64
            assert stored["masks"].shape == (count, 16, 16)
            assert stored["masks"].dtype == np.bool_
            assert np.array_equal(stored["images"], split.images)
            assert np.array_equal(stored["labels"], split.labels)
            assert split.masks is not None
            assert np.array_equal(stored["masks"], split.masks)
            assert tuple(stored["names"]) == split.names
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]
    assert dataset.test.names[2] == "test/dent/000.png"
    assert dataset.test.masks is not None
    assert dataset.test.masks[2:, :, :8].all()
    assert not dataset.test.masks[2:, :, 8:].any()
    assert not dataset.test.masks[:2].any()


def test_without_masks_none_are_stored(files: FolderSetup) -> None:
    shutil.rmtree(files.root / "ground_truth")
    dataset = files.load()
    assert dataset.test.masks is None
    with np.load(folder_of(dataset) / "test.npz") as stored:
        assert set(stored.files) == {"images", "labels", "names"}


def test_images_stay_on_disk(files: FolderSetup) -> None:
    dataset = files.load()
    for split in (dataset.train, dataset.valid, dataset.test):
        assert isinstance(split.images, np.memmap)
        assert isinstance(split.masks, np.memmap)
        assert not split.images.flags.writeable


def test_the_json_says_what_is_there(files: FolderSetup) -> None:
    dataset = files.load()
    facts = facts_of(dataset)
    source = folder_source(files.root, "mine", Parts(), Splitting(), Problems())
    assert facts["name"] == "mine"
    assert facts["splits"] == {
        "train": {"normal": 7, "anomalous": 0},
        "valid": {"normal": 1, "anomalous": 0},
        "test": {"normal": 2, "anomalous": 2},
    }
    assert (facts["size"], facts["channels"], facts["masks"]) == (16, 1, True)
    assert facts["native"] == [[20, 12], [20, 12]]
    assert facts["source"] == {"fingerprint": source.fingerprint(), "files": 14}
    assert facts["prepared_by"] == {"latent_env": latent_env.__version__, "format": preparation.FORMAT}
    assert (facts["skipped"], facts["copies"], facts["remarks"]) == ([], [], [])
    assert facts["digest"] == dataset.fingerprint()
    settings = facts["settings"]
    assert isinstance(settings, dict)
    assert settings["root"] == str(files.root)
    assert (settings["seed"], settings["limit"], settings["size"]) == (0, None, 16)


def test_the_stored_digest_is_that_of_the_contents(files: FolderSetup) -> None:
    dataset = files.load()
    assert replace(dataset, digest=None).fingerprint() == dataset.fingerprint()


def test_a_picture_shows_the_data_set(files: FolderSetup) -> None:
    with Image.open(folder_of(files.load()) / "overview.png") as picture:
        picture.load()
        assert picture.width > 100
        assert picture.height > 100
        assert len(picture.convert("L").getcolors(256) or []) > 10


def test_the_range_of_native_sizes_is_told(tmp_path: Path) -> None:
    train = [*random_samples(2, seed=1, shape=(40, 30)), *random_samples(2, seed=5, shape=(9, 12))]
    dataset = prepare(make_source(train), 16, tmp_path, Problems())
    assert dataset.native == ((12, 9), (30, 40))
    assert "16×16 grey from 12×9 to 30×40" in dataset.summary()


@pytest.mark.parametrize("name", ["ümlaut ☃.png", "not utf-8 \udcff.png", "a" * 300])
def test_any_name_is_kept(name: str, tmp_path: Path) -> None:
    train = [ArraySample(np.full((8, 8), i, np.uint8), 0, f"{i}{name}") for i in range(3)]
    for _ in range(2):
        dataset = prepare(make_source(train), 8, tmp_path, Problems())
        assert dataset.train.names == tuple(f"{i}{name}" for i in range(3))
        assert replace(dataset, digest=None).fingerprint() == dataset.fingerprint()


# --- how images are converted ---


def test_training_images_decide_between_grey_and_colour(tmp_path: Path) -> None:
    coloured = random_samples(3, seed=9, shape=(20, 20, 3))
    grey = [
        ArraySample(np.repeat(sample.pixels[:, :, None], 3, 2), sample.label, sample.name)
        for sample in random_samples(4, seed=8)
        if isinstance(sample, ArraySample)
    ]
    for train, valid, asked, channels in (
        (grey, coloured, None, 1),  # stored as RGB, but grey
        ([*grey, *coloured], (), None, 3),
        (coloured, (), None, 3),
        (coloured, (), 1, 1),
        (grey, (), 3, 3),
    ):
        dataset = prepare(make_source(train, valid, channels=asked), 8, tmp_path, Problems())
        assert dataset.channels == dataset.test.images.shape[1] == channels


@pytest.mark.parametrize("channels", [0, 2, 4, -1])
def test_other_channels_are_refused(channels: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"channels={channels} must be 1"):
        prepare(make_source(channels=channels), 16, tmp_path, Problems())
    assert not list(tmp_path.iterdir())


def test_a_size_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="size=20"):
        prepare(make_source(), 20, tmp_path, Problems())


def test_images_are_antialiased(tmp_path: Path) -> None:
    board = np.indices((160, 160)).sum(0) % 2 * 255
    train = [ArraySample(board.astype(np.uint8), 0, str(i)) for i in range(2)]
    images = prepare(make_source(train), 16, tmp_path, Problems()).train.images.astype(int)
    assert abs(images - 128).max() <= 4


def test_masks_are_sharp_and_tiny_defects_survive(tmp_path: Path) -> None:
    image = np.zeros((128, 128), np.uint8)
    half, dot, none = (np.zeros((128, 128), np.bool_) for _ in range(3))
    half[:, 67:] = True  # a grid line of the small image is at 64 and 80, its middle at 72
    dot[17, 33] = True  # between the points of the small grid
    marked = [ArraySample(image, 1, str(i), mask) for i, mask in enumerate((half, dot, none))]
    masks = prepare(make_source(test=[*random_samples(1), *marked]), 8, tmp_path, Problems()).test.masks
    assert masks is not None
    assert masks[1].tolist() == [[False] * 4 + [True] * 4] * 8
    assert np.argwhere(masks[2]).tolist() == [[1, 2]]
    assert not masks[0].any()
    assert not masks[3].any()


# --- textures ---


def test_textures_are_prepared_as_one_split(tmp_path: Path, decodings: list[str]) -> None:
    root, prepared = tmp_path / "dtd", tmp_path / "prepared"
    for i, name in enumerate(("banded/1.png", "banded/2.jpg", "dotted/deep/1.png")):
        write_image(root / name, i)
    for _ in range(2):
        made = prepare_textures(root, 16, 3, prepared, Problems())
        assert list(made.splits) == ["textures"]
        textures = made.splits["textures"]
        assert textures.images.shape == (3, 3, 16, 16)
        assert isinstance(textures.images, np.memmap)
        assert textures.names == ("banded/1.png", "banded/2.jpg", "dotted/deep/1.png")
        assert textures.masks is None
        assert np.array_equal(open_split(made.folder / "textures.npz").images, textures.images)
    assert decodings == ["textures"]
    assert prepare_textures(root, 16, 1, prepared, Problems()).splits["textures"].images.shape[1] == 1
    write_image(root / "zigzag/1.png", 9)
    assert len(prepare_textures(root, 16, 3, prepared, Problems()).splits["textures"]) == 4
    assert len(decodings) == 3


def test_textures_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"texture_root=.*nowhere is no folder.*DTD comes from"):
        prepare_textures(tmp_path / "nowhere", 16, 1, tmp_path, Problems())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"texture_root=.*empty holds no images"):
        prepare_textures(tmp_path / "empty", 16, 1, tmp_path, Problems())
