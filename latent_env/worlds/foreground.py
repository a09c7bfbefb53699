"""Where the object is in normal images, if they show one in front of a plain background."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from latent_common.image_source import evenly_spaced
from latent_env.autoencoders.frozen import as_float

Mask = npt.NDArray[np.bool_]

LARGEST_SIDE = 128
"""Larger images are looked at in so many pixels a side: an object's outline needs no more."""

TOLERANCE = 0.06
"""Pixels that differ by no more (of intensities from 0 to 1) have the background's colour."""

LEAST_BORDER = 0.75
"""The background makes up at least so much of an image's border."""

LEAST_AREA, MOST_AREA = 0.05, 0.95
"""An object takes so much of the image."""

LEAST_CONTRAST = 2 * TOLERANCE
"""An object differs from the background by at least so much, on average."""

MOST_JUDGED, LEAST_FOUND = 64, 0.8
"""Of so many images, evenly spaced, at least this share must show an object."""


def object_masks(images: Tensor) -> Tensor | None:
    """Where the object is in each of the normal ``images (N, C, H, W)`` uint8: ``(N, 1, H, W)`` bool.

    The background is what has the colour of most of the image's border and is connected with the border;
    the object is the largest part of the rest, without holes. An image in which none is found gets the
    pixels that are the object's in most of the others. None where most images have no plain background,
    such as textures that fill the picture.
    """
    small = _small(evenly_spaced(images, MOST_JUDGED))
    if np.mean([_object(image) is not None for image in small]) < LEAST_FOUND:
        return None
    found = [_object(image) for part in images.split(MOST_JUDGED) for image in _small(part)]
    usually = np.mean([mask for mask in found if mask is not None], axis=0) >= 0.5
    masks = torch.from_numpy(np.stack([usually if mask is None else mask for mask in found]))[:, None]
    parts = [functional.interpolate(part.float(), images.shape[2:]) for part in masks.split(MOST_JUDGED)]
    return torch.cat([part > 0 for part in parts]).to(images.device)


def _small(images: Tensor) -> npt.NDArray[np.float32]:
    """Images ``(B, C, H, W)`` uint8 in [0, 1], and not larger than need be."""
    floats = as_float(images, torch.zeros((), device=images.device))
    if floats.shape[-1] > LARGEST_SIDE:
        floats = functional.interpolate(floats, (LARGEST_SIDE, LARGEST_SIDE), mode="area")
    array: npt.NDArray[np.float32] = floats.cpu().numpy()
    return array


def _object(image: npt.NDArray[np.float32]) -> Mask | None:
    """The object in one ``image (C, H, W)`` in [0, 1], ``(H, W)``; None if there is no plain background."""
    height, width = image.shape[1:]
    least = max(width // 64, 1)
    border = np.ones((height, width), dtype=np.bool_)
    border[least:-least, least:-least] = False
    colour = np.median(image[:, border], axis=1)
    difference = np.abs(image - colour[:, None, None]).max(0)
    plain = difference <= TOLERANCE
    if plain[border].mean() < LEAST_BORDER:
        return None
    parts, _ = ndimage.label(plain)
    outside = np.unique(parts[border & plain])
    inside = ndimage.binary_opening(~np.isin(parts, outside), iterations=least)
    parts, count = ndimage.label(inside)
    if not count:
        return None
    largest = 1 + np.bincount(parts.ravel())[1:].argmax()
    found: Mask = ndimage.binary_fill_holes(parts == largest)
    fits = LEAST_AREA <= found.mean() <= MOST_AREA and difference[found].mean() >= LEAST_CONTRAST
    return found if fits else None
