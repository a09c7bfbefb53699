"""Pseudo-anomalies made in image space: CutPaste, and Perlin-shaped texture as in DRAEM.

All of it is batched, works on the images' own device, and depends on nothing but the images and an
explicit CPU generator: random numbers are drawn on the CPU and then moved, so a seed means the same
anomalies on every device. A mask marks what can be *seen*: pixels that changed by more than
`VISIBLE`. Outside the mask an image is exactly what it was, and no mask is empty.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from detectors.errors import UserError
from detectors.images import ImageSource
from detectors.mixing import Mix

VISIBLE = 0.02
"""A pixel has changed if some channel moved by more than this, of the range [0, 1]."""

_LEAST_VISIBLE = 0.25
"""Share of the drawn region that must show; below it the label would be a guess."""

_REDRAWS = 3
"""Tries to find a patch that shows, before one is tinted until it does."""

_PIXELS_A_PERIOD = 4
"""Perlin noise of shorter periods is grain, not a shape."""


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
        texture = _procedural_textures(images, pool, generator)
    elif tuple(textures.shape[1:]) == tuple(images.shape[1:]):
        texture = _mirrored(textures, images, generator)
    else:
        raise UserError(
            f"textures are {tuple(textures.shape[1:])} (C, H, W), the images "
            f"{(channels, height, width)}: convert and resize the textures to match"
        )
    region = _perlin_shapes(batch, (height, width), generator, images.device)
    share = 0.8 * uniform((batch, 1, 1, 1), generator, images)
    blend = (1 - share) * _recoloured(texture, generator) + share * images
    return labelled(images, torch.where(region, blend, images), region)


def perlin_noise(
    batch: int,
    size: tuple[int, int],
    periods: Tensor | tuple[int, int],
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Perlin noise (B, H, W) in [-1, 1], with `periods` along height and width: (B, 2) or a pair.

    Each pixel is a sum over its four lattice corners of weight x (gradient · offset). The weight
    is a product of one number a row and one a column, so the sum over the whole lattice is a pair
    of matrix products, and every sample may have its own number of periods.
    """
    counts = torch.as_tensor(periods, dtype=torch.float32).expand(batch, 2)
    nodes = math.ceil(counts.max()) + 1
    angles = 2 * math.pi * torch.rand(batch, nodes, nodes, generator=generator)
    angles, counts = angles.to(device), counts.to(device)
    offset_y, weight_y = _lattice(size[0], counts[:, 0], nodes)
    offset_x, weight_x = _lattice(size[1], counts[:, 1], nodes)
    along_y = (weight_y * offset_y) @ angles.sin() @ weight_x.mT
    along_x = weight_y @ angles.cos() @ (weight_x * offset_x).mT
    return math.sqrt(2) * (along_y + along_x)


class ImageSynthesis:
    """A mix of pseudo-anomalies: each sample gets one kind, as often as its weight says.

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


def uniform(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """U(0, 1) drawn on the CPU, then moved to the device and kind of number of `like`."""
    return torch.rand(shape, generator=generator).to(like)


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
    source = torch.where(own, images, pool[_choices(batch, len(pool), generator, images)])
    source = _read(source, (y - top + from_top) % height, (x - left + from_left) % width)
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


def _choices(batch: int, number: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Whole numbers (B,) below `number`."""
    return torch.randint(number, (batch,), generator=generator).to(like.device)


