"""A convolutional autoencoder with a flat or a spatial latent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from latent_common.errors import UserError
from latent_common.image_source import LARGEST_IMAGE

LATENT_KINDS = ("flat", "spatial")


def downsamplings(size: int, latent: str) -> int:
    """How often the encoder halves an image of ``size`` pixels: 1 to 3 times.

    A spatial latent keeps a grid of about 16 tokens a side where the image is large enough. On a coarser grid
    a single token already covers whole organs, and no stroke is as small as a lesion.
    """
    smallest = 12 if latent == "spatial" else 4
    halvings = 1
    while halvings < 3 and size // 2 ** (halvings + 1) >= smallest:
        halvings += 1
    return halvings


class Residual(nn.Module):
    """A 3×3 residual block. No normalisation layer: it would let a local change act globally."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, C, h, w)`` to features of the same shape."""
        out: Tensor = x + self.second(torch.nn.functional.silu(self.first(x)))
        return out


class ConvAutoencoder(nn.Module):
    """Images ``(B, C, size, size)`` in [0, 1] to a latent and back.

    ``latent="spatial"`` gives ``(B, latent_size, g, g)`` with ``g = size / 2**downsamplings(size, latent)``,
    ``latent="flat"`` gives ``(B, latent_size)``.
    """

    is_generator = False
    natural_scales: Tensor | None = None
    """Its latents are not whitened."""

    def __init__(self, channels: int, size: int, latent: str, latent_size: int, width: int = 32) -> None:
        super().__init__()
        if latent not in LATENT_KINDS:
            raise UserError(
                f"autoencoder.latent={latent} is unknown: choose one of {', '.join(LATENT_KINDS)}"
            )
        if size % 8 or not 8 <= size <= LARGEST_IMAGE:
            raise UserError(f"size={size} must be a multiple of 8 from 8 to {LARGEST_IMAGE}")
        if latent_size < 1 or width < 1:
            raise UserError(
                f"autoencoder.latent_size={latent_size} and autoencoder.width={width} must be at least 1"
            )
        self.channels, self.size = channels, size
        self.latent, self.latent_size, self.width = latent, latent_size, width
        depth = downsamplings(size, latent)
        grid = size // 2**depth
        widths = [width * min(2**level, 2) for level in range(depth)]  # 32, 64, 64

        down: list[nn.Module] = []
        before = channels
        for wide in widths:
            down += [nn.Conv2d(before, wide, 4, stride=2, padding=1), nn.SiLU()]
            before = wide
        down.append(Residual(before))
        up: list[nn.Module] = [Residual(before)]
        for wide in [*reversed(widths[:-1]), width // 2 or 1]:
            # Sub-pixel convolution: works at the small size, so it is the cheap way up on a CPU.
            up += [nn.Conv2d(before, wide * 4, 3, padding=1), nn.PixelShuffle(2), nn.SiLU()]
            before = wide
        up.append(nn.Conv2d(before, channels, 3, padding=1))

        inner = widths[-1]
        if latent == "spatial":
            self.latent_shape: tuple[int, ...] = (latent_size, grid, grid)
            to_latent: list[nn.Module] = [nn.Conv2d(inner, latent_size, 1)]
            from_latent: list[nn.Module] = [nn.Conv2d(latent_size, inner, 1), nn.SiLU()]
        else:
            self.latent_shape = (latent_size,)
            cells = inner * grid * grid
            to_latent = [nn.Flatten(), nn.Linear(cells, latent_size)]
            from_latent = [
                nn.Linear(latent_size, cells),
                nn.Unflatten(1, (inner, grid, grid)),
                nn.SiLU(),
            ]
        self.encoder = nn.Sequential(*down, *to_latent)
        self.decoder = nn.Sequential(*from_latent, *up)
        # Convolutions are a quarter faster so; the type stubs of PyTorch lack this form of `to`.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def start_from(self, images: Tensor) -> None:
        """Initialise such that ``images (B, C, H, W)`` have latents of unit variance and their mean colour.

        By PyTorch's own initialisation, the latents of a deep encoder vary so little that the decoder first
        learns to do without them: on digits it then stays black for ever, on slices it loses 4 dB.
        """
        last, picture = self.encoder[-1], self.decoder[-1]
        assert isinstance(last, nn.Linear | nn.Conv2d)
        assert isinstance(picture, nn.Conv2d)
        assert last.bias is not None
        assert picture.bias is not None
        latents = self.encode(images).transpose(0, 1).flatten(1)  # (latent_size, numbers)
        scale = latents.std(1, correction=0).clamp_min(1e-8)
        last.bias.copy_((last.bias - latents.mean(1)) / scale)
        last.weight.div_(scale.view(-1, *[1] * (last.weight.ndim - 1)))
        picture.bias.copy_(images.mean((0, 2, 3)).clamp(0.01, 0.99).logit())

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that build this architecture again."""
        names = ("channels", "size", "latent", "latent_size", "width")
        return {name: getattr(self, name) for name in names}

    def encode(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [0, 1] to raw latents ``(B, *latent_shape)``."""
        latent: Tensor = self.encoder(images * 2 - 1)
        return latent

    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents ``(B, *latent_shape)`` to images ``(B, C, H, W)`` in [0, 1]."""
        images: Tensor = torch.sigmoid(
            self.decoder(latents).float()
        )  # in full precision: brightness needs it
        return images

    def forward(self, images: Tensor) -> Tensor:
        """The reconstructions of ``images``, both ``(B, C, H, W)`` in [0, 1]."""
        return self.decode(self.encode(images))
