"""Textures to blend into images, given or procedural, at another contrast and brightness."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from detectors.synthetic.draws import choices, uniform
from latent_common.image_source import ImageSource


def mirrored(textures: ImageSource, images: Tensor, generator: torch.Generator) -> Tensor:
    """A texture for each of the images, chosen at random, mirrored along either axis half of the time."""
    batch = len(images)
    index = torch.randint(len(textures), (batch,), generator=generator)
    chosen = textures[index.to(textures.device)].to(images) / 255
    for axis in (2, 3):
        flip = uniform((batch, 1, 1, 1), generator, images) < 0.5
        chosen = torch.where(flip, chosen.flip(axis), chosen)
    return chosen


def recoloured(texture: Tensor, generator: torch.Generator) -> Tensor:
    """Texture (B, C, H, W) at another contrast and brightness, inverted half of the time."""
    gain, shift, sign = uniform((3, len(texture), 1, 1, 1), generator, texture)
    contrast = torch.where(sign < 0.5, 0.5 + gain, -0.5 - gain)
    texture = 0.5 + contrast * (texture - 0.5) + 0.5 * (shift - 0.5)
    return texture.clamp(0, 1)


def procedural(images: Tensor, pool: Tensor, generator: torch.Generator) -> Tensor:
    """A texture (B, C, H, W) in [0, 1] for every image, each of one of the kinds."""
    makers = (_shuffled, _smooth, _grain, _stripes)
    kinds = torch.randint(len(makers), (len(images),), generator=generator)
    textures = torch.empty_like(images)
    for index, maker in enumerate(makers):
        rows = (kinds == index).nonzero().flatten()
        if len(rows):
            textures[rows.to(images.device)] = maker(len(rows), pool, generator)
    return textures


def read(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Image b at rows[b] x columns[b]: (B, C, H, W), (B, H), (B, W) to (B, C, H, W)."""
    by_row = rows.long()[:, None, :, None].expand(images.shape)
    by_column = columns.long()[:, None, None, :].expand(images.shape)
    return images.gather(2, by_row).gather(3, by_column)


def _shuffled(batch: int, pool: Tensor, generator: torch.Generator) -> Tensor:
    """Images of the pool whose bands of rows, and of columns, are shuffled."""
    chosen = pool[choices(batch, len(pool), generator, pool)]
    rows, columns = (_shuffled_bands(batch, n, generator, pool) for n in pool.shape[2:])
    return read(chosen, rows, columns)


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
