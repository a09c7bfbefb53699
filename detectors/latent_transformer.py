"""A transformer over the tokens of a latent, compared with a memory bank of normal ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detectors.base import LATENT, Detection, check_tokens
from detectors.blocks.last_layer import LastLayerInput
from detectors.blocks.token_transformer import token_transformer
from detectors.blocks.tokens import TOP_TOKENS, as_map, grid_of, top_tokens
from detectors.distances.memory_bank import PositionalMemory
from detectors.training.batches import Batch
from latent_common.image_source import ImageSource

DROPOUT, NOISE, LENGTHS_ONLY = 0.3, 0.3, 0.3
"""In training, the share of inputs that is dropped, the standard deviation of noise on them, and the share of
images of which it reads lengths alone. With features this strong and images this few, it would otherwise
learn what synthetic anomalies look like."""

LENGTH_WEIGHT = 0.3
"""This share of the length of a token's difference is added to its logit: what remains to be learned is where
the length is wrong."""

CALIBRATED_AT_ONCE = 64
"""Latents that calibration scores at once."""


class LatentTransformerDetector(nn.Module):
    """Whitened latents ``(B, *latent_shape)`` to an anomaly logit for every token.

    It doesn't read the tokens themselves, but how each differs from the nearest one that normal images have
    at its position, and the length of that difference. The transformer's output and the length are both
    standardised over normal images and added: where one is wrong, the other often isn't.

    :param memory_size: how many normal images the memory bank holds.
    :param width: of a token inside the transformer.
    :param depth: how many layers the transformer has.
    :param heads: attention heads; they must divide ``width``.
    :param reads: whether tokens are those of latents, or of a backbone's features.
    """

    means: Tensor
    stds: Tensor
    location: Tensor
    scale: Tensor

    def __init__(
        self,
        latent_shape: Sequence[int],
        memory_size: int,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        reads: str = LATENT,
    ) -> None:
        super().__init__()
        self.input = check_tokens(reads)
        self.input_shape = tuple(latent_shape)
        self.memory_size, self.width, self.depth, self.heads = memory_size, width, depth, heads
        rows, columns = grid_of(latent_shape)
        self.memory = PositionalMemory(latent_shape, memory_size)
        self.into = nn.Linear(latent_shape[0] + 1, width)
        self.places = nn.Parameter(torch.randn(1, rows * columns, width) * 0.02)
        self.transformer = token_transformer(width, depth, heads)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))
        # Over normal images, of the transformer's output and of the length.
        self.register_buffer("means", torch.zeros(2))
        self.register_buffer("stds", torch.ones(2))
        # Of their sum: 0 means further out than 95 % of normal images.
        self.register_buffer("location", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that build this architecture again."""
        names = ("memory_size", "width", "depth", "heads")
        shared = {"latent_shape": list(self.input_shape), "reads": self.input}
        return {**shared, **{name: getattr(self, name) for name in names}}

    def logits(
        self,
        latents: Tensor,
        owners: Tensor | None = None,
        generator: torch.Generator | None = None,
        nearest: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The transformer's output for every token and the length of its difference, both ``(B, T)``."""
        difference, length = self.memory(latents, owners, nearest)
        if generator is not None:
            whole = torch.rand(len(difference), 1, 1, generator=generator).to(difference) >= LENGTHS_ONLY
            difference = difference * whole
        inputs = torch.cat([difference, length.unsqueeze(2)], dim=2)
        if generator is not None:
            kept = torch.rand(inputs.shape, generator=generator).to(inputs) >= DROPOUT
            inputs = inputs * kept / (1 - DROPOUT)
            inputs = inputs + NOISE * torch.randn(inputs.shape, generator=generator).to(inputs)
        tokens = self.transformer(self.into(inputs) + self.places)
        return self.out(tokens)[:, :, 0] + LENGTH_WEIGHT * length, length

    def forward(
        self,
        latents: Tensor,
        owners: Tensor | None = None,
        generator: torch.Generator | None = None,
        nearest: Tensor | None = None,
    ) -> Detection:
        """Score latents ``(B, *latent_shape)``.

        In training mode the map is the transformer's output alone, without the length.

        :param owners: ``(B,)``: which training images the latents were made of, -1 for none.
        :param generator: on the CPU; if given, inputs are dropped and noise is added.
        :param nearest: ``(B, T)``: the nearest images of the memory bank, if they are known already.
        """
        learned, length = self.logits(latents, owners, generator, nearest)
        if not self.training:
            learned = (self._standardised_sum(learned, length) - self.location) / self.scale
        maps = as_map(learned, self.input_shape)
        return Detection(top_tokens(maps), maps)

    def _standardised_sum(self, learned: Tensor, length: Tensor) -> Tensor:
        parts = ((learned, length)[i].sub(self.means[i]).div(self.stds[i]) for i in (0, 1))
        return torch.stack(list(parts)).sum(0)

    def last_layer_input(self, latents: Tensor) -> LastLayerInput:
        """What the last layer reads of latents ``(B, *latent_shape)``."""
        difference, length = self.memory(latents)
        inputs = torch.cat([difference, length.unsqueeze(2)], dim=2)
        features = self.out[0](self.transformer(self.into(inputs) + self.places))  # (B, T, D)
        offset = as_map(LENGTH_WEIGHT * length, self.input_shape)
        return LastLayerInput(features.transpose(1, 2).unflatten(2, offset.shape[2:]), offset)

    def last_layer(self) -> tuple[Tensor, Tensor]:
        """The last layer's weights ``(D, 1, 1)`` and bias ``()``."""
        last = self.out[1]
        assert isinstance(last, nn.Linear)
        return last.weight[0, :, None, None], last.bias[0]

    def score_count(self, positions: int) -> int:
        """How many of a map's ``positions`` are averaged to a score."""
        return min(TOP_TOKENS, positions)

    @torch.no_grad()
    def calibrate(self, latents: ImageSource) -> None:
        """Standardise on latents ``(N, *latent_shape)`` of normal images that it didn't train on."""
        training = self.training
        self.eval()
        found = [self.logits(part.float()) for part in latents.split(CALIBRATED_AT_ONCE)]
        for number in (0, 1):
            values = torch.cat([pair[number] for pair in found])
            self.means[number] = values.mean()
            self.stds[number] = values.std(correction=0).clamp_min(1e-6)
        scores = torch.cat(
            [top_tokens(as_map(self._standardised_sum(*pair), self.input_shape)) for pair in found]
        )
        self.location.copy_(scores.quantile(0.95))
        self.scale.copy_(scores.std(correction=0).clamp_min(1e-6))
        self.train(training)


def token_losses(detection: Detection, batch: Batch) -> dict[str, Tensor]:
    """The losses of tokens and of images, cross entropies.

    Images whose mask is not known are left out of that of tokens.
    """
    maps, masks = detection.map[batch.marked], batch.masks[batch.marked]
    rare = ((masks == 0).sum() / masks.sum().clamp_min(1)).clamp(1, 5)
    return {
        "tokens": functional.binary_cross_entropy_with_logits(maps, masks, pos_weight=rare),
        "score": functional.binary_cross_entropy_with_logits(detection.score, batch.labels),
    }
