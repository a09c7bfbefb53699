"""From a file, an array or a tensor to the pixels that a detector was trained on."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from latent_common.errors import UserError
from latent_env.data.images import as_uint8, open_image, shrink_image

if TYPE_CHECKING:
    from torch import Tensor

SHAPES = "(H, W), (H, W, C) or (C, H, W)"
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""What the channels of an array are; transparent pixels become black, as those of files do."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """One image as detectors read it."""

    pixels: NDArray[np.uint8]
    """``(C, size, size)``"""
    native: tuple[int, int]
    """Width and height of the image as it was given."""
    name: str
    """The file, or the place in a batch."""


def read_pixels(image: object, size: int, channels: int, name: str) -> Pixels:
    """Decode and resize one image exactly as training images are; what can't be read is a ``UserError``."""
    if isinstance(image, str | Path):
        decoded, native = open_image(Path(image), size)
        return Pixels(shrink_image(decoded, size, channels), native, str(image))
    if isinstance(image, Image.Image):
        upright = ImageOps.exif_transpose(image)
        decoded = as_uint8(upright, name)
    elif isinstance(image, np.ndarray) or is_tensor(image):
        decoded = as_uint8(_from_array(image, name), name)
    else:
        raise UserError(
            f"{name} is a {type(image).__name__}: give a file, an array, a tensor, or a list of them"
        )
    return Pixels(shrink_image(decoded, size, channels), decoded.size, name)


def is_batch(images: object) -> bool:
    """Whether ``images`` are several: a list, or an array of four dimensions."""
    if isinstance(images, np.ndarray) or is_tensor(images):
        return images.ndim == 4
    return isinstance(images, list | tuple)


def is_tensor(value: object) -> TypeGuard[Tensor]:
    """Whether ``value`` is a tensor of PyTorch, which needn't be installed."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _from_array(array: NDArray[Any] | Tensor, name: str) -> Image.Image:
    if channels_first := is_tensor(array):
        found = array.detach().cpu()
        values = (found.float() if found.is_floating_point() else found).numpy()
    else:
        values = np.asarray(array)
    values = _as_bytes(_channels_last(values, channels_first, name), name)
    bands = [Image.fromarray(np.ascontiguousarray(values[:, :, band])) for band in range(values.shape[2])]
    return Image.merge(MODES[len(bands)], bands)


def _channels_last(values: NDArray[Any], channels_first: bool, name: str) -> NDArray[Any]:
    """One image as ``(H, W, C)``."""
    if not values.size or values.ndim not in (2, 3):
        raise UserError(f"{name} has the shape {values.shape}: give an image as {SHAPES}, several as a list")
    if values.ndim == 2:
        return values[:, :, None]
    first, last = values.shape[0] in MODES, values.shape[2] in MODES
    if not (first or last):
        raise UserError(
            f"{name} has the shape {values.shape}, which has no axis of 1 to 4 channels: give an image as "
            f"{SHAPES}, several as a list"
        )
    return values.transpose(1, 2, 0) if first and (channels_first or not last) else values


def _as_bytes(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Values of 8 or 16 bits, or floats in [0, 1], as uint8."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return np.rint(values / 257).astype(np.uint8)
    if not np.issubdtype(values.dtype, np.floating):
        raise UserError(f"{name} holds {values.dtype}: give uint8, uint16, or floats in [0, 1]")
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # NaN too
        raise UserError(
            f"{name} holds floats from {low:g} to {high:g}: give floats in [0, 1], or uint8 from 0 to 255"
        )
    return np.rint(values * 255).astype(np.uint8)
