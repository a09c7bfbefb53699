"""Synthetic anomalies made in image space: CutPaste, and Perlin-shaped texture as in DRAEM.

Batches are made on the images' own device and depend on nothing but the images and an explicit CPU generator:
random numbers are drawn on the CPU and then moved, so a seed gives the same anomalies on every device. A mask
marks what can be *seen*: pixels that changed by more than `VISIBLE`. Outside the mask an image is exactly
what it was, and no mask is empty.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from detectors.synthetic.draws import choices, uniform
from detectors.synthetic.mixing import Mix
from detectors.synthetic.perlin import perlin_shapes
from detectors.synthetic.textures import mirrored, procedural, read, recoloured
from latent_common.errors import UserError
from latent_common.image_source import ImageSource

VISIBLE = 0.02
"""A pixel has changed if some channel moved by more than this, of the range [0, 1]."""

_LEAST_VISIBLE = 0.25
"""Share of the drawn region that must show; below it the label would be a guess."""

_REDRAWS = 3
"""Draws of a patch that shows, before one is tinted until it does."""


@dataclass(frozen=True)
class Synthetic:
    """Images (B, C, H, W) in [0, 1], each with an anomaly, and where it is.

    Masks are (B, 1, H, W), 0 or 1, of the images' dtype and on their device.
    """

    images: Tensor
    masks: Tensor


def cutpaste(images: Tensor, generator: torch.Generator, pool: Tensor | None = None) -> Synthetic:
    """Paste a rectangle of an image somewhere else, a little brighter or darker.

    The rectangle covers .02 to .15 of the image at an aspect of (.3, 1) or (1, 3.3), and comes
    from the image itself or, as often, from one of `pool` (K, C, H, W; the batch if not given).
    A patch that hardly shows is drawn again, and tinted if that does not help.
    """
    pool = images if pool is None else pool
    pasted, region = until_shown(images, lambda some: _paste(some, pool, generator), _REDRAWS)
    return labelled(images, pasted, region)


def perlin(
    images: Tensor,
    generator: torch.Generator,
    textures: ImageSource | None = None,
    pool: Tensor | None = None,
) -> Synthetic:
    """Blend a texture T into the shape M of thresholded Perlin noise.

    I' = (1 - M) I + M ((1 - β) T + β I) with β ~ U(0, .8). The noise has 2^0 to 2^5 periods an
    axis, at most one every 4 pixels, and is turned by an angle of U(-90°, 90°); M is where it
    reaches .5, or three quarters of its peak if that is less. T is one of `textures` (K, C, H, W)
    uint8, mirrored at random, or procedural: an image of `pool` (K, C, H, W; the batch if not given)
    shuffled in bands, smooth coloured noise, grain, or stripes. Contrast and brightness of T are
    changed, half of the time inverted.
    """
    pool = images if pool is None else pool
    batch, channels, height, width = images.shape
    if textures is None:
        texture = procedural(images, pool, generator)
    elif tuple(textures.shape[1:]) == tuple(images.shape[1:]):
        texture = mirrored(textures, images, generator)
    else:
        raise UserError(
            f"textures are {tuple(textures.shape[1:])} (C, H, W), the images "
            f"{(channels, height, width)}: convert and resize the textures to match"
        )
    region = perlin_shapes(batch, (height, width), generator, images.device)
    share = 0.8 * uniform((batch, 1, 1, 1), generator, images)
    blended = (1 - share) * recoloured(texture, generator) + share * images
    return labelled(images, torch.where(region, blended, images), region)


class ImageSynthesis:
    """A mix of synthetic anomalies: each sample gets one kind, drawn by the weights.

    `weights` names the kinds, e.g. `{"cutpaste": 1.0, "perlin": 1.0}`; `textures` (K, C, H, W)
    uint8 are for `perlin`, which makes its own without them.
    """

    def __init__(self, weights: Mapping[str, float], textures: ImageSource | None = None) -> None:
        kinds: dict[str, Callable[[Tensor, torch.Generator, Tensor], Synthetic]] = {
            "cutpaste": cutpaste,
            "perlin": lambda images, generator, pool: perlin(images, generator, textures, pool),
        }
        self._mix = Mix(weights, kinds, "synthesis")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Synthetic:
        """Images (B, C, H, W) in [0, 1] to their anomalous versions, each with its mask."""
        altered, masks = images.clone(), torch.zeros_like(images[:, :1])
        for kind, rows in self._mix.draw(len(images), generator):
            rows = rows.to(images.device)
            synthetic = kind(images[rows], generator, images)
            altered[rows], masks[rows] = synthetic.images, synthetic.masks
        return Synthetic(altered, masks)


def until_shown(
    images: Tensor, draw: Callable[[Tensor], tuple[Tensor, Tensor]], redraws: int
) -> tuple[Tensor, Tensor]:
    """What `draw` makes of images (B, C, H, W), drawn again where it does not show.

    Altered images, and the regions (B, 1, H, W) bool where they were altered.
    """
    altered, region = draw(images)
    for _ in range(redraws):
        rows = (~shows(images, altered, region)).nonzero().flatten()
        if len(rows) == 0:
            break
        altered[rows], region[rows] = draw(images[rows])
    return altered, region


def shows(images: Tensor, altered: Tensor, region: Tensor) -> Tensor:
    """Whether (B,) enough of the region (B, 1, H, W) visibly differs from the images."""
    visible = _differs(images, altered).flatten(1).sum(1)
    return (visible > 0) & (visible >= _LEAST_VISIBLE * region.flatten(1).sum(1))


def _differs(images: Tensor, altered: Tensor) -> Tensor:
    """Where (B, 1, H, W) some channel moved by more than `VISIBLE`."""
    change = (altered - images).abs().amax(1, keepdim=True)
    return change > VISIBLE


def labelled(images: Tensor, altered: Tensor, region: Tensor) -> Synthetic:
    """Mask what is visible of the change, put the rest back; tint regions that do not show.

    `altered` may be written to.
    """
    rows = (~shows(images, altered, region)).nonzero().flatten()
    if len(rows):
        # A shift by a fifth of the range, away from the nearer end, shows on every image.
        start = images[rows]
        tinted = torch.where(start < 0.5, start + 0.2, start - 0.2)
        altered[rows] = torch.where(region[rows], tinted, start)
    mask = _differs(images, altered)
    return Synthetic(torch.where(mask, altered, images), mask.to(images.dtype))


def _paste(images: Tensor, pool: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One CutPaste draw: altered images (B, C, H, W), pasted rectangles (B, 1, H, W) bool."""
    batch, _, height, width = images.shape
    draws = _draws(batch, 9, generator, images)
    area = (0.02 + 0.13 * draws[0]) * height * width
    aspect = torch.where(draws[1] < 0.5, 0.3 + 0.7 * draws[2], 1 + 2.3 * draws[2])
    patch_h = (area * aspect).sqrt().round().clamp(1, height - 1)
    patch_w = (area / aspect).sqrt().round().clamp(1, width - 1)
    top, from_top = _floor(draws[3], height - patch_h), _floor(draws[4], height - patch_h)
    left, from_left = _floor(draws[5], width - patch_w), _floor(draws[6], width - patch_w)

    y, x = _range(height, images), _range(width, images)
    inside_y = (y >= top) & (y < top + patch_h)
    inside_x = (x >= left) & (x < left + patch_w)
    region = (inside_y[:, :, None] & inside_x[:, None, :])[:, None]  # (B, 1, H, W)

    own = (draws[7] < 0.5)[:, :, None, None]
    source = torch.where(own, images, pool[choices(batch, len(pool), generator, images)])
    source = read(source, (y - top + from_top) % height, (x - left + from_left) % width)
    brightness = (0.9 + 0.2 * draws[8])[:, :, None, None]
    patch = (source * brightness).clamp(0, 1).to(images.dtype)
    return torch.where(region, patch, images), region


def _draws(batch: int, number: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """U(0, 1) numbers as (number, B, 1), single precision whatever the images are."""
    return torch.rand(number, batch, 1, generator=generator).to(like.device)


def _floor(draw: Tensor, greatest: Tensor) -> Tensor:
    """A whole number from 0 to `greatest`, both included, from a draw of U(0, 1)."""
    return (draw * (greatest + 1)).floor().minimum(greatest)


def _range(size: int, like: Tensor) -> Tensor:
    """The pixel numbers (size,) of an axis."""
    return torch.arange(size, device=like.device)
