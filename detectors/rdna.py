"""RDNA: a network that restores images to normal ones, and one that compares both."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from detectors.base import IMAGE, Detection
from detectors.blocks.last_layer import LastLayerInput
from detectors.blocks.pixels import top_count, top_mean
from latent_common.errors import UserError

HALVINGS = 4
GRAIN = 2**HALVINGS
"""Both networks halve an image :data:`HALVINGS` times: its side must be a multiple of this."""


class RdnaOutput(NamedTuple):
    """The outputs of both networks for a batch of images."""

    restored: Tensor
    """``(B, C, H, W)`` in [0, 1]: the images as they would be if they were normal."""
    detection: Detection


class RdnaDetector(nn.Module):
    """A reconstruction network, and a discriminant network that compares an image with its restoration.

    The first passes everything through a bottleneck, so it can draw only what it was trained on: normal
    images. The second reads the image, the restored image and their difference at full resolution. Neither
    reads the autoencoder's reconstructions, which other detectors of images do.

    :param width: channels at half the resolution: 16 is small, 64 full.
    """

    input = IMAGE

    def __init__(self, channels: int, size: int, width: int = 16) -> None:
        super().__init__()
        if size < GRAIN or size % GRAIN:
            raise UserError(
                f"detector=rdna needs images whose side is a multiple of {GRAIN}, not size={size}: choose "
                "another dataset.size, or detector=transformer"
            )
        if min(channels, width) < 1:
            raise ValueError(f"a network of {width} channels can't read {channels}")
        self.channels, self.size, self.width = channels, size, width
        self.restorer = Restorer(channels, width)
        self.segmenter = Segmenter(3 * channels, width)
        # Convolutions are a quarter faster so; PyTorch's stubs forget this form of `to`.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of an image, ``(C, H, W)``."""
        return (self.channels, self.size, self.size)

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that build this architecture again."""
        return {name: getattr(self, name) for name in ("channels", "size", "width")}

    def restore(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [0, 1] as they would be if they were normal."""
        restored: Tensor = self.restorer(images)
        return restored

    def last_layer_input(self, images: Tensor, reconstructions: Tensor | None = None) -> LastLayerInput:  # noqa: ARG002
        """What the last layer reads of images ``(B, C, H, W)`` in [0, 1]."""
        return self._reading(images, self.restore(images))

    def last_layer(self) -> tuple[Tensor, Tensor]:
        """The last layer's weights ``(D, 3, 3)`` and bias ``()``."""
        assert self.segmenter.out.bias is not None
        return self.segmenter.out.weight[0], self.segmenter.out.bias[0]

    def score_count(self, positions: int) -> int:
        """How many of a map's ``positions`` are averaged to a score."""
        return top_count(positions)

    def outputs(self, images: Tensor) -> RdnaOutput:
        """Restore images ``(B, C, H, W)`` in [0, 1] and score them."""
        restored = self.restore(images)
        logits = self.segmenter.out(self._reading(images, restored).features)
        return RdnaOutput(restored, Detection(top_mean(logits), logits))

    def forward(self, images: Tensor, reconstructions: Tensor | None = None) -> Detection:  # noqa: ARG002
        """Score images ``(B, C, H, W)`` in [0, 1]."""
        return self.outputs(images).detection

    def _reading(self, images: Tensor, restored: Tensor) -> LastLayerInput:
        # The difference is mostly small, and all that matters: it is scaled by twice as much.
        seen = torch.cat([images * 2 - 1, restored * 2 - 1, 4 * (images - restored)], dim=1)
        return LastLayerInput(self.segmenter(seen), torch.zeros_like(images[:, :1]))


class Restorer(nn.Module):
    """Down to a sixteenth of the resolution and up again, without skip connections."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        widths = _widths(width)
        self.down = nn.Sequential(*_downwards(channels, widths))
        ups = [*reversed(widths[:-1]), _finest(width)]
        befores = [widths[-1], *ups]
        self.up = nn.Sequential(*(_Up(before, wide) for before, wide in zip(befores, ups, strict=False)))
        self.out = nn.Conv2d(ups[-1], channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [0, 1] to others of the same shape and range."""
        restored: Tensor = self.out(self.up(self.down(images * 2 - 1))).sigmoid()
        return restored


class Segmenter(nn.Module):
    """A U-Net: skip connections at every resolution make its maps exact."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        widths = _widths(width)
        self.down = nn.ModuleList(_downwards(channels, widths))
        self.up = nn.ModuleList()
        before = widths[-1]
        for wide, skip in [*((wide, wide) for wide in reversed(widths[:-1])), (_finest(width), channels)]:
            self.up.append(_Up(before, wide))
            before = wide + skip
        self.out = nn.Conv2d(before, 1, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.constant_(self.out.bias, -2.0)  # most pixels are normal

    def forward(self, inputs: Tensor) -> Tensor:
        """The features that the last layer, ``out``, reads: ``(B, C, H, W)`` to ``(B, D, H, W)``."""
        skips, features = [inputs], inputs
        for down in self.down:
            features = down(features)
            skips.append(features)
        skips.pop()
        for up in self.up:
            features = torch.cat([up(features), skips.pop()], dim=1)
        return features


def _widths(width: int) -> list[int]:
    """Channels after each halving."""
    return [width << level for level in range(HALVINGS)]


def _finest(width: int) -> int:
    """Channels at full resolution, where they cost most."""
    return max(width // 2, 8)


def _downwards(channels: int, widths: list[int]) -> list[nn.Module]:
    befores = [channels, *widths]
    return [_Down(before, wide) for before, wide in zip(befores, widths, strict=False)]


class _Down(nn.Module):
    """Half the resolution."""

    def __init__(self, before: int, wide: int) -> None:
        super().__init__()
        self.halve = nn.Conv2d(before, wide, 4, stride=2, padding=1)
        self.refine = nn.Conv2d(wide, wide, 3, padding=1)
        self.first, self.second = _norm(wide), _norm(wide)

    def forward(self, features: Tensor) -> Tensor:
        """``(B, before, h, w)`` to ``(B, wide, h / 2, w / 2)``."""
        features = functional.gelu(self.first(self.halve(features)))
        return functional.gelu(self.second(self.refine(features)))


class _Up(nn.Module):
    """Twice the resolution."""

    def __init__(self, before: int, wide: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(before, 4 * wide, 3, padding=1)
        self.norm = _norm(wide)

    def forward(self, features: Tensor) -> Tensor:
        """``(B, before, h, w)`` to ``(B, wide, 2 h, 2 w)``."""
        return functional.gelu(self.norm(functional.pixel_shuffle(self.expand(features), 2)))


def _norm(wide: int) -> nn.GroupNorm:
    """Normalises each image by itself, as its score must not depend on the others of the batch."""
    return nn.GroupNorm(math.gcd(8, wide), wide)
