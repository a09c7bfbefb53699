"""A transformer over the tokens of a latent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detectors.base import LATENT, Detection
from detectors.errors import UserError
from detectors.tokens import as_map, as_tokens, grid_of, top_tokens


class LatentTransformer(nn.Module):
    """Whitened latents ``(B, *latent_shape)`` to an anomaly logit for every token."""

    input = LATENT

    def __init__(self, latent_shape: Sequence[int], width: int = 64, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"detector.heads={heads} must divide detector.width={width}")
        self.input_shape = tuple(latent_shape)
        self.width, self.depth, self.heads = width, depth, heads
        rows, columns = grid_of(latent_shape)
        self.into = nn.Linear(latent_shape[0], width)
        self.places = nn.Parameter(torch.randn(1, rows * columns, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))
        last = self.out[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, -2.0)  # most tokens are normal

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that build this architecture again."""
        names = ("width", "depth", "heads")
        return {"latent_shape": list(self.input_shape), **{name: getattr(self, name) for name in names}}

    def forward(self, latents: Tensor) -> Detection:
        """Judge latents ``(B, *latent_shape)``."""
        tokens = self.transformer(self.into(as_tokens(latents)) + self.places)
        logits = as_map(self.out(tokens)[:, :, 0], self.input_shape)
        return Detection(top_tokens(logits), logits)
