"""What reward terms remember of earlier changes."""

from __future__ import annotations

import torch
from torch import Tensor

from latent_common.projection import random_projection
from latent_env.transition import Transition


class Sketch:
    """A change of the latent in few numbers: distances between changes are kept well enough."""

    MOST_DIMENSIONS = 64

    def __init__(self) -> None:
        self._projection: Tensor | None = None

    def __call__(self, transition: Transition) -> Tensor:
        """The change since the episode began, ``(N, up to 64)``."""
        change = (transition.latent - transition.start_latent).flatten(1)
        dimensions = change.shape[1]
        if dimensions <= self.MOST_DIMENSIONS:
            return change
        if self._projection is None:
            # A random projection bounds the memory. It must not be born in inference mode: gradients may
            # have to pass through it later.
            with torch.inference_mode(False):
                generator = torch.Generator().manual_seed(0)
                projection = random_projection(dimensions, self.MOST_DIMENSIONS, generator)
                self._projection = projection.to(change.device, change.dtype)
        return change @ self._projection


class Latest:
    """The last so many vectors that any world came to."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.values: Tensor | None = None
        """``(most, d)``, the latest last."""
        self._makers: Tensor | None = None  # (most,) which world made each, -1 where nothing is

    @property
    def held(self) -> Tensor | None:
        """``(most,)`` bool: where something is."""
        return None if self._makers is None else self._makers >= 0

    def add(self, values: Tensor, worlds: Tensor) -> None:
        """Keep ``values (N, d)`` of ``worlds (N,)`` bool, in place of the oldest."""
        if self.values is None or self._makers is None:
            self.values = values.new_zeros(self.most, values.shape[1])
            self._makers = torch.full((self.most,), -1, device=values.device)
        makers = torch.arange(len(worlds), device=values.device)
        known = torch.cat([self.values, values])
        makers = torch.cat([self._makers, torch.where(worlds, makers, -1)])
        # What nobody made goes to the front, and so is dropped first: how much it is, the host need not know.
        latest = (makers >= 0).long().argsort(stable=True)[-self.most :]
        self.values, self._makers = known[latest], makers[latest]

    def drop(self, worlds: Tensor) -> None:
        """Drop what ``worlds (N,)`` bool made."""
        if self._makers is not None:
            self._makers = self._makers.masked_fill(worlds[self._makers.clamp_min(0)], -1)
