"""Labelled anomalies cut out in pixels: turned, mirrored and scaled, they can be put anywhere."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from latent_common.image_source import evenly_spaced
from latent_env.autoencoders.frozen import as_float
from latent_env.perturbations.membrane import fill_smoothly
from latent_env.worlds.foreground import object_masks

MOST_COMPARED, MOST_NUMBERS = 64, 2**25
"""An anomaly is compared with at most so many normal images, and so many of their numbers."""


class Placement(NamedTuple):
    """How N anomalies are put into images."""

    which: Tensor
    """``(N,)`` int64: which anomaly."""
    place: Tensor
    """``(N, 2)``: row and column of its centre, in pixels."""
    linear: Tensor
    """``(N, 2, 2)``: what turns, mirrors and scales it, as a matrix of rows and columns."""


class AnomalyPatches:
    """K labelled anomalies, and what would be seen in their place if they weren't there.

    ``shown (K, C, H, W)`` are their images in [0, 1] and ``normal (K, C, H, W)`` the same ones without the
    anomaly, which is painted over: with the normal image that continues the surroundings best, fitted at the
    boundary, or smoothly where no normal image does, as on textures. ``mattes (K, 1, H, W)`` are the labelled
    pixels, softly bounded.
    """

    def __init__(self, images: Tensor, masks: Tensor, normals: Tensor, like: Tensor) -> None:
        """Cut anomalies out.

        :param images: ``(K, C, H, W)`` uint8.
        :param masks: ``(K, 1, H, W)`` bool: the anomalous pixels; all pixels where it isn't known.
        :param normals: ``(S, C, H, W)`` uint8: normal images.
        :param like: a tensor of the device and type to work with.
        """
        self.shown = as_float(images, like)
        self.whole = masks.flatten(1).all(1)
        """``(K,)`` bool: it isn't known where in the image the anomaly is, so all of it is shown."""
        softness = max(masks.shape[-1] // 64, 1)
        wider = [masks.to(like), *(_dilated(masks, by).to(like) for by in range(1, softness + 1))]
        self.mattes = torch.stack(wider).mean(0)
        some = evenly_spaced(normals, max(min(MOST_COMPARED, MOST_NUMBERS // normals[0].numel()), 1))
        some = as_float(some, like)
        holes = _dilated(masks, softness + 1)
        pairs = zip(self.shown.split(1), holes.split(1), strict=True)
        painted = [_painted_over(image, hole, some) for image, hole in pairs]
        self.normal = torch.cat(painted)
        self.centres = _middles(masks[:, 0])
        """``(K, 2)``: row and column of the middle of each, in pixels."""
        self.offsets = self.centres - _middles_of_objects(images)
        """``(K, 2)``: where it is in its own image, from the middle of the object."""

    def __len__(self) -> int:
        return len(self.shown)

    def placed(self, placement: Placement) -> tuple[Tensor, Tensor, Tensor]:
        """Anomalies, what would be normal in their place ``(N, C, H, W)``, and mattes ``(N, 1, H, W)``.

        All are 0 or meaningless beyond the matte.
        """
        which, place, linear = placement
        height, width = self.shown.shape[2:]
        row = torch.arange(height, device=place.device, dtype=place.dtype)
        column = torch.arange(width, device=place.device, dtype=place.dtype)
        target = torch.stack(torch.meshgrid(row, column, indexing="ij"), 2)  # (H, W, 2)
        inverse = _inverse(linear)
        offset = target[None] - place[:, None, None]
        source = self.centres[which][:, None, None] + torch.einsum("nij,nhwj->nhwi", inverse, offset)
        size = place.new_tensor([height, width])
        grid = ((2 * source + 1) / size - 1).flip(3)
        colours = self.shown.shape[1]
        pictures = torch.cat([self.shown, self.normal], 1)[which]
        found = functional.grid_sample(pictures, grid, "bicubic", "border", align_corners=False)
        matte = functional.grid_sample(self.mattes[which], grid, "bilinear", "zeros", align_corners=False)
        return found[:, :colours], found[:, colours:], matte


def linear_map(turn: Tensor, mirrored: Tensor, scale: Tensor) -> Tensor:
    """What turns by ``turn`` (radians, counterclockwise), then scales, after mirroring left and right.

    All are ``(N,)``; the matrices ``(N, 2, 2)`` act on rows and columns.
    """
    cosine, sine = turn.cos(), turn.sin()
    rotation = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
    mirror = torch.stack([torch.ones_like(turn), torch.where(mirrored, -1.0, 1.0)], 1)
    return scale[:, None, None] * rotation * mirror[:, None]


def _inverse(linear: Tensor) -> Tensor:
    """The inverse of matrices ``(N, 2, 2)``; unlike PyTorch's it doesn't wait for a GPU to check them."""
    (a, b), (c, d) = (row.unbind(1) for row in linear.unbind(1))
    adjugate = torch.stack([torch.stack([d, -b], 1), torch.stack([-c, a], 1)], 1)
    return adjugate / (a * d - b * c)[:, None, None]


def _dilated(masks: Tensor, by: int) -> Tensor:
    """``masks (K, 1, H, W)`` bool and the pixels within ``by`` of them, bool."""
    return functional.max_pool2d(masks.float(), 2 * by + 1, 1, by) > 0


def _painted_over(image: Tensor, hole: Tensor, normals: Tensor) -> Tensor:
    """``image (1, C, H, W)`` without what is in ``hole (1, 1, H, W)`` bool.

    Of ``normals (S, C, H, W)`` the one whose gradients around the hole are nearest to the image's continues
    it, unless none is nearer than a plain area. Of an image that is a hole altogether, the nearest is taken.
    """
    if bool(hole.all()):
        return normals[(normals - image).square().flatten(1).sum(1).argmin()][None]
    around = _dilated(hole, max(image.shape[-1] // 16, 2)) & ~hole
    misfits = _gradient_error(normals - image, around)
    best = misfits.argmin()
    if misfits[best] < _gradient_error(image, around)[0]:
        normal = normals[best][None]
        return normal + fill_smoothly(image - normal, hole)
    return fill_smoothly(image, hole)


def _gradient_error(difference: Tensor, around: Tensor) -> Tensor:
    """The sum of squared gradients of ``difference (S, C, H, W)`` ``around (1, 1, H, W)`` bool, ``(S,)``."""
    down = difference.diff(dim=2).square() * around[:, :, 1:]
    right = difference.diff(dim=3).square() * around[..., 1:]
    return down.flatten(1).sum(1) + right.flatten(1).sum(1)


def _middles(masks: Tensor) -> Tensor:
    """Row and column of the middle of the box around each of ``masks (K, H, W)`` bool, ``(K, 2)``."""
    both = []
    for along in (masks.any(2), masks.any(1)):
        first = along.int().argmax(1)
        last = along.shape[1] - 1 - along.flip(1).int().argmax(1)
        both.append((first + last) / 2)
    return torch.stack(both, 1)


def _middles_of_objects(images: Tensor) -> Tensor:
    """The middle ``(K, 2)`` of the object in each of ``images (K, C, H, W)`` uint8, or of the image."""
    found = object_masks(images)
    if found is None:
        found = torch.ones_like(images[:, :1], dtype=torch.bool)
    total = found.flatten(1).sum(1).clamp_min(1)
    row = torch.arange(images.shape[2], device=images.device)
    column = torch.arange(images.shape[3], device=images.device)
    rows = (found.sum(3)[:, 0] * row).sum(1) / total
    columns = (found.sum(2)[:, 0] * column).sum(1) / total
    return torch.stack([rows, columns], 1)
