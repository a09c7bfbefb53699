"""A transformer over patch tokens that compares an image with its reconstruction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detectors.base import IMAGE, Detection
from detectors.blocks.last_layer import LastLayerInput
from detectors.blocks.pixels import FLOOR, top_count, top_mean
from detectors.blocks.token_transformer import token_transformer
from latent_common.errors import UserError


def default_patch(size: int) -> int:
    """The side of a patch in pixels: the largest power of two that gives at least about 8 tokens a side."""
    patch = 2
    while patch < 16 and patch * 2 <= size // 8 and size % (patch * 2) == 0:
        patch *= 2
    return patch


class TransformerDetector(nn.Module):
    """Convolutions make tokens, a transformer relates them, convolutions draw the map.

    It reads the image, its intensities standardised over normal images, and the autoencoder's error in units
    of the mean error: both at the same position, see :meth:`calibrate`, as normal images vary and
    autoencoders err more in some places than in others. The convolutional stem halves the image
    ``log2(patch)`` times; skip connections at each resolution make the map pixel-exact although the tokens
    are coarse.

    :param patch: pixels a side of a token, a power of two; by default :func:`default_patch`.
    :param width: of a token inside the transformer.
    :param depth: how many layers the transformer has.
    :param heads: attention heads; they must divide ``width``.
    """

    input = IMAGE
    location: Tensor
    deviation: Tensor
    mean_error: Tensor

    def __init__(
        self,
        channels: int,
        size: int,
        patch: int | None = None,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
    ) -> None:
        super().__init__()
        patch = patch or default_patch(size)
        if patch < 2 or patch & (patch - 1) or size % patch:
            raise UserError(
                f"detector.patch={patch} must be a power of two of at least 2 that divides "
                f"size={size}; null picks {default_patch(size)}"
            )
        self.channels, self.size, self.patch = channels, size, patch
        self.width, self.depth, self.heads = width, depth, heads
        shape = (channels, size, size)
        self.register_buffer("location", torch.full(shape, 0.5))
        self.register_buffer("deviation", torch.full(shape, 0.25))
        self.register_buffer("mean_error", torch.full(shape, 0.05))
        halvings = patch.bit_length() - 1
        widths = [max(width >> (halvings - 1 - level), 16) for level in range(halvings)]

        self.down = nn.ModuleList()
        before = 3 * channels
        for wide in widths:
            self.down.append(nn.Conv2d(before, wide, 4, stride=2, padding=1))
            before = wide
        self.into = nn.Conv2d(before, width, 1)
        grid = size // patch
        self.places = nn.Parameter(torch.randn(1, grid * grid, width) * 0.02)
        self.transformer = token_transformer(width, depth, heads)
        self.up = nn.ModuleList()
        before = width + widths[-1]
        for skip in [*reversed(widths[:-1]), 0]:
            wide = skip or 8  # the last one works at half size, where channels cost most
            self.up.append(nn.Conv2d(before, 4 * wide, 3, padding=1))
            before = wide + skip
        self.out = nn.Conv2d(before + 3 * channels, 1, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.constant_(self.out.bias, -2.0)  # most pixels are normal
        # Convolutions are a quarter faster so; PyTorch's stubs forget this form of `to`.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of an image, ``(C, H, W)``."""
        return (self.channels, self.size, self.size)

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that build this architecture again."""
        names = ("channels", "size", "patch", "width", "depth", "heads")
        return {name: getattr(self, name) for name in names}

    @torch.no_grad()
    def calibrate(self, images: Tensor, reconstructions: Tensor) -> None:
        """Take statistics of normal images ``(N, C, H, W)`` in [0, 1] and their reconstructions."""
        self.location.copy_(images.mean(0))
        self.deviation.copy_(images.std(0, correction=0))
        self.mean_error.copy_((images - reconstructions).abs().mean(0))

    def last_layer_input(self, images: Tensor, reconstructions: Tensor) -> LastLayerInput:
        """What the last layer reads of images ``(B, C, H, W)`` in [0, 1] and their reconstructions."""
        standardised = (images - self.location) / (self.deviation + FLOOR)
        error = (images - reconstructions) / (self.mean_error + FLOOR)
        inputs = torch.cat([images * 2 - 1, standardised.clamp(-10, 10), error.clamp(-10, 10)], dim=1)
        features, skips = inputs, []
        for down in self.down:
            features = functional.gelu(down(features))
            skips.append(features)
        tokens = self.into(features)
        grid = tokens.shape[2:]
        tokens = self.transformer(tokens.flatten(2).transpose(1, 2) + self.places)
        features = tokens.transpose(1, 2).unflatten(2, grid)
        for up in self.up:
            features = torch.cat([features, skips.pop()], dim=1)
            features = functional.gelu(functional.pixel_shuffle(up(features), 2))
        return LastLayerInput(torch.cat([features, inputs], dim=1), torch.zeros_like(images[:, :1]))

    def last_layer(self) -> tuple[Tensor, Tensor]:
        """The last layer's weights ``(D, 3, 3)`` and bias ``()``."""
        assert self.out.bias is not None
        return self.out.weight[0], self.out.bias[0]

    def score_count(self, positions: int) -> int:
        """How many of a map's ``positions`` are averaged to a score."""
        return top_count(positions)

    def forward(self, images: Tensor, reconstructions: Tensor) -> Detection:
        """Score images ``(B, C, H, W)`` in [0, 1], given their reconstructions of the same shape."""
        logits = self.out(self.last_layer_input(images, reconstructions).features)
        return Detection(top_mean(logits), logits)
