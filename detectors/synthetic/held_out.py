"""Synthetic anomalies that no detector trains on: they show whether it finds anomalies of another kind.

They share the rules of `detectors.synthetic.image_synthesis`, and none of its ways to make an anomaly:
nothing is pasted here, and no texture is blended in. Batches are made on the images' own device,
and depends on nothing but the images and an explicit CPU generator.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from detectors.synthetic.draws import uniform
from detectors.synthetic.image_synthesis import Synthetic, labelled, shows, until_shown
from detectors.synthetic.perlin import perlin_noise
from latent_common.errors import UserError

_REDRAWS = 12
"""Draws of a region to bend, blur or fill, before an image is shaded instead."""

_AREA = (0.002, 0.08)
"""Share of the image that a region covers, about; each doubling is as likely."""

_FAINTEST = 0.05
"""The least shift of intensity: half of it, at the rim of a soft region, can still be seen."""


def families() -> tuple[str, ...]:
    """The names of all families, in the order in which pictures show them."""
    return tuple(_FAMILIES)


class HeldOutSynthesis:
    """Each sample gets an anomaly of one family, the `names` in equal shares.

    A family that does not show, such as a warp of a flat area, is drawn again elsewhere; an image on
    which it shows nowhere is shaded.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        names = names or families()
        unknown = sorted(set(names) - set(_FAMILIES))
        if unknown:
            raise UserError(f"unknown families {unknown}: choose among {list(_FAMILIES)}")
        self._draws = [_FAMILIES[name] for name in names]

    def __call__(self, images: Tensor, generator: torch.Generator) -> Synthetic:
        """Images (B, C, H, W) in [0, 1] to their anomalous versions, each with its mask."""
        altered, masks = images.clone(), torch.zeros_like(images[:, :1])
        batch, number = len(images), len(self._draws)
        # Shares that differ by one image at most: a small split must hold every family, too.
        first = torch.randint(number, (1,), generator=generator)
        which = (torch.randperm(batch, generator=generator) + first) % number
        for index, draw in enumerate(self._draws):
            rows = (which == index).nonzero().flatten().to(images.device)
            if len(rows):
                made = _made(images[rows], draw, generator)
                altered[rows], masks[rows] = made.images, made.masks
        return Synthetic(altered, masks)


_Draw = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""Images (B, C, H, W) to altered ones in [0, 1], and the regions (B, 1, H, W) bool that should show."""


def _made(images: Tensor, draw: _Draw, generator: torch.Generator) -> Synthetic:
    """Anomalies of one family where they show, and shades on the other images."""
    altered, region = until_shown(images, lambda some: draw(some, generator), _REDRAWS)
    rows = (~shows(images, altered, region)).nonzero().flatten()
    if len(rows):
        altered[rows], region[rows] = _shade(images[rows], generator)
    return labelled(images, altered, region)


def _warp(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pinch a region, let it bulge, or slide it to one side."""
    # Little moves near the rim: what can be seen of a warp is about half of its region.
    blobs = _Blobs.draw(images, generator, larger=2.0)
    kind, sign, amount = uniform((3, len(images), 1, 1, 1), generator, images)
    slide = kind < 1 / 3
    # A slide of more than .65 would fold the image over itself, as would a bulge of more than 1.
    most = torch.where(slide, 0.6, 0.9)
    strength = torch.where(sign < 0.5, -1, 1) * most * _between(0.25, 1.0, amount)
    fade = (1 - blobs.distance.square()).clamp(min=0).square()
    down = strength * fade * torch.where(slide, blobs.radius * blobs.axis_y, blobs.down)
    right = strength * fade * torch.where(slide, blobs.radius * blobs.axis_x, blobs.right)
    return _resampled(images, down, right), fade > 0.25


