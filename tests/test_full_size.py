"""Samples drawn into the original files: at their size and depth, and nowhere but inside the mask."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from agents.rollout import Augmented, save_augmented
from latent_common.artifacts import save_artifact
from latent_common.lock import LOCK, remove_abandoned
from latent_env.data import Dataset, Problems, Splitting, folder_source, prepare
from latent_env.data.images import open_original
from latent_env.data.layouts.folder import Parts
from stages.augmentation.pictures import originals
from stages.augmentation.pictures.blending import blend_change
from stages.augmentation.pictures.originals import draw_full_size, ranked

SIZE = 32
ROTATED = 6
"""EXIF: turn by a quarter to see it upright."""


def noise(*shape: int, most: int = 255) -> NDArray[Any]:
    kind = np.uint8 if most == 255 else np.uint16
    return np.random.default_rng(0).integers(0, most + 1, shape).astype(kind)


def square(channels: int = 1, strength: int = 40) -> NDArray[np.int16]:
    """A change of 8×4 pixels in the middle of the upper half."""
    change = np.zeros((channels, SIZE, SIZE), np.int16)
    change[:, 6:10, 12:20] = strength
    return change


def palette() -> Image.Image:
    image = Image.fromarray(noise(70, 90)).convert("P")
    image.putpalette([value // 2 for value in range(256) for _ in range(3)])
    return image


ORIGINALS = {
    "L": Image.fromarray(noise(70, 90)),
    "I;16": Image.fromarray(noise(70, 90, most=65535)),
    "RGB": Image.fromarray(noise(70, 90, 3)),
    "RGBA": Image.fromarray(noise(70, 90, 4)),
    "LA": Image.fromarray(noise(70, 90, 2)),
}


@pytest.mark.parametrize("mode", ORIGINALS)
@pytest.mark.parametrize("channels", [1, 3])
def test_outside_the_mask_every_bit_is_the_originals(mode: str, channels: int) -> None:
    original = ORIGINALS[mode]
    made, mask = blend_change(original, square(channels))
    assert (made.mode, made.size) == (mode, original.size)
    assert (mask.mode, mask.size) == ("L", original.size)
    before, after, marked = np.asarray(original), np.asarray(made), np.asarray(mask) == 255
    np.testing.assert_array_equal(before[~marked], after[~marked])
    # 8×4 of 32×32 pixels, stretched to 90×70.
    assert marked.sum() == pytest.approx(8 * 4 / SIZE**2 * 90 * 70, rel=0.15)
    assert marked[18, 45]
    if mode in ("LA", "RGBA"):
        np.testing.assert_array_equal(before[..., -1], after[..., -1])
    step = 40 * (257 if mode == "I;16" else 1)
    centre, most = before[18, 45].astype(int), np.iinfo(before.dtype).max
    colours = slice(None, -1) if mode in ("LA", "RGBA") else slice(None)
    grown = np.atleast_1d(after[18, 45].astype(int))[colours] - np.atleast_1d(centre)[colours]
    room = most - np.atleast_1d(centre)[colours]
    np.testing.assert_allclose(grown, np.minimum(step, room), rtol=0.2)


def test_the_change_fades_smoothly_and_stays_within_the_range() -> None:
    grey = Image.fromarray(np.full((320, 320), 100, np.uint8))
    change = square()
    change[0, 5] = change[0, 10] = 0
    change[0, 6], change[0, 9] = change[0, 6] // 2, change[0, 9] // 2
    after = np.asarray(blend_change(grey, change)[0]).astype(int)
    column = after[:, 155]
    assert column.max() == pytest.approx(140, abs=6)
    assert np.abs(np.diff(column)).max() <= 10  # no step is as high as the change
    bright = np.asarray(blend_change(Image.fromarray(np.full((64, 64), 250, np.uint8)), square())[0])
    assert bright[16, 32] == 255
    assert set(np.unique(bright)) == {250, 255}


def test_a_large_original_is_changed_in_parts_without_seams() -> None:
    change = np.zeros((1, SIZE, SIZE), np.int16)
    change[0, 4:28, 4:28] = np.linspace(10, 60, 24)[:, None]
    after = np.asarray(blend_change(Image.fromarray(np.zeros((1600, 100), np.uint8)), change)[0])
    steps = np.abs(np.diff(after[300:1300, 50].astype(int)))
    assert steps.max() <= 1


def test_nothing_changed_means_an_empty_mask() -> None:
    original = ORIGINALS["RGB"]
    made, mask = blend_change(original, square(strength=0))
    assert not np.asarray(mask).any()
    np.testing.assert_array_equal(np.asarray(made), np.asarray(original))


def test_originals_are_read_upright_and_at_their_own_depth(tmp_path: Path) -> None:
    ORIGINALS["I;16"].save(tmp_path / "deep.png")
    deep = open_original(tmp_path / "deep.png")
    assert deep.mode == "I;16"
    np.testing.assert_array_equal(np.asarray(deep), np.asarray(ORIGINALS["I;16"]))
    palette().save(tmp_path / "palette.png")
    assert open_original(tmp_path / "palette.png").mode == "RGB"
    for name, mode in (("RGBA", "RGBA"), ("LA", "LA"), ("L", "L")):
        ORIGINALS[name].save(tmp_path / f"{name}.png")
        assert open_original(tmp_path / f"{name}.png").mode == mode
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    ORIGINALS["RGB"].save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert open_original(tmp_path / "turned.jpg").size == (70, 90)


# --- a run ---


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """A folder of four normal images, 8 and 16 bits, wide and turned, and what a test needs."""
    root = tmp_path / "mine"
    for folder in ("train/good", "test/good", "test/bad"):
        (root / folder).mkdir(parents=True)
    good = root / "train" / "good"
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    ORIGINALS["L"].save(good / "0.png")
    ORIGINALS["I;16"].save(good / "1.png")
    Image.fromarray(noise(70, 90)).save(good / "2.png", exif=exif)
    Image.fromarray(noise(50, 40)).save(good / "3.png")
    for name in ("test/good/0.png", "test/bad/0.png"):
        Image.fromarray(noise(40, 40) // 2).save(root / name)
    splitting = Splitting("one_class", 0, 0.25, None, None)
    source = folder_source(root, "mine", Parts(None, None, None, None), splitting, Problems(), None)
    return prepare(source, SIZE, tmp_path / "prepared", Problems())


def finished_run(folder: Path, dataset: Dataset, sources: list[int], rewards: list[float]) -> Augmented:
    """A run's samples: anomalies but for the last, which is a normal variation."""
    starts = torch.from_numpy(np.array(dataset.train.images))
    images = starts[torch.tensor(sources)].int()
    images[:, :, 6:10, 12:20] = (images[:, :, 6:10, 12:20] + 40).clamp(max=255)
    count = len(sources)
    labels = torch.ones(count, dtype=torch.int64)
    labels[-1] = 0
    marks, nothing = torch.zeros(count, 1, SIZE, SIZE, dtype=torch.bool), torch.zeros(count, 1, 1, 1)
    made = Augmented(
        images.byte(),
        marks,
        nothing.bool(),
        labels,
        torch.tensor(sources),
        nothing,
        torch.tensor(rewards),
        torch.tensor([0] + [-1] * (count - 1)),
        torch.arange(count)[:, None] == 0,
    )
    folder.mkdir(exist_ok=True)
    save_augmented(folder / "augmented.npz", made)
    save_artifact(folder, "images", "images", {"images": starts}, {"count": len(starts)})
    return made


