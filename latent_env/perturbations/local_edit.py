"""The perturbation ``local_edit``: strokes, or labelled anomalies pasted in pixels, where the object is."""

from __future__ import annotations

import math
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from latent_common.errors import UserError
from latent_env.chunks import worlds_at_once
from latent_env.perturbations.anomaly_patches import AnomalyPatches, Placement, linear_map
from latent_env.perturbations.base import Coordinate, anomaly_names, perturbations
from latent_env.perturbations.image_edit import PixelEdit, outside_graph
from latent_env.perturbations.membrane import seamless
from latent_env.perturbations.places import Places
from latent_env.perturbations.strokes import REACH, Strokes
from latent_env.random_streams import Streams
from latent_env.visibility import among_neighbours
from latent_env.worlds.foreground import object_masks

if TYPE_CHECKING:
    from latent_env.transition import Transition
    from latent_env.worlds.world import World

OBJECT, ANYWHERE = "object", "anywhere"
PLACES = [OBJECT, ANYWHERE]
SOFT, POISSON, DECODED = "soft", "poisson", "decoded"
BLENDINGS = [SOFT, POISSON, DECODED]
BOTH, STROKES, PASTES = "both", "strokes", "pastes"
EDITS = [BOTH, STROKES, PASTES]

MOST_GAIN, MOST_SCALE = 1.5, 2.0
"""An anomaly is pasted at most so many times as strong, and as large."""

OWN_PLACE, FREE_PLACE = "its own place", "row and column"

LEAST_MATTE = 0.1
"""Poisson's equation is solved where the matte is at least this."""