def _blur(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Defocus a region or, a third of the time, sharpen it."""
    blobs = _Blobs.draw(images, generator)
    kind, edge, amount, gain = uniform((4, len(images), 1, 1, 1), generator, images)
    most = max(2.0, 0.05 * min(images.shape[2:]))
    blurred = _blurred(images, _between(0.7, most, amount))
    sharper = images + _between(0.7, 3.0, gain) * (images - blurred)
    weight = blobs.weight(0.1 + 0.5 * edge)
    altered = torch.where(kind < 1 / 3, sharper, blurred).clamp(0, 1)
    return torch.lerp(images, altered, weight), weight > 0.5


def _shade(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Make a soft blob brighter or darker."""
    blobs = _Blobs.draw(images, generator)
    weight = blobs.weight(0.4 + uniform((len(images), 1, 1, 1), generator, images))
    return _shifted(images, weight, 0.35, generator), weight > 0.5


def _line(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw a thin dark or bright line: a straight or bent scratch, or a wavering crack."""
    weight = _line_weight(images, generator)
    return _shifted(images, weight, 0.5, generator), weight > 0.5


def _speckle(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Replace a region by grain of its own range of intensities."""
    blobs = _Blobs.draw(images, generator)
    edge, amount = uniform((2, len(images), 1, 1, 1), generator, images)
    weight = blobs.weight(0.1 + 0.4 * edge)
    inside = weight > 0.5
    low = torch.where(inside, images, 1).amin((2, 3), keepdim=True)
    high = torch.where(inside, images, 0).amax((2, 3), keepdim=True).maximum(low)
    # One number a pixel for all channels: the grain keeps the region's colours.
    grain = low + (high - low) * uniform((len(images), 1, *images.shape[2:]), generator, images)
    return torch.lerp(images, grain, weight * _between(0.15, 0.9, amount)), inside


def _fill(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Fill a region with what surrounds it, as if the part were missing."""
    blobs = _Blobs.draw(images, generator)
    edge, amount = uniform((2, len(images), 1, 1, 1), generator, images)
    known = (blobs.distance > 1.1).to(images.dtype)
    total, share = torch.zeros_like(images), torch.full_like(known, 1e-12)
    # Near neighbours decide where there are some, far ones where there are none.
    for reach, trust in ((0.25, 1.0), (0.5, 1e-2), (1.0, 1e-4)):
        sigma = reach * blobs.radius
        total += trust * _blurred(images * known, sigma)
        share += trust * _blurred(known, sigma)
    weight = blobs.weight(0.1 + 0.2 * edge)
    filled = torch.lerp(images, total / share, weight * _between(0.4, 1.0, amount))
    return filled.clamp(0, 1), weight > 0.5


_FAMILIES: dict[str, _Draw] = {
    "warp": _warp,
    "blur": _blur,
    "shade": _shade,
    "line": _line,
    "speckle": _speckle,
    "fill": _fill,
}


@dataclass(frozen=True)
class _Blobs:
    """Ellipses distorted by smooth noise, one an image.

    All in pixels: `down` and `right` (B, 1, H, W) lead from the centre to every pixel, `radius`
    (B, 1, 1, 1) is that of the circle of the same area, and `axis_y`, `axis_x` (B, 1, 1, 1) are the
    direction of the long axis. `distance` (B, 1, H, W) is 0 at the centre and 1 at the rim.
    """

    down: Tensor
    right: Tensor
    radius: Tensor
    axis_y: Tensor
    axis_x: Tensor
    distance: Tensor

    @classmethod
    def draw(cls, images: Tensor, generator: torch.Generator, larger: float = 1.0) -> Self:
        """A blob of random position, size and shape for each of the images (B, C, H, W).

        Its area is `larger` times one of `_AREA`.
        """
        batch, _, height, width = images.shape
        aspect, angle, rough = uniform((3, batch, 1, 1, 1), generator, images)
        down, right = _offsets(images, generator)
        axis_y, axis_x = (math.pi * angle).sin(), (math.pi * angle).cos()
        # On the CPU, as the noise draws more or fewer numbers by it. Smaller ones would fall between pixels.
        share = larger * _between(*_AREA, torch.rand(batch, 1, 1, 1, generator=generator))
        radius = (share * height * width / math.pi).sqrt().clamp(min=1.2)
        # Lobes of about the size of the radius.
        periods = torch.cat([height / radius, width / radius], 1).view(batch, 2) / 1.5
        noise = perlin_noise(batch, (height, width), periods, generator, images.device)[:, None].to(images)
        radius = radius.to(images)
        stretch = _between(1.0, 1.6, aspect).minimum(radius)
        along, across = axis_x * right + axis_y * down, axis_x * down - axis_y * right
        distance = ((along / stretch).square() + (across * stretch).square()).sqrt() / radius
        distance = (distance + 0.6 * rough * noise).clamp(min=0)
        return cls(down, right, radius, axis_y, axis_x, distance)

    def weight(self, edge: Tensor) -> Tensor:
        """1 inside, 0 outside, ½ at the rim (B, 1, H, W); `edge` is how wide it falls, of the radius."""
        edge = edge.maximum(1 / self.radius)
        rise = ((1 - self.distance) / edge + 0.5).clamp(0, 1)
        return rise.square() * (3 - 2 * rise)


def _offsets(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """From a random point in each image (B, C, H, W) to every pixel, down and right: twice (B, 1, H, W)."""
    height, width = images.shape[2:]
    centre_y, centre_x = 0.05 + 0.9 * uniform((2, len(images), 1, 1, 1), generator, images)
    y = torch.arange(height, device=images.device)[:, None] + 0.5
    x = torch.arange(width, device=images.device) + 0.5
    shape = (len(images), 1, height, width)
    return (y - height * centre_y).expand(shape), (x - width * centre_x).expand(shape)


def _line_weight(images: Tensor, generator: torch.Generator) -> Tensor:
    """How much of each pixel a line covers (B, 1, H, W)."""
    batch, side = len(images), min(images.shape[2:])
    down, right = _offsets(images, generator)
    angle, length, thick, bend, waver = uniform((5, batch, 1, 1, 1), generator, images)
    half = (_between(0.1, 0.9, length) * side / 2).clamp(min=2)
    sin, cos = (math.pi * angle).sin(), (math.pi * angle).cos()
    along, across = (cos * right + sin * down) / half, cos * down - sin * right
    # Few are bent much, and half of them do not waver.
    bend, waver = half * (2 * bend - 1) ** 3, 0.12 * half * (2 * waver - 1).clamp(min=0)
    course, loss_gradient = bend * along.square(), 2 * bend * along
    for wave, phase in enumerate(uniform((6, batch, 1, 1, 1), generator, images), start=2):
        turn = wave * along * math.pi / 2 + 2 * math.pi * phase
        course = course + waver / wave * 2 * turn.sin()
        loss_gradient = loss_gradient + waver * math.pi * turn.cos()
    away = (across - course).abs() / (1 + (loss_gradient / half).square()).sqrt()
    # Thinner towards the ends.
    thickness = _between(0.8, max(1.6, 0.03 * side), thick) * (1 - 0.6 * along.square())
    weight = (thickness / 2 + 0.5 - away).clamp(0, 1).minimum(thickness.clamp(0, 1))
    return weight * (half * (1 - along.abs()) + 0.5).clamp(0, 1)


def _shifted(images: Tensor, weight: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W) brighter or darker by `_FAINTEST` to `most` where the weight (B, 1, H, W) is 1."""
    batch, channels = images.shape[:2]
    amount, sign, coloured = uniform((3, batch, 1, 1, 1), generator, images)
    amount = _between(_FAINTEST, most, amount)
    tint = 1 - 0.6 * coloured * uniform((batch, channels, 1, 1), generator, images)
    tint = tint / tint.amax(1, keepdim=True)
    # Where there is no room to one side, it goes to the other.
    total = weight.mean((1, 2, 3), keepdim=True).clamp(min=1e-6)
    mean = (images * weight).mean((1, 2, 3), keepdim=True) / total
    brighter = (mean < amount) | ((mean < 1 - amount) & (sign < 0.5))
    shift = torch.where(brighter, amount, -amount) * tint
    return (images + shift * weight).clamp(0, 1)


def _resampled(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Images (B, C, H, W) read `down` and `right` (B, 1, H, W) pixels from where each pixel is."""
    height, width = images.shape[2:]
    y = torch.arange(height, device=images.device)[:, None] + 0.5 + down[:, 0]
    x = torch.arange(width, device=images.device) + 0.5 + right[:, 0]
    grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], -1).to(images.dtype)
    moved: Tensor = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return moved.clamp(0, 1)


def _blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """Images (B, C, H, W) blurred by Gaussians of `sigma` (B, 1, 1, 1) pixels.

    Each is a product of the image with two matrices, so every image may have its own `sigma`.
    """
    down, across = (_gaussians(size, sigma) for size in images.shape[2:])
    return down @ images @ across.mT


def _gaussians(size: int, sigma: Tensor) -> Tensor:
    """Weights of all pixels of an axis for each of its pixels (B, 1, size, size): rows that sum to 1."""
    pixels = torch.arange(size, device=sigma.device)
    return (-0.5 * ((pixels[:, None] - pixels) / sigma).square()).softmax(-1)


def _between(low: float, high: float, draw: Tensor) -> Tensor:
    """From `low` to `high`, each doubling as likely, by a draw of U(0, 1)."""
    return low * (high / low) ** draw
