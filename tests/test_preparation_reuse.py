"""What was prepared is used again, or made again where it has changed; skipped files and copies are told."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from preparation_setup import (
    SPLITS,
    FolderSetup,
    add_image,
    check_clean,
    check_same,
    facts_of,
    folder_of,
    make_source,
    random_samples,
    write_image,
)

from latent_common.errors import UserError
from latent_env.data import Dataset, Problems, prepare
from latent_env.data.prepared import preparation
from latent_env.data.samples import ArraySample

# --- what was prepared is used again ---


def test_a_second_time_nothing_is_decoded(files: FolderSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    first = files.load()

    def fail(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(preparation, "decode_all", fail)
    monkeypatch.setattr(Image, "open", fail)
    second = files.load()
    check_same(first, second)
    assert second == replace(first, train=second.train, valid=second.valid, test=second.test)
    check_clean(files.prepared)


def test_other_choices_are_prepared_beside(files: FolderSetup, decodings: list[str]) -> None:
    loads: list[Callable[[], Dataset]] = [
        files.load,
        lambda: files.load(size=24),
        lambda: files.load(seed=1),
        lambda: files.load(limit=3),
    ]
    datasets = [load() for load in loads]
    assert len(decodings) == 4
    assert len({dataset.folder for dataset in datasets}) == 4
    assert len({dataset.fingerprint() for dataset in datasets}) == 4
    assert datasets[1].size == 24
    assert datasets[2].valid.names != datasets[0].valid.names
    assert len(datasets[3].train) + len(datasets[3].valid) == 3
    for dataset, load in zip(datasets, loads, strict=True):
        check_same(dataset, load())
    assert len(decodings) == 4


def change_content(root: Path) -> None:
    write_image(root / "train/good/003.png", 99)


def change_mask(root: Path) -> None:
    write_image(root / "ground_truth/dent/000_mask.png", 98)


def remove(root: Path) -> None:
    (root / "train/good/003.png").unlink()


def rename(root: Path) -> None:
    (root / "train/good/003.png").rename(root / "train/good/103.png")


def touch(root: Path) -> None:
    os.utime(root / "train/good/003.png", (1e9, 1e9))


@pytest.mark.parametrize("change", [change_content, change_mask, add_image, remove, rename, touch])
def test_a_changed_folder_is_prepared_again(
    change: Callable[[Path], None], files: FolderSetup, decodings: list[str]
) -> None:
    first = files.load()
    before = first.fingerprint()
    change(files.root)
    second = files.load()
    assert len(decodings) == 2
    assert second.folder == first.folder
    assert (second.fingerprint() == before) == (change is touch)
    check_same(second, files.load())
    assert len(decodings) == 2
    check_clean(files.prepared)


def test_equal_images_elsewhere_are_the_same_data(files: FolderSetup, tmp_path: Path) -> None:
    first = files.load()
    moved = FolderSetup(shutil.copytree(files.root, tmp_path / "elsewhere" / "mine"), files.prepared)
    second = moved.load()
    assert second.folder != first.folder
    check_same(first, second)


def damage_split(folder: Path) -> None:
    path = folder / "test.npz"
    path.write_bytes(path.read_bytes()[:-40])


def cut_split(folder: Path) -> None:
    path = folder / "train.npz"
    path.write_bytes(path.read_bytes()[:100])


def delete_split(folder: Path) -> None:
    (folder / "valid.npz").unlink()


def empty_split(folder: Path) -> None:
    (folder / "valid.npz").write_bytes(b"")


def swap_splits(folder: Path) -> None:
    shutil.copy(folder / "train.npz", folder / "valid.npz")


def compress_split(folder: Path) -> None:
    with np.load(folder / "train.npz") as stored:
        np.savez_compressed(folder / "train.npz", **stored)


def break_head(folder: Path) -> None:
    path = folder / "train.npz"
    path.write_bytes(path.read_bytes().replace(b"{'descr': '|u1'", b"{'descr': '|u1)"))


def flip_a_bit(folder: Path) -> None:
    path = folder / "train.npz"
    with np.load(path) as stored:
        pixels = stored["images"].tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(pixels) + len(pixels) // 2] ^= 1
    path.write_bytes(content)


def cut_json(folder: Path) -> None:
    path = folder / "prepared.json"
    path.write_bytes(path.read_bytes()[:200])


def other_json(folder: Path) -> None:
    (folder / "prepared.json").write_text("[]")


def no_text(folder: Path) -> None:
    (folder / "prepared.json").write_bytes(b"\xff\xfe\x00")


def delete_json(folder: Path) -> None:
    (folder / "prepared.json").unlink()


DAMAGES = [
    *(damage_split, cut_split, delete_split, empty_split, swap_splits, compress_split, break_head),
    flip_a_bit,
    *(cut_json, other_json, no_text, delete_json),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_preparation_is_made_again(
    damage: Callable[[Path], None], files: FolderSetup, decodings: list[str]
) -> None:
    first = files.load()
    kept = Dataset(
        "kept", *(getattr(first, split).subset(range(len(getattr(first, split)))) for split in SPLITS)
    )
    damage(folder_of(first))
    second = files.load()
    assert len(decodings) == 2
    assert kept.fingerprint() == second.fingerprint() == replace(second, digest=None).fingerprint()
    check_clean(files.prepared)


def test_a_preparation_whose_bytes_are_wrong_never_fails(tmp_path: Path) -> None:
    source = make_source(random_samples(1), random_samples(1, seed=2))
    path = folder_of(prepare(source, 8, tmp_path, Problems())) / "train.npz"
    content = path.read_bytes()
    for place in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.unlink()  # what is mapped stays as it is
        path.write_bytes(damaged)
        preparation._open(path.parent, source, source.fingerprint(), Problems())


def test_another_format_is_prepared_again(
    files: FolderSetup, decodings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = files.load()
    monkeypatch.setattr(preparation, "FORMAT", preparation.FORMAT + 1)
    check_same(first, files.load())
    assert len(decodings) == 2


# --- files that can't be used ---


def test_skipped_files_are_told_each_time_and_only_where_skipping_is_wanted(
    files: FolderSetup, decodings: list[str]
) -> None:
    broken = files.root / "train/good/003.png"
    broken.write_bytes(b"no image")
    first = files.load("skip")
    assert len(first.train) + len(first.valid) == 7
    assert facts_of(first)["skipped"] == [
        line.strip() for remark in first.remarks for line in remark.splitlines() if str(broken) in line
    ]
    (remark,) = first.remarks
    assert remark.startswith("skipped 1 file (dataset.on_error=skip):")
    second = files.load("skip")
    assert decodings == ["mine"]
    assert second.remarks == first.remarks
    check_same(first, second)
    with pytest.raises(UserError, match=r"003.png can't be read(.|\n)*dataset.on_error=skip"):
        files.load("stop")
    check_same(first, files.load("skip"))  # which is still there
    assert len(decodings) == 2
    broken.unlink()
    assert not files.load("stop").remarks
    check_clean(files.prepared)


def test_nothing_skipped_is_good_for_both(files: FolderSetup, decodings: list[str]) -> None:
    check_same(files.load("skip"), files.load("stop"))
    assert len(decodings) == 1


def test_a_split_must_not_vanish_by_skipping(files: FolderSetup) -> None:
    for path in (files.root / "test/dent").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"no anomalous image is left in test. Skipped were\n.*000.png"):
        files.load("skip")
    check_clean(files.prepared)


# --- copies ---


def test_copies_in_other_splits_are_reported(tmp_path: Path) -> None:
    train, test = random_samples(4, seed=1), random_samples(3, seed=3)
    copy, again = (replace(train[1], name=name) for name in ("test/copy.png", "valid/copy.png"))  # type: ignore[type-var]
    source = make_source(
        train, [*random_samples(1, seed=2), again], [*test, *random_samples(2, 1, seed=4), copy]
    )
    for _ in range(2):
        dataset = prepare(source, 16, tmp_path, Problems())
        (remark,) = dataset.remarks
        assert remark.splitlines() == [
            "2 images are exact copies of images in another split, so figures on them say little:",
            "  valid/copy.png (valid) = 1/1.png (train)",
            "  test/copy.png (test) = 1/1.png (train)",
        ]
        copies = [
            {"split": split, "name": f"{split}/copy.png", "of_split": "train", "of_name": "1/1.png"}
            for split in ("valid", "test")
        ]
        assert facts_of(dataset)["copies"] == copies


def test_copies_within_a_split_are_nobodys_business(tmp_path: Path) -> None:
    train = [*random_samples(3, seed=1), *random_samples(3, seed=1)]
    dataset = prepare(make_source(train), 16, tmp_path, Problems())
    assert dataset.remarks == ()
    assert facts_of(dataset)["copies"] == []


def test_images_that_differ_a_little_or_in_shape_are_no_copies(tmp_path: Path) -> None:
    pixels = np.full((64, 32), 100, np.uint8)
    other = pixels.copy()
    other[5, 5] += 1  # which nothing is left of at 8 × 8
    source = make_source(
        [ArraySample(pixels, 0, "train")],
        [ArraySample(other, 0, "valid")],
        [ArraySample(pixels.T.copy(), 0, "test"), *random_samples(1, 1)],
    )
    dataset = prepare(source, 8, tmp_path, Problems())
    assert np.array_equal(dataset.train.images, dataset.valid.images)
    assert dataset.remarks == ()
