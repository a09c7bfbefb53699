"""A small convolutional network on whitened tokens that draws where anomalies are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from detectors.base import FEATURES, LATENT, Detection
from detectors.blocks.last_layer import LastLayerInput
from detectors.blocks.tokens import TOP_TOKENS, grid_of, top_tokens
from detectors.distances.whitened import WhitenedDetector
from detectors.training.batches import Batch

REACH = 3
"""Positions a side that each of the two convolutions sees."""

RARE = -2.0
"""The first logit of a token as far from normal as the typical and the furthest are on average."""

IMAGE_WEIGHT = 0.5
"""Of an image's score in the loss, beside its map."""


class SegmentationHead(nn.Module):
    """Whitened tokens and their distances, ``(B, C + 1, h, w)``, to the anomaly logit of every token.

    It begins as the distance, and learns what to add to it.

    :param input_shape: of what it reads, ``(C + 1, h, w)``, the distance first.
    :param width: channels of both hidden layers.
    """

    def __init__(self, input_shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.input, self.input_shape, self.width = FEATURES, input_shape, width
        inputs = input_shape[0]
        self.hidden = nn.Sequential(
            nn.Conv2d(inputs, width, REACH, padding=REACH // 2),
            nn.ReLU(),
            nn.Conv2d(width, width, REACH, padding=REACH // 2),
            nn.ReLU(),
        )
        self.out = nn.Conv2d(width + 1, 1, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(cast(Tensor, self.out.bias), RARE)
        with torch.no_grad():
            self.out.weight[:, -1] = 1.0

    def before(self, inputs: Tensor) -> Tensor:
        """What the last layer reads of ``inputs (B, C + 1, h, w)``: ``(B, width + 1, h, w)``."""
        return torch.cat([self.hidden(inputs), inputs[:, :1]], dim=1)

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that build it again."""
        return {"input_shape": self.input_shape, "width": self.width}

    def forward(self, inputs: Tensor) -> Detection:
        """The logits of images, and the maps that they are the highest values of."""
        maps = self.out(self.before(inputs))
        return Detection(top_tokens(maps), maps)


class SegmenterDetector(WhitenedDetector):
    """Two convolutions that read how far tokens lie from normal ones, and in which direction.

    :param latent_shape: of what it reads, ``(C, h, w)`` or ``(C,)``.
    :param width: channels of its hidden layers.
    :param reads: whether tokens are those of latents, or of a backbone's features.
    """

    def __init__(self, latent_shape: Sequence[int], width: int = 32, reads: str = LATENT) -> None:
        super().__init__(latent_shape, reads)
        if width < 1:
            raise ValueError(f"a detector can't have width={width}")
        self.width = width
        self.head = SegmentationHead((latent_shape[0] + 1, *grid_of(latent_shape)), width)

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that build it again."""
        return {**super().hyperparameters(), "width": self.width}

    def distances(self, latents: Tensor) -> Tensor:
        """The anomaly logit of each token of ``latents (B, *latent_shape)``, ``(B, T)``."""
        maps: Tensor = self.head(self.input_maps(latents)).map
        return maps.flatten(1)

    def last_layer_input(self, latents: Tensor) -> LastLayerInput:
        """What the last layer reads of ``latents (B, *latent_shape)``, as maps ``(B, width + 1, h, w)``."""
        maps = self.head.before(self.input_maps(latents))
        return LastLayerInput(maps, torch.zeros_like(maps[:, :1]))

    def last_layer(self) -> tuple[Tensor, Tensor]:
        """Its weights ``(width + 1, 1, 1)`` and bias ``()``."""
        return self.head.out.weight[0], cast(Tensor, self.head.out.bias)[0]

    def score_count(self, positions: int) -> int:
        """How many of a map's ``positions`` are averaged to a score."""
        return min(TOP_TOKENS, positions)


def segmenter_losses(detection: Detection, batch: Batch) -> dict[str, Tensor]:
    """The cross entropies of the map and of the score.

    Anomalous and normal tokens of an image weigh the same. Images whose mask is not known teach the score
    alone.
    """
    maps, masks = detection.map[batch.marked], batch.masks[batch.marked]
    entropy = functional.binary_cross_entropy_with_logits(maps, masks, reduction="none")
    inside, outside = (
        part.flatten(1).sum(1).clamp_min(1)[:, None, None, None] for part in (masks, 1 - masks)
    )
    weighted = entropy * torch.where(masks > 0, 1 / inside, 1 / outside)
    score = functional.binary_cross_entropy_with_logits(detection.score, batch.labels)
    return {"map": weighted.sum() / len(batch.labels), "score": IMAGE_WEIGHT * score}
