"""The perturbation ``copy_paste``: labelled anomalies copied into latent and image, mixed with the brush."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from latent_common.errors import UserError
from latent_env.perturbations.base import Coordinate, anomaly_names, perturbations
from latent_env.perturbations.brush import Brush
from latent_env.perturbations.image_edit import ImageEdit, outside_graph
from latent_env.random_streams import Streams
from latent_env.visibility import among_neighbours
from latent_env.worlds.labelled_anomalies import mirrored

if TYPE_CHECKING:
    from latent_env.transition import Transition
    from latent_env.worlds.world import World


MIRRORINGS = ("not", "left and right", "top and bottom", "both")


@perturbations.register("copy_paste")
class CopyPaste(Brush):
    """The brush's local perturbation, a labelled anomaly copied into the latent, or a mixture of both.

    The action is the brush's with four numbers after it, ``[…, share, anomaly, replace, mirroring]``:

    - ``share``: how much of the change is the copied anomaly: none up to -0.5, all from 0.5 on;
    - ``anomaly``: which labelled anomaly; neighbours are similar;
    - ``replace``: -1 adds only the anomaly's difference from normal images, 1 replaces what was there;
    - ``mirroring``: a quarter of the range each: not, left and right, top and bottom, both.

    Row and column say where the anomalous tokens are copied to, from one end of the grid to the other, and
    the strength scales the change. An anomaly without a mask stays in place and isn't mirrored.

    Where the detector reads images, an autoencoder's reconstruction error counts as well: the residue of the
    anomaly's image is copied with it, and only its labelled pixels change, see :meth:`edit_image`.
    """

    NUMBERS = 4
    """How many numbers of the action are not the brush's."""

    def __init__(self, world: World, max_delta: float | None) -> None:
        super().__init__(world.autoencoder, max_delta)
        if world.labelled_anomalies is None:
            raise UserError(
                "perturbation=copy_paste needs labelled anomalies in the world, and it has none. "
                "train_detector.py stores them where the validation split has some (track=few_labelled); "
                "without them choose perturbation=brush"
            )
        self.action_size += self.NUMBERS
        self.null_action = torch.cat([self.null_action, self.null_action.new_zeros(self.NUMBERS)])
        anomalies = world.labelled_anomalies
        self.mirrorings, self.count = anomalies.latents.shape[:2]
        self.latents, self.normal = anomalies.latents.flatten(0, 1), anomalies.normal.flatten(0, 1)
        self.marks = anomalies.marks.flatten(0, 1)
        self.tops, self.heights = _extent(self.marks[:, 0].any(2))
        self.lefts, self.widths = _extent(self.marks[:, 0].any(1))
        self.images: AnomalyImages | None = None
        if len(anomalies.images) and not world.reads_latents:
            self.images = AnomalyImages.of(world)

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """What each number of an action stands for."""
        mirrorings, anomalies = MIRRORINGS[: self.mirrorings], anomaly_names(self.count)
        return (
            *super().coordinates,
            Coordinate("share of the copy", "a stroke", "a copied anomaly"),
            Coordinate("anomaly", anomalies[0], anomalies[-1], anomalies),
            Coordinate("replace", "added to what was there", "in its place"),
            Coordinate("mirrored", mirrorings[0], mirrorings[-1], mirrorings),
        )

    def __call__(self, actions: Tensor, streams: Streams, latents: Tensor) -> Tensor:
        """Changes ``(N, C, h, w)``."""
        strokes = self.strokes(actions[:, : -self.NUMBERS], streams)
        share = self.shares(actions)
        return strokes + share * (self.copies(actions, latents) - strokes)

    def shares(self, actions: Tensor) -> Tensor:
        """How much of each change is the copied anomaly, ``(N, 1, 1, 1)`` in [0, 1]."""
        return (actions[:, -self.NUMBERS, None, None, None] + 0.5).clamp(0, 1)

    def copied(self, actions: Tensor, beyond: float = 0.5) -> Tensor:
        """``(N,)`` int64: which labelled anomaly makes up most of each change, -1 where the brush does.

        :param beyond: the share of a change that it must exceed.
        """
        which = self.placements(actions).which % self.count
        return torch.where(self.shares(actions).flatten() > beyond, which, -1)

    def copies(self, actions: Tensor, latents: Tensor) -> Tensor:
        """Changes of ``latents (N, C, h, w)`` by the copied anomalies alone."""
        chosen = self.placements(actions)
        parts = (self.latents, self.normal, self.marks)
        anomalous, normal, marks = (_shifted(part[chosen.which], chosen.down, chosen.right) for part in parts)
        change = anomalous - normal + chosen.replace * (normal - latents)
        return chosen.strength * marks * change

    def edit(self, actions: Tensor, streams: Streams, before: Transition) -> tuple[Tensor, ImageEdit | None]:
        """Changes ``(N, C, h, w)`` of the latents, and the edit of the images, see :meth:`edit_image`."""
        return self(actions, streams, outside_graph(before.latent)), self.edit_image(actions, before)

    def edit_image(self, actions: Tensor, before: Transition) -> ImageEdit | None:
        """The edit of the images after ``actions``; None where the detector reads latents.

        As tokens make way for the anomaly's tokens, the image's residue makes way for the residue of the
        anomaly's image, within its labelled pixels, softly bounded. In the brush's share of the change all
        that is decoded is visible.
        """
        if self.images is None:
            return None
        chosen, share = self.placements(actions), self.shares(actions)
        side = self.images.mattes.shape[-1]
        down, right = chosen.down * (side // self.rows), chosen.right * (side // self.columns)
        of_anomaly, matte = (_shifted(part[chosen.which].float(), down, right) for part in self.images)
        of_start = outside_graph(before.start_image - before.start_decoded)
        earlier = before.edit
        if not isinstance(earlier, ImageEdit):
            nothing = torch.zeros_like(matte)
            earlier = ImageEdit(nothing, torch.zeros_like(of_start), nothing)
        open_before, residue, genuine = (outside_graph(part) for part in earlier)
        change = share * chosen.strength * (of_anomaly - chosen.replace * (of_start + residue))
        open_now = (1 - share * (1 - matte)) * (chosen.strength > 0)
        return ImageEdit(
            torch.maximum(open_before, open_now),
            residue + change,
            torch.maximum(genuine, share * chosen.strength * matte),
        )

    def placements(self, actions: Tensor) -> Placements:
        """Which anomaly the actions ``(N, action_size)`` copy, and where to."""
        within = (actions + 1) / 2
        row, column, strength = within[:, 0], within[:, 1], within[:, 3]
        anomaly, replace, mirroring = within[:, -self.NUMBERS + 1 :].T
        which = (anomaly * self.count).long().clamp(0, self.count - 1)
        turned = (mirroring * self.mirrorings).long().clamp(0, self.mirrorings - 1)
        which = turned * self.count + which
        down = (row * (self.rows - self.heights[which])).round().long() - self.tops[which]
        right = (column * (self.columns - self.widths[which])).round().long() - self.lefts[which]
        return Placements(which, down, right, strength[:, None, None, None], replace[:, None, None, None])


class Placements(NamedTuple):
    """Which anomaly is copied in each world, and where to."""

    which: Tensor
    """``(N,)``: its index among all anomalies in all mirrorings."""
    down: Tensor
    """``(N,)``: by how many tokens it is shifted down."""
    right: Tensor
    """``(N,)``: by how many tokens it is shifted to the right."""
    strength: Tensor
    """``(N, 1, 1, 1)`` in [0, 1]: the factor of the change."""
    replace: Tensor
    """``(N, 1, 1, 1)`` in [0, 1]: 0 adds the anomaly to what was there, 1 replaces it."""


class AnomalyImages(NamedTuple):
    """What is copied in the image, of all anomalies in all mirrorings."""

    residues: Tensor
    """``(M K, C, H, W)``: each image less its reconstruction."""
    mattes: Tensor
    """``(M K, 1, H, W)`` in [0, 1]: the labelled pixels, softly bounded."""

    @classmethod
    @torch.no_grad()
    def of(cls, world: World) -> AnomalyImages:
        """Those of the labelled anomalies of ``world``."""
        assert world.labelled_anomalies is not None
        hard = world.labelled_anomalies.masks.to(world.latents)
        soft = torch.maximum(
            hard, among_neighbours(hard)
        )  # labelled pixels count fully, however thin the mask
        count = len(world.labelled_anomalies.latents)
        residues = world.labelled_anomalies.residues(world.autoencoder)
        return cls(residues.flatten(0, 1), mirrored(soft)[:count].flatten(0, 1))


def _extent(along: Tensor) -> tuple[Tensor, Tensor]:
    """Where ``along (K, n)`` bool is first set, and the length up to where it is last set: ``(K,)`` each."""
    first = along.int().argmax(1)
    last = along.shape[1] - 1 - along.flip(1).int().argmax(1)
    return first, last - first + 1


def _shifted(values: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """``values (N, C, h, w)`` shifted by ``down`` and ``right (N,)`` positions, with zeros moving in."""
    rows, columns = values.shape[2:]
    row = torch.arange(rows, device=values.device)[None] - down[:, None]  # (N, h): where each comes from
    column = torch.arange(columns, device=values.device)[None] - right[:, None]
    inside = ((row >= 0) & (row < rows))[:, :, None] & ((column >= 0) & (column < columns))[:, None]
    source = row.clamp(0, rows - 1)[:, :, None] * columns + column.clamp(0, columns - 1)[:, None]
    flat = source.flatten(1)[:, None].expand(-1, values.shape[1], -1)
    return values.flatten(2).gather(2, flat).view_as(values) * inside[:, None]
