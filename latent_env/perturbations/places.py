"""Where a change may be put: on the object of each image, or anywhere."""

from __future__ import annotations

import torch
from torch import Tensor

PULLS = 16
"""What lies outside is pulled inside in so many steps."""


class Places:
    """The places that are allowed in each of S images, and how numbers in [-1, 1] choose one.

    All of them are reached, and uniform numbers choose each about as often.
    """

    def __init__(self, allowed: Tensor) -> None:
        """:param allowed: ``(S, 1, H, W)`` bool, or ``(1, 1, H, W)`` if all images have the same places."""
        self.allowed = allowed[:, 0]
        self.below = self.allowed.flatten(1).sum(1)
        self.rows = self.allowed.sum(2).cumsum(1)
        """``(S, H)``: how many places are in each row and above."""
        height, width = self.allowed.shape[1:]
        total = self.below.clamp_min(1).float()
        row = torch.arange(height, device=allowed.device, dtype=torch.float32)
        column = torch.arange(width, device=allowed.device, dtype=torch.float32)
        rows = (self.allowed.sum(2) * row).sum(1) / total
        columns = (self.allowed.sum(1) * column).sum(1) / total
        self.centres = torch.stack([rows, columns], 1)
        """``(S, 2)``: row and column of the middle of all places, in pixels."""

    def of(self, sources: Tensor) -> Tensor:
        """``(N, H, W)`` bool: where changes are allowed in the images ``sources (N,)``."""
        return self.allowed[self._index(sources)]

    def centre(self, sources: Tensor) -> Tensor:
        """``(N, 2)``: row and column of the middle of the places of the images ``sources (N,)``."""
        return self.centres[self._index(sources)]

    def chosen(self, sources: Tensor, actions: Tensor) -> Tensor:
        """Row and column ``(N, 2)``, in pixels, for ``actions (N, 2)`` in [-1, 1].

        The first number goes from the top of the object to its bottom, the second from left to right along
        the row.
        """
        index, within = self._index(sources), (actions + 1) / 2
        row = _quantile(self.rows[index], within[:, 0])
        picked = row.detach().round().long()
        columns = self.allowed[index, picked].cumsum(1)
        return torch.stack([row, _quantile(columns, within[:, 1])], 1)

    def pulled_inside(self, sources: Tensor, places: Tensor) -> Tensor:
        """``places (N, 2)`` in pixels, those outside pulled towards the middle until they are inside."""
        index = self._index(sources)
        height, width = self.allowed.shape[1:]
        share = torch.linspace(0, 1, PULLS + 1, device=places.device)[None, :, None]
        path = places[:, None] + share * (self.centres[index] - places)[:, None]  # (N, steps, 2)
        row, column = path.detach().round().long().unbind(2)
        framed = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        inside = self.allowed[index[:, None], row.clamp(0, height - 1), column.clamp(0, width - 1)] & framed
        inside[:, -1] = True
        first = inside.int().argmax(1)
        return path[torch.arange(len(path), device=path.device), first]

    def _index(self, sources: Tensor) -> Tensor:
        return sources if len(self.allowed) > 1 else torch.zeros_like(sources)


def _quantile(counts: Tensor, share: Tensor) -> Tensor:
    """The position from 0 to n - 1 up to which a ``share (N,)`` of the cumulated ``counts (N, n)`` lies."""
    total = counts[:, -1].to(share)
    wanted = torch.minimum((share * total).clamp_min(0.5), total.clamp_min(0.5))
    position = torch.searchsorted(counts.to(share), wanted.detach()[:, None].contiguous())[:, 0]
    position = position.clamp_max(counts.shape[1] - 1)
    rows = torch.arange(len(counts), device=counts.device)
    before = torch.where(position > 0, counts[rows, (position - 1).clamp_min(0)], 0)
    here = (counts[rows, position] - before).clamp_min(1)
    # Within half a pixel of its middle, and a little less: so rounding never leads to the next pixel.
    return (position + 0.98 * ((wanted - before) / here - 0.5)).clamp(0, counts.shape[1] - 1)
