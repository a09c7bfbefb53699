"""Odd images are read all the same: in any mode, depth and format, turned, or very large."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from odd_files import ANOMALY, GREY, MASK, Pixels, image_writer, load, noise
from PIL import Image
from small_datasets import SIDE, SmallDataset, make_mvtec, save

from latent_common.errors import UserError
from latent_env.data.images import open_image, open_mask, shrink_image

ORIENTATION = 0x0112


# --- odd images that are read all the same ---


def read_image(tmp_path: Path, write: Callable[[Path], object], ending: str, channels: int = 3) -> Pixels:
    """What a data set holds of an image, ``(C, H, W)``."""
    widget = make_mvtec(tmp_path / "odd", defects=["dent"])
    shutil.rmtree(widget.root / "ground_truth")
    write(widget.root / f"test/dent/odd{ending}")
    dataset = load(widget.root, tmp_path, channels=channels)
    row = dataset.test.names.index(f"test/dent/odd{ending}")
    return np.asarray(dataset.test.images[row])


COLOUR = noise(SIDE, SIDE, 3)
ALPHA = noise(SIDE, SIDE, 1)


def in_palette(transparent: bool = False) -> Callable[[Path], None]:
    """Eight colours by number, the first of which may be transparent."""

    def write(path: Path) -> None:
        image = Image.fromarray(GREY % 8, "L")
        image.putpalette(list(PALETTE.flatten()))
        options: dict[str, Any] = {"transparency": 0} if transparent else {}
        image.save(path, **options)

    return write


PREVIEW = Image.new("RGB", (8, 8))
PALETTE = noise(8, 3)
PAINTED = PALETTE[GREY % 8]
BEHIND = np.where((GREY % 8 > 0)[:, :, None], PAINTED, 0)
SEEN = np.concatenate([COLOUR, ALPHA], 2)
DIMMED = COLOUR * (ALPHA / 255)

ODD_IMAGES: dict[str, tuple[str, Callable[[Path], None], NDArray[Any], float]] = {
    "16 bits": (".png", image_writer(GREY.astype(np.uint16) * 257), GREY, 0),
    "16 bits, not even": (".png", image_writer(GREY.astype(np.uint16) * 257 // 2 + 100), GREY / 2, 1),
    "16 bits, tif": (".tif", image_writer(GREY.astype("<u2") * 257), GREY, 0),
    "16 bits, big-endian": (".tif", image_writer((GREY.astype("<u2") * 257).astype(">u2")), GREY, 0),
    "32 bits": (".tif", image_writer(GREY.astype("<i4") * 257), GREY, 0),
    "one bit": (
        ".png",
        image_writer(np.where(GREY > 127, np.uint8(255), np.uint8(0)), "1"),
        (GREY > 127) * 255,
        0,
    ),
    "palette": (".png", in_palette(), PAINTED, 0),
    "palette, bmp": (".bmp", in_palette(), PAINTED, 0),
    "palette, transparent": (".png", in_palette(transparent=True), BEHIND, 0),
    "cmyk": (".tif", image_writer(COLOUR, "CMYK"), COLOUR, 0),
    "cmyk, jpg": (".jpg", image_writer(COLOUR, "CMYK", quality=100, subsampling=0), COLOUR, 12),
    "opaque": (".png", image_writer(np.concatenate([COLOUR, np.full_like(ALPHA, 255)], 2)), COLOUR, 0),
    "clear": (
        ".png",
        image_writer(np.concatenate([COLOUR, np.zeros_like(ALPHA)], 2)),
        np.zeros_like(COLOUR),
        0,
    ),
    "half transparent": (".png", image_writer(SEEN), DIMMED, 1),
    "half transparent, webp": (".webp", image_writer(SEEN, lossless=True, exact=True), DIMMED, 1),
    "half transparent, tif": (".tif", image_writer(SEEN), DIMMED, 1),
    "jpg": (".jpg", image_writer(COLOUR, quality=100, subsampling=0), COLOUR, 8),
    "lossless webp": (".webp", image_writer(COLOUR, lossless=True), COLOUR, 0),
    "wrong ending": (".jpg", image_writer(COLOUR, format="PNG"), COLOUR, 0),
    "phone": (
        ".jpg",
        image_writer(
            COLOUR, format="MPO", save_all=True, append_images=[PREVIEW], quality=100, subsampling=0
        ),
        COLOUR,
        8,
    ),
}


@pytest.mark.parametrize("name", ODD_IMAGES)
def test_odd_images_are_read_rightly(tmp_path: Path, name: str) -> None:
    ending, write, expected, tolerance = ODD_IMAGES[name]
    planes = expected.transpose(2, 0, 1) if expected.ndim == 3 else np.stack([expected] * 3)
    found = read_image(tmp_path, write, ending)
    assert np.abs(found - planes.astype(float)).max() <= tolerance


def test_phone_photos_hold_several_images_indeed(tmp_path: Path) -> None:
    path = tmp_path / "phone.jpg"
    ODD_IMAGES["phone"][1](path)
    with Image.open(path) as image:
        assert (image.format, getattr(image, "n_frames", 1)) == ("MPO", 2)


@pytest.mark.parametrize("level", [0, 60, 255])
def test_grey_with_transparency_stays_grey(tmp_path: Path, level: int) -> None:
    pixels = np.stack([GREY, np.full_like(GREY, level)], 2)
    found = read_image(tmp_path, image_writer(pixels), ".png", channels=1)
    assert np.abs(found[0] - GREY * (level / 255)).max() <= 1


UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.T,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].T,
    8: lambda stored: np.rot90(stored),
}


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize(
    ("ending", "options"),
    [(".png", {}), (".webp", {"lossless": True}), (".tif", {}), (".tif", {"compression": "tiff_lzw"})],
)
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_turned_images_are_read_upright(
    tmp_path: Path, orientation: int, ending: str, options: dict[str, Any]
) -> None:
    path = tmp_path / f"turned{ending}"
    stored = noise(12, 20)
    Image.fromarray(stored).save(path, exif=turned(orientation), **options)
    expected = UPRIGHT[orientation](stored)
    image, native = open_image(path, SIDE)
    assert native == image.size == expected.shape[::-1]
    assert np.array_equal(np.asarray(image.convert("L")), expected)
    mask = open_mask(path, path, native)
    assert np.array_equal(np.asarray(mask) > 0, expected > expected.max() // 2)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("scale", [1, 20])
def test_turned_photos_are_read_upright_also_when_decoded_smaller(
    tmp_path: Path, orientation: int, scale: int
) -> None:
    path = tmp_path / "turned.jpg"
    quarters = np.array([[0, 80, 160], [240, 200, 120]], np.uint8).repeat(8 * scale, 0).repeat(8 * scale, 1)
    Image.fromarray(quarters).save(path, exif=turned(orientation), quality=95)
    image, native = open_image(path, 8)
    expected = UPRIGHT[orientation](quarters)
    assert native == expected.shape[::-1]
    assert (image.size == native) is (scale == 1)
    rows, columns = (2, 3) if orientation < 5 else (3, 2)
    height, width = image.size[1] // rows, image.size[0] // columns
    found = np.asarray(image)[height // 2 :: height, width // 2 :: width].astype(int)
    wanted = expected[4 * scale :: 8 * scale, 4 * scale :: 8 * scale].astype(int)
    assert np.abs(found - wanted).max() <= 4


@pytest.mark.parametrize("ending", [".jpg", ".tif", ".png"])
def test_a_mask_belongs_to_the_upright_photo(tmp_path: Path, widget: SmallDataset, ending: str) -> None:
    (widget.root / ANOMALY).unlink()
    photo = (widget.root / ANOMALY).with_suffix(ending)
    Image.fromarray(noise(200, 400)).save(photo, exif=turned(6))
    mask = np.zeros((400, 200), np.uint8)
    mask[:200] = 255
    save(widget.root / MASK, mask)
    dataset = load(widget.root, tmp_path)
    assert dataset.native == ((16, 16), (200, 400))
    assert dataset.test.masks is not None
    row = dataset.test.names.index(ANOMALY.replace(".png", ending))
    assert dataset.test.masks[row].tolist() == [[True] * 16] * 8 + [[False] * 16] * 8
    save(widget.root / MASK, mask.T)
    with pytest.raises(UserError, match=r"the mask is 400×200 pixels, but its image .* is 200×400"):
        load(widget.root, tmp_path)


# --- single files ---


def flat(path: Path, channels: int = 3) -> list[int]:
    """The one colour of an even image file."""
    image, _ = open_image(path, 8)
    pixels = shrink_image(image, 8, channels)
    assert pixels.shape == (channels, 8, 8)
    assert (pixels == pixels[:, :1, :1]).all()
    return [int(value) for value in pixels[:, 0, 0]]


@pytest.mark.parametrize("kind", ["<u2", ">u2", "<i4"])
def test_16_bits_are_scaled_not_clipped(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "deep.tif"
    Image.fromarray(np.full((12, 12), 100 * 257).astype(kind)).save(path)
    assert flat(path) == [100, 100, 100]
    assert flat(path, 1) == [100]


def test_the_brightest_of_16_bits_is_white(tmp_path: Path) -> None:
    Image.fromarray(np.full((12, 12), 65535, np.uint16)).save(tmp_path / "deep.png")
    assert flat(tmp_path / "deep.png", 1) == [255]


def test_palette_cmyk_and_transparency(tmp_path: Path) -> None:
    red = Image.new("RGB", (12, 12), (255, 0, 0))
    red.convert("P").save(tmp_path / "palette.png")
    red.convert("CMYK").save(tmp_path / "print.tif")
    Image.new("1", (12, 12), 1).save(tmp_path / "bits.png")
    Image.new("RGBA", (12, 12), (255, 0, 0, 255)).save(tmp_path / "opaque.png")
    Image.new("RGBA", (12, 12), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("LA", (12, 12), (80, 255)).save(tmp_path / "grey.png")
    assert flat(tmp_path / "palette.png") == [255, 0, 0]
    assert flat(tmp_path / "print.tif") == [255, 0, 0]
    assert flat(tmp_path / "opaque.png") == [255, 0, 0]
    assert flat(tmp_path / "clear.png") == [0, 0, 0]
    assert flat(tmp_path / "grey.png", 1) == [80]
    assert flat(tmp_path / "bits.png", 1) == [255]


def test_a_turned_photo_is_read_upright(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    image = Image.new("L", (40, 20), 0)
    image.paste(255, (0, 0, 20, 20))  # left half, which is the top after a quarter turn
    image.save(path, exif=turned(6))
    upright, native = open_image(path, 16)
    pixels = shrink_image(upright, 16, 1)
    assert native == (20, 40)
    assert pixels[0, :6].min() > 200
    assert pixels[0, 10:].max() < 50


def test_a_large_photo_is_decoded_smaller_but_not_too_small(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    rising = np.tile(np.linspace(0, 255, 800).astype(np.uint8), (400, 1))
    Image.fromarray(rising).save(path, quality=95)
    image, native = open_image(path, 16)
    assert native == (800, 400)
    assert image.size == (100, 50)
    expected = shrink_image(Image.fromarray(rising), 16, 1)
    assert np.abs(shrink_image(image, 16, 1).astype(int) - expected).max() <= 3


@pytest.mark.parametrize(
    ("name", "message"), [("gone.png", "is not there"), ("folder.png", r"can't be opened \(Is a directory\)")]
)
def test_what_is_no_file_is_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=f"{name} {message}"):
        open_image(tmp_path / name, SIDE)
