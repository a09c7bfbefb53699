"""Transformer layers over tokens, as the detectors that learn have them."""

from __future__ import annotations

from torch import nn

from latent_common.errors import UserError


def token_transformer(width: int, depth: int, heads: int) -> nn.TransformerEncoder:
    """``depth`` layers of ``heads`` attention heads over tokens ``(B, T, width)``, without dropout."""
    if width % heads:
        raise UserError(f"detector.heads={heads} must divide detector.width={width}")
    layer = nn.TransformerEncoderLayer(
        width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