def _read(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Image b at rows[b] x columns[b]: (B, C, H, W), (B, H), (B, W) to (B, C, H, W)."""
    by_row = rows.long()[:, None, :, None].expand(images.shape)
    by_column = columns.long()[:, None, None, :].expand(images.shape)
    return images.gather(2, by_row).gather(3, by_column)


def _lattice(size: int, periods: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Offset and weight (B, size, nodes) of every pixel centre to every lattice node of an axis."""
    centres = (torch.arange(size, device=periods.device) + 0.5) / size
    offset = centres[:, None] * periods[:, None, None] - torch.arange(nodes, device=periods.device)
    near = (1 - offset.abs()).clamp(min=0)
    return offset, near**3 * (near * (near * 6 - 15) + 10)


def _perlin_shapes(
    batch: int, size: tuple[int, int], generator: torch.Generator, device: torch.device
) -> Tensor:
    """Blobs (B, 1, H, W) bool, none empty."""
    most = torch.tensor([min(5, int(math.log2(max(1, n // _PIXELS_A_PERIOD)))) for n in size])
    powers = torch.rand(batch, 2, generator=generator) * (most + 1)
    noise = perlin_noise(batch, size, 2 ** powers.floor(), generator, device)
    noise = _turned(noise[:, None], generator)
    # Noise and its negative are equally likely: take the one that reaches higher.
    low, high = noise.amin((1, 2, 3), keepdim=True), noise.amax((1, 2, 3), keepdim=True)
    noise, peak = torch.where(high < -low, -noise, noise), high.maximum(-low)
    return noise >= (0.75 * peak).clamp(max=0.5)


def _turned(noise: Tensor, generator: torch.Generator) -> Tensor:
    """Noise (B, 1, H, W) turned by U(-90°, 90°); what comes into view mirrors what was there."""
    batch, _, height, width = noise.shape
    angle = math.pi * (uniform((batch,), generator, noise) - 0.5)
    sin, cos, zero = angle.sin(), angle.cos(), torch.zeros_like(angle)
    rows = [cos, -sin * height / width, zero, sin * width / height, cos, zero]
    grid = functional.affine_grid(
        torch.stack(rows, 1).view(batch, 2, 3), list(noise.shape), align_corners=False
    )
    return functional.grid_sample(noise, grid, padding_mode="reflection", align_corners=False)


def _mirrored(textures: ImageSource, images: Tensor, generator: torch.Generator) -> Tensor:
    """A texture for each of the images, chosen at random, mirrored along either axis half of the time."""
    batch = len(images)
    index = torch.randint(len(textures), (batch,), generator=generator)
    chosen = textures[index.to(textures.device)].to(images) / 255
    for axis in (2, 3):
        flip = uniform((batch, 1, 1, 1), generator, images) < 0.5
        chosen = torch.where(flip, chosen.flip(axis), chosen)
    return chosen


def _recoloured(texture: Tensor, generator: torch.Generator) -> Tensor:
    """Texture (B, C, H, W) at another contrast and brightness, inverted half of the time."""
    gain, shift, sign = uniform((3, len(texture), 1, 1, 1), generator, texture)
    contrast = torch.where(sign < 0.5, 0.5 + gain, -0.5 - gain)
    recoloured: Tensor = 0.5 + contrast * (texture - 0.5) + 0.5 * (shift - 0.5)
    return recoloured.clamp(0, 1)


def _procedural_textures(images: Tensor, pool: Tensor, generator: torch.Generator) -> Tensor:
    """A texture (B, C, H, W) in [0, 1] for every image, each of one of the kinds."""
    makers = (_shuffled, _smooth, _grain, _stripes)
    kinds = torch.randint(len(makers), (len(images),), generator=generator)
    textures = torch.empty_like(images)
    for index, maker in enumerate(makers):
        rows = (kinds == index).nonzero().flatten()
        if len(rows):
            textures[rows.to(images.device)] = maker(len(rows), pool, generator)
    return textures


def _shuffled(batch: int, pool: Tensor, generator: torch.Generator) -> Tensor:
    """Images of the pool whose bands of rows, and of columns, changed places."""
    chosen = pool[_choices(batch, len(pool), generator, pool)]
    rows, columns = (_shuffled_bands(batch, n, generator, pool) for n in pool.shape[2:])
    return _read(chosen, rows, columns)


def _shuffled_bands(batch: int, size: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """The numbers below `size` (B, size) in about eight bands of random order."""
    band = torch.arange(size) // max(1, size // 8)
    keys = torch.rand(batch, int(band[-1]) + 1, generator=generator)[:, band]
    return keys.argsort(dim=1, stable=True).to(like.device)


def _smooth(batch: int, pool: Tensor, generator: torch.Generator) -> Tensor:
    """Clouds of colour, about four across."""
    return _enlarged_noise(batch, 4, 4, pool, generator)


def _grain(batch: int, pool: Tensor, generator: torch.Generator) -> Tensor:
    """Noise of about two pixels."""
    height, width = pool.shape[2:]
    return _enlarged_noise(batch, height // 2, width // 2, pool, generator)


def _enlarged_noise(batch: int, rows: int, columns: int, pool: Tensor, generator: torch.Generator) -> Tensor:
    """Noise of rows x columns values, enlarged to the size of the pool's images."""
    noise = uniform((batch, pool.shape[1], rows, columns), generator, pool)
    return functional.interpolate(noise, pool.shape[2:], mode="bilinear", align_corners=False)


def _stripes(batch: int, pool: Tensor, generator: torch.Generator) -> Tensor:
    """Stripes between two colours, 2 to 10 across the image, at any angle."""
    height, width = pool.shape[2:]
    angle, number, phase = uniform((3, batch, 1, 1), generator, pool)
    angle, phase, cycles = 2 * math.pi * angle, 2 * math.pi * phase, 2 + 8 * number
    y = torch.linspace(0, 1, height, device=pool.device, dtype=pool.dtype)[:, None]
    x = torch.linspace(0, 1, width, device=pool.device, dtype=pool.dtype)
    along = angle.sin() * y + angle.cos() * x
    wave = (2 * math.pi * cycles * along + phase).sin()[:, None] / 2 + 0.5
    first, second = uniform((2, batch, pool.shape[1], 1, 1), generator, pool)
    return torch.lerp(first, second, wave)
