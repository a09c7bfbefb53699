"""Contact sheets of samples: by kind, sorted by reward, beside the original and a real anomaly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_world
from numpy.typing import NDArray
from PIL import Image

from agents.rollout import KINDS, Augmented, save_augmented
from benchmarks import gallery
from latent_env.data import Split
from latent_env.rendering import GAP, LARGE_TILE, TILE, Picture, to_rgb
from latent_env.worlds.store import save_world
from stages.augmentation.pictures.sheets import Examples, real_anomalies, sample_sheets

SIZE = LARGE_TILE  # so that a tile shows an image pixel by pixel
CAPTION = 22


def samples(labels: list[int], copied: list[int], reward: list[float]) -> Augmented:
    """Samples that are black, but for a square as bright as 100 and more in anomalies."""
    count = len(labels)
    images = torch.zeros(count, 1, SIZE, SIZE, dtype=torch.uint8)
    masks = torch.zeros(count, 1, SIZE, SIZE, dtype=torch.bool)
    for number, label in enumerate(labels):
        images[number, :, 40:60, 80:90] = (100 + number) * label + 1
        masks[number, :, 40:60, 80:90] = bool(label)
    zeros = torch.zeros(count, 1, 1, 1)
    return Augmented(
        images,
        masks,
        zeros.bool(),
        torch.tensor(labels),
        torch.arange(count) % 2,
        zeros,
        torch.tensor(reward),
        torch.tensor(copied),
        torch.zeros(count, 0, dtype=torch.bool),
    )


def tile(sheet: Picture, row: int, column: int) -> Picture:
    top, left = row * (SIZE + CAPTION + GAP) + CAPTION, GAP + column * (SIZE + GAP)
    return sheet[top : top + SIZE, left : left + SIZE]


@pytest.fixture
def starts() -> torch.Tensor:
    return torch.randint(0, 90, (2, 1, SIZE, SIZE), generator=torch.Generator().manual_seed(0)).byte()


def test_every_kind_has_a_sheet_sorted_by_reward(starts: torch.Tensor) -> None:
    made = samples([1, 1, 0, 1, 1], [-1, 2, -1, 0, 2], [0.5, 0.1, 0.3, 0.9, 0.4])
    assert [KINDS[kind] for kind in made.kinds] == [
        *("perturbation", "copy_paste", "normal_variation", "copy_paste", "copy_paste")
    ]
    sheets = sample_sheets(made, starts, None)
    assert list(sheets) == list(KINDS)
    brightness = [int(tile(sheets["copy_paste"], row, 1)[50, 85, 0]) - 101 for row in range(3)]
    assert brightness == [3, 4, 1]
    assert len(sheets["perturbation"]) == SIZE + CAPTION + GAP
    assert "copy_paste" not in sample_sheets(made.at(torch.tensor([0, 2])), starts, None)


def test_the_original_is_untouched_and_the_outline_hides_nothing(starts: torch.Tensor) -> None:
    sheet = sample_sheets(samples([1, 1], [-1, -1], [1.0, 0.0]), starts, None)["perturbation"]
    for row in range(2):
        np.testing.assert_array_equal(tile(sheet, row, 0), to_rgb(starts[row]))
        shown = tile(sheet, row, 1)
        assert (shown[40:60, 80:90] == 101 + row).all()
        assert (shown == (255, 140, 0)).all(2).any()
        assert not (tile(sheet, row, 3) == (255, 140, 0)).all(2).any()  # nor is the close-up outlined


def test_the_anomaly_that_was_copied_stands_beside(starts: torch.Tensor) -> None:
    real = torch.stack([torch.full((1, SIZE, SIZE), 50 * number).byte() for number in range(4)])
    examples = Examples(real, torch.zeros_like(real, dtype=torch.bool), numbered=True)
    sheet = sample_sheets(samples([1, 1], [3, 1], [1.0, 0.0]), starts, examples)["copy_paste"]
    assert [int(tile(sheet, row, 4)[0, 0, 0]) for row in range(2)] == [150, 50]


def test_where_no_anomaly_is_kept_those_of_the_validation_split_are_shown() -> None:
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 32, 32), np.uint8)
    masks: NDArray[np.bool_] = images[:, 0] > 3
    valid = Split(images, np.array([0, 0, 0, 1, 1, 1]), masks, tuple("abcdef"))
    world = make_world("spatial")
    found = real_anomalies(world, valid, np.array([4, 5]))
    assert found is not None
    assert found.images[:, 0, 0, 0].tolist() == [4, 5]
    assert found.masks.all()
    assert not found.numbered
    assert real_anomalies(world, valid, np.array([], np.int64)) is None


def test_a_gallery_of_a_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = make_world("spatial")
    save_world(tmp_path / "run", world)
    count = 4
    images = world.images[:count].clone()
    images[:, :, 4:9, 4:9] = 255
    marks = torch.zeros(count, 1, 32, 32, dtype=torch.bool)
    marks[:, :, 4:9, 4:9] = True
    nothing, ones = torch.zeros(count, 1, 1, 1), torch.ones(count, dtype=torch.int64)
    none = torch.zeros(count, 0, dtype=torch.bool)
    save_augmented(
        tmp_path / "run" / "augmented.npz",
        Augmented(
            images, marks, nothing.bool(), ones, torch.arange(count), nothing, ones.float(), -ones, none
        ),
    )
    asked = [str(tmp_path / "run"), "--out", str(tmp_path / "shown.png")]
    assert gallery.main([*asked, "--kind", "perturbation", "--rows", "2"]) == 0
    with Image.open(tmp_path / "shown.png") as shown:
        assert shown.height == 2 * (TILE + CAPTION + GAP)
    assert gallery.main(asked) == 1
    assert "has no samples of the kind copy_paste" in capsys.readouterr().err
