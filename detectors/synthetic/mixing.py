"""Choosing among named kinds of pseudo-anomalies, as often as their weights say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor

from latent_common.errors import UserError

K = TypeVar("K")


class Mix(Generic[K]):
    """Kinds with weights; ``what`` names them in messages."""

    def __init__(self, weights: Mapping[str, float], kinds: Mapping[str, K], what: str) -> None:
        unknown = sorted(set(weights) - set(kinds))
        if unknown:
            raise UserError(f"unknown {what} {unknown}: choose among {sorted(kinds)}")
        names = sorted(weights)  # the order in which they are written must not matter
        values = torch.tensor([weights[name] for name in names], dtype=torch.float64)
        if not (values.isfinite().all() and (values >= 0).all() and values.sum() > 0):
            raise UserError(
                f"{what} weights {dict(weights)} must be finite and not negative, with at least one above 0"
            )
        self._kinds = [kinds[name] for name in names]
        self._upper = (values / values.sum()).cumsum(0)

    def draw(self, count: int, generator: torch.Generator) -> Iterator[tuple[K, Tensor]]:
        """Every kind that was drawn for some of ``count`` samples, and which, as indices on the CPU."""
        draws = torch.rand(count, generator=generator, dtype=torch.float64)
        # The sum of the weights may round to just below 1, and a kind of weight 0 must stay out.
        drawn = torch.searchsorted(self._upper[:-1].contiguous(), draws, right=True)
        for index, kind in enumerate(self._kinds):
            rows = (drawn == index).nonzero().flatten()
            if len(rows):
                yield kind, rows
