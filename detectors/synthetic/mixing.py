"""Random choice among named kinds of synthetic anomalies, by their weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor

from latent_common.errors import UserError

K = TypeVar("K")


class Mix(Generic[K]):
    """Named kinds with weights, from which samples draw theirs.

    :param what: what messages call these kinds, such as ``synthesis``.
    """

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
        """For ``count`` samples, every kind that some of them drew, and the indices of these, on the CPU."""
        draws = torch.rand(count, generator=generator, dtype=torch.float64)
        # The sum of the weights may round to just below 1, and a kind of weight 0 must stay out.
        drawn = torch.searchsorted(self._upper[:-1].contiguous(), draws, right=True)
        for index, kind in enumerate(self._kinds):
            rows = (drawn == index).nonzero().flatten()
            if len(rows):
                yield kind, rows