class LocalEdit:
    """A stroke on the latent, or a labelled anomaly pasted into the image, in each step.

    The action is ``[row, column, radius, strength, roughness, turn, stretch, direction…]`` for a stroke
    (see :class:`latent_env.perturbations.strokes.Strokes`). Where the world has labelled anomalies, five
    numbers follow, ``[…, paste, anomaly, replace, mirrored, roam]``:

    - ``paste``: below 0 the step draws a stroke, from 0 on it pastes a labelled anomaly;
    - ``anomaly``: which one; neighbours are similar;
    - ``replace``: -1 adds only the anomaly's difference from what is normal, 1 replaces what was there;
    - ``mirrored``: from 0 on it is mirrored left and right;
    - ``roam``: below 0 it stays where it is in its own image, mirrored and turned about the middle of the
      object; from 0 on row and column say where its middle is.

    An anomaly is turned by -180 to 180 degrees, and is from half as large (``stretch`` -1) to twice as large
    (1). The strength goes from 0 to 1.5 times its difference; 1/3 is as strong as it was. An anomaly without
    a mask stays as it is, all of its image.

    ``edits`` leaves one kind of both, whatever ``paste`` says.

    Where normal images show an object in front of a plain background, row and column lead to places on the
    object, and nothing beyond it changes.

    A generator's tokens say how their pixels look from one side: moved, turned or scaled as a grid, they
    don't decode to a turned anomaly. So an anomaly is transformed in pixels, at any angle and to a fraction
    of a token, and the latent after the step is the encoding of the image that was pasted into. Encoding
    takes the place of decoding: what was pasted is seen as it is, without the decoder's errors. Encoding
    a fixed set of variants beforehand would save that, but only on the grid of tokens, and for one
    background.
    """

    NUMBERS = 5
    """How many numbers of the action are not a stroke's."""

    place, blending, edits = OBJECT, SOFT, BOTH

    def __init__(self, world: World, max_delta: float | None) -> None:
        if world.reads_latents:
            raise UserError(
                "perturbation=local_edit edits images, and this world's detector reads latents: choose "
                "perturbation=copy_paste or brush, or a detector that reads images (detector.input)"
            )
        self.world = world
        normal = float(world.autoencoder.normal_distances[95])
        self.max_delta = REACH * normal if max_delta is None else max_delta
        self.strokes = Strokes(world.images, world.latents, self.max_delta)
        self.stroke_size = 2 + self.strokes.action_size
        anomalies = world.labelled_anomalies
        self.patches: AnomalyPatches | None = None
        self.action_size = self.stroke_size
        if anomalies is not None and len(anomalies.images):
            self.action_size += self.NUMBERS
            self.patches = _cut_out(anomalies.images, anomalies.masks, world.images, world.latents)
        self.null_action = world.latents.new_zeros(self.action_size)
        self.null_action[3] = -1.0
        if self.patches is not None:
            self.null_action[self.stroke_size] = -1.0

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """What each number of an action stands for."""
        strokes = (
            Coordinate("row", "top", "bottom"),
            Coordinate("column", "left", "right"),
            *self.strokes.coordinates,
        )
        if self.patches is None:
            return strokes
        kinds = {STROKES: ("stroke",), PASTES: ("pasted anomaly",)}.get(
            self.edits, ("stroke", "pasted anomaly")
        )
        anomalies = anomaly_names(len(self.patches))
        return (
            *strokes,
            Coordinate("kind", kinds[0], kinds[-1], kinds),
            Coordinate("anomaly", anomalies[0], anomalies[-1], anomalies),
            Coordinate("replace", "added to what was there", "in its place"),
            Coordinate("mirrored", "no", "yes", ("no", "yes")),
            Coordinate("pasted at", OWN_PLACE, FREE_PLACE, (OWN_PLACE, FREE_PLACE)),
        )

    @cached_property
    def places(self) -> Places:
        """Where changes are allowed in the starting images."""
        return Places(self._everywhere if self._objects is None else self._objects)

    @cached_property
    def _objects(self) -> Tensor | None:
        """``(S, 1, H, W)`` bool; None where there is no background, or it may change as well."""
        return _objects_of(self.world.images) if self.place == OBJECT else None

    @property
    def _everywhere(self) -> Tensor:
        images = self.world.images
        return torch.ones(1, 1, *images.shape[2:], dtype=torch.bool, device=images.device)

    def __call__(self, actions: Tensor, streams: Streams, latents: Tensor) -> Tensor:
        """Changes of ``latents (N, C, h, w)`` by strokes alone, wherever the object is."""
        place = (actions[:, :2] + 1) / 2 * (self.world.autoencoder.size - 1)
        return self.strokes.drawn(place, actions[:, 2 : self.stroke_size], streams).delta.expand_as(latents)

    def edit(self, actions: Tensor, streams: Streams, before: Transition) -> tuple[Tensor, PixelEdit]:
        """Changes ``(N, C, h, w)`` of the latents, and the edit of the images since the episodes began."""
        place = self.places.chosen(before.sources, actions[:, :2])
        stroke = self.strokes.drawn(place, actions[:, 2 : self.stroke_size], streams)
        delta, edit = stroke.delta, self._after_stroke(stroke.matte, before)
        if self.patches is None:
            return delta, edit
        pasting = self._pastes(actions)
        # On a GPU it is faster to paste in all worlds than to wait for the answer where it is done.
        worlds = torch.arange(len(actions), device=actions.device)
        worlds = worlds if actions.is_cuda else pasting.nonzero()[:, 0]
        for some in worlds.split(worlds_at_once(self.world.autoencoder.size, actions.device)):
            pasted = self._pasted(actions[some], place[some], before, some)
            chosen = pasting[some][:, None, None, None]
            delta, edit = _put(chosen, some, pasted, delta, edit)
        return delta, edit

    def _after_stroke(self, matte: Tensor, before: Transition) -> PixelEdit:
        """The edit after a step that changes the decoded image only, and only at ``matte (N, 1, H, W)``."""
        start, earlier = outside_graph(before.start_image), before.edit
        matte = matte * self._mattes(before.sources, start)
        drawn = torch.ones(len(start), 1, 1, 1, dtype=torch.bool, device=start.device)
        if not isinstance(earlier, PixelEdit):
            return PixelEdit(matte, torch.zeros_like(start), torch.zeros_like(start[:, :1]), drawn)
        residue = earlier.residue
        if bool((before.latent != before.start_latent).any()):
            # What changed so far stays, and only what is drawn from now on is added.
            decoded = outside_graph(before.decoded)
            residue = earlier.change(before) - matte * (decoded - before.start_decoded)
        return PixelEdit(matte, outside_graph(residue), outside_graph(earlier.genuine), drawn)

    def _mattes(self, sources: Tensor, like: Tensor) -> Tensor:
        """``(N, 1, H, W)`` in [0, 1]: the object of each image, softly bounded; 1 where there is none."""
        if self._objects is None:
            return torch.ones_like(like[:, :1])
        # Softly within a pixel: a chip that stands out beyond an outline is one that nobody believes.
        return among_neighbours(self.places.of(sources)[:, None].to(like))

    def _pasted(
        self, actions: Tensor, place: Tensor, before: Transition, worlds: Tensor
    ) -> tuple[Tensor, PixelEdit]:
        """Changes of the latents and the edit of the images in ``worlds (K,)`` if all of them paste.

        :param actions: ``(K, action_size)`` of these worlds.
        :param place: ``(K, 2)``: where row and column lead to, in pixels.
        """
        assert self.patches is not None
        sources, latent = before.sources[worlds], outside_graph(before.latent)[worlds]
        start = outside_graph(before.start_image)[worlds]
        image = start if before.edit is None else outside_graph(before.image)[worlds]
        gain = (MOST_GAIN * (actions[:, 3] + 1) / 2)[:, None, None, None]
        replace = ((actions[:, self.stroke_size + 2] + 1) / 2)[:, None, None, None]
        shown, normal, matte = self.patches.placed(self.placements(actions, place, sources))
        matte = matte * self._mattes(sources, start)
        change = shown - normal + replace * (normal - image)
        change = seamless(change, matte >= LEAST_MATTE) if self.blending == POISSON else matte * change
        painted = (image + gain * change).clamp(0, 1)
        with before.world.autocast():
            encoded = before.world.autoencoder.encode(painted).float()
        genuine = matte * gain.clamp_max(1)
        if before.edit is not None:
            genuine = torch.maximum(genuine, outside_graph(before.edit.genuine)[worlds])
        if self.blending == DECODED:
            side = start.shape[-1] // encoded.shape[-1]  # a token's pixels, which change with it
            wide = functional.max_pool2d(matte, 2 * (side // 2) + 1, 1, side // 2)
            edit = self._after_stroke(wide, before.select(worlds))
            return encoded - latent, edit._replace(genuine=genuine)
        drawn = torch.zeros(len(start), 1, 1, 1, dtype=torch.bool, device=start.device)
        return encoded - latent, PixelEdit(torch.zeros_like(matte), painted - start, genuine, drawn)

    def copied(self, actions: Tensor, beyond: float = 0.5) -> Tensor:  # noqa: ARG002 - it is all or nothing
        """``(N,)`` int64: which labelled anomaly each action pastes, -1 where it draws a stroke."""
        if self.patches is None:
            return actions.new_full((len(actions),), -1, dtype=torch.int64)
        pasting = self._pastes(actions)
        return torch.where(pasting, self._chosen(actions, self.patches), -1)

    def _pastes(self, actions: Tensor) -> Tensor:
        """``(N,)`` bool: whether each of ``actions (N, action_size)`` pastes an anomaly."""
        if self.edits == BOTH:
            return actions[:, self.stroke_size] >= 0
        return torch.full_like(actions[:, 0], self.edits == PASTES, dtype=torch.bool)

    def _chosen(self, actions: Tensor, patches: AnomalyPatches) -> Tensor:
        """``(N,)`` int64: the anomaly that each of ``actions (N, action_size)`` names."""
        within = (actions[:, self.stroke_size + 1] + 1) / 2
        return (within * len(patches)).long().clamp(0, len(patches) - 1)

    def placements(self, actions: Tensor, place: Tensor, sources: Tensor) -> Placement:
        """Which anomalies ``actions (N, action_size)`` paste into images ``sources (N,)``, and how.

        :param place: ``(N, 2)``: where row and column lead to, in pixels.
        """
        assert self.patches is not None
        patches, numbers = self.patches, actions[:, self.stroke_size :]
        which = self._chosen(actions, patches)
        whole = patches.whole[which]
        mirrored, turn, scale = numbers[:, 3] >= 0, actions[:, 5] * math.pi, MOST_SCALE ** actions[:, 6]
        one = torch.ones_like(turn)
        rigid = linear_map(turn, mirrored, one)
        identity = torch.eye(2, device=turn.device).expand_as(rigid)
        offset = torch.einsum("nij,nj->ni", rigid, patches.offsets[which])
        own = self.places.pulled_inside(sources, self.places.centre(sources) + offset)
        place = torch.where((numbers[:, 4] >= 0)[:, None], place, own)
        place = torch.where(whole[:, None], patches.centres[which], place)
        linear = linear_map(turn, mirrored, scale)
        return Placement(which, place, torch.where(whole[:, None, None], identity, linear))

    def choose(self, place: str, blending: str, edits: str) -> None:
        """Set where changes are allowed, how pixels blend, and which edits there are.

        :param place: one of ``PLACES``.
        :param blending: one of ``BLENDINGS``.
        :param edits: one of ``EDITS``.
        """
        if edits == PASTES and self.patches is None:
            raise UserError(
                "edits=pastes needs labelled anomalies in the world, and it has none: choose edits=strokes, "
                "or label some (track=few_labelled)"
            )
        self.place, self.blending, self.edits = place, blending, edits


# Many environments share a world, whose tensors never change: what takes seconds is done once for all.
_cut_out = lru_cache(maxsize=2)(AnomalyPatches)
_objects_of = lru_cache(maxsize=2)(object_masks)


def _put(
    chosen: Tensor, worlds: Tensor, pasted: tuple[Tensor, PixelEdit], delta: Tensor, edit: PixelEdit
) -> tuple[Tensor, PixelEdit]:
    """Changes and edit with what was ``pasted`` in ``worlds (K,)``, where ``chosen (K, 1, 1, 1)`` bool."""
    new = torch.where(chosen, pasted[0], delta[worlds])
    parts = [
        whole.index_copy(0, worlds, torch.where(chosen, part, whole[worlds]))
        for part, whole in zip(pasted[1], edit, strict=True)
    ]
    return delta.index_copy(0, worlds, new), PixelEdit(*parts)


@perturbations.register("local_edit")
def _local_edit(world: World, max_delta: float | None) -> LocalEdit:
    return LocalEdit(world, max_delta)
