"""From image files to a split: finding, decoding, resizing, and errors that name the file."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tqdm import tqdm

from detectors.errors import UserError
from latent_env.data.dataset import Split

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MAX_PIXELS = 80_000_000  # below Pillow's own limit, so that ours is the message one reads
MANY_FILES = 50  # from here on reading takes long enough for a progress bar
GREY_PROBES = 8  # training images that decide between grey and RGB


@dataclass(frozen=True)
class Sample:
    """One image file: its label (0 normal, 1 anomaly), its mask file if any, and its name."""

    path: Path
    label: int
    name: str
    mask: Path | None = None


def list_images(folder: Path) -> list[Path]:
    """The image files directly in ``folder``, sorted by name; none if there is no such folder."""
    if not folder.is_dir():
        return []
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()
    ]
    return sorted(found, key=lambda path: path.name)


def list_folders(folder: Path) -> list[Path]:
    """The folders directly in ``folder``, sorted by name, without hidden ones."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._"]
    return sorted(found, key=lambda path: path.name)


def find_folder(parent: Path, *names: str) -> Path | None:
    """The folder in ``parent`` with the first of these names that is there, in any case."""
    folders = {path.name.lower(): path for path in reversed(list_folders(parent))}
    return next((folders[name.lower()] for name in names if name.lower() in folders), None)


def spread(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """At most ``limit`` of the samples, evenly spaced so that every kind keeps its share."""
    if limit is None or len(samples) <= limit:
        return list(samples)
    return [samples[i] for i in np.linspace(0, len(samples) - 1, limit).round().astype(int)]


def check_limit(limit: int | None) -> None:
    """Raise a ``UserError`` unless ``limit`` is None or leaves something to train on."""
    if limit is not None and limit < 2:
        raise UserError(f"limit={limit} leaves too few images: give 2 or more, or null for all of them.")


def decide_channels(samples: Sequence[Sample], channels: int | None) -> int:
    """Return ``channels``, or for None: 1 if the first of the samples are all grey, else 3."""
    if channels is not None:
        if channels not in (1, 3):
            raise UserError(
                f"channels={channels} is not possible: give 1 (grey), 3 (RGB) or null (as the "
                "training images are)."
            )
        return channels
    return 1 if all(_is_grey(sample.path) for sample in samples[:GREY_PROBES]) else 3


def read_split(
    samples: Sequence[Sample],
    size: int,
    channels: int,
    with_masks: bool,
    progress: bool,
    title: str,
) -> Split:
    """Read the samples' files in parallel.

    :param size: side in pixels to which images and masks are stretched.
    :param channels: 1 for grey, 3 for RGB.
    :param with_masks: whether the data set has pixel truth; samples without a mask file then get
        an empty mask.
    :param progress: show a progress bar when there are many files.
    :param title: what the progress bar is called.
    """
    images = np.empty((len(samples), channels, size, size), np.uint8)
    masks = np.zeros((len(samples), size, size), np.bool_) if with_masks else None

    def read(index: int) -> None:
        sample = samples[index]
        images[index], native = read_image(sample.path, size, channels)
        if masks is not None and sample.mask is not None:
            masks[index] = read_mask(sample.mask, size, sample.path, native)

    # Pillow decodes and resizes outside of Python's lock, so threads are enough.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        hide = not progress or len(samples) < MANY_FILES
        done = pool.map(read, range(len(samples)))
        for _ in tqdm(done, title, len(samples), unit="image", disable=hide):
            pass
    labels = np.array([sample.label for sample in samples], np.int64)
    return Split(images, labels, masks, tuple(sample.name for sample in samples))


def read_image(path: Path, size: int, channels: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Read one image as ``(C, size, size)`` uint8, and its native (width, height) in pixels."""
    image = _open(path)
    resized = image.convert("L" if channels == 1 else "RGB").resize(
        (size, size), Image.Resampling.LANCZOS, reducing_gap=3.0
    )
    pixels = np.asarray(resized)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1), image.size


def read_mask(path: Path, size: int, image_path: Path, image_size: tuple[int, int]) -> NDArray[np.bool_]:
    """Read one mask as ``(size, size)`` bool: true where it is above half of its maximum."""
    mask = _open(path).convert("L")
    if mask.size != image_size:
        raise UserError(
            f"{path}: the mask is {mask.width}×{mask.height} pixels, but its image {image_path} is "
            f"{image_size[0]}×{image_size[1]}. A mask must be of its image's size."
        )
    # Half of its own maximum, as masks hold 0 and 255 or 0 and 1.
    pixels = np.asarray(mask)
    marked = Image.fromarray(np.where(pixels > pixels.max() / 2, 255, 0).astype(np.uint8))
    small = np.asarray(marked.resize((size, size), Image.Resampling.NEAREST)) > 0
    if marked.getbbox() is not None and not small.any():
        # A defect that falls between the grid points stays, where most of it lies.
        cover = np.asarray(marked.convert("F").resize((size, size), Image.Resampling.BOX))
        small = cover == cover.max()
    return small


def _is_grey(path: Path) -> bool:
    image = _open(path)
    if image.mode == "L":
        return True
    red, green, blue = np.asarray(image, np.uint8).transpose(2, 0, 1)
    return bool((red == green).all() and (green == blue).all())


def _open(path: Path) -> Image.Image:
    """Decode a file upright, as mode L or RGB."""
    if not path.stat().st_size:
        raise UserError(f"{path} is empty (0 bytes). Copy it again or delete it.")
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(
                    f"{path} claims {image.width}×{image.height} pixels, more than the "
                    f"{MAX_PIXELS:,} that are read. Shrink or delete it."
                )
            return _as_uint8(ImageOps.exif_transpose(image), path)
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{path} claims to be larger than the {MAX_PIXELS:,} pixels that are read. "
            f"Shrink or delete it. ({error})"
        ) from error
    except Exception as error:  # Pillow's decoders raise anything, from SyntaxError to IndexError
        raise UserError(
            f"{path} can't be read as an image: it is broken, cut short or of another kind than "
            f"its name says. Copy it again or delete it. ({error})"
        ) from error


def _as_uint8(image: Image.Image, path: Path) -> Image.Image:
    """Convert any of Pillow's modes to L or RGB; what is transparent becomes black."""
    if image.mode == "F":
        raise UserError(
            f"{path} holds floating-point pixels, whose range is unknown. Save it with 8 or 16 "
            "bits a channel."
        )
    if image.mode.startswith("I"):  # 16 bits, some files as 32-bit integers
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UserError(
                f"{path} holds values from {values.min()} to {values.max()}, more than 16 bits. "
                "Save it with 8 or 16 bits a channel."
            )
        return Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        black = Image.new("RGBA", opaque.size, (0, 0, 0, 255))
        flat = Image.alpha_composite(black, opaque).convert("RGB")
        return flat.convert("L") if image.mode in ("1", "L", "LA", "La") else flat
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
