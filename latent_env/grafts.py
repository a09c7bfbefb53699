"""Strokes, and grafts of labelled anomalies: what is known of real anomalies, within an agent's reach."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from detectors.errors import UserError
from latent_env.perturbations import Brush, Dense, Perturbation, perturbations
from latent_env.streams import Streams

if TYPE_CHECKING:
    from latent_env.worlds import World


@perturbations.register("graft")
class Graft(Brush):
    """A stroke of the brush, a graft of a labelled anomaly, or anything between.

    The action is the brush's with three numbers after it, ``[…, share, example, surroundings]``: how much of
    the change is the graft (none of it up to -0.5, all from 0.5 on), which anomaly it is of (neighbours are
    alike), and whether only what differs there from normal images is added (-1) or its tokens replace what
    was there (1). Row and column say where its marked tokens come to lie, from one end of the grid to the
    other; what is marked as a whole stays in place. The strength is how much of it there is.
    """

    OWN = 3

    def __init__(self, world: World, max_delta: float | None) -> None:
        super().__init__(world.autoencoder, max_delta)
        if world.examples is None:
            raise UserError(
                "perturbation=graft needs labelled anomalies beside the world: train_detector.py puts them "
                "there where the valid split has some (track=labelled_validation); choose perturbation=brush"
            )
        self.examples = world.examples
        self.action_size += self.OWN
        self.null_action = torch.cat([self.null_action, self.null_action.new_zeros(self.OWN)])
        marks = world.examples.marks[:, 0]
        self.tops, self.heights = _extent(marks.any(2))
        self.lefts, self.widths = _extent(marks.any(1))

    def __call__(self, actions: Tensor, streams: Streams, latents: Tensor) -> Tensor:
        """Changes ``(N, C, h, w)``."""
        strokes = self.strokes(actions[:, : -self.OWN], streams)
        own = actions[:, -self.OWN :, None, None, None]
        share = (own[:, 0] + 0.5).clamp(0, 1)
        return strokes + share * (self.grafts(actions, latents) - strokes)

    def grafts(self, actions: Tensor, latents: Tensor) -> Tensor:
        """What would become of ``latents (N, C, h, w)`` if all of it were grafts."""
        within = (actions + 1) / 2
        row, column, strength = within[:, 0], within[:, 1], within[:, 3]
        _, example, surroundings = within[:, -self.OWN :].T
        count = len(self.examples.latents)
        which = (example * count).long().clamp(0, count - 1)
        down = (row * (self.rows - self.heights[which])).round().long() - self.tops[which]
        right = (column * (self.columns - self.widths[which])).round().long() - self.lefts[which]
        shown, normal, marks = (_moved(part[which], down, right) for part in self.examples)
        change = shown - normal + surroundings[:, None, None, None] * (normal - latents)
        return strength[:, None, None, None] * marks * change


def _extent(along: Tensor) -> tuple[Tensor, Tensor]:
    """The first of each of ``along (K, n)`` bool that is set, and how far the last is: ``(K,)`` each."""
    first = along.int().argmax(1)
    last = along.shape[1] - 1 - along.flip(1).int().argmax(1)
    return first, last - first + 1


def _moved(values: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """``values (N, C, h, w)`` moved by ``down`` and ``right (N,)`` tokens; zero where nothing comes from."""
    rows, columns = values.shape[2:]
    row = torch.arange(rows, device=values.device)[None] - down[:, None]  # (N, h): where each comes from
    column = torch.arange(columns, device=values.device)[None] - right[:, None]
    inside = ((row >= 0) & (row < rows))[:, :, None] & ((column >= 0) & (column < columns))[:, None]
    source = row.clamp(0, rows - 1)[:, :, None] * columns + column.clamp(0, columns - 1)[:, None]
    flat = source.flatten(1)[:, None].expand(-1, values.shape[1], -1)
    return values.flatten(2).gather(2, flat).view_as(values) * inside[:, None]


@perturbations.register("auto")
def _automatic(world: World, max_delta: float | None) -> Perturbation:
    """``dense`` where the latent is flat; else ``graft`` where there are labelled anomalies, or ``brush``."""
    if not world.autoencoder.is_spatial:
        return Dense(world, max_delta)
    return Graft(world, max_delta) if world.examples else Brush(world.autoencoder, max_delta)
