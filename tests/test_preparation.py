from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from numpy.typing import NDArray
from PIL import Image

import latent_env
from detectors.errors import UserError
from latent_env.data import (
    Dataset,
    Parts,
    Problems,
    Source,
    Split,
    Splitting,
    folder_source,
    preparation,
    prepare,
    prepare_textures,
)
from latent_env.data.decoding import AHEAD, MANY_FILES, decode_all
from latent_env.data.samples import ArraySample, Sample
from latent_env.data.stored import SplitWriter, open_split

SPLITS = ("train", "valid", "test")


def drawn(count: int, label: int = 0, seed: int = 0, shape: Sequence[int] = (20, 24)) -> list[Sample]:
    """Random images; the anomalous ones have their left half marked."""
    rng = np.random.default_rng(seed)
    marked = np.zeros(shape[:2], np.bool_)
    marked[:, : shape[1] // 2] = True
    return [
        ArraySample(
            rng.integers(0, 256, shape, np.uint8), label, f"{seed}/{i}.png", marked if label else None
        )
        for i in range(count)
    ]


def make_source(
    train: Sequence[Sample] = (),
    valid: Sequence[Sample] = (),
    test: Sequence[Sample] = (),
    channels: int | None = None,
    name: str = "drawn",
) -> Source:
    """A source in memory; what isn't given is random and grey."""
    splits = {
        "train": train or drawn(5, seed=1),
        "valid": valid or drawn(2, seed=2),
        "test": test or [*drawn(2, seed=3), *drawn(3, 1, seed=4)],
    }
    return Source(name, splits, [], {}, channels)


def write_image(path: Path, seed: int, mark: bool = False) -> Path:
    """A random image of 20 × 12 pixels, or a mask whose left half is set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 20), np.uint8)
    if mark:
        pixels[:, :10], pixels[:, 10:] = 255, 0
    Image.fromarray(pixels).save(path)
    return path


def make_folder(root: Path) -> Path:
    """A small data set in MVTec's layout."""
    for i in range(8):
        write_image(root / f"train/good/{i:03d}.png", i)
    for i in range(2):
        write_image(root / f"test/good/{i:03d}.png", 10 + i)
        write_image(root / f"test/dent/{i:03d}.png", 20 + i)
        write_image(root / f"ground_truth/dent/{i:03d}_mask.png", 0, mark=True)
    return root


@dataclass
class Setup:
    """A folder of files, and where it is kept prepared."""

    root: Path
    prepared: Path

    def load(self, on_error: str = "stop", size: int = 16, **splitting: int) -> Dataset:
        problems = Problems(on_error)
        source = folder_source(self.root, "mine", Parts(), Splitting(**splitting), problems)  # type: ignore[arg-type]
        return prepare(source, size, self.prepared, problems)


@pytest.fixture
def files(tmp_path: Path) -> Setup:
    return Setup(make_folder(tmp_path / "data" / "mine"), tmp_path / "prepared")


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the sources that were decoded, in order."""
    done: list[str] = []

    def counting(source: Source, *rest: object) -> dict[str, object]:
        done.append(source.name)
        return decode_all(source, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(preparation, "decode_all", counting)
    return done


def check_same(first: Dataset, second: Dataset) -> None:
    for split in SPLITS:
        one, other = getattr(first, split), getattr(second, split)
        assert np.array_equal(one.images, other.images)
        assert np.array_equal(one.labels, other.labels)
        assert (one.masks is None) == (other.masks is None)
        assert one.masks is None or np.array_equal(one.masks, other.masks)
        assert one.names == other.names
    assert first.summary() == second.summary()
    assert first.fingerprint() == second.fingerprint()


def check_clean(prepared: Path) -> None:
    """Nothing half made is left."""
    assert not [path for path in prepared.rglob("*") if path.name.startswith(".")]
    for folder in prepared.glob("*/*"):
        names = {path.name for path in folder.iterdir()}
        assert names == {"train.npz", "valid.npz", "test.npz", "prepared.json", "overview.png"}


def folder_of(dataset: Dataset) -> Path:
    assert dataset.folder is not None
    return dataset.folder


def facts_of(dataset: Dataset) -> dict[str, object]:
    facts: dict[str, object] = json.loads((folder_of(dataset) / "prepared.json").read_text())
    return facts


# --- what is stored ---


@pytest.mark.parametrize("channels", [1, 3])
def test_numpy_opens_what_is_stored(files: Setup, channels: int) -> None:
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


def test_without_masks_none_are_stored(files: Setup) -> None:
    shutil.rmtree(files.root / "ground_truth")
    dataset = files.load()
    assert dataset.test.masks is None
    with np.load(folder_of(dataset) / "test.npz") as stored:
        assert set(stored.files) == {"images", "labels", "names"}


def test_images_stay_on_disk(files: Setup) -> None:
    dataset = files.load()
    for split in (dataset.train, dataset.valid, dataset.test):
        assert isinstance(split.images, np.memmap)
        assert isinstance(split.masks, np.memmap)
        assert not split.images.flags.writeable


def test_the_json_says_what_is_there(files: Setup) -> None:
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


def test_the_stored_digest_is_that_of_the_contents(files: Setup) -> None:
    dataset = files.load()
    assert replace(dataset, digest=None).fingerprint() == dataset.fingerprint()


def test_a_picture_shows_the_data_set(files: Setup) -> None:
    with Image.open(folder_of(files.load()) / "overview.png") as picture:
        picture.load()
        assert picture.width > 100
        assert picture.height > 100
        assert len(picture.convert("L").getcolors(256) or []) > 10


def test_the_range_of_native_sizes_is_told(tmp_path: Path) -> None:
    train = [*drawn(2, seed=1, shape=(40, 30)), *drawn(2, seed=5, shape=(9, 12))]
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
    coloured = drawn(3, seed=9, shape=(20, 20, 3))
    grey = [
        ArraySample(np.repeat(sample.pixels[:, :, None], 3, 2), sample.label, sample.name)
        for sample in drawn(4, seed=8)
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
    masks = prepare(make_source(test=[*drawn(1), *marked]), 8, tmp_path, Problems()).test.masks
    assert masks is not None
    assert masks[1].tolist() == [[False] * 4 + [True] * 4] * 8
    assert np.argwhere(masks[2]).tolist() == [[1, 2]]
    assert not masks[0].any()
    assert not masks[3].any()


# --- what was prepared is used again ---


def test_a_second_time_nothing_is_decoded(files: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    first = files.load()

    def fail(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(preparation, "decode_all", fail)
    monkeypatch.setattr(Image, "open", fail)
    second = files.load()
    check_same(first, second)
    assert second == replace(first, train=second.train, valid=second.valid, test=second.test)
    check_clean(files.prepared)


def test_other_choices_are_prepared_beside(files: Setup, decodings: list[str]) -> None:
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


def add(root: Path) -> None:
    write_image(root / "train/good/100.png", 97)


def remove(root: Path) -> None:
    (root / "train/good/003.png").unlink()


def rename(root: Path) -> None:
    (root / "train/good/003.png").rename(root / "train/good/103.png")


def touch(root: Path) -> None:
    os.utime(root / "train/good/003.png", (1e9, 1e9))


@pytest.mark.parametrize("change", [change_content, change_mask, add, remove, rename, touch])
def test_a_changed_folder_is_prepared_again(
    change: Callable[[Path], None], files: Setup, decodings: list[str]
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


def test_equal_images_elsewhere_are_the_same_data(files: Setup, tmp_path: Path) -> None:
    first = files.load()
    moved = Setup(shutil.copytree(files.root, tmp_path / "elsewhere" / "mine"), files.prepared)
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
    *(cut_json, other_json, no_text, delete_json),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_preparation_is_made_again(
    damage: Callable[[Path], None], files: Setup, decodings: list[str]
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
    source = make_source(drawn(1), drawn(1, seed=2))
    path = folder_of(prepare(source, 8, tmp_path, Problems())) / "train.npz"
    content = path.read_bytes()
    for place in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.unlink()  # what is mapped stays as it is
        path.write_bytes(damaged)
        preparation._open(path.parent, source, source.fingerprint(), Problems())


def test_another_format_is_prepared_again(
    files: Setup, decodings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = files.load()
    monkeypatch.setattr(preparation, "FORMAT", preparation.FORMAT + 1)
    check_same(first, files.load())
    assert len(decodings) == 2


# --- files that can't be used ---


def test_skipped_files_are_told_each_time_and_only_where_skipping_is_wanted(
    files: Setup, decodings: list[str]
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


def test_nothing_skipped_is_good_for_both(files: Setup, decodings: list[str]) -> None:
    check_same(files.load("skip"), files.load("stop"))
    assert len(decodings) == 1


def test_a_split_must_not_vanish_by_skipping(files: Setup) -> None:
    for path in (files.root / "test/dent").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"no anomalous image is left in test. Skipped were\n.*000.png"):
        files.load("skip")
    check_clean(files.prepared)


# --- copies ---


def test_copies_in_other_splits_are_reported(tmp_path: Path) -> None:
    train, test = drawn(4, seed=1), drawn(3, seed=3)
    copy, again = (replace(train[1], name=name) for name in ("test/copy.png", "valid/copy.png"))  # type: ignore[type-var]
    source = make_source(train, [*drawn(1, seed=2), again], [*test, *drawn(2, 1, seed=4), copy])
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
    train = [*drawn(3, seed=1), *drawn(3, seed=1)]
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
        [ArraySample(pixels.T.copy(), 0, "test"), *drawn(1, 1)],
    )
    dataset = prepare(source, 8, tmp_path, Problems())
    assert np.array_equal(dataset.train.images, dataset.valid.images)
    assert dataset.remarks == ()


# --- interruption ---


@dataclass(frozen=True)
class Scripted:
    """A sample whose decoding does something first."""

    index: int
    before: Callable[[], object]
    name: str = "scripted"
    label: int = 0
    kind: str = ""
    masked: bool = False

    def image(self, size: int) -> tuple[Image.Image, tuple[int, int]]:  # noqa: ARG002
        self.before()
        return Image.new("L", (8, 8), self.index % 256), (8, 8)

    def mask(self, native: tuple[int, int]) -> Image.Image:  # noqa: ARG002
        raise AssertionError("there is none")


def stop() -> None:
    raise KeyboardInterrupt


def fail() -> None:
    raise RuntimeError("a mistake in a reader")


@pytest.mark.parametrize(("act", "error"), [(stop, KeyboardInterrupt), (fail, RuntimeError)])
@pytest.mark.parametrize("split", ["train", "test"])
def test_nothing_half_made_stays(
    act: Callable[[], None], error: type[BaseException], split: str, tmp_path: Path
) -> None:
    samples = [*drawn(20, seed=1), Scripted(0, act), *drawn(20, 1, seed=2)]
    source = make_source(**{split: samples}, channels=1)  # type: ignore[arg-type]
    with pytest.raises(error):
        prepare(source, 16, tmp_path, Problems())
    assert list(tmp_path.rglob("*")) == [tmp_path / "drawn"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]


def test_an_interruption_leaves_what_was_there_before(files: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    first = files.load()
    content = {path.name: path.read_bytes() for path in folder_of(first).iterdir()}
    add(files.root)
    with monkeypatch.context() as patched:
        patched.setattr(preparation, "save_overview", lambda *_: stop())
        with pytest.raises(KeyboardInterrupt):
            files.load()
    assert {path.name: path.read_bytes() for path in folder_of(first).iterdir()} == content
    check_clean(files.prepared)


def test_ctrl_c_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    """A process that decodes for a minute stops at once."""
    code = f"""
import time
from pathlib import Path
from PIL import Image
from latent_env.data import Problems, Source, prepare

class Slow:
    label, kind, masked = 0, "", False
    def __init__(self, i):
        self.name = str(i)
    def image(self, size):
        time.sleep(0.1)
        if self.name == "20":
            print("running", flush=True)
        return Image.new("L", (8, 8)), (8, 8)

source = Source("drawn", {{"train": [Slow(i) for i in range(600)]}}, [], {{}}, 1)
prepare(source, 16, Path({str(tmp_path)!r}), Problems())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    assert list(tmp_path.glob("drawn/.*"))
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in said
    assert time.monotonic() - began < 10
    assert list(tmp_path.rglob("*")) == [tmp_path / "drawn"]


def test_only_old_leftovers_of_preparations_are_removed(tmp_path: Path) -> None:
    ours = prepare(make_source(), 16, tmp_path, Problems()).folder
    assert ours is not None
    names = {"old": f".{ours.name}.abcd1234", "moved": f".{ours.name}.x.old", "new": f".{ours.name}.efgh5678"}
    for name in (*names.values(), ".git", ".cache.old"):
        (ours.parent / name).mkdir()
        (ours.parent / name / "kept").touch()
        if name != names["new"]:
            os.utime(ours.parent / name, (time.time() - 25 * 3600,) * 2)
    prepare(make_source(), 24, tmp_path, Problems())
    hidden = {path.name for path in ours.parent.iterdir() if path.name.startswith(".")}
    assert hidden == {names["new"], ".git", ".cache.old"}
    assert (ours.parent / ".git" / "kept").exists()


@pytest.mark.parametrize("what", ["a file", "a file in it", "no place"])
def test_a_folder_that_cannot_be_written_to_is_named(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    if what == "a file":
        folder.touch()
    elif what == "a file in it":
        folder.mkdir()
        (folder / "drawn").touch()
    else:
        folder = Path("/proc/nowhere")
    with pytest.raises(UserError, match=f"^prepared={folder}: can't write there"):
        prepare(make_source(), 16, folder, Problems())


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def append(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SplitWriter, "append", append)
    with pytest.raises(UserError, match=r"prepared=.*: can't write there \(No space left on device\)"):
        prepare(make_source(), 16, tmp_path, Problems())
    assert list(tmp_path.rglob("*")) == [tmp_path / "drawn"]


# --- several at once ---


def test_preparing_the_same_at_once_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "save_overview", lambda folder, _: (folder / "overview.png").touch())
    source = make_source()
    expected = prepare(source, 16, tmp_path / "alone", Problems()).fingerprint()
    together = threading.Barrier(3)
    found: list[str] = []

    def run(folder: Path) -> None:
        together.wait()
        dataset = prepare(source, 16, folder, Problems())
        found.append(replace(dataset, digest=None).fingerprint())

    for attempt in range(25):
        threads = [threading.Thread(target=run, args=[tmp_path / str(attempt)]) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        check_clean(tmp_path / str(attempt))
    assert found == [expected] * 75


def test_what_another_process_finished_meanwhile_is_used(tmp_path: Path) -> None:
    plain = make_source()
    inner: list[Dataset] = []

    @dataclass(frozen=True)
    class Meanwhile(ArraySample):
        def image(self, size: int) -> tuple[Image.Image, tuple[int, int]]:
            inner.append(prepare(plain, 16, tmp_path, Problems()))
            (folder_of(inner[0]) / "mark").touch()
            return super().image(size)

    first = plain.splits["train"][0]
    assert isinstance(first, ArraySample)
    slow = make_source([Meanwhile(first.pixels, 0, first.name), *plain.splits["train"][1:]])
    # A probe of the colours decodes it too; from then on the other's preparation is ready.
    check_same(prepare(slow, 16, tmp_path, Problems()), inner[0])
    assert (folder_of(inner[0]) / "mark").exists()


def test_images_that_are_in_use_survive_a_new_preparation(files: Setup) -> None:
    first = files.load()
    before = np.array(first.train.images)
    add(files.root)
    assert len(files.load().train) > len(first.train)
    assert np.array_equal(first.train.images, before)


# --- many files ---


@pytest.mark.parametrize("count", [MANY_FILES - 1, MANY_FILES])
def test_many_files_show_a_progress_bar(
    count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_source(drawn(count - 7), name="lots")
    prepare(source, 8, tmp_path / "1", Problems(), progress=False)
    assert not capsys.readouterr().err
    prepare(source, 8, tmp_path / "2", Problems())
    shown = capsys.readouterr().err
    assert ("preparing lots" in shown) == ("100%" in shown) == (count >= MANY_FILES)
    prepare(source, 8, tmp_path / "2", Problems())
    assert not capsys.readouterr().err


def test_the_order_is_kept_whatever_takes_longer(tmp_path: Path) -> None:
    rng = random.Random(0)
    waits = [rng.choice([0, 0, 0.001, 0.02]) for _ in range(200)]
    samples = [Scripted(i, partial(time.sleep, wait), str(i)) for i, wait in enumerate(waits)]
    train = prepare(make_source(samples), 8, tmp_path, Problems(), progress=False).train
    assert train.names == tuple(map(str, range(200)))
    assert train.images[:, 0, 0, 0].tolist() == list(range(200))


@dataclass
class Ledger:
    """How many images were decoded and not yet written, at most."""

    decoded: int = 0
    written: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def decode(self) -> None:
        with self.lock:
            self.decoded += 1
            self.most = max(self.most, self.decoded - self.written)


def test_memory_stays_bounded_when_writing_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger()
    append = SplitWriter.append

    def slow(
        self: SplitWriter, image: NDArray[np.uint8], mask: NDArray[np.bool_] | None, label: int, name: str
    ) -> None:
        time.sleep(0.001)
        append(self, image, mask, label, name)
        ledger.written += 1

    monkeypatch.setattr(SplitWriter, "append", slow)
    monkeypatch.setattr("latent_env.data.decoding.cores", lambda: 2)
    samples: list[Sample] = [Scripted(i, ledger.decode) for i in range(400)]
    prepare(make_source(samples, channels=1), 8, tmp_path, Problems(), progress=False)
    assert ledger.decoded == 400
    assert 2 < ledger.most <= AHEAD * 2 + 2


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
