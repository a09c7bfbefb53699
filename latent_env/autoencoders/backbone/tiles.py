"""Images that are larger than what a network sees at once: cut into tiles that overlap, and put together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from latent_common.errors import UserError

OVERLAP = 0.25
"""Neighbouring tiles share at least so much of their side: a token sees what is around it on all sides."""


@dataclass(frozen=True)
class Tiles:
    """Square tiles of images ``(B, C, size, size)``, and the maps that a network makes of them.

    A token of the whole map comes from the tile in which it lies furthest from the border, as it is there.

    :param size: pixels a side of an image.
    :param side: pixels a side of a tile.
    :param grid: tokens a side of a tile.
    :param group: the group of keys that chose them, for errors.
    """

    size: int
    side: int
    grid: int
    group: str

    def __post_init__(self) -> None:
        if self.side >= self.size:
            raise UserError(
                f"{self.group}.tile={self.side} must be smaller than images of dataset.size={self.size}: "
                f"make images larger, or leave {self.group}.tile out"
            )
        if self.side % self.grid:
            raise UserError(
                f"{self.group}.tile={self.side} must be a multiple of {self.group}.grid={self.grid}, so that "
                f"tokens of neighbouring tiles meet: {self._near(self.side, self.grid)} would do"
            )
        if self.size % self.token:
            raise UserError(
                f"dataset.size={self.size} must be a multiple of {self.token}, the pixels of a token with "
                f"{self.group}.tile={self.side} and {self.group}.grid={self.grid}: "
                f"{self._near(self.size, self.token)} would do"
            )

    @property
    def token(self) -> int:
        """Pixels a side of a token."""
        return self.side // self.grid

    @property
    def whole_grid(self) -> int:
        """Tokens a side of a whole image."""
        return self.size // self.token

    @cached_property
    def starts(self) -> list[int]:
        """The first token of every tile along a side; they are spread evenly."""
        spread = self.whole_grid - self.grid
        steps = math.ceil(spread / max(int(self.grid * (1 - OVERLAP)), 1))
        return [round(number * spread / steps) for number in range(steps + 1)]

    @property
    def count(self) -> int:
        """Tiles of an image."""
        return len(self.starts) ** 2

    def cut(self, images: Tensor) -> Tensor:
        """The tiles of ``images (B, C, size, size)``, ``(B · count, C, side, side)``, image by image."""
        places = [start * self.token for start in self.starts]
        found = [
            images[:, :, row : row + self.side, column : column + self.side]
            for row in places
            for column in places
        ]
        return torch.stack(found, dim=1).flatten(0, 1)

    def join(self, maps: Tensor) -> Tensor:
        """The maps of whole images, ``(B, F, whole_grid, whole_grid)``, of those of their tiles.

        :param maps: ``(B · count, F, grid, grid)``, in the order of :meth:`cut`.
        """
        parts = iter(maps.unflatten(0, (-1, self.count)).unbind(1))
        rows = [
            torch.cat([next(parts)[:, :, top:bottom, left:right] for left, right in self._kept], dim=3)
            for top, bottom in self._kept
        ]
        return torch.cat(rows, dim=2)

    @cached_property
    def _kept(self) -> list[tuple[int, int]]:
        """Of every tile along a side, the first of its tokens that is kept and the one after the last."""
        middles = [(first + self.grid + second) // 2 for first, second in pairwise(self.starts)]
        edges = [0, *middles, self.whole_grid]
        return [
            (first - start, last - start)
            for start, (first, last) in zip(self.starts, pairwise(edges), strict=True)
        ]

    @staticmethod
    def _near(number: int, step: int) -> str:
        """The multiples of ``step`` on both sides of ``number``."""
        below = number // step * step
        return f"{below} or {below + step}" if below else f"{below + step}"
