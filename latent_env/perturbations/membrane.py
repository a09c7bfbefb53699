"""Gradient-domain (Poisson) blending: changes of images that leave no seam at their boundary."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

STEPS = 12
"""Steps of conjugate gradients at each resolution: errors are some hundredths of the values' range."""

SMALLEST_SIDE = 8
"""The coarsest resolution that a hole is filled at."""


def seamless(change: Tensor, region: Tensor) -> Tensor:
    """A change of images with the same gradients within ``region`` that vanishes at its boundary.

    It is the solution of Poisson's equation whose values at the boundary are 0: ``change`` less what fills
    the region smoothly from the values around it. Beyond the region nothing changes.

    :param change: ``(N, C, H, W)``, meaningful in the region and one pixel around it.
    :param region: ``(N, 1, H, W)`` bool.
    """
    return (change - fill_smoothly(change, region)) * region


def fill_smoothly(values: Tensor, hole: Tensor) -> Tensor:
    """``values (N, C, H, W)`` with the pixels of ``hole (N, 1, H, W)`` bool filled from those around it.

    What is filled in is harmonic: every pixel is the mean of its neighbours, up to four. A hole that
    reaches from border to border, with nothing around it, is filled with zeros. Coarser resolutions are
    filled first, and each takes a fixed number of steps, so the cost doesn't depend on the hole.
    """
    known = (~hole).to(values)
    filled = values * known
    if min(values.shape[2:]) >= 2 * SMALLEST_SIDE:
        sums, shares = functional.avg_pool2d(filled, 2), functional.avg_pool2d(known, 2)
        coarse = fill_smoothly(sums / shares.clamp_min(1e-6), shares == 0)
        guess = functional.interpolate(coarse, values.shape[2:], mode="bilinear", align_corners=False)
    else:
        total = known.sum((2, 3), keepdim=True).clamp_min(1)
        guess = (filled.sum((2, 3), keepdim=True) / total).expand_as(values)
    return _relaxed(torch.where(hole, guess, values), hole.to(values))


def _relaxed(values: Tensor, hole: Tensor) -> Tensor:
    """``values (N, C, H, W)`` after some steps of conjugate gradients towards harmonic ones in the hole."""
    count = _neighbours(values)
    residual = _laplacian(values, count).neg_().mul_(hole)
    direction, left = residual.clone(), _squares(residual, residual)
    for _ in range(STEPS):
        image = _laplacian(direction, count).mul_(hole)
        step = left / _squares(direction, image).clamp_min(1e-20)
        values = values.addcmul_(step, direction)
        residual = residual.addcmul_(step, image, value=-1)
        before, left = left, _squares(residual, residual)
        direction = direction.mul_(left / before.clamp_min(1e-20)).add_(residual)
    return values


def _squares(one: Tensor, other: Tensor) -> Tensor:
    """The inner product of each image and channel, ``(N, C, 1, 1)``."""
    return torch.einsum("nchw,nchw->nc", one, other)[:, :, None, None]


def _neighbours(like: Tensor) -> Tensor:
    """How many neighbours each pixel has, up to four: ``(H, W)``."""
    height, width = like.shape[2:]
    count = like.new_full((height, width), 4)
    count[0] -= 1
    count[-1] -= 1
    count[:, 0] -= 1
    count[:, -1] -= 1
    return count


def _laplacian(values: Tensor, count: Tensor) -> Tensor:
    """Each of ``values (N, C, H, W)`` times its ``count`` of neighbours, less their sum."""
    out = values * count
    out[:, :, 1:] -= values[:, :, :-1]
    out[:, :, :-1] -= values[:, :, 1:]
    out[..., 1:] -= values[..., :-1]
    out[..., :-1] -= values[..., 1:]
    return out
