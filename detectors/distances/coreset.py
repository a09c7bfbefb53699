"""Tokens that stand for all tokens of normal images: drawn at random, or chosen so that none is far away."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from detectors.blocks.tokens import as_tokens
from latent_common.image_source import ImageSource
from latent_common.projection import random_projection

READ_AT_ONCE = 64
"""Latents that are read at once."""

CORESET_DIMENSIONS = 128
"""A coreset is chosen after a random projection to so many dimensions, which keeps distances well."""


def draw_tokens(latents: ImageSource, count: int, generator: torch.Generator) -> Tensor:
    """``count`` tokens ``(count, C)`` of latents ``(N, *latent_shape)`` at random; all if there are fewer."""
    each = as_tokens(latents[:1]).shape[1]
    total = len(latents) * each
    picks = torch.randperm(total, generator=generator)[: min(count, total)].sort().values
    chosen = []
    for first in range(0, len(latents), READ_AT_ONCE):
        part = as_tokens(latents[first : first + READ_AT_ONCE]).flatten(0, 1)
        inside = picks[(picks >= first * each) & (picks < first * each + len(part))] - first * each
        chosen.append(part[inside.to(part.device)].float())
    return torch.cat(chosen)


@torch.no_grad()
def greedy_coreset(
    tokens: Tensor, count: int, generator: torch.Generator, advance: Callable[[int], object] = lambda _: None
) -> Tensor:
    """Indices ``(count,)`` of tokens ``(n, C)``, each the one that is furthest from all before it.

    This makes the largest distance from any token to the chosen ones shrink as fast as a greedy choice can.

    :param advance: called with how many tokens were chosen since the last call.
    """
    if tokens.shape[1] > CORESET_DIMENSIONS:
        tokens = tokens @ random_projection(tokens.shape[1], CORESET_DIMENSIONS, generator).to(tokens)
    squares = tokens.square().sum(1)
    first = int(torch.randint(len(tokens), (1,), generator=generator))
    chosen = torch.empty(count, dtype=torch.int64, device=tokens.device)
    nearest = torch.full_like(squares, torch.inf)
    latest = torch.tensor(first, device=tokens.device)
    for number in range(count):
        chosen[number] = latest
        # ‖t − c‖² = ‖t‖² − 2 t·c + ‖c‖²: one product with a vector, and nothing waits for the device.
        distance = squares - 2 * (tokens @ tokens[latest]) + squares[latest]
        nearest = torch.minimum(nearest, distance)
        nearest[latest] = -torch.inf
        latest = nearest.argmax()
        if number % 100 == 99:
            advance(100)
    return chosen
