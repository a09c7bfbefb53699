"""Odd masks are read all the same: of any values, depth and format, in grey or in colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from odd_files import ANOMALY, GREY, MASK, image_writer, load
from PIL import Image
from small_datasets import SIDE, make_mvtec, save

from latent_common.errors import UserError
from latent_env.data.images import open_mask, shrink_mask

# --- odd masks ---

LEFT = np.zeros((SIDE, SIDE), np.bool_)
LEFT[:, : SIDE // 2] = True
STRIPES = (np.arange(SIDE)[:, None] // 4 + np.zeros(SIDE, int)).astype(np.uint8)  # 0 to 3, from top to bottom


def read_mask(tmp_path: Path, write: Callable[[Path], object], ending: str) -> NDArray[np.bool_]:
    """What a data set holds of a mask."""
    widget = make_mvtec(tmp_path / "odd", defects=["dent"])
    (widget.root / MASK).unlink()
    write((widget.root / MASK).with_suffix(ending))
    dataset = load(widget.root, tmp_path)
    assert dataset.test.masks is not None
    return np.asarray(dataset.test.masks[dataset.test.names.index(ANOMALY)])


def levels(values: Sequence[int], dtype: Any = np.uint8) -> NDArray[Any]:
    """Four stripes of these values, from top to bottom."""
    return np.array(values, dtype)[STRIPES]


def coloured(*colours: tuple[int, int, int]) -> Callable[[Path], None]:
    """Four stripes in a palette's colours."""

    def write(path: Path) -> None:
        image = Image.fromarray(STRIPES, "L")
        image.putpalette([value for colour in colours for value in colour])
        image.save(path)

    return write


ON = np.uint8(255)
ODD_MASKS: dict[str, tuple[str, Callable[[Path], None], NDArray[np.bool_]]] = {
    "0 and 255": (".png", image_writer(LEFT * ON), LEFT),
    "0 and 1": (".png", image_writer(LEFT * np.uint8(1)), LEFT),
    "0 and 128": (".png", image_writer(LEFT * np.uint8(128)), LEFT),
    "one bit": (".png", image_writer(LEFT * ON, "1"), LEFT),
    "classes": (".png", image_writer(levels([0, 1, 2, 30])), STRIPES > 0),
    "16 bits, 0 and 1": (".png", image_writer(LEFT.astype(np.uint16)), LEFT),
    "16 bits, classes": (".png", image_writer(levels([0, 1, 2, 30], np.uint16)), STRIPES > 0),
    "16 bits, 0 and 255": (".png", image_writer(LEFT.astype(np.uint16) * 255), LEFT),
    "16 bits, 0 and 65535": (".png", image_writer(LEFT.astype(np.uint16) * 65535), LEFT),
    "32 bits, classes": (".tif", image_writer(levels([0, 1, 2, 30], np.int32)), STRIPES > 0),
    "16 bits, edges": (".tif", image_writer(levels([0, 20000, 40000, 65535], np.uint16)), STRIPES > 1),
    "antialiased": (".png", image_writer(levels([0, 100, 140, 255])), STRIPES > 1),
    "antialiased, dim": (".png", image_writer(levels([0, 60, 120, 200])), STRIPES > 1),
    "jpg": (".jpg", image_writer(LEFT * ON, quality=50), LEFT),
    "jpg in RGB": (".jpg", image_writer(LEFT * ON, "RGB", quality=50), LEFT),
    "jpg in red": (
        ".jpg",
        image_writer(LEFT[:, :, None] * np.array([ON, 0, 0], np.uint8), subsampling=0),
        LEFT,
    ),
    "RGB": (".png", image_writer(LEFT * ON, "RGB"), LEFT),
    "RGBA": (".png", image_writer(LEFT * ON, "RGBA"), LEFT),
    "transparent": (".png", image_writer(np.stack([np.full_like(GREY, 255)] * 3 + [LEFT * ON], 2)), LEFT),
    "colours": (".png", coloured((0, 0, 0), (128, 0, 0), (0, 128, 0), (0, 0, 64)), STRIPES > 0),
    "red on black": (".bmp", coloured((0, 0, 0), (0, 0, 0), (255, 0, 0), (0, 0, 0)), STRIPES == 2),
    "numbers in a grey palette": (".png", coloured((0,) * 3, (1,) * 3, (2,) * 3, (3,) * 3), STRIPES > 0),
    "nothing": (".png", image_writer(LEFT * np.uint8(0)), LEFT & False),
    "everything": (".png", image_writer(np.full_like(GREY, 255)), LEFT | True),
}


@pytest.mark.parametrize("name", ODD_MASKS)
def test_odd_masks_are_read_rightly(tmp_path: Path, name: str) -> None:
    ending, write, expected = ODD_MASKS[name]
    assert np.array_equal(read_mask(tmp_path, write, ending), expected)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((SIDE, SIDE), np.float32), "holds floating-point pixels"),
        (np.full((SIDE, SIDE), 70000, np.int32), "holds values from 70000"),
    ],
)
def test_masks_of_unknown_range_are_refused(tmp_path: Path, pixels: NDArray[Any], message: str) -> None:
    with pytest.raises(UserError, match=f"001_mask.tif {message}"):
        read_mask(tmp_path, image_writer(pixels), ".tif")


# --- single files ---


@pytest.mark.parametrize("bright", [1, 255])
def test_masks_of_0_and_1_count_too(tmp_path: Path, bright: int) -> None:
    mask = np.zeros((12, 20), np.uint8)
    mask[:, :10] = bright
    path = save(tmp_path / "mask.png", mask)
    assert shrink_mask(open_mask(path, path, (20, 12)), 8).tolist() == [[True] * 4 + [False] * 4] * 8


def test_empty_masks_stay_empty_and_tiny_defects_stay(tmp_path: Path) -> None:
    pixels = np.zeros((128, 128), np.uint8)
    path = save(tmp_path / "mask.png", pixels)
    assert not shrink_mask(open_mask(path, path, (128, 128)), 8).any()
    pixels[17, 33] = 255  # between the points of an 8×8 grid
    save(path, pixels)
    assert np.argwhere(shrink_mask(open_mask(path, path, (128, 128)), 8)).tolist() == [[1, 2]]
