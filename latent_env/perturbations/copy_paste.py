"""Strokes, and grafts of labelled anomalies: what is known of real anomalies, within an agent's reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from latent_common.errors import UserError
from latent_env.perturbations.base import perturbations
from latent_env.perturbations.brush import Brush
from latent_env.perturbations.image_edit import ImageEdit
from latent_env.random_streams import Streams
from latent_env.visibility import among_neighbours
from latent_env.worlds.labelled_anomalies import mirrored

if TYPE_CHECKING:
    from latent_env.transition import Transition
    from latent_env.worlds.world import World


@perturbations.register("copy_paste")
class CopyPaste(Brush):
    """A stroke of the brush, a graft of a labelled anomaly, or anything between.

    The action is the brush's with four numbers after it, ``[…, share, example, surroundings, mirrored]``: how
    much of the change is the graft (none of it up to -0.5, all from 0.5 on), which anomaly it is of
    (neighbours are alike), whether only what differs there from normal images is added (-1) or its tokens
    replace what was there (1), and whether it is as it was, mirrored left and right, top and bottom, or both
    (a quarter of the range each). Row and column say where its marked tokens come to lie, from one end of the
    grid to the other; what is marked as a whole stays in place, and isn't mirrored. The strength is how much
    of it there is.

    Decoding loses some of every picture. So a graft brings along what it loses of the anomaly's, and in the
    image it changes the pixels that are labelled and no others, see :meth:`edit_image`.
    """

    OWN = 4

    def __init__(self, world: World, max_delta: float | None) -> None:
        super().__init__(world.autoencoder, max_delta)
        if world.labelled_anomalies is None:
            raise UserError(
                "perturbation=copy_paste needs labelled anomalies in the world, and it has none. "
                "train_detector.py stores them where the validation split has some (track=few_labelled); "
                "without them choose perturbation=brush"
            )
        self.action_size += self.OWN
        self.null_action = torch.cat([self.null_action, self.null_action.new_zeros(self.OWN)])
        labelled_anomalies = world.labelled_anomalies
        self.mirrorings, self.count = labelled_anomalies.latents.shape[:2]
        self.latents, self.normal = (
            labelled_anomalies.latents.flatten(0, 1),
            labelled_anomalies.normal.flatten(0, 1),
        )
        self.marks = labelled_anomalies.marks.flatten(0, 1)
        self.tops, self.heights = _extent(self.marks[:, 0].any(2))
        self.lefts, self.widths = _extent(self.marks[:, 0].any(1))
        self.pictures: Pictures | None = None
        if len(labelled_anomalies.images) and not world.reads_latents:
            self.pictures = Pictures.of(world)

    def __call__(self, actions: Tensor, streams: Streams, latents: Tensor) -> Tensor:
        """Changes ``(N, C, h, w)``."""
        strokes = self.strokes(actions[:, : -self.OWN], streams)
        share = self.shares(actions)
        return strokes + share * (self.copies(actions, latents) - strokes)

    def shares(self, actions: Tensor) -> Tensor:
        """How much of a change is the graft, ``(N, 1, 1, 1)``."""
        return (actions[:, -self.OWN, None, None, None] + 0.5).clamp(0, 1)

    def copies(self, actions: Tensor, latents: Tensor) -> Tensor:
        """What would become of ``latents (N, C, h, w)`` if all of it were grafts."""
        chosen = self.chosen(actions)
        parts = (self.latents, self.normal, self.marks)
        shown, normal, marks = (_moved(part[chosen.which], chosen.down, chosen.right) for part in parts)
        change = shown - normal + chosen.surroundings * (normal - latents)
        return chosen.strength * marks * change

    def edit_image(self, actions: Tensor, before: Transition) -> ImageEdit | None:
        """What the graft does to the images that ``before`` has led to; None if nothing but decoding does.

        What decoding loses of them makes way for what it loses of the anomaly's picture, as their tokens make
        way for its tokens, and nothing changes but its labelled pixels, softly bounded. Of the stroke's share
        all is visible that is decoded.
        """
        if self.pictures is None:
            return None
        chosen, share = self.chosen(actions), self.shares(actions)
        side = self.pictures.mattes.shape[-1]
        down, right = chosen.down * (side // self.rows), chosen.right * (side // self.columns)
        undrawn, matte = (_moved(part[chosen.which].float(), down, right) for part in self.pictures)
        usual = _outside_graph(before.start_image - before.start_decoded)
        earlier = before.edit
        if earlier is None:
            nothing = torch.zeros_like(matte)
            earlier = ImageEdit(nothing, torch.zeros_like(usual), nothing)
        open_before, residue, genuine = (_outside_graph(part) for part in earlier)
        change = share * chosen.strength * (undrawn - chosen.surroundings * (usual + residue))
        open_now = (1 - share * (1 - matte)) * (chosen.strength > 0)
        return ImageEdit(
            torch.maximum(open_before, open_now),
            residue + change,
            torch.maximum(genuine, share * chosen.strength * matte),
        )

    def chosen(self, actions: Tensor) -> Chosen:
        """What the numbers of ``actions (N, action_size)`` stand for."""
        within = (actions + 1) / 2
        row, column, strength = within[:, 0], within[:, 1], within[:, 3]
        example, surroundings, mirroring = within[:, -self.OWN + 1 :].T
        which = (example * self.count).long().clamp(0, self.count - 1)
        turned = (mirroring * self.mirrorings).long().clamp(0, self.mirrorings - 1)
        which = turned * self.count + which
        down = (row * (self.rows - self.heights[which])).round().long() - self.tops[which]
        right = (column * (self.columns - self.widths[which])).round().long() - self.lefts[which]
        return Chosen(which, down, right, strength[:, None, None, None], surroundings[:, None, None, None])


class Chosen(NamedTuple):
    """Which graft, and where it goes."""

    which: Tensor
    """``(N,)``: among all anomalies in all mirrorings."""
    down: Tensor
    """``(N,)`` tokens that it moves."""
    right: Tensor
    strength: Tensor
    """``(N, 1, 1, 1)`` in [0, 1]"""
    surroundings: Tensor
    """``(N, 1, 1, 1)`` in [0, 1]"""


class Pictures(NamedTuple):
    """What is known of all anomalies in all mirrorings beside their latents."""

    undrawn: Tensor
    """``(M K, C, H, W)``: what decoding loses of them."""
    mattes: Tensor
    """``(M K, 1, H, W)`` in [0, 1]: their labelled pixels, softly bounded."""

    @classmethod
    @torch.no_grad()
    def of(cls, world: World) -> Pictures:
        """Those of the examples of ``world``."""
        assert world.labelled_anomalies is not None
        hard = world.labelled_anomalies.masks.to(world.latents)
        soft = torch.maximum(hard, among_neighbours(hard))  # however thin, all that is labelled comes along
        count = len(world.labelled_anomalies.latents)
        undrawn = world.labelled_anomalies.undrawn(world.autoencoder)
        return cls(undrawn.flatten(0, 1), mirrored(soft)[:count].flatten(0, 1))


def _outside_graph(values: Tensor) -> Tensor:
    """The same numbers, fit for a graph: tensors born in inference mode can't take part in one."""
    return values.clone() if values.is_inference() else values


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
