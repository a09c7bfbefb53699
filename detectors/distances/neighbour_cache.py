"""The nearest neighbours of latents that a detector trains on again and again, each looked up once."""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.distances.memory_bank import PositionalMemory
from latent_common.image_source import ImageSource, evenly_spaced, evenly_spaced_positions

UNKNOWN = -1
"""In place of a number: a neighbour that wasn't looked up yet."""


class NeighbourCache:
    """Which image of a memory is nearest to each token of ``count`` latents, whose owners never change.

    Each is looked up when it is first asked for: a short training never meets most of a large data set.

    :param found: the attribute ``found`` of a cache of the first of these latents, ``(F, T)``, and of the
        same memory.
    """

    def __init__(self, memory: PositionalMemory, count: int, found: Tensor | None = None) -> None:
        self.memory = memory
        positions, size, _ = memory.tokens.shape
        narrow = torch.int16 if size <= torch.iinfo(torch.int16).max else torch.int32
        self.found = torch.full((count, positions), UNKNOWN, dtype=narrow, device=memory.tokens.device)
        if found is not None:
            self.found[: len(found)] = found

    @torch.no_grad()
    def __call__(self, latents: Tensor, owners: Tensor, known: Tensor) -> Tensor:
        """What :meth:`PositionalMemory.nearest` finds for ``latents (B, *latent_shape)``, ``(B, T)`` int64.

        :param owners: ``(B,)``: which training image each of them was made of.
        :param known: ``(B,)`` int64: which of the ``count`` latents each of them is.
        """
        nearest = self.found[known].long()
        missing = (nearest[:, 0] == UNKNOWN).nonzero().flatten()
        if len(missing):
            nearest[missing] = self.memory.nearest(latents[missing], owners[missing])
            self.found[known[missing]] = nearest[missing].to(self.found.dtype)
        return nearest


def fill_memory(
    memory: PositionalMemory, latents: ImageSource, count: int, found: Tensor | None = None
) -> NeighbourCache:
    """Fill ``memory`` with normal ``latents (N, *latent_shape)``, the first of ``count`` latents.

    Returns the cache of all of these; ``found`` is as for :class:`NeighbourCache`.
    """
    size = len(memory.owners)
    positions = evenly_spaced_positions(len(latents), size)
    cache = NeighbourCache(memory, count, found)
    rows = positions.to(cache.found.device)
    nearest = None if found is None else found[rows].long()
    nearest = memory.fill(evenly_spaced(latents, size), positions, nearest)
    cache.found[rows] = nearest.to(cache.found.dtype)
    return cache