def table(run: Path) -> list[dict[str, str]]:
    with (run / "full_size" / "samples.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_different_originals_come_first(tmp_path: Path, dataset: Dataset) -> None:
    made = finished_run(tmp_path / "run", dataset, [0, 0, 1, 0, 1], [0.9, 0.8, 0.1, 0.95, 5.0])
    assert ranked(made) == [3, 2, 0, 1]


def test_samples_are_drawn_into_their_files(tmp_path: Path, dataset: Dataset) -> None:
    run, count = tmp_path / "run", len(dataset.train)
    finished_run(run, dataset, [*range(count), 0], [float(number) for number in range(count + 1)])
    draw_full_size(run, dataset, np.arange(count), 16)
    rows = table(run)
    assert len(rows) == count
    assert [row["kind"] for row in rows] == ["perturbation"] * (count - 1) + ["copy_paste"]
    assert {row["label"] for row in rows} == {"1"}
    for row in rows:
        original = open_original(Path(row["source"]))
        made, mask = (Image.open(run / "full_size" / row[name]) for name in ("image", "mask"))
        assert made.size == mask.size == original.size == (int(row["width"]), int(row["height"]))
        assert made.mode == original.mode
        marked = np.asarray(mask) > 0
        assert marked.any()
        np.testing.assert_array_equal(np.asarray(made)[~marked], np.asarray(original)[~marked])
        assert (np.asarray(made)[marked] != np.asarray(original)[marked]).mean() > 0.5


def test_nothing_is_drawn_twice_and_what_is_missing_is_added(tmp_path: Path, dataset: Dataset) -> None:
    run, count = tmp_path / "run", len(dataset.train)
    finished_run(run, dataset, [*range(count), 0], [1.0] * (count + 1))
    draw_full_size(run, dataset, np.arange(count), 0)
    assert not (run / "full_size").exists()
    draw_full_size(run, dataset, np.arange(count), 1)
    assert len(table(run)) == 1
    (run / "full_size" / "0001.png").unlink()
    draw_full_size(run, dataset, np.arange(count), 1)
    assert not (run / "full_size" / "0001.png").exists()
    draw_full_size(run, dataset, np.arange(count), 2)
    assert len(table(run)) == 2
    assert (run / "full_size" / "0001.png").exists()


def test_while_it_draws_nobody_else_tidies_up(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, held = tmp_path / "run", []

    def drawn(*arguments: Any) -> Any:
        remove_abandoned(run / LOCK)
        held.append((run / LOCK).exists())
        return blend_change(*arguments)

    monkeypatch.setattr(originals, "blend_change", drawn)
    finished_run(run, dataset, [0, 1], [1.0, 0.0])
    draw_full_size(run, dataset, np.arange(2), 16)
    assert held == [True]
    assert not (run / LOCK).exists()


def test_a_file_that_has_gone_is_left_out(
    tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    run, count = tmp_path / "run", len(dataset.train)
    finished_run(run, dataset, [*range(count), 0], [1.0] * (count + 1))
    gone = dataset.files[dataset.train.names[0]]
    gone.unlink()
    draw_full_size(run, dataset, np.arange(count), 16)
    assert len(table(run)) == count - 1
    assert f"full_size: left out: {gone} is not there" in capsys.readouterr().err


def test_images_without_files_are_drawn_at_the_size_they_have(tmp_path: Path, dataset: Dataset) -> None:
    run = tmp_path / "run"
    finished_run(run, dataset, [0, 1], [1.0, 0.0])
    draw_full_size(run, replace(dataset, files={}), np.arange(2), 16)
    (row,) = table(run)
    assert row["source"] == dataset.train.names[0]
    assert Image.open(run / "full_size" / row["image"]).size == (SIZE, SIZE)
