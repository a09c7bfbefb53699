"""Structural similarity of images (SSIM), pixel by pixel and as a mean."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def similarity_map(images: Tensor, others: Tensor) -> Tensor:
    """SSIM in every window of ``s`` = 11 pixels or fewer, for images ``(B, C, H, W)`` in [0, 1].

    As ``(B, C, H - s + 1, W - s + 1)``, at most 1: all windows lie inside the image. Windows are Gaussians
    with a standard deviation of 1.5 pixels, the constants .01² and .03² (Wang et al. 2004).
    """
    reach = min(5, (images.shape[-1] - 1) // 2)
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    weights = torch.exp(-(offsets**2) / (2 * 1.5**2))
    weights = weights / weights.sum()

    def smooth(x: Tensor) -> Tensor:
        channels = x.shape[1]
        down = functional.conv2d(x, weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
        return functional.conv2d(down, weights.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)

    mean, other = smooth(images), smooth(others)
    variance = smooth(images * images) - mean**2
    other_variance = smooth(others * others) - other**2
    shared = smooth(images * others) - mean * other
    similarity = (2 * mean * other + 0.01**2) * (2 * shared + 0.03**2)
    found: Tensor = similarity / ((mean**2 + other**2 + 0.01**2) * (variance + other_variance + 0.03**2))
    return found


def structural_similarity(images: Tensor, others: Tensor) -> Tensor:
    """The mean SSIM of each pair of images ``(B, C, H, W)`` in [0, 1], ``(B,)``."""
    return similarity_map(images, others).flatten(1).mean(1)
