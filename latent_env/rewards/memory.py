"""What reward terms remember of earlier changes: vectors of few numbers, and the latest of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from latent_common.projection import random_projection
from latent_env.transition import Transition

MOST_DIMENSIONS = 64


class ChangeProjection:
    """Turns changes of the latent into vectors of at most 64 numbers whose distances are about the same.

    Longer ones are multiplied by a random matrix, the same one in every process.
    """

    def __init__(self) -> None:
        self._matrix: Tensor | None = None

    def __call__(self, transition: Transition) -> Tensor:
        """The changes since the episodes began, ``(N, up to 64)``."""
        change = (transition.latent - transition.start_latent).flatten(1)
        dimensions = change.shape[1]
        if dimensions <= MOST_DIMENSIONS:
            return change
        if self._matrix is None:
            # A tensor born in inference mode couldn't take part in a gradient later.
            with torch.inference_mode(False):
                generator = torch.Generator().manual_seed(0)
                matrix = random_projection(dimensions, MOST_DIMENSIONS, generator)
                self._matrix = matrix.to(change.device, change.dtype)
        return change @ self._matrix


class RecentVectors:
    """The last ``most`` vectors that any world produced."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.values: Tensor | None = None
        """``(most, d)``, the latest last; None before the first one."""
        self._worlds: Tensor | None = None  # (most,) which world produced each row, -1 for an empty row

    @property
    def filled(self) -> Tensor | None:
        """``(most,)`` bool: which rows hold a vector; None before the first one."""
        return None if self._worlds is None else self._worlds >= 0

    def add(self, values: Tensor, worlds: Tensor) -> None:
        """Keep ``values (N, d)`` of ``worlds (N,)`` bool, in place of the oldest."""
        if self.values is None or self._worlds is None:
            self.values = values.new_zeros(self.most, values.shape[1])
            self._worlds = torch.full((self.most,), -1, device=values.device)
        numbers = torch.arange(len(worlds), device=values.device)
        all_values = torch.cat([self.values, values])
        all_worlds = torch.cat([self._worlds, torch.where(worlds, numbers, -1)])
        # Empty rows are sorted to the front and dropped first, without asking the device how many they are.
        latest = (all_worlds >= 0).long().argsort(stable=True)[-self.most :]
        self.values, self._worlds = all_values[latest], all_worlds[latest]

    def state(self) -> dict[str, Tensor]:
        """The vectors and which world each is of, by name; empty before the first one."""
        if self.values is None or self._worlds is None:
            return {}
        return {"vectors": self.values, "worlds": self._worlds}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Keep what :meth:`state` returned."""
        if "vectors" in state:
            self.values, self._worlds = state["vectors"], state["worlds"]

    def drop(self, worlds: Tensor) -> None:
        """Drop what ``worlds (N,)`` bool produced."""
        if self._worlds is not None:
            self._worlds = self._worlds.masked_fill(worlds[self._worlds.clamp_min(0)], -1)
