"""Perlin noise, and the blobs that it makes at a threshold."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from detectors.synthetic.draws import uniform

_PIXELS_A_PERIOD = 4
"""Perlin noise of shorter periods is grain, not a shape."""


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


def perlin_shapes(
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


def _lattice(size: int, periods: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Offset and weight (B, size, nodes) of every pixel centre to every lattice node of an axis."""
    centres = (torch.arange(size, device=periods.device) + 0.5) / size
    offset = centres[:, None] * periods[:, None, None] - torch.arange(nodes, device=periods.device)
    near = (1 - offset.abs()).clamp(min=0)
    return offset, near**3 * (near * (near * 6 - 15) + 10)
