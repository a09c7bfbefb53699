"""Decoding image files: every mode of Pillow becomes grey or RGB, and errors name the file."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from latent_common.errors import UserError
from latent_common.files import open_regular

MAX_PIXELS = 80_000_000
"""The largest image that is decoded; below Pillow's own limit, so that the user reads our message."""

FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
"""All other decoders of Pillow stay closed, whatever a file is called."""

PLAIN_MODES = ("1", "L", "P", "RGB", "YCbCr", "CMYK")
MAX_OTHER_PIXELS = 40_000_000
"""The largest image of other modes, such as with transparency or of 16 bits: it takes more memory a pixel."""

LARGE = 8_000_000
"""Of images with more pixels only one is decoded at a time, so that memory doesn't grow with the cores."""

SMALLEST_DRAFT = 3
"""A JPEG is decoded at a fraction of its size, down to so many times the target size."""

ORIENTATION = 0x0112  # the EXIF tag
MOST_CLASSES = 32
"""A mask with no larger value than this holds class indices, of which 0 is the background."""


def open_image(path: Path, size: int) -> tuple[Image.Image, tuple[int, int]]:
    """Decode a file upright: the image in mode L or RGB, and its native (width, height) in pixels.

    A JPEG of several times ``size`` pixels a side is decoded at a reduced size, which is much faster.
    """
    return _open(path, as_uint8, size)


def open_original(path: Path) -> Image.Image:
    """Decode a file upright and at its own depth: mode L, LA, I;16, RGB or RGBA, whichever keeps it whole."""
    return _open(path, _as_it_is)[0]


def open_mask(path: Path, image_path: Path, image_size: tuple[int, int]) -> Image.Image:
    """Decode a mask as mode L: 255 where it is set, 0 elsewhere.

    Grey edges, which come from resizing and JPEG, are cut at half of the mask's largest value. A mask of
    small numbers or of colours holds classes, and all but 0 or black are set.
    """
    mask, native = _open(path, _as_mask)
    if native != image_size:
        raise UserError(
            f"{path}: the mask is {native[0]}×{native[1]} pixels, but its image {image_path} is "
            f"{image_size[0]}×{image_size[1]}. A mask must be of its image's size."
        )
    pixels = np.asarray(mask)
    if not is_grey(mask):
        pixels, least = pixels.max(2), MOST_CLASSES  # above the colour noise of a JPEG
    else:
        pixels = pixels if pixels.ndim == 2 else pixels[:, :, 0]
        brightest = int(pixels.max())
        least = 1 if brightest < MOST_CLASSES else brightest // 2 + 1
    return Image.fromarray(np.where(pixels >= least, 255, 0).astype(np.uint8))


def shrink_image(image: Image.Image, size: int, channels: int) -> NDArray[np.uint8]:
    """Stretch an image to ``(C, size, size)`` uint8, antialiased."""
    converted = image.convert("L" if channels == 1 else "RGB")
    if converted.size != (size, size):
        converted = converted.resize((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0)
    pixels = np.asarray(converted)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def shrink_mask(mask: Image.Image, size: int) -> NDArray[np.bool_]:
    """Resize a mask of 0 and 255 to ``(size, size)`` bool by nearest neighbours, without losing a defect."""
    small: NDArray[np.bool_] = np.asarray(mask.resize((size, size), Image.Resampling.NEAREST)) > 0
    if mask.getbbox() is not None and not small.any():
        # A defect between the grid points is kept where most of it lies.
        cover = np.asarray(mask.convert("F").resize((size, size), Image.Resampling.BOX))
        small = cover == cover.max()
    return small


def is_grey(image: Image.Image) -> bool:
    """Whether an image of mode L or RGB has no colour."""
    if image.mode == "L":
        return True
    red, green, blue = np.asarray(image, np.uint8).transpose(2, 0, 1)
    return bool((red == green).all() and (green == blue).all())


_one_large = threading.Lock()

Convert = Callable[[Image.Image, Path], Image.Image]


def _open(path: Path, convert: Convert, size: int | None = None) -> tuple[Image.Image, tuple[int, int]]:
    try:
        if not path.stat().st_size:
            raise UserError(f"{path} is empty (0 bytes). Copy it again or delete it.")
        # Given a path, Pillow maps uncompressed TIFFs, and scrambles rotated ones.
        with open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
            most = MAX_PIXELS if image.mode in PLAIN_MODES else MAX_OTHER_PIXELS
            if image.width * image.height > most:
                raise UserError(
                    f"{path} claims {image.width}×{image.height} pixels, more than the "
                    f"{most:,} that are read in mode {image.mode}. Shrink or delete it."
                )
            # Phones add small previews to a JPEG, which makes it an MPO of several images.
            if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
                raise UserError(
                    f"{path} holds {frames} images (an animation, or pages), but which of them "
                    "is meant is unknown. Save one of them, or delete it."
                )
            full, turned = image.size, image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
            if size is not None:
                image.draft(None, (SMALLEST_DRAFT * size, SMALLEST_DRAFT * size))
            reduced = image.size != full
            with _one_large if image.width * image.height > LARGE else contextlib.nullcontext():
                ImageOps.exif_transpose(image, in_place=True)
                if not reduced:  # a TIFF may have been turned while it was opened
                    return convert(image, path), image.size
                return convert(image, path), full[::-1] if turned else full
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{path} claims to be larger than the {MAX_PIXELS:,} pixels that are read. "
            f"Shrink or delete it. ({error})"
        ) from error
    except FileNotFoundError as error:
        what = "is a link that leads nowhere" if path.is_symlink() else "is not there"
        raise UserError(f"{path} {what}. Copy the file there, or delete what points to it.") from error
    except OSError as error:
        if error.errno is not None:  # an error of the system, not of a decoder
            raise UserError(f"{path} can't be opened ({error.strerror}).") from error
        raise _broken(path, error) from error
    except Exception as error:  # Pillow's decoders raise anything, from SyntaxError to IndexError
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> UserError:
    detail = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
    return UserError(
        f"{path} can't be read as an image: it is broken, cut short or of another kind than "
        f"its name says. Copy it again or delete it.{detail}"
    )


def as_uint8(image: Image.Image, path: Path | str) -> Image.Image:
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


def _as_it_is(image: Image.Image, path: Path) -> Image.Image:
    """Convert any of Pillow's modes to one that PNG has, with as many bits and with what is transparent."""
    if image.mode.startswith("I"):
        as_uint8(image, path)  # which refuses more than 16 bits
        return Image.fromarray(np.asarray(image).astype(np.uint16))
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        return image.convert("LA" if grey else "RGBA")
    return image.convert("L" if grey else "RGB")


def _as_mask(image: Image.Image, path: Path) -> Image.Image:
    """Convert a mask like :func:`as_uint8`, but keep small numbers of 16 or 32 bits as they are."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() >= 0 and values.max() < 256:
            return Image.fromarray(values.astype(np.uint8))
    return as_uint8(image, path)
