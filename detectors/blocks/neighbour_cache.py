"""What lies nearest in a memory to latents that a detector trains on again and again."""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.blocks.memory_bank import PositionalMemory
from latent_common.image_source import ImageSource, spread_over, spread_positions

UNKNOWN = -1
"""In place of a number: a neighbour that wasn't looked up yet."""


class NearestKnown:
    """Which remembered image is nearest to each token of ``count`` latents, whose owners never change.

    Each is looked up when it is first asked for: most of a large data set never is in a short training.

    :param found: :attr:`found` of the first of these latents, ``(F, T)``, in a memory of the same tokens.
    """

    def __init__(self, memory: PositionalMemory, count: int, found: Tensor | None = None) -> None:
        self.memory = memory
        places, size, _ = memory.tokens.shape
        narrow = torch.int16 if size <= torch.iinfo(torch.int16).max else torch.int32
        self.found = torch.full((count, places), UNKNOWN, dtype=narrow, device=memory.tokens.device)
        if found is not None:
            self.found[: len(found)] = found

    @torch.no_grad()
    def __call__(self, latents: Tensor, owners: Tensor, known: Tensor) -> Tensor:
        """What :meth:`PositionalMemory.nearest` finds for ``latents (B, *latent_shape)``, ``(B, T)`` int64.

        :param known: ``(B,)`` int64: which of the ``count`` each of them is.
        """
        nearest = self.found[known].long()
        missing = (nearest[:, 0] == UNKNOWN).nonzero().flatten()
        if len(missing):
            nearest[missing] = self.memory.nearest(latents[missing], owners[missing])
            self.found[known[missing]] = nearest[missing].to(self.found.dtype)
        return nearest


def remembering(
    memory: PositionalMemory, latents: ImageSource, count: int, found: Tensor | None = None
) -> NearestKnown:
    """Fill ``memory`` with normal ``latents (N, *latent_shape)``, the first of ``count`` known ones.

    :param found: what was found so far in a memory of the same latents.
    """
    most = len(memory.owners)
    positions = spread_positions(len(latents), most)
    nearest = NearestKnown(memory, count, found)
    rows = positions.to(nearest.found.device)
    theirs = None if found is None else found[rows].long()
    # To fill it, they had to be looked up anyway.
    theirs = memory.remember(spread_over(latents, most), positions, theirs)
    nearest.found[rows] = theirs.to(nearest.found.dtype)
    return nearest
